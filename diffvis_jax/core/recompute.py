"""One layer of a step: recompute the selected cells, densely or in chunks, and say what changed.

B streams, P cells, K cells of a chunk, C channels, c positions along the side of a cell.
"""

import dataclasses
from collections.abc import Iterable

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from diffvis_jax.core import cells
from diffvis_jax.ops.storage import keep, value_dtype, values_of
from diffvis_jax.towers.base import Global, Layer, Local, Params, Source, Tower, zero_outside

# Share of a layer's cells above which one dense pass over the stream's map is cheaper than windows
# (docs/benchmarks.md): windows repeat their halo and cost copies, more so where cells are small.
_BREAK_EVEN = {"cpu": 0.7}
_BREAK_EVEN_ELSEWHERE = 0.5


def break_even(layer: Layer) -> float:
    share = _BREAK_EVEN.get(jax.default_backend(), _BREAK_EVEN_ELSEWHERE)
    return share * layer.macs / layer.window_macs


# Share of the dense MACs above which a step does everything, which is exact besides.
_FULL_ABOVE = {"cpu": 0.85}
_FULL_ABOVE_ELSEWHERE = 0.85


def full_above() -> float:
    return _FULL_ABOVE.get(jax.default_backend(), _FULL_ABOVE_ELSEWHERE)


@flax.struct.dataclass
class Outcome:
    """What recomputing did: the new map, and per cell whether it moved.

    Attributes:
      map: the layer's output.
      written: cells whose output was replaced by a different one.
      held: cells that moved within the tolerance, and were kept as they were.
      scale: RMS of the output, renewed where the pass was dense.
    """

    map: jax.Array  # [B, H, W, C]
    written: jax.Array  # bool [B, P]
    held: jax.Array  # bool [B, P]
    scale: jax.Array  # float32 [B]


@flax.struct.dataclass
class Geometry:
    """Where the cells of a layer are: static facts, gathered once."""

    tower: Tower = flax.struct.field(pytree_node=False)
    index: int = flax.struct.field(pytree_node=False)

    @property
    def layer(self) -> Layer:
        return self.tower.layers[self.index]

    @property
    def chunks(self) -> tuple[int, ...]:
        attending = isinstance(self.layer, Global)
        return cells.chunk_sizes(self.layer.cell**2, self.tower.cells, attending=attending)

    def locate(self, index: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Flat cell indices `[K]` over `[B, P]` -> stream, row, column, each `[K]`."""
        return cells.located(index, self.tower.rows, self.tower.columns)

    @property
    def whole(self) -> bool:
        """Whether every cell lies inside the image (else some positions must stay zero)."""
        height, width = self.layer.shape
        cell = self.layer.cell
        return (height, width) == (self.tower.rows * cell, self.tower.columns * cell)


def _settle_chunk(
    outcome: Outcome, geometry: Geometry, new: jax.Array, index: jax.Array, tolerance: jax.Array
) -> Outcome:
    """Compares recomputed cells `[K, c, c, C]` with the cached ones and writes what moved by more
    than the tolerance, float32 `[B, P]`."""
    layer = geometry.layer
    stream, row, column = geometry.locate(index)
    at_row, at_column = row * layer.cell, column * layer.cell
    if not geometry.whole:
        new = zero_outside(new, at_row, at_column, layer.shape[0])
    new = new.astype(value_dtype(outcome.map))
    height, width = new.shape[1:3]
    count = cells.present(index)
    old = cells.read(outcome.map, stream, at_row, at_column, height, width, count=count)
    change = new.astype(jnp.float32) - old.astype(jnp.float32)
    # The strongest position decides: a caret in a large cell must not drown in its mean.
    move = jnp.sqrt(jnp.square(change).mean(-1)).max((1, 2))
    # Written so that a NaN is sent on, not swallowed.
    written = ~(move <= tolerance.reshape(-1)[index] * outcome.scale[stream])
    kept = jnp.where(written[:, None, None, None], new, old)
    # Places without a cell stand for the first one, and say of it what it says.
    here = jnp.arange(index.size) < count
    written, moved = (jnp.where(here, of, of[0]) for of in (written, move > 0))
    marks = outcome.written.reshape(-1), outcome.held.reshape(-1)
    return dataclasses.replace(
        outcome,
        map=cells.write(outcome.map, kept, stream, at_row, at_column, count),
        written=marks[0].at[index].set(written).reshape(outcome.written.shape),
        held=marks[1].at[index].set(~written & moved).reshape(outcome.held.shape),
    )


def _settle_dense(outcome: Outcome, geometry: Geometry, new: jax.Array, b: jax.Array) -> Outcome:
    """Writes a whole new map `[1, H, W, C]` of stream b; every cell that differs is written."""
    layer, tower = geometry.layer, geometry.tower
    height, width = tower.rows * layer.cell, tower.columns * layer.cell
    scale = jnp.sqrt(jnp.square(new).mean())
    new = new.astype(value_dtype(outcome.map))
    new = jnp.pad(new, ((0, 0), (0, height - new.shape[1]), (0, width - new.shape[2]), (0, 0)))
    old = values_of(lax.dynamic_slice_in_dim(outcome.map, b, 1))
    by_cell = (tower.rows, layer.cell, tower.columns, layer.cell, layer.width)
    differs = (new != old).reshape(by_cell).any((1, 3, 4)).reshape(1, -1)

    def put(_: jax.Array, into: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return _pair(
            lax.dynamic_update_slice(old, part, (b, *[0] * (old.ndim - 1)))
            for old, part in zip(into, (keep(new, outcome.map), differs), strict=True)
        )

    # A loop, whose trips hang on the comparison: else XLA copies the old map to compare with.
    map, written = lax.fori_loop(
        0, differs.any().astype(jnp.int32), put, (outcome.map, outcome.written)
    )
    return dataclasses.replace(
        outcome, map=map, written=written, scale=outcome.scale.at[b].set(scale)
    )


def source_step(
    own: Params, geometry: Geometry, pixels: jax.Array, select, dense, outcome, tolerance
) -> Outcome:
    """The first layer: `pixels` is `uint8 [B, S', S', 3]`, bordered."""
    layer = geometry.layer
    assert isinstance(layer, Source)

    def whole(outcome: Outcome, b: jax.Array) -> Outcome:
        size = layer.border, geometry.tower.config.size
        frame = lax.dynamic_slice(pixels, (b, size[0], size[0], 0), (1, size[1], size[1], 3))
        held, frame = cells.inside((own, frame), b)
        return _settle_dense(outcome, geometry, layer.dense(held, frame), b)

    def chunk(outcome: Outcome, index: jax.Array) -> Outcome:
        stream, row, column = geometry.locate(index)
        at, sides = layer.start(row, column), (layer.window, layer.window)
        window = cells.read(pixels, stream, *at, *sides, count=cells.present(index))
        new = layer.cells(cells.inside(own, index), window, row, column)
        return _settle_chunk(outcome, geometry, new, index, tolerance)

    outcome = cells.for_each_stream(dense, whole, outcome)
    return cells.for_each_chunk(select & ~dense[:, None], geometry.chunks, chunk, outcome)


def local_step(
    own: Params, geometry: Geometry, before: jax.Array, select, dense, outcome, tolerance
) -> Outcome:
    """A convolutional layer: `before` is the map it reads, `[B, H, W, C]`."""
    layer = geometry.layer
    assert isinstance(layer, Local)
    reach = max(layer.before, layer.after)

    def whole(outcome: Outcome, b: jax.Array) -> Outcome:
        x = cells.inside((own, lax.dynamic_slice_in_dim(before, b, 1)), b)
        return _settle_dense(outcome, geometry, layer.dense(x[0], values_of(x[1])), b)

    def chunk(outcome: Outcome, index: jax.Array) -> Outcome:
        stream, row, column = geometry.locate(index)
        step = layer.cell * layer.stride
        side = layer.before + step + layer.after
        at = row * step - layer.before, column * step - layer.before
        window = cells.read(before, stream, *at, side, side, reach, cells.present(index))
        new = layer.cells(cells.inside(own, index), window, row, column)
        return _settle_chunk(outcome, geometry, new, index, tolerance)

    outcome = cells.for_each_stream(dense, whole, outcome)
    return cells.for_each_chunk(select & ~dense[:, None], geometry.chunks, chunk, outcome)


def key_value_step(
    own: Params,
    geometry: Geometry,
    before: jax.Array,
    dirty: jax.Array,
    held: tuple[jax.Array, jax.Array],
) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    """Replaces the keys and values `[B, H, W, C]` of dirty cells; also says which were computed."""
    layer = geometry.layer
    assert isinstance(layer, Global)
    dense = dirty.mean(-1) > break_even(layer)

    def whole(held, b):
        x = lax.dynamic_slice_in_dim(before, b, 1)
        own_now, x = cells.inside((own, x), b)
        new = layer.key_value(own_now, values_of(x))
        return _pair(
            lax.dynamic_update_slice(old, keep(part, old), (b, 0, 0, 0))
            for old, part in zip(held, new, strict=True)
        )

    def chunk(held, index):
        stream, row, column = geometry.locate(index)
        row, column, (height, width) = row * layer.cell, column * layer.cell, _cell_sides(geometry)
        count = cells.present(index)
        x = cells.read(before, stream, row, column, height, width, count=count)
        new = layer.key_value(cells.inside(own, index), x)
        return _pair(
            cells.write(old, part, stream, row, column, count)
            for old, part in zip(held, new, strict=True)
        )

    held = cells.for_each_stream(dense, whole, held)
    held = cells.for_each_chunk(dirty & ~dense[:, None], geometry.chunks, chunk, held)
    return held, dirty | dense[:, None]


def global_step(
    own: Params,
    geometry: Geometry,
    before: jax.Array,
    key_value: tuple[jax.Array, jax.Array],
    select: jax.Array,
    dense: jax.Array,
    outcome: Outcome,
    tolerance: jax.Array,
) -> Outcome:
    """Attention: the selected cells of a stream against all of that stream's keys and values."""
    layer, tower = geometry.layer, geometry.tower
    assert isinstance(layer, Global)
    height, width = key_value[0].shape[1:3]
    mask = visible(geometry, height, width)

    def memory(b: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _pair(memory_of(part, b) for part in key_value)

    def whole(outcome: Outcome, b: jax.Array) -> Outcome:
        x = lax.dynamic_slice_in_dim(before, b, 1)
        held, x = cells.inside((own, x.reshape(1, height * width, -1)), b)
        new = layer.attend(held, values_of(x), *memory(b), mask)
        new = new.reshape(1, height, width, -1)[:, : layer.shape[0], : layer.shape[1]]
        return _settle_dense(outcome, geometry, new, b)

    def one_stream(outcome: Outcome, b: jax.Array) -> Outcome:
        key, value = memory(b)

        def chunk(outcome: Outcome, index: jax.Array) -> Outcome:
            index += b * tower.cells
            stream, row, column = geometry.locate(index)
            at = row * layer.cell, column * layer.cell
            x = cells.read(before, stream, *at, *_cell_sides(geometry), count=cells.present(index))
            new = layer.attend(
                cells.inside(own, index), x.reshape(1, -1, x.shape[-1]), key, value, mask
            )
            return _settle_chunk(outcome, geometry, new.reshape(x.shape), index, tolerance)

        mine = lax.dynamic_slice_in_dim(select, b, 1)
        return cells.for_each_chunk(mine, geometry.chunks, chunk, outcome)

    outcome = cells.for_each_stream(dense, whole, outcome)
    return cells.for_each_stream(select.any(-1) & ~dense, one_stream, outcome)


def memory_of(part: jax.Array, b: jax.Array) -> jax.Array:
    """Stream b's keys, or values, `[B, H, W, C]` -> `[1, H * W, C]`."""
    mine = lax.dynamic_slice_in_dim(part, b, 1)
    return values_of(cells.inside(mine.reshape(1, -1, mine.shape[-1]), b))


def visible(geometry: Geometry, height: int, width: int) -> jax.Array | None:
    """Which of H x W keys lie in the image, bool `[H * W]`; None = all."""
    if geometry.whole:
        return None
    rows, columns = geometry.layer.shape
    inside = (jnp.arange(height)[:, None] < rows) & (jnp.arange(width) < columns)
    return inside.reshape(-1)


def _pair(parts: Iterable[jax.Array]) -> tuple[jax.Array, jax.Array]:
    first, second = parts
    return first, second


def _cell_sides(geometry: Geometry) -> tuple[int, int]:
    return geometry.layer.cell, geometry.layer.cell
