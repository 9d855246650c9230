"""Which unchanged cells attend most to what changed.

Through attention a change reaches every token, but not every token alike. Those that look at what
changed are the ones to recompute first (as in attention-based token pruning, arXiv 2403.06764).
"""

import jax
import jax.numpy as jnp
from jax import lax

from diffvis_jax.core import cells
from diffvis_jax.core.recompute import Geometry, memory_of, visible
from diffvis_jax.ops.storage import values_of
from diffvis_jax.towers.base import Global, Params


def most_attending(
    own: Params,
    geometry: Geometry,
    before: jax.Array,
    key: jax.Array,
    dirty: jax.Array,
    candidates: jax.Array,
    share: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The cells that attend most to dirty ones, in one attention layer.

    Args:
      own: the layer's parameters.
      before: the map it reads, `[B, H, W, C]`.
      key: its keys `[B, H, W, C]`, those of dirty cells renewed.
      dirty: bool `[B, P]`, cells whose input changed.
      candidates: bool `[B, P]`, cells to choose from.
      share: of all cells, how many to choose at most; 0-1. Streams that have nothing to choose
        from, or nothing dirty, cost nothing.

    Returns:
      the chosen cells, bool `[B, P]`, and the MACs of every cell that choosing took, float32 `[B]`.
    """
    layer, tower = geometry.layer, geometry.tower
    assert isinstance(layer, Global)
    height, width = key.shape[1:3]
    count = jnp.ceil(share * tower.cells)
    busy = dirty.any(-1) & candidates.any(-1) & (share > 0)

    def stream(chosen: jax.Array, b: jax.Array) -> jax.Array:
        x = lax.dynamic_slice_in_dim(before, b, 1)
        here = (lax.dynamic_slice_in_dim(part, b, 1) for part in (dirty, candidates))
        held, x, *marks = cells.inside((own, x, *here), b)
        by_position = marks[0].reshape(1, tower.rows, tower.columns)
        by_position = by_position.repeat(layer.cell, 1).repeat(layer.cell, 2)
        attends = layer.attention_to(
            held,
            values_of(x).reshape(1, height * width, -1),
            memory_of(key, b),
            by_position[:, :height, :width].reshape(1, -1).astype(jnp.float32),
            visible(geometry, height, width),
        )
        by_cell = attends.reshape(tower.rows, layer.cell, tower.columns, layer.cell).mean((1, 3))
        mine = cells.lowest(-by_cell.reshape(1, -1), marks[1], count)
        return lax.dynamic_update_slice(chosen, mine, (b, 0))

    chosen = cells.for_each_stream(busy, stream, jnp.zeros_like(candidates))
    positions = layer.cell**2
    macs = positions * layer.width * (layer.width + height * width)
    return chosen, busy * float(macs)
