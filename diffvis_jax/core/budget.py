"""What cells cost, and which of the stale ones a step can pay for.

B streams, L layers, P cells.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffvis_jax.core.tuning import Tuning
from diffvis_jax.towers.base import TokenStack, Tower

# Of the margins, that are tried until what they let in fits a budget.
SHARES = (1, 3 / 4, 1 / 2, 1 / 4, 1 / 8, 0)


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
    return _cost_of(tower, compute.sum(-1, dtype=jnp.float32), tuning)


def _cost_of(tower: Tower, count: jax.Array, tuning: Tuning) -> tuple[jax.Array, jax.Array]:
    """The same for so many cells of each layer, float32 `[*, L]`."""
    own, kv = (
        np.array(each, np.float32)[None]
        for each in zip(*((x.window_macs, x.kv_macs) for x in tower.layers), strict=True)
    )
    whole = (tower.layer_macs * tower.cells).astype(np.float32)[None]
    dense = count * (own + kv) > tuning.break_even * whole
    if is_stack(tower):
        dense = count > min(tower.cells // 2, tuning.row_capacities[-1])
    macs = jnp.where(dense, whole - kv * tower.cells, count * own)
    # Keys and values are replaced where the layer before has computed.
    before = jnp.where(dense, tower.cells, count)[:, :-1] * kv[:, 1:]
    head = jnp.where(count[:, -1] > 0, np.float32(tower.head_macs), 0)
    return macs.sum(-1) + before.sum(-1) + head, dense


def cells_within(tower: Tower, budget: jax.Array, tuning: Tuning) -> jax.Array:
    """How many cells can be computed in all layers for that much.

    Args:
      budget: float32 `[B]`, multiply-accumulates.

    Returns:
      int32 `[B]`.
    """
    count = jnp.arange(1, tower.cells + 1, dtype=jnp.float32)[:, None]
    macs, _ = _cost_of(tower, jnp.repeat(count, len(tower.layers), 1), tuning)
    # Where windows are dearer than a whole pass, more cells cost less.
    macs = jnp.flip(lax.cummin(jnp.flip(macs)))
    return (macs[None] <= budget[:, None]).sum(-1, dtype=jnp.int32)


def narrowed(
    wanted: Callable[[jax.Array], jax.Array],
    kept: Callable[[], jax.Array],
    tower: Tower,
    budget: jax.Array,
    tuning: Tuning,
) -> tuple[jax.Array, jax.Array]:
    """The cells that margins let in, with margins as wide as a budget allows.

    Args:
      wanted: takes shares of the margins, float32 `[B]`, and gives what they let in, bool
        `[B, L, P]`.
      kept: gives what is computed where even margins of nothing are too much, bool `[B, L, P]`.
      budget: float32 `[B]`, multiply-accumulates; infinite = none.

    Returns:
      bool `[B, L, P]`, and the shares, float32 `[B]`.
    """
    shares = jnp.array([*SHARES, 0], jnp.float32)
    last = len(SHARES)

    def too_much(cells: jax.Array, at: jax.Array) -> jax.Array:
        return (cost(tower, cells, tuning)[0] > budget) & (at < last)

    def narrow(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        _, at, over = state
        at = at + over.astype(jnp.int32)
        cells = jnp.where((at == last)[:, None, None], kept(), wanted(shares[at]))
        return cells, at, too_much(cells, at)

    cells = wanted(jnp.ones_like(budget))
    at = jnp.zeros_like(cells[:, 0, 0], jnp.int32)
    state = cells, at, too_much(cells, at)
    if tuning.loops:  # no trip without a budget
        state = lax.while_loop(lambda state: state[2].any(), narrow, state)
    else:
        for _ in range(last):
            state = narrow(state)
    cells, at, _ = state
    return cells, shares[at]


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
    window, dense, kv = (
        np.array(each, np.float32)[:, None]
        for each in zip(*((x.window_macs, x.macs, x.kv_macs) for x in tower.layers), strict=True)
    )
    # The next layer's keys and values are replaced with its inputs.
    kv = np.concatenate([kv[1:], kv[:1] * 0])
    window, dense = window + kv, (dense + kv) * tower.cells
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
