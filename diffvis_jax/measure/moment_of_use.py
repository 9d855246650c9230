"""What was missing of the screen when features were used: late and approximate in one number.

F frames, H x W pixels of a frame, N tokens, D token width.
"""

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from diffvis_jax.core.step import jit_encode
from diffvis_jax.measure.missed import TINY, changed_tokens, missed_at
from diffvis_jax.metrics import tails
from diffvis_jax.model import Model
from diffvis_jax.towers import build, with_size


class MissedWhenUsed(NamedTuple):
    """What was missing of the last change; None where nothing had changed before.

    Attributes:
      missed_changed, missed_all: `measure.missed.missed_change` at the tokens whose own pixels
        changed, and over all.
      moved, moved_all: norm of the true change at those tokens, and at all, over theirs.
    """

    missed_changed: float | None = None
    missed_all: float | None = None
    moved: float | None = None
    moved_all: float | None = None


class MomentOfUse:
    """Compares tokens that were used with a full encode of what the screen showed at that moment.

    The true change is the last one before that moment: from the last frame that differs to the one
    on the screen. Features of the frame before the change miss all of it (1), those of still older
    frames may miss more; features that were exact and in time miss nothing (0).

    Args:
      model: the tower.
      frames: `uint8 [F, H, W, 3]`, what the screen showed, in order. Each is encoded in full once,
        if it is needed.
    """

    def __init__(self, model: Model, frames: np.ndarray):
        self._config = with_size(model.config, (frames.shape[1], frames.shape[2]))
        self._params, self._frames, self._before = model.params, frames, _changes(frames)
        self._full = functools.cache(self._encode)

    def _encode(self, index: int) -> np.ndarray:
        """Tokens `[N, D]`."""
        frame = self._frames[index : index + 1]
        return np.asarray(jit_encode(self._params, frame, config=self._config)[0])

    def missed(self, index: int, tokens: np.ndarray) -> MissedWhenUsed:
        """What was missing.

        Args:
          index: number of the frame that was on the screen.
          tokens: `[N, D]`, that were used then.
        """
        before = self._before[index]
        if before is None:
            return MissedWhenUsed()
        pair = self._frames[before : before + 1], self._frames[index : index + 1]
        at = np.asarray(changed_tokens(build(self._config), *pair)[0])
        now, last = self._full(index), self._full(before)
        moved_all = float(np.linalg.norm(last - now) / np.linalg.norm(now))
        return MissedWhenUsed(*missed_at(at, tokens, now, last), moved_all)


def _changes(frames: np.ndarray) -> list[int | None]:
    """For each frame the number of the last one that differs from it and came before; or None."""
    found: list[int | None] = [None]
    for index in range(1, len(frames)):
        same = np.array_equal(frames[index], frames[index - 1])
        found.append(found[-1] if same else index - 1)
    return found


def use_tails(missed: Iterable[MissedWhenUsed]) -> dict[str, Any]:
    """Over the uses after a change that is not tiny, "missed_changed" and "missed_all": `tails`,
    and "mean", all that was missing over all that had changed (a small change right after a large
    one that is late counts by its size); "uses", how many those are."""
    kept = [one for one in missed if one.moved is not None and one.moved >= TINY]

    def over(name: str, weight: str) -> dict[str, float | None]:
        values = [getattr(one, name) for one in kept]
        weights = [getattr(one, weight) for one in kept]
        mean = float(np.average(values, weights=weights)) if kept else None
        return {"mean": mean, **tails(values)}

    return {
        "missed_changed": over("missed_changed", "moved"),
        "missed_all": over("missed_all", "moved_all"),
        "uses": len(kept),
    }
