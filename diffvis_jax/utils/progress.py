"""Progress of long work: a bar on a terminal, a plain line every tenth of the way in a log."""

import datetime
import sys
import time
from typing import TextIO

_REFRESH_S = 0.1


class Progress:
    """Use as a context manager, and call it once for each step.

    Whatever else is printed meanwhile must clear the terminal's line first.
    """

    def __init__(self, total: int, label: str, stream: TextIO | None = None):
        # Here, so that importing the library stays fast.
        from rich import progress
        from rich.console import Console

        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._tenths, self._refreshed = 0, 0.0
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(24),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[step]}", markup=False),
            console=Console(file=self._stream, force_terminal=self._terminal),
            # A background thread would draw the bar into lines that are printed meanwhile.
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not self._terminal,
            speed_estimate_period=3600,  # seconds: one step may take minutes
        )
        self._task = self._bar.add_task(label, total=max(total, 1), step="")

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def __call__(self, step: str, steps: int = 1) -> None:
        """Counts `steps` finished steps; `step` names the last of them."""
        self._bar.update(self._task, advance=steps, step=step[-40:])
        (task,) = self._bar.tasks
        now = time.monotonic()
        if self._terminal and (task.finished or now - self._refreshed > _REFRESH_S):
            self._refreshed = now
            self._bar.refresh()
        tenths = int(10 * task.completed / (task.total or 1))
        if not self._terminal and tenths > self._tenths:
            self._tenths = tenths
            pace = ""
            if task.speed and task.time_remaining is not None:
                left = datetime.timedelta(seconds=task.time_remaining)
                pace = f" ({task.speed:.3g}/s, {left} left)"
            line = f"{task.description} {task.completed:g}/{task.total:g}{pace}"
            print(line, file=self._stream, flush=True)
