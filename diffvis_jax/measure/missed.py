"""What a differential step did not deliver of a change.

B streams, H x W pixels of a frame, N tokens, D token width.
"""

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.core.change import patch_difference
from diffvis_jax.metrics import tails
from diffvis_jax.towers.base import Tower

# A change is *tiny* if it moves its tokens by less than this share of their norm: of so little
# nearly nothing can be missed, while the share that is missed may be anything.
TINY = 1e-3


class Missed(NamedTuple):
    """What was not delivered of a change, and how large it was; None where no pixel changed.

    Attributes:
      missed_changed, missed_all: `missed_change` at the tokens whose own pixels changed, and over
        all.
      moved: norm of the true change at the tokens whose own pixels changed, over theirs.
    """

    missed_changed: float | None = None
    missed_all: float | None = None
    moved: float | None = None


class Step(Protocol):
    """Anything with what a `Missed` has."""

    @property
    def missed_changed(self) -> float | None: ...
    @property
    def missed_all(self) -> float | None: ...
    @property
    def moved(self) -> float | None: ...


@functools.partial(jax.jit, static_argnames="tower")
def changed_tokens(tower: Tower, a: jax.Array | np.ndarray, b: jax.Array | np.ndarray) -> jax.Array:
    """The tokens whose own pixels differ at all between frames `uint8 [B, H, W, 3]`; bool
    `[B, N]`."""
    rows, columns = tower.token_grid
    # CLIP leaves out what does not fill a whole patch at the right and lower edge.
    difference = patch_difference(jnp.asarray(a), jnp.asarray(b), tower.token, "max")
    return (difference[:, :rows, :columns] > 0).reshape(len(a), -1)


def missed_change(tokens: np.ndarray, full: np.ndarray, before: np.ndarray) -> float | None:
    """Share of the true change that is missing: 0 = exact, 1 = as good as doing nothing.

    Args:
      tokens, full, before: `[N, D]`: as delivered, of a full encode of the same frame, and of a
        full encode of the frame before.

    Returns:
      |tokens - full| / |before - full|; None if nothing changed.
    """
    change = np.linalg.norm(before - full)
    return float(np.linalg.norm(tokens - full) / change) if change > 0 else None


def missed_at(at: np.ndarray, tokens: np.ndarray, full: np.ndarray, before: np.ndarray) -> Missed:
    """What was missed of a change that is marked, bool `[N]`; the other arguments are those of
    `missed_change`. Of no marks nothing, since then all that differs is rounding."""
    if not at.any():
        return Missed()
    marked = missed_change(tokens[at], full[at], before[at])
    moved = float(np.linalg.norm(before[at] - full[at]) / np.linalg.norm(full[at]))
    return Missed(marked, missed_change(tokens, full, before), moved)


def missed_tails(steps: Iterable[Step]) -> dict[str, Any]:
    """`metrics.tails` of "missed_changed" and "missed_all" over the steps whose change is not tiny,
    and "tiny": how many were left out for that."""
    known = [step for step in steps if step.moved is not None]
    kept = [step for step in known if step.moved is not None and step.moved >= TINY]
    return {
        "missed_changed": tails(step.missed_changed for step in kept),
        "missed_all": tails(step.missed_all for step in kept),
        "tiny": len(known) - len(kept),
    }
