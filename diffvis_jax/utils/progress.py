"""A progress bar on a terminal; a line every tenth of the way elsewhere. Both say how fast it goes
and how long it will take."""

import sys
import time
from types import TracebackType
from typing import TextIO


class Progress:
    """Call it once for each step; use as a context manager."""

    def __init__(self, total: int, label: str, stream: TextIO | None = None):
        self._total, self._label = max(total, 1), label
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._done, self._shown = 0, 0.0
        self._start, self._first = 0.0, 0

    def __enter__(self) -> "Progress":
        return self

    def __call__(self, name: str, steps: int = 1) -> None:
        now = time.monotonic()
        if not self._done:  # the first step compiles: it says nothing about the others
            self._start, self._first = now, steps
        self._done += steps
        counted = f"{self._done}/{self._total}{self._pace(now)}"
        if not self._terminal:
            tenth = self._done * 10 // self._total
            if tenth > self._shown:
                self._shown = tenth
                print(f"{self._label} {counted}", file=self._stream, flush=True)
            return
        if now - self._shown < 0.1 and self._done < self._total:
            return
        self._shown = now
        filled = 24 * self._done // self._total
        bar = "#" * filled + "-" * (24 - filled)
        line = f"{self._label} [{bar}] {counted} {name[-40:]}"
        print(f"\r{line:<100}", end="", file=self._stream, flush=True)

    def _pace(self, now: float) -> str:
        """Steps a second, and the time that is left at that pace."""
        if self._done == self._first:
            return ""
        rate = (self._done - self._first) / max(now - self._start, 1e-9)
        minutes, seconds = divmod(round((self._total - self._done) / rate), 60)
        return f" ({rate:.3g}/s, {minutes}:{seconds:02} left)"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._terminal and self._done:
            print(file=self._stream)
