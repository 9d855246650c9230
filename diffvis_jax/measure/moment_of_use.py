"""What was missing of the screen when features were used: late and approximate in one number.

F frames, H x W pixels of a frame, N tokens, D token width.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffvis_jax.core.step import jit_encode
from diffvis_jax.measure.missed import TINY, changed_tokens, missed_at
from diffvis_jax.metrics import tails
from diffvis_jax.model import Model
from diffvis_jax.towers import build, with_size

Use = tuple[int, np.ndarray]  # number of the frame that was on the screen, and tokens [N, D]


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


def missed_when_used(model: Model, frames: np.ndarray, uses: Sequence[Use]) -> list[MissedWhenUsed]:
    """Compares tokens that were used with a full encode of what the screen showed at that moment.

    The true change is the last one before that moment: from the last frame that differs to the one
    on the screen. Features of the frame before the change miss all of it (1), those of still older
    frames may miss more; features that were exact and in time miss nothing (0).

    Args:
      model: the tower.
      frames: `uint8 [F, H, W, 3]`, what the screen showed, in order.
      uses: of any number, in any order.

    Returns:
      One for each use; of nothing, where no frame before differs.
    """
    config = with_size(model.config, (frames.shape[1], frames.shape[2]))
    tower = build(config)
    before = _changes(frames)
    wanted = {index for index, _ in uses if before[index] is not None}
    full = {
        index: np.asarray(jit_encode(model.params, frames[index : index + 1], config=config)[0])
        for index in sorted(wanted | {before[index] for index in wanted} - {None})
    }
    at = {}
    for index in wanted:
        last = before[index]
        pair = frames[last : last + 1], frames[index : index + 1]
        at[index] = np.asarray(changed_tokens(tower, *pair)[0])

    def missed(index: int, tokens: np.ndarray) -> MissedWhenUsed:
        if index not in at:
            return MissedWhenUsed()
        now, last = full[index], full[before[index]]
        moved_all = float(np.linalg.norm(last - now) / np.linalg.norm(now))
        return MissedWhenUsed(*missed_at(at[index], tokens, now, last), moved_all)

    return [missed(*use) for use in uses]


def _changes(frames: np.ndarray) -> list[Any]:
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
