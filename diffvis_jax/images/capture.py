"""Where live frames come from: the screen, or a folder that is being filled."""

import collections
import functools
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np

from diffvis_jax.errors import CaptureError
from diffvis_jax.images.geometry import ImageError
from diffvis_jax.images.recording import list_frames, natural_order, open_screenshot

Region = tuple[int, int, int, int]  # left, top, width, height in pixels of the monitor
_State: TypeAlias = tuple[int, int, int]  # of a file: its number, size and time
_RESTLESS = 3  # looks at which a file was another one each time


class Screen:
    """Captures a monitor, or a part of it; use as a context manager.

    The monitors are looked at anew for every capture: a screen that grows or shrinks (a laptop that
    is docked, the window of a virtual machine) is captured as it is then.

    Needs the extra `watch`, and on Linux an X display.
    """

    def __init__(
        self, monitor: int = 1, *, region: Region | None = None, display: str | None = None
    ):
        """Args:
          monitor: which one, from 1; 0 = all together.
          region: a part of it; None = the whole.
          display: name of an X display; None = `$DISPLAY`.

        Raises:
          CaptureError: no such screen, a region that reaches beyond it, or the extra is missing.
        """
        try:
            from mss import MSS
            from mss.exception import ScreenShotError
        except ImportError:
            raise CaptureError('capturing needs mss: pip install "diffvis_jax[watch]"') from None
        self._mss = MSS if display is None else functools.partial(MSS, display=display)
        self._errors = (ScreenShotError, OSError)
        self._monitor, self._region = monitor, region
        self._capture = None
        try:
            self._look()
        except self._errors as error:
            self.close()
            raise CaptureError(f"no screen can be captured: {error}") from error

    def _look(self) -> dict[str, int]:
        """Where on the display the captured part is now.

        Raises:
          CaptureError: there is no such monitor or part.
        """
        before, self._capture = self._capture, self._mss()  # one keeps the monitors it has found
        if before is not None:  # only now: some servers start again when the last client leaves
            before.close()
        monitors = self._capture.monitors
        if not 0 <= self._monitor < len(monitors):
            self.close()
            raise CaptureError(
                f"no monitor {self._monitor}: there are {len(monitors) - 1}, 0 = all"
            )
        there = monitors[self._monitor]
        left, top, width, height = self._region or (0, 0, there["width"], there["height"])
        inside = min(left, top) >= 0 and min(width, height) >= 1
        if not (inside and left + width <= there["width"] and top + height <= there["height"]):
            self.close()
            raise CaptureError(
                f"region {self._region} (left, top, width, height) is not within the monitor of "
                f"{there['width']} x {there['height']} pixels"
            )
        place = {"left": there["left"] + left, "top": there["top"] + top}
        return {**place, "width": width, "height": height}

    def grab(self) -> np.ndarray:
        """What is on the screen now, `uint8 [H, W, 3]`, RGB; H and W change if the screen does.

        Raises:
          CaptureError: the screen, or the region of it, is gone.
        """
        try:
            try:
                shot = self._shot()
            except self._errors:  # it may have changed just between look and capture
                shot = self._shot()
        except self._errors as error:
            raise CaptureError(f"the screen cannot be captured any more: {error}") from error
        return np.ascontiguousarray(np.asarray(shot)[..., 2::-1])  # from BGRA

    def _shot(self) -> Any:
        place = self._look()
        assert self._capture is not None
        return self._capture.grab(place)

    def close(self) -> None:
        """Lets go of the display."""
        if self._capture is not None:
            self._capture.close()
            self._capture = None

    def __enter__(self) -> "Screen":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def new_frames(
    folder: str | Path, *, poll: float = 0.2, idle: float | None = None
) -> Iterator[Path]:
    """The images of a folder, those that are there and then those that come.

    A file is given once it has stayed the same for one `poll`, since it may still be being
    written; and again whenever it is written anew. One that never stays the same, since a program
    keeps overwriting it, is given at every look from the third on, if it can be read whole. Those
    that come together are given in the order of their names (frame_2 before frame_10).

    Args:
      folder: where the images appear.
      poll: seconds between two looks.
      idle: ends after so many seconds without a new image; None = never.

    Raises:
      ImageError: no such directory, or one that cannot be read (any more).
    """
    last = time.monotonic()
    for found in looks(folder):
        for path in found:
            yield path
            last = time.monotonic()
        time.sleep(poll)
        if idle is not None and time.monotonic() - last > idle:
            return


def looks(folder: str | Path) -> Iterator[list[Path]]:
    """The images that each look into a folder finds; whoever looks waits between two looks. See
    `new_frames`.

    Raises:
      ImageError: no such directory, or one that cannot be read (any more).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ImageError(f"no such directory: '{folder}'")
    before: dict[Path, _State] = {}
    given: dict[Path, _State] = {}
    changes: collections.Counter[Path] = collections.Counter()  # one look after the other
    while True:
        found, now = [], _states(folder)
        for path, state in now.items():
            changes[path] = 0 if before.get(path) == state else changes[path] + 1
        before = now
        for path in sorted(now, key=natural_order):
            if given.get(path) == now[path]:
                continue
            if changes[path] == 0 or (changes[path] >= _RESTLESS and _is_whole(path)):
                given[path] = now[path]
                found.append(path)
        yield found


def _states(folder: Path) -> dict[Path, _State]:
    """Of the images."""
    states = {}
    for path in list_frames(folder):
        try:
            status = path.stat()
        except OSError:  # removed meanwhile, or a link to nowhere: no frame (any more)
            continue
        if stat.S_ISREG(status.st_mode):
            states[path] = status.st_ino, status.st_size, status.st_mtime_ns
    return states


def _is_whole(path: Path) -> bool:
    """Whether the image can be read to its end now."""
    try:
        open_screenshot(path)
    except ImageError:
        return False
    return True
