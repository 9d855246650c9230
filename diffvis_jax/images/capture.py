"""Where live frames come from: the screen, or a folder that is being filled."""

import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

from diffvis_jax.errors import CaptureError
from diffvis_jax.images.geometry import ImageError
from diffvis_jax.images.recording import is_image, natural_order

Region = tuple[int, int, int, int]  # left, top, width, height in pixels of the monitor


class Screen:
    """Captures a monitor, or a part of it; use as a context manager.

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
        self._error = ScreenShotError
        try:
            self._capture = MSS() if display is None else MSS(display=display)
            monitors = self._capture.monitors
        except (self._error, OSError) as error:
            raise CaptureError(f"no screen can be captured: {error}") from None
        if not 0 <= monitor < len(monitors):
            self._capture.close()
            raise CaptureError(f"no monitor {monitor}: there are {len(monitors) - 1}, 0 = all")
        self._place = dict(monitors[monitor])
        if region is not None:
            left, top, width, height = region
            there = self._place
            if min(left, top) < 0 or min(width, height) < 1:
                inside = False
            else:
                inside = left + width <= there["width"] and top + height <= there["height"]
            if not inside:
                self._capture.close()
                raise CaptureError(
                    f"region {region} (left, top, width, height) is not within the monitor of "
                    f"{there['width']} x {there['height']} pixels"
                )
            self._place = {
                "left": there["left"] + left,
                "top": there["top"] + top,
                "width": width,
                "height": height,
            }

    def grab(self) -> np.ndarray:
        """What is on the screen now, `uint8 [H, W, 3]`, RGB.

        Raises:
          CaptureError: the screen is gone.
        """
        try:
            shot = self._capture.grab(self._place)
        except (self._error, OSError) as error:
            raise CaptureError(f"the screen cannot be captured any more: {error}") from None
        return np.ascontiguousarray(np.asarray(shot)[..., 2::-1])  # from BGRA

    def __enter__(self) -> "Screen":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._capture.close()


def new_frames(
    folder: str | Path, *, poll: float = 0.2, idle: float | None = None
) -> Iterator[Path]:
    """The images of a folder, those that are there and then those that come.

    A file is given once it has stayed the same for one `poll`, since it may still be being
    written; and again whenever it is written anew. Those that come together are given in the
    order of their names (frame_2 before frame_10).

    Args:
      folder: where the images appear.
      poll: seconds between two looks.
      idle: ends after so many seconds without a new image; None = never.

    Raises:
      ImageError: no such directory, or one that cannot be read (any more).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ImageError(f"no such directory: '{folder}'")
    before: dict[Path, tuple[int, int]] = {}
    given: dict[Path, tuple[int, int]] = {}
    last = time.monotonic()
    while idle is None or time.monotonic() - last <= idle:
        now = _states(folder)
        at_rest = [path for path, state in now.items() if before.get(path) == state]
        before = now
        for path in sorted(at_rest, key=natural_order):
            if given.get(path) != now[path]:
                given[path] = now[path]
                yield path
                last = time.monotonic()
        time.sleep(poll)


def _states(folder: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of the images."""
    try:
        paths = [path for path in folder.iterdir() if is_image(path)]
    except OSError as error:
        raise ImageError(f"'{folder}' cannot be read ({error.strerror or error})") from error
    states = {}
    for path in paths:
        try:
            status = path.stat()
        except FileNotFoundError:  # removed meanwhile: no frame any more
            continue
        states[path] = status.st_size, status.st_mtime_ns
    return states
