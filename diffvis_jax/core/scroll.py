"""Scrolling: features move with the pixels, by whole cells.

Where a tower's windows see nothing but themselves, the layers before the first attention to the
whole image give the same for a window wherever it lies. What a scrolled screen brings in is then
all that they compute. What comes after them moves along and is out of date, as after any change.

B streams, P cells, h x w pixels of a cell, S maps of equal shape.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffvis_jax.core.cache import Cache
from diffvis_jax.core.execute import read_out
from diffvis_jax.core.windows import for_each_stream, listed, loop_if
from diffvis_jax.errors import ConfigError
from diffvis_jax.ops.storage import keep, value_dtype, values_of
from diffvis_jax.towers.base import AttentionLayer, Tower
from diffvis_jax.towers.params import Params

# Share of a stream's patches of which more must have changed: less is cheap as it is.
LOOK_ABOVE = 0.08
# What a shift must explain: so many cells, and that share of the changed ones.
LEAST_CELLS, LEAST_SHARE = 4, 0.1


@flax.struct.dataclass(kw_only=True)
class Shift:
    """Where the content of each stream has gone.

    Attributes:
      by: rows and columns of cells by which it moved, down and to the right; one of them is 0.
      moved: cells whose content came from elsewhere, pixel by pixel.
    """

    by: jax.Array  # int32 [B, 2]
    moved: jax.Array  # bool [B, rows, columns]


def follow(
    params: Params, tower: Tower, cache: Cache, frames: jax.Array, changed: jax.Array
) -> tuple[Cache, Shift]:
    """Moves what the cache holds as the content of the frames has moved; for towers that
    `check_moves` lets pass.

    The reference moves as well, so that a comparison with it afterwards finds what is new.

    Args:
      params: of the vision tower.
      frames: `uint8 [B, H, W, 3]`.
      changed: bool `[B, rows, columns]`, patches that differ from the reference.
    """
    none = Shift(by=jnp.zeros_like(cache.distance[:, :2]), moved=jnp.zeros_like(changed))
    looks = changed.mean((1, 2), dtype=jnp.float32) > LOOK_ABOVE
    shift = loop_if(looks.any(), lambda _: find_shift(tower, cache, frames, changed), none)
    streams = listed(shift.moved.any((1, 2))[:, None], (1, 1))

    def stream(cache: Cache, b: jax.Array) -> Cache:
        return _moved(params, tower, cache, shift, b)

    return for_each_stream(streams, stream, cache), shift


def check_moves(tower: Tower) -> None:
    """Raises a ConfigError for a tower whose features do not move with the pixels."""
    whole = all(layer.reach == (0, 0) for layer in tower.layers)
    turns = all(
        layer.block.moved is not None for layer in tower.layers if isinstance(layer, AttentionLayer)
    )
    if not whole or not turns or any(place.array < 0 for place in tower.places):
        raise ConfigError(
            f"scroll=True needs a tower of windows without a halo and of relative positions "
            f"(Qwen2.5-VL's), not {type(tower.config).__name__}"
        )


def find_shift(tower: Tower, cache: Cache, frames: jax.Array, changed: jax.Array) -> Shift:
    """The vertical or horizontal shift by whole cells that explains most of the changed ones.

    Hashes propose it; what moved is decided by the pixels.
    """
    now, before = (_by_cell(tower, x) for x in (frames, cache.reference))
    hashes = cell_hashes(now), cell_hashes(before)
    # Of one colour: equal to many others, and no evidence of a movement.
    plain = (now == now[..., :1, :]).all((-1, -2))
    candidates, rows, columns = _candidates(tower)

    def found(now, before, hashed, changed, plain):
        now_hash, before_hash = hashed

        def same(shift: jax.Array) -> jax.Array:
            there, inside = _source(tower, shift)
            equal = (now_hash == before_hash[there]).all(-1)
            return (equal & inside & changed & ~plain).sum(dtype=jnp.int32)

        explained = lax.map(same, candidates)
        best = lax.argmax(explained, 0, jnp.int32)
        least = jnp.maximum(LEAST_CELLS, LEAST_SHARE * changed.sum(dtype=jnp.float32))
        enough = explained[best].astype(jnp.float32) >= least
        there, inside = _source(tower, candidates[best])
        moved = (now == before[there]).all((-1, -2)) & inside & changed & enough
        return jnp.where(enough, candidates[best], 0), moved

    flat = changed.reshape(changed.shape[0], -1)
    by, moved = jax.vmap(found)(now, before, hashes, flat, plain)
    return Shift(by=by, moved=moved.reshape(-1, rows, columns))


def cell_hashes(cells: jax.Array) -> jax.Array:
    """Two independent sums of products with fixed odd weights, modulo 2^32.

    Args:
      cells: `uint8 [..., pixels, 3]`.

    Returns:
      uint32 `[..., 2]`.
    """
    x = cells.astype(jnp.uint32)
    weights = np.random.default_rng(0).integers(0, 2**31, (2, *x.shape[-2:]), np.uint32)
    odd = [(2 * part + 1).reshape(*[1] * (x.ndim - 2), *part.shape) for part in weights]
    return jnp.stack([(x * jnp.asarray(part)).sum((-1, -2), dtype=jnp.uint32) for part in odd], -1)


def _by_cell(tower: Tower, frames: jax.Array) -> jax.Array:
    """`[B, P, pixels, 3]`, black beyond the frame."""
    (rows, columns), side, batch = tower.grid, tower.patch, frames.shape[0]
    beyond = rows * side - frames.shape[1], columns * side - frames.shape[2]
    x = jnp.pad(frames, ((0, 0), (0, beyond[0]), (0, beyond[1]), (0, 0)))
    x = x.reshape(batch, rows, side, columns, side, 3).swapaxes(2, 3)
    return x.reshape(batch, rows * columns, side * side, 3)


def _candidates(tower: Tower) -> tuple[jax.Array, int, int]:
    """All vertical and all horizontal shifts, int32 `[n, 2]`, the smallest first; the grid."""
    rows, columns = tower.grid
    found = [(sign * by, 0) for by in range(1, rows) for sign in (1, -1)]
    found += [(0, sign * by) for by in range(1, columns) for sign in (1, -1)]
    found.sort(key=lambda shift: abs(sum(shift)))
    return jnp.array(found or [(0, 0)], jnp.int32), rows, columns


def _source(tower: Tower, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where the content of each cell was before a shift `[2]`: int32 `[P]`, and whether it was in
    the frame, and as large: bool `[P]`."""
    sizes = [
        np.minimum(np.arange(1, cells + 1) * tower.patch, side) - np.arange(cells) * tower.patch
        for cells, side in zip(tower.grid, tower.frame, strict=True)
    ]
    at, inside = [], []
    for axis, cells in enumerate(tower.grid):
        there = jnp.arange(cells, dtype=jnp.int32) - shift[axis]
        within = jnp.clip(there, 0, cells - 1)
        extent = jnp.asarray(sizes[axis], jnp.int32)
        at.append(within)
        inside.append((there == within) & (extent[within] == extent))
    flat = at[0][:, None] * tower.grid[1] + at[1][None]
    return flat.reshape(-1), (inside[0][:, None] & inside[1][None]).reshape(-1)


def _moved(params: Params, tower: Tower, cache: Cache, shift: Shift, b: jax.Array) -> Cache:
    """Stream b's part of the cache, moved."""
    by, moved = shift.by[b], shift.moved[b]
    there, _ = _source(tower, by)
    flat = moved.reshape(-1)

    def replaced(array: jax.Array, change) -> jax.Array:
        old = lax.dynamic_index_in_dim(array, b, 0, keepdims=False)
        return lax.dynamic_update_index_in_dim(array, change(old), b, 0)

    def of_map(x: jax.Array, side: int) -> jax.Array:
        """`[S, H, W, C]`, so many positions along a cell."""
        rows, columns = (
            jnp.clip(jnp.arange(n, dtype=jnp.int32) - by[axis] * side, 0, n - 1)
            for axis, n in enumerate(x.shape[1:3])
        )
        mask = jnp.repeat(jnp.repeat(moved, side, 0), side, 1)[: x.shape[1], : x.shape[2]]
        return jnp.where(mask[None, ..., None], x[:, rows][:, :, columns], x)

    def of_cells(x: jax.Array) -> jax.Array:
        """`[..., P]`."""
        return jnp.where(flat.reshape(*[1] * (x.ndim - 1), -1), x[..., there], x)

    maps = tuple(
        replaced(array, lambda x, layer=layer: of_map(x, layer.cell))
        for array, (layer, _, _) in zip(cache.maps, tower.map_arrays, strict=True)
    )
    layers = [segment.layers[0] for segment in tower.segments]
    attends = [layer for layer in layers if isinstance(layer, AttentionLayer)]
    keys = tuple(
        replaced(array, lambda x, layer=layer: _moved_keys(x, layer, there, flat, by))
        for array, layer in zip(cache.keys, attends, strict=True)
    )
    values = tuple(
        replaced(array, lambda x, layer=layer: _moved_values(x, layer, there, flat))
        for array, layer in zip(cache.values, attends, strict=True)
    )
    # From the first attention on, every cell has seen others elsewhere.
    reached = np.cumsum([layer.global_ for layer in tower.layers]) > 0
    stale = replaced(cache.stale, lambda x: of_cells(x) | jnp.asarray(reached)[:, None])
    cache = dataclasses.replace(
        cache,
        pixels=replaced(cache.pixels, lambda x: of_map(x[None], tower.patch)[0]),
        maps=maps,
        keys=keys,
        values=values,
        stale=stale,
        progress=replaced(cache.progress, jnp.zeros_like),
        **{
            name: replaced(getattr(cache, name), of_cells)
            for name in ("distance", "waiting", "age")
        },
    )
    here = jnp.arange(cache.batch, dtype=jnp.int32) == b
    return dataclasses.replace(cache, tokens=read_out(params, tower, cache, here))


def _moved_keys(
    x: jax.Array, layer: AttentionLayer, there: jax.Array, moved: jax.Array, by: jax.Array
) -> jax.Array:
    """`[n, H, N, d]`, cell by cell."""
    cells = x.reshape(*x.shape[:2], len(moved), -1, x.shape[-1])
    assert layer.block.moved is not None
    new = layer.block.moved(values_of(cells[:, :, there]), by * layer.cell)
    new = keep(new.astype(value_dtype(x)), x)
    return jnp.where(moved[None, None, :, None, None], new, cells).reshape(x.shape)


def _moved_values(
    x: jax.Array, layer: AttentionLayer, there: jax.Array, moved: jax.Array
) -> jax.Array:
    """`[n, H, d, N]`, cell by cell."""
    cells = x.reshape(*x.shape[:3], len(moved), -1)
    new = jnp.where(moved[None, None, None, :, None], cells[:, :, :, there], cells)
    return new.reshape(x.shape)
