"""What cells cost, and which of the stale ones a step can pay for.

B streams, L layers, P cells.
"""

import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.core.tuning import Tuning
from diffvis_jax.towers.base import TokenStack, Tower


def is_stack(tower: Tower) -> bool:
    return isinstance(tower.layers[-1], TokenStack)


def depth_of(tower: Tower) -> int:
    """Blocks of a token stack; of other towers 0."""
    last = tower.layers[-1]
    return last.depth if isinstance(last, TokenStack) else 0


def cost(tower: Tower, compute: jax.Array, tuning: Tuning) -> tuple[jax.Array, jax.Array]:
    """What it costs to compute these cells, and where a pass over the whole map is cheaper.

    Args:
      compute: bool `[B, L, P]`.

    Returns:
      multiply-accumulates, float32 `[B]`; layers to compute as a whole, bool `[B, L]`.
    """
    count = compute.sum(-1, dtype=jnp.float32)
    window = count * _window_macs(tower)[None]
    whole = (tower.layer_macs * tower.cells).astype(np.float32)[None]
    dense = window > tuning.break_even * whole
    if is_stack(tower):
        dense = count > min(tower.cells // 2, tuning.row_capacities[-1])
    head = jnp.where(compute[:, -1].any(-1), np.float32(tower.head_macs), 0)
    return jnp.where(dense, whole, window).sum(-1) + head, dense


def _window_macs(tower: Tower) -> np.ndarray:
    """Of one cell of each layer by itself, keys and values included; float32 `[L]`."""
    macs = [layer.window_macs + layer.kv_macs for layer in tower.layers]
    return np.array(macs, np.float32)


def oldest(age: jax.Array, count: jax.Array) -> jax.Array:
    """The cells that have been out of date for longest, at most `count` `[B, 1]`; bool
    `[B, P]`."""
    longest = -jnp.sort(-age, axis=-1)
    least = jnp.take_along_axis(longest, jnp.clip(count - 1, 0, age.shape[-1] - 1), -1)
    older, same = age > least, age == least
    left = count - older.sum(-1, keepdims=True, dtype=jnp.int32)
    chosen = older | (same & (jnp.cumsum(same, -1, dtype=jnp.int32) <= left))
    return chosen & (age > 0) & (count > 0)


def within_budget(
    tower: Tower, stale: jax.Array, distance: jax.Array, budget: jax.Array, tuning: Tuning
) -> jax.Array:
    """The stale cells that an idle step can pay for: layer by layer, since a layer is exact only
    after those before it, and in each the nearest to the last change first.

    Args:
      stale: bool `[B, L, P]`.
      distance: int32 `[B, P]`.
      budget: float32 `[B]`, multiply-accumulates; at least one cell is done if there is any.
    """
    # Keys and values come on top: they are replaced with the layer before.
    window = np.array([[layer.window_macs] for layer in tower.layers], np.float32)
    dense = np.array([[layer.macs * tower.cells] for layer in tower.layers], np.float32)
    cells = jnp.arange(distance.shape[1], dtype=jnp.int32)
    order = jnp.sort(distance * len(cells) + cells[None], -1) % len(cells)
    ordered = jnp.take_along_axis(stale, order[:, None], -1)

    def spent(count: jax.Array) -> jax.Array:
        """On so many cells of each layer, `[B, L, *]`."""
        alone = count.astype(jnp.float32) * window[None]
        return jnp.where(alone > tuning.break_even * dense[None], dense[None], alone)

    count = jnp.cumsum(ordered, -1, dtype=jnp.int32)
    whole = spent(count[..., -1:])
    before = jnp.cumsum(whole, 1) - whole + spent(count - ordered.astype(jnp.int32))
    affordable = ordered & (before < budget[:, None, None])
    back = jnp.zeros_like(order).at[jnp.arange(len(order))[:, None], order].set(cells)
    return jnp.take_along_axis(affordable, back[:, None], -1)


def settled_blocks(
    tower: Tower, progress: jax.Array, settling: jax.Array, budget: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """How many blocks of a token stack all rows of a settling stream go through, and from which
    on; int32 `[B]` each."""
    depth = depth_of(tower)
    if not depth:
        none = jnp.zeros_like(progress)
        return none, none
    affordable = jnp.ceil(budget * (depth / tower.macs)).astype(jnp.int32)
    affordable = jnp.minimum(affordable, depth - progress)
    return jnp.where(settling, affordable, 0), progress
