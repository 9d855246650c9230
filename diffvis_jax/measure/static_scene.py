"""How much a camera's noise alone differs from frame to frame: what a threshold must exceed.

F frames of a scene in which nothing moves, H x W pixels, P patches.
"""

import dataclasses
import itertools

import jax
import numpy as np

from diffvis_jax.core.change import Metric, patch_difference
from diffvis_jax.errors import FrameError

MOST_FALSE = 1e-3  # share of the comparisons of a patch in which it may seem to have changed
_MOST_PAIRS = 300

_difference = jax.jit(patch_difference, static_argnums=(2, 3))


@dataclasses.dataclass(frozen=True)
class StaticScene:
    """What noise does to one metric.

    Attributes:
      metric: by which patches are compared.
      threshold: the smallest `Policy.change_threshold` with at most `MOST_FALSE` false changes; 0
        where the frames are the same.
      false_changes: share of the comparisons of patches that exceed it.
      worst_patch: the same of the patch for which it is largest, such as one under a lamp.
      comparisons: of a patch with itself, at another time.
    """

    metric: Metric
    threshold: float
    false_changes: float
    worst_patch: float
    comparisons: int


def static_scene(frames: np.ndarray, patch: int, metric: Metric) -> StaticScene:
    """Compares the frames with each other, as a step compares one with its reference.

    Args:
      frames: `uint8 [F, H, W, 3]`, F at least 2.
      patch: pixels along the side of a patch.
      metric: as `Policy` has it.

    Raises:
      FrameError: too few frames for a rate of `MOST_FALSE`.
    """
    pairs = list(itertools.combinations(range(len(frames)), 2))
    if len(pairs) > _MOST_PAIRS:
        pairs = [pairs[i] for i in np.linspace(0, len(pairs) - 1, _MOST_PAIRS).astype(int)]
    found = np.array(
        [_difference(frames[i][None], frames[j][None], patch, metric) for i, j in pairs]
    )
    if found.size * MOST_FALSE < 1:
        raise FrameError(
            f"{len(frames)} frames give {found.size} comparisons of patches: too few for a rate of "
            f"{MOST_FALSE:.1%}; give more frames"
        )
    ordered = np.sort(found, axis=None)
    least = float(ordered[-int(found.size * MOST_FALSE) - 1])
    threshold = min(1.0, _rounded_up(least, metric))
    above = found > threshold + 1e-6
    return StaticScene(
        metric, threshold, float(above.mean()), float(above.mean(0).max()), found.size
    )


def _rounded_up(difference: float, metric: Metric) -> float:
    """Whole grey levels, or four decimals of a mean."""
    steps = 1e4 if metric == "mean" else 255
    return float(np.ceil(difference * steps - 1e-3) / steps)
