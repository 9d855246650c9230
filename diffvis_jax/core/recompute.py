"""One layer of a step: what the plan says is computed, as whole maps or as windows.

B streams, S maps of equal shape, P cells, K cells of a chunk, C channels, c positions along the
side of a cell, H heads of width d, N = P * c * c positions. Keys and values are kept cell by cell:
those of a cell lie together, so that one update replaces them.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffvis_jax.core.tuning import Tuning
from diffvis_jax.core.windows import (
    Cells,
    Grid,
    at_trip,
    for_each_chunk,
    for_each_stream,
    opaque,
    put_blocks,
    quotient,
    read,
    write,
)
from diffvis_jax.ops.attention import kept_attention, key_heads, query_heads, value_heads
from diffvis_jax.ops.storage import keep, value_dtype, values_of
from diffvis_jax.towers.base import AttentionLayer, ConvLayer, Tower, zero_outside
from diffvis_jax.towers.params import Params


@dataclasses.dataclass(frozen=True)
class Maps:
    """One map among several of equal shape.

    Attributes:
      array: `[B, S, H + 2 * border, W + 2 * border, C]`, zero around the image.
      slot: int32 [] or int, which of the S maps.
      border: zeros before the first position.
    """

    array: jax.Array
    slot: jax.Array | int
    border: int

    def grid(self, step: int, before: int = 0) -> Grid:
        """Where the windows of cells begin that reach so many positions before them."""
        return Grid(self.slot, step, self.border - before)


@dataclasses.dataclass(frozen=True)
class Work:
    """What one layer computes in this step, or each of several.

    Attributes:
      cells: those computed by themselves.
      dense: streams whose whole map is computed.
    """

    cells: Cells
    dense: Cells

    def of(self, layer: jax.Array | int) -> "Work":
        """That of one layer, where the first axis of the lists is layers."""
        return Work(self.cells.of(layer), self.dense.of(layer))


def conv_step(
    layer: ConvLayer,
    params: Params,
    source: Maps,
    target: Maps,
    work: Work,
    tower: Tower,
    tuning: Tuning,
) -> jax.Array:
    """A convolutional layer: reads `source`, returns `target.array` with its map renewed.

    The two may be slots of one array.
    """
    same, batch = source.array is target.array, target.array.shape[0]

    def of(array: jax.Array) -> jax.Array:
        return array if same else source.array

    def whole(array: jax.Array, b: jax.Array) -> jax.Array:
        around = layer.before + layer.after
        sides = layer.shape[0] * layer.stride + around, layer.shape[1] * layer.stride + around
        x = _slab(of(array), source, b, source.border - layer.before, sides)
        origin = jnp.zeros((1,), jnp.int32)
        return _put_slab(array, layer.apply(params, x, origin, origin), target, b)

    def chunk(array: jax.Array, at: jax.Array, count: jax.Array) -> jax.Array:
        step = layer.cell * layer.stride
        side = layer.before + step + layer.after
        x = read(of(array), source.grid(step, layer.before), at, side, count, tuning)

        def apply(x: jax.Array, at: jax.Array) -> jax.Array:
            row, column = at[0] * layer.cell, at[1] * layer.cell
            return _clipped(layer.apply(params, x, row, column), row, column, layer, tower)

        y = _at_size(apply, x, at[1:], count, sizes).astype(value_dtype(array))
        return write(array, y, target.grid(layer.cell), at, count, tuning)

    sizes = tuning.window_sizes(layer.cell**2, batch * tower.cells)
    array = for_each_stream(work.dense, whole, target.array)
    return for_each_chunk(work.cells, sizes[-1], chunk, array)


def _at_size(apply, x: jax.Array, at: jax.Array, count: jax.Array, sizes: tuple[int, ...]) -> Any:
    """`apply` to the first `count` of K windows, as few as it is compiled for; the rest is zero.

    Args:
      apply: (x `[K, ...]`, at `[2, K]`) -> `[K, ...]`, one array or several.
    """
    if len(sizes) == 1:
        return apply(x, at)

    def of(size: int):
        def run(x: jax.Array, at: jax.Array) -> jax.Array:
            more = sizes[-1] - size
            return jax.tree.map(
                lambda y: jnp.pad(y, [(0, more), *[(0, 0)] * (y.ndim - 1)]),
                apply(x[:size], at[:, :size]),
            )

        return run

    which = sum((count > size).astype(jnp.int32) for size in sizes[:-1])
    return lax.switch(which, [of(size) for size in sizes], x, at)


def _clipped(
    y: jax.Array, row: jax.Array, column: jax.Array, layer: ConvLayer | AttentionLayer, tower: Tower
) -> jax.Array:
    """Cells `[K, c, c, C]` with zeros where they reach beyond the image."""
    if layer.shape == (tower.grid[0] * layer.cell, tower.grid[1] * layer.cell):
        return y
    return zero_outside(y, row, column, layer.shape)


def _slab(
    array: jax.Array, maps: Maps, b: jax.Array, start: int, sides: tuple[int, int]
) -> jax.Array:
    """`[1, h, w, C]` of stream b's map, from position `start` of the array on."""
    size = (1, 1, *sides, array.shape[-1])
    return values_of(at_trip(array, b, (b, maps.slot, start, start, 0), size)[:, 0])


def _put_slab(array: jax.Array, y: jax.Array, maps: Maps, b: jax.Array) -> jax.Array:
    """Writes stream b's whole map, `[1, h, w, C]`."""
    y = keep(y.astype(value_dtype(array)), array)[:, None]
    at = (b, jnp.asarray(maps.slot, jnp.int32), *[jnp.int32(maps.border)] * 2, jnp.int32(0))
    return lax.dynamic_update_slice(array, y, at, allow_negative_indices=False)


# ---- attention --------------------------------------------------------------------------------


def key_value_step(
    layer: AttentionLayer,
    params: Params,
    source: Maps,
    keys: jax.Array,
    values: jax.Array,
    number: jax.Array | int,
    work: Work,
    tower: Tower,
    tuning: Tuning,
) -> tuple[jax.Array, jax.Array]:
    """Replaces the keys and values of the cells whose input the step has renewed.

    Args:
      source: the map that the layer reads.
      keys, values: `[B, n, H, N, d]` and `[B, n, H, d, N]`, of n layers.
      number: which of the n.
      work: what the layer before has computed.
    """
    block, area = layer.block, layer.cell**2
    origin = jnp.zeros((1,), jnp.int32)
    dtype = value_dtype(keys)

    def whole(carry, b):
        rows, columns = tower.grid
        sides = rows * layer.cell, columns * layer.cell
        x = _slab(source.array, source, b, source.border, sides)
        key, value = block.key_value(params, x, origin, origin)

        def by_cell(x: jax.Array) -> jax.Array:
            x = x.reshape(rows, layer.cell, columns, layer.cell, -1).swapaxes(1, 2)
            return x.reshape(1, rows * columns * area, -1)

        new = (
            key_heads(by_cell(key), block.head_width, dtype),
            value_heads(by_cell(value), block.head_width, dtype),
        )
        zero = jnp.int32(0)
        at = (b, jnp.asarray(number, jnp.int32), zero, zero, zero)
        return _pair(
            lax.dynamic_update_slice(
                old, keep(part, old)[:, None], at, allow_negative_indices=False
            )
            for old, part in zip(carry, new, strict=True)
        )

    def chunk(carry, at, count):
        old_keys, old_values = carry
        x = read(source.array, source.grid(layer.cell), at, layer.cell, count, tuning)

        def apply(x: jax.Array, at: jax.Array) -> tuple[jax.Array, jax.Array]:
            return block.key_value(params, x, at[0] * layer.cell, at[1] * layer.cell)

        key, value = _at_size(apply, x, at[1:], count, sizes)

        def first(at: jax.Array) -> jax.Array:
            return (at[1] * tower.grid[1] + at[2]) * area

        new = keep(key_heads(key, block.head_width, dtype), old_keys)[:, None]
        corner = lambda at: (at[0], number, 0, first(at), 0)  # noqa: E731
        old_keys = put_blocks(old_keys, new, corner, at, count, tuning)
        new = keep(value_heads(value, block.head_width, dtype), old_values)[:, None]
        corner = lambda at: (at[0], number, 0, 0, first(at))  # noqa: E731
        return old_keys, put_blocks(old_values, new, corner, at, count, tuning)

    sizes = _few_or_all(tuning.window_sizes(area, keys.shape[0] * tower.cells))
    carry = for_each_stream(work.dense, whole, (keys, values))
    return for_each_chunk(work.cells, sizes[-1], chunk, carry)


def _few_or_all(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The smallest and the largest: in a layer of small matrices the size between them saves less
    than it takes to compile."""
    return tuple(sorted({sizes[0], sizes[-1]}))


def attention_step(
    layer: AttentionLayer,
    params: Params,
    source: Maps,
    target: Maps,
    keys: jax.Array,
    values: jax.Array,
    number: jax.Array | int,
    work: Work,
    tower: Tower,
    tuning: Tuning,
) -> jax.Array:
    """Attention of the planned cells of each stream to all its keys and values: reads `source`,
    returns `target.array` with its map renewed. Both are slots of one array."""
    block, (rows, columns) = layer.block, tower.grid
    sides = rows * layer.cell, columns * layer.cell
    mask = _visible(layer, tower)

    def attended(x, row, column, b) -> jax.Array:
        query = block.query(params, x, row, column)
        query = query.reshape(1, -1, query.shape[-1])
        query = query_heads(query, block.head_width, value_dtype(keys))
        mixed = kept_attention(query, keys, values, b, number, mask).reshape(*x.shape[:3], -1)
        return _clipped(block.finish(params, x, mixed, row, column), row, column, layer, tower)

    def whole(array: jax.Array, b: jax.Array) -> jax.Array:
        x = _slab(array, source, b, source.border, sides)
        origin = jnp.zeros((1,), jnp.int32)
        y = attended(x, origin, origin, b)
        return _put_slab(array, y[:, : layer.shape[0], : layer.shape[1]], target, b)

    array = for_each_stream(work.dense, whole, target.array)
    size = max(1, min(tuning.query_rows // layer.cell**2, tower.cells))
    fewest = min(size, tuning.window_sizes(layer.cell**2, tower.cells)[0])
    sizes = _few_or_all((fewest, size))
    runs = runs_of_streams(work.cells, keys.shape[0], size)

    def run(trip: jax.Array, array: jax.Array) -> jax.Array:
        b, at, count = runs.at(opaque(trip))
        x = read(array, source.grid(layer.cell), at, layer.cell, count, tuning)

        def apply(x: jax.Array, at: jax.Array) -> jax.Array:
            return attended(x, at[0] * layer.cell, at[1] * layer.cell, b)

        y = _at_size(apply, x, at[1:], count, sizes).astype(value_dtype(array))
        return write(array, y, target.grid(layer.cell), at, count, tuning)

    return lax.fori_loop(0, runs.total, run, array)


@dataclasses.dataclass(frozen=True)
class Runs:
    """Listed cells cut into runs of one stream each.

    Attributes:
      cells: all of them.
      first: int32 `[B]`, where each stream's cells begin in the list.
      ends: int32 `[B]`, runs up to and with each stream.
      count: int32 `[B]`, cells of each stream.
      size: cells of a run; the last of a stream may have fewer.
    """

    cells: Cells
    first: jax.Array
    ends: jax.Array
    count: jax.Array
    size: int

    @property
    def total(self) -> jax.Array:
        return self.ends[-1]

    def start(self, number: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Stream, first entry in the list, and how many cells a run has."""
        if self.ends.shape[0] == 1:
            start = number * self.size
            return jnp.int32(0), start, jnp.minimum(self.size, self.count[0] - start)
        b = (self.ends <= number).sum(dtype=jnp.int32)
        start = (number - jnp.where(b > 0, self.ends[b - 1], 0)) * self.size
        return b, self.first[b] + start, jnp.minimum(self.size, self.count[b] - start)

    def at(self, number: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Stream, cells `[3, size]`, and how many of them a run has."""
        b, start, count = self.start(number)
        size, zero = (3, self.size), jnp.int32(0)
        at = lax.dynamic_slice(self.cells.at, (zero, start), size, allow_negative_indices=False)
        return b, at, count


def runs_of_streams(cells: Cells, batch: int, size: int) -> Runs:
    """Cuts listed cells, which have room for one more run, into runs of at most `size` cells of one
    stream."""
    if batch == 1:
        count, first = cells.count[None], jnp.zeros((1,), jnp.int32)
        return Runs(cells, first, quotient(count + size - 1, size), count, size)
    listed = jnp.arange(cells.at.shape[1], dtype=jnp.int32) < cells.count
    stream = jnp.arange(batch, dtype=jnp.int32)[:, None]
    count = (listed[None] & (cells.at[:1] == stream)).sum(1, dtype=jnp.int32)
    ends = jnp.cumsum(quotient(count + size - 1, size), dtype=jnp.int32)
    return Runs(cells, jnp.cumsum(count, dtype=jnp.int32) - count, ends, count, size)


def _visible(layer: AttentionLayer, tower: Tower) -> jax.Array | None:
    """Which keys lie in the image, bool `[N]`, cell by cell; None = all."""
    rows, columns, cell = *tower.grid, layer.cell
    if layer.shape == (rows * cell, columns * cell):
        return None
    inside = [
        (jnp.arange(cells * cell) < side).reshape(cells, cell)
        for cells, side in zip((rows, columns), layer.shape, strict=True)
    ]
    return (inside[0][:, None, :, None] & inside[1][None, :, None, :]).reshape(-1)


def _pair(parts) -> tuple[jax.Array, jax.Array]:
    first, second = parts
    return first, second
