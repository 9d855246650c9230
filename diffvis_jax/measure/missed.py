"""What a differential step did not deliver of a change.

B streams, H x W pixels of a frame, N tokens, D token width.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.core.change import patch_difference
from diffvis_jax.towers.base import Tower

Missed = tuple[float | None, float | None]


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
    """`missed_change` over the tokens marked, bool `[N]`, and over all; of no marks None for both,
    since then all that differs is rounding."""
    if not at.any():
        return None, None
    marked = missed_change(tokens[at], full[at], before[at])
    return marked, missed_change(tokens, full, before)
