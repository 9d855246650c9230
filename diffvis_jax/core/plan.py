"""What a step does: which streams are encoded in full, in part or not at all, and which cells.

B streams, g patches along the side, P cells.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffvis_jax.core import cells
from diffvis_jax.core import recompute as layer_step
from diffvis_jax.core.cache import CLEAN, Cache
from diffvis_jax.core.change import distance_to, patch_difference
from diffvis_jax.core.policy import Policy
from diffvis_jax.towers.base import Global, Layer, Tower


def make_plan(
    tower: Tower, cache: Cache, frames: jax.Array, policy: Policy, active: jax.Array
) -> dict[str, jax.Array]:
    """Looks at the pixels and decides for each stream: everything, something, or nothing.

    Returns:
      changed, acted, copy: bool `[B, g, g]`, patches that differ, that differ and are not left for
      later, and that the reference takes over; distance: int32 `[B, P]`, patches from the nearest
      of those acted on; full, skipped, idle, active, work: bool `[B]`; count: int32 `[B]`.
    """
    side = tower.grid * tower.patch
    difference = patch_difference(
        _crop(frames, side), _crop(cache.reference, side), tower.patch, policy.metric
    )
    known = cache.filled & active
    changed = (difference > policy.change_threshold) & known[:, None, None]
    count = changed.sum((1, 2), dtype=jnp.int32)
    due = (policy.keyframe_every > 0) & (cache.steps + 1 >= policy.keyframe_every)
    full = (~cache.filled | due | (count > policy.max_changed_patches)) & active
    skipped = ~full & (count > 0) & (count <= policy.skip_small_patches)
    acted = changed & ~skipped[:, None, None]
    distance = to_cells(tower, distance_to(acted), 0)
    # What a tolerance saves is not known beforehand.
    most = most_work(tower, distance, policy.margins(tower.stages), policy.attending)
    foreseen = most > layer_step.full_above()
    full |= foreseen & acted.any((1, 2)) & (policy.tolerance == 0)
    pending = (cache.pending != CLEAN).any((1, 2))
    idle = ~full & ~acted.any((1, 2)) & active
    spends = (policy.settle > 0) | (policy.refresh_patches > 0)
    return {
        "changed": changed,
        "acted": acted,
        "distance": distance,
        "copy": acted | full[:, None, None],
        "full": full,
        "skipped": skipped,
        "idle": idle,
        "count": count,
        "active": active,
        "work": active & (full | ~idle | (pending & spends)),
    }


def most_work(
    tower: Tower, distance: jax.Array, margins: jax.Array, attending: jax.Array | float = 0.0
) -> jax.Array:
    """The share of the dense MACs that a change can cost at most, float32 `[B]`: of each layer the
    cells that it can reach and that its margin allows, or all where the dense path is taken.

    Args:
      distance: int32 `[B, P]`, of each cell to the change.
      margins: float32 `[stages]`.
      attending: share of the cells that attention layers and those after them do besides; what
        choosing them takes is not counted.
    """
    reach, reaches = 0.0, []
    for layer in tower.layers:
        reach = math.inf if isinstance(layer, Global) else reach + layer.halo  # type: ignore[attr-defined]
        reaches.append(reach)
    stages = np.array([layer.stage for layer in tower.layers])

    def shares(macs: list[int]) -> np.ndarray:
        key_value = [getattr(layer, "macs_key_value", 0) for layer in tower.layers]
        total = np.array(macs, np.float64) + np.array(key_value)
        return (total * tower.cells / tower.macs).astype(np.float32)

    dense = shares([layer.macs for layer in tower.layers])
    apart = shares([layer.window_macs for layer in tower.layers])
    limits = jnp.minimum(jnp.array(reaches, jnp.float32), margins[stages])
    inside = (distance[:, None] <= limits[:, None]).mean(-1)
    inside = jnp.minimum(1.0, inside + attending * np.isinf(reaches))
    even = np.array([layer_step.break_even(layer) for layer in tower.layers], np.float32)
    work = jnp.where(inside > even, dense, inside * apart).sum(-1)
    return work + tower.readout_macs / tower.macs


def _crop(x: jax.Array, side: int) -> jax.Array:
    return x[:, : min(side, x.shape[1]), : min(side, x.shape[2])]


def to_cells(tower: Tower, by_patch: jax.Array, lead: Any) -> jax.Array:
    """`[B, g, g]` to `[B, P]`; cells that are no patch (the class token) get `lead`."""
    flat = by_patch.reshape(by_patch.shape[0], -1)
    return jnp.pad(flat, ((0, 0), (tower.lead, 0)), constant_values=lead)


def oldest(tower: Tower, cache: Cache, patches: jax.Array) -> jax.Array:
    """The cells of the patches that have waited longest, at most that many; bool `[B, P]`."""
    chosen = cells.lowest(-cache.age, cache.age > 0, patches)
    return jnp.pad(chosen, ((0, 0), (tower.lead, 0)), constant_values=patches > 0)


def within_budget(
    need: jax.Array, distance: jax.Array, budget: jax.Array, layer: Layer
) -> tuple[jax.Array, jax.Array]:
    """The cells that an idle step can pay for, nearest to the last change first.

    Args:
      need: bool `[B, P]`, cells of idle streams that need this layer.
      distance: int32 `[B, P]`.
      budget: float32 `[B]`, MACs left; at least one cell is done if any are left at all.
      layer: whose cells they are.

    Returns:
      bool `[B, P]`, and the budget left: what was chosen is paid for by itself, or as a dense pass
      where it will be one.
    """
    apart = float(layer.window_macs)

    def choose(trip: jax.Array, _: jax.Array) -> jax.Array:
        mine, far = cells.inside((need, distance), trip)  # else sorted in front of no trips
        return cells.lowest(far, mine, jnp.ceil(budget / apart)[:, None])

    chosen = lax.fori_loop(0, need.any().astype(jnp.int32), choose, jnp.zeros_like(need))
    dense = chosen.mean(-1) > layer_step.break_even(layer)
    cost = jnp.where(dense, need.shape[1] * float(layer.macs), chosen.sum(-1) * apart)
    return chosen, jnp.maximum(budget - cost, 0)
