"""How redundant screens are: statistics of recorded sessions, independent of any encoder.

H, W height and width of a frame in pixels, p pixels along the side of a patch, P patches.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence

import jax
import numpy as np

from diffvis_jax.core.change import patch_difference

# Rules by which others decide whether a patch changed: metric and threshold (0-1).
RULES = {
    "mean > 0.05": ("mean", 0.05),
    "mean > 0.01": ("mean", 0.01),
    "max > 0.1": ("max", 0.1),
    "max > 0.02": ("max", 0.02),
}
SCROLL_PATCH = 28
SCREEN_PATCH = 64

_difference = jax.jit(patch_difference, static_argnums=(2, 3))


@dataclasses.dataclass(frozen=True)
class StepStats:
    """What changed from one frame to the next.

    Attributes:
      changed: p -> share of the patches that differ at all.
      missed: p -> rule -> share of those that the rule takes for unchanged; empty if none differ.
      scrolled: share of the changed patches (`SCROLL_PATCH`) that are exact copies of the frame
        before, shifted by one and the same distance; None if none changed.
      shift: that distance, in pixels to the right and down.
      returned: the frame is, pixel by pixel, one that was seen before the last one.
      seen_before: share of the changed patches (`SCREEN_PATCH`) that some frame before the last
        one showed at the same place; None if none changed.
    """

    changed: dict[int, float]
    missed: dict[int, dict[str, float]]
    scrolled: float | None
    shift: tuple[int, int]
    returned: bool
    seen_before: float | None


class History:
    """The frames of a session so far, as hashes."""

    def __init__(self):
        self._last: np.ndarray | None = None  # hashes of the last frame's patches, int64 [P]
        # Of all frames before the last one:
        self._frames: set[bytes] = set()
        self._patches: set[tuple[int, int]] = set()  # number of the patch, hash

    def add(self, frame: np.ndarray) -> tuple[bool, float | None]:
        """Adds a frame `uint8 [H, W, 3]`; `returned` and `seen_before` of `StepStats`."""
        now, last = _patch_hashes(frame, SCREEN_PATCH), self._last
        self._last = now
        if last is None:
            return False, None
        changed = np.flatnonzero(now != last)
        seen = [(int(patch), int(now[patch])) in self._patches for patch in changed]
        returned = bool(seen) and now.tobytes() in self._frames
        self._frames.add(last.tobytes())
        # An unchanged patch stays the last one's: only what was replaced is new to the history.
        self._patches.update((int(patch), int(last[patch])) for patch in changed)
        return returned, float(np.mean(seen)) if seen else None


def _patch_hashes(frame: np.ndarray, p: int) -> np.ndarray:
    """int64 `[P]`."""
    height, width = frame.shape[:2]
    hashes = [
        hashlib.blake2b(frame[y : y + p, x : x + p].tobytes(), digest_size=8).digest()
        for y in range(0, height, p)
        for x in range(0, width, p)
    ]
    return np.frombuffer(b"".join(hashes), np.int64)


def compare(
    before: np.ndarray, now: np.ndarray, sizes: Sequence[int], history: History
) -> StepStats:
    """Statistics of one step.

    Args:
      before, now: `uint8 [H, W, 3]` of one size; `before` was the last one added to the history.
      sizes: of the patches, p.
      history: `now` is added to it.
    """
    changed: dict[int, float] = {}
    missed: dict[int, dict[str, float]] = {}
    for p in sizes:
        metrics = {
            m: np.asarray(_difference(before[None], now[None], p, m)) for m in ("max", "mean")
        }
        truly = metrics["max"] > 0
        changed[p] = float(truly.mean())
        missed[p] = {}
        if truly.any():
            for rule, (metric, threshold) in RULES.items():
                missed[p][rule] = float((metrics[metric][truly] <= threshold).mean())
    scrolled, shift = explained_by_scroll(before, now)
    returned, seen = history.add(now)
    return StepStats(changed, missed, scrolled, shift, returned, seen)


# ---- scrolls ----------------------------------------------------------------------------------

_CANDIDATES = 4  # shifts that are looked at, of each direction


def explained_by_scroll(
    before: np.ndarray, now: np.ndarray, p: int = SCROLL_PATCH
) -> tuple[float | None, tuple[int, int]]:
    """The share of the changed patches that one shift of the frame before explains, exactly.

    Candidates are the distances at which most lines of pixels of the changed area come back:
    rows for a scroll up or down, columns for one to the side. Each is then checked patch by patch.

    Args:
      before, now: `uint8 [H, W, 3]`.
      p: pixels along the side of a patch; those cut off at the edges do not count.

    Returns:
      the share (None: nothing changed), and the shift in pixels to the right and down; 0, 0: none
      explains anything.
    """
    differs = (before != now).any(-1)
    marked = _by_patch(differs, p).any((1, 3))
    if not marked.any():
        return (None, (0, 0))
    rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
    area = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    best, at = 0, (0, 0)
    down = [(0, d) for d in _line_shifts(before[area], now[area])]
    right = [(d, 0) for d in _line_shifts(*(x[area].swapaxes(0, 1) for x in (before, now)))]
    for dx, dy in (*down, *right):
        wrong = np.ones_like(differs)
        to, source = _overlap(differs.shape, dx, dy)
        wrong[to] = (now[to] != before[source]).any(-1)
        count = int((marked & ~_by_patch(wrong, p).any((1, 3))).sum())
        if count > best:
            best, at = count, (dx, dy)
    return best / int(marked.sum()), at


def _by_patch(x: np.ndarray, p: int) -> np.ndarray:
    """`[H, W]` -> `[H // p, p, W // p, p]`."""
    height, width = x.shape[0] // p * p, x.shape[1] // p * p
    return x[:height, :width].reshape(height // p, p, width // p, p)


def _line_shifts(before: np.ndarray, now: np.ndarray) -> list[int]:
    """By how many lines most lines of a picture `[n, m, 3]` have moved; not by 0."""
    old, new = ([hash(line.tobytes()) for line in part] for part in (before, now))
    # A line that occurs several times (an empty one) proves no shift.
    rare = {line for line, count in Counter(old).items() if count == 1}
    position = {line: i for i, line in enumerate(old) if line in rare}
    shifts = Counter(i - position[line] for i, line in enumerate(new) if line in position)
    shifts.pop(0, None)
    return [shift for shift, _ in shifts.most_common(_CANDIDATES)]


def _overlap(
    shape: tuple[int, int], dx: int, dy: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where the shifted picture lies on the new one, and which part of it that is."""
    height, width = shape
    to = slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0))
    source = slice(max(-dy, 0), height + min(-dy, 0)), slice(max(-dx, 0), width + min(-dx, 0))
    return to, source
