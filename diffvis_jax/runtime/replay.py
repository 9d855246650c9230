"""A recorded session that happens again, at its own times."""

import bisect
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffvis_jax.errors import FrameError
from diffvis_jax.images.geometry import ImageError
from diffvis_jax.runtime.clock import Clock
from diffvis_jax.runtime.control_loop import Observation
from diffvis_jax.utils.json_file import JsonError, read_json

SCRIPT = "trajectory.json"  # of a recorder; its steps say when each frame came


class Replay:
    """Shows frames at their times, the first one until `begin`, and the last one for ever.

    Args:
      images: F images; nobody writes into them.
      times: F seconds, when each appears; rising, the first 0.
      clock: the encoder's.

    Raises:
      FrameError: another number of times than of images, or times that do not rise from 0.
    """

    def __init__(self, images: Sequence[Any], times: Sequence[float], clock: Clock):
        if len(images) != len(times) or not len(times):
            raise FrameError(f"{len(times)} times for {len(images)} frames")
        rising = all(a <= b for a, b in itertools.pairwise(times))
        if times[0] != 0 or not rising or not math.isfinite(times[-1]):
            raise FrameError("times of frames must rise from 0")
        self._images, self._times, self._clock = images, times, clock
        self._begun = math.inf

    def begin(self) -> None:
        """From now on time counts; a second call does nothing."""
        self._begun = min(self._begun, self._clock.now())

    @property
    def elapsed(self) -> float:
        """Seconds since `begin`; 0 before."""
        return max(0.0, self._clock.now() - self._begun)

    @property
    def index(self) -> int:
        """Number of the frame that is shown now."""
        return bisect.bisect_right(self._times, self.elapsed) - 1

    def observe(self) -> Observation:
        """For a `ControlLoop`."""
        return Observation(self._images[self.index], owned=True)


def tick_times(frames: int, hz: float) -> list[float]:
    """Times at which every tick of a loop finds the next frame: each comes between two ticks."""
    return [0.0, *((number - 0.5) / hz for number in range(1, frames))]


def recorded_times(folder: Path, frames: Sequence[Path]) -> list[float] | None:
    """Seconds from the first frame on, of a session whose recorder has written them; None if it has
    not.

    Raises:
      ImageError: it has, but not for these frames.
    """
    script = folder / SCRIPT
    if not script.exists():
        return None
    try:
        steps = read_json(script)["steps"]
        by_file = {step["frame"]: step.get("t") for step in steps}
        times = [by_file[path.name] for path in frames]
    except (JsonError, KeyError, TypeError, AttributeError) as error:
        raise ImageError(
            f"'{script}' does not say when its frames came ({type(error).__name__}: {error})"
        ) from error
    if all(time is None for time in times):
        return None
    numbers = [float(time) for time in times if isinstance(time, int | float)]
    if len(numbers) < len(times) or sorted(numbers) != numbers:
        raise ImageError(f"'{script}': the times of its frames do not rise")
    return [round(time - numbers[0], 6) for time in numbers]
