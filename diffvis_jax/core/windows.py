"""Work that follows the change under static shapes: chunks of cells, windows of maps.

Knows arrays, no networks. B streams, S maps of equal shape, P cells of a stream, K cells of a
chunk, C channels. Maps are `[B, S, H, W, C]`, kept as `ops.storage` keeps them.

A `fori_loop` of unknown length over listed cells costs nothing when there is nothing to do, and
keeps its buffers in place, where `lax.cond` would copy a large carry.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from diffvis_jax.core.tuning import Tuning
from diffvis_jax.ops.storage import keep, values_of

Carry = TypeVar("Carry")


@flax.struct.dataclass
class Cells:
    """Cells to work on, in the order of streams.

    Attributes:
      at: stream, row and column of each; only the first `count` count, the others are of a cell
        that exists.
      count: how many there are.
    """

    at: jax.Array  # int32 [..., 3, M]
    count: jax.Array  # int32 [...]

    def of(self, layer: jax.Array | int) -> "Cells":
        """Those of one layer, where the first axis is layers."""
        return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, layer, keepdims=False), self)


def listed(mask: jax.Array, grid: tuple[int, int], room: int = 0) -> Cells:
    """The marked cells of `[..., B, rows * columns]`, listed along the last two axes.

    Args:
      mask: bool.
      grid: (rows, columns).
      room: further entries at the end of the list, so that a chunk may begin at its last cell.
    """
    flat = mask.reshape(*mask.shape[:-2], -1)
    upto = jnp.cumsum(flat, axis=-1, dtype=jnp.int32)
    size = flat.shape[-1]
    place = jnp.where(flat, upto - 1, size + room)
    index = jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), flat.shape)
    put = lambda order, place, index: order.at[place].set(index, mode="drop")  # noqa: E731
    for _ in range(flat.ndim - 1):
        put = jax.vmap(put)
    order = put(jnp.zeros((*flat.shape[:-1], size + room), jnp.int32), place, index)
    return Cells(jnp.stack(located(order, grid), -2), upto[..., -1])


def loop_if(needed: jax.Array, body: Callable[[Carry], Carry], carry: Carry) -> Carry:
    """`body(carry)` if it is needed: a conditional that leaves large buffers where they are."""
    return lax.fori_loop(0, needed.astype(jnp.int32), lambda _, carry: body(carry), carry)


def for_each_chunk(
    cells: Cells, size: int, body: Callable[[Carry, jax.Array, jax.Array], Carry], carry: Carry
) -> Carry:
    """Runs `body(carry, at, count)` over the listed cells, so many at a time.

    Args:
      cells: `at` of two axes, with room for a chunk that begins at its last cell.
      size: K.
      body: takes int32 `[3, K]`, of which the first `count` cells are meant.
      carry: pytree of arrays, updated in place.
    """

    def trip(i: jax.Array, carry: Carry) -> Carry:
        start = opaque(i) * size
        chunk = lax.dynamic_slice(
            cells.at, (jnp.int32(0), start), (3, size), allow_negative_indices=False
        )
        return body(carry, chunk, jnp.minimum(size, cells.count - start))

    return lax.fori_loop(0, quotient(cells.count + size - 1, size), trip, carry)


def for_each_stream(
    streams: Cells, body: Callable[[Carry, jax.Array], Carry], carry: Carry
) -> Carry:
    """Runs `body(carry, b)` for every listed stream: cells of a grid of one."""
    if streams.at.shape[1] == 1:  # one stream: the number of the trip is its number
        return lax.fori_loop(0, streams.count, lambda b, c: body(c, opaque(b)), carry)

    def trip(i: jax.Array, carry: Carry) -> Carry:
        return body(carry, _entry(streams.at[0], opaque(i)))

    return lax.fori_loop(0, streams.count, trip, carry)


def opaque(index: jax.Array) -> jax.Array:
    """The number of a trip, of which XLA cannot know the value.

    It moves what does not depend on the trip in front of the loop, up to a whole pass over a map
    of the one stream whose number it knows to be 0; and in front of a loop of no trips that work is
    done for nothing. Whatever is read at an opaque index stays inside.
    """
    return lax.optimization_barrier(index)


def inside(tree: Carry, index: jax.Array) -> Carry:
    """Keeps work on `tree` inside the loop that `index` belongs to; see `opaque`."""
    return lax.optimization_barrier((tree, index))[0]


def at_trip(x: jax.Array, index: jax.Array, start: Sequence[Any], size: Sequence[int]) -> jax.Array:
    """A slice that is taken inside the loop that `index` belongs to, if the loop has a trip.

    A slice at the index of one stream among one is a slice at 0 to XLA, and one of a whole array is
    that array: nothing of them depends on the trip, and a barrier is dropped where its index is not
    used. An index is never negative, which XLA does not know of an opaque one.
    """
    index = opaque(index)
    zero = jnp.minimum(index, 0)
    start = [jnp.asarray(at, jnp.int32) + zero for at in start]
    cut = lax.dynamic_slice(x, start, size, allow_negative_indices=False)
    return jnp.where(index < 0, jnp.zeros_like(cut), cut)


def quotient(x: jax.Array, by: int) -> jax.Array:
    """`x // by` of what is not negative: one operation, where minding the sign takes twenty."""
    return lax.div(x, jnp.asarray(by, x.dtype))


def located(index: jax.Array, grid: tuple[int, int]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Flat indices `[K]` over `[B, rows * columns]` -> stream, row, column, each `[K]`."""
    rows, columns = grid
    stream = quotient(index, rows * columns)
    cell = index - stream * (rows * columns)
    row = quotient(cell, columns)
    return stream, row, cell - row * columns


@dataclasses.dataclass(frozen=True)
class Grid:
    """How the cells of a map lie in its array.

    Attributes:
      slot: int32 [] or int, which of the S maps.
      step: positions from a cell to the next.
      start: position of the first cell.
    """

    slot: jax.Array | int
    step: int
    start: int

    def corner(self, at: jax.Array) -> tuple[jax.Array | int, ...]:
        """Where cells `[3, K]` begin in `[B, S, H, W, C]`."""
        row, column = at[1] * self.step + self.start, at[2] * self.step + self.start
        return at[0], self.slot, row, column, 0


def read(
    x: jax.Array, grid: Grid, at: jax.Array, side: int, count: jax.Array, tuning: Tuning
) -> jax.Array:
    """Cuts windows out of maps.

    Args:
      x: `[B, S, H, W, C]`.
      grid: where the windows of the cells begin.
      at: int32 `[3, K]`, the cells.
      side: positions along the sides of a window, all of them within the map.
      count: how many windows are wanted; the others are anything finite.

    Returns:
      `[K, side, side, C]`.
    """
    size, number = (1, 1, side, side, x.shape[-1]), at.shape[1]

    def cut(at: jax.Array) -> jax.Array:
        start = _start(*grid.corner(at))
        return lax.dynamic_slice(x, start, size, allow_negative_indices=False)[:, 0]

    if not tuning.loops:
        return values_of(jax.vmap(cut, in_axes=1)(at)[:, 0])
    if number == 1:
        return values_of(cut(at[:, 0]))

    def copy(k: jax.Array, out: jax.Array) -> jax.Array:
        return lax.dynamic_update_slice_in_dim(
            out, cut(_column(at, k)), k, 0, allow_negative_indices=False
        )

    # Not zeros: those are made once for all layers, and copied for each.
    empty = jnp.broadcast_to(x[0, 0, 0, 0, 0], (number, side, side, x.shape[-1]))
    return values_of(lax.fori_loop(0, count, copy, empty))


def write(
    x: jax.Array,
    windows: jax.Array,
    grid: Grid,
    at: jax.Array,
    count: jax.Array,
    tuning: Tuning,
) -> jax.Array:
    """Puts the first `count` of the windows `[K, h, w, C]` into maps `[B, S, H, W, C]`, rounded to
    their dtype.

    With loops one window a trip, in place: XLA:CPU fuses a chain of updates into one pass over the
    whole map, which made a step of a second out of one of 0.1 s (docs/lab).
    """
    return put_blocks(x, keep(windows, x)[:, None], grid.corner, at, count, tuning)


def put_blocks(
    x: jax.Array,
    blocks: jax.Array,
    corner: Callable[[jax.Array], tuple[Any, ...]],
    at: jax.Array,
    count: jax.Array,
    tuning: Tuning,
) -> jax.Array:
    """Puts the first `count` of the blocks `[K, ...]` into an array.

    Args:
      x: an array of N axes.
      blocks: K blocks, each of N - 1 axes: an array's without its first, the stream.
      corner: cells `[3, K]`, or one `[3]`, -> where their blocks begin, a number for each axis.
      at: int32 `[3, K]`, the cells.
    """
    if not tuning.loops:
        return _scatter(x, blocks, corner(at), count)

    def copy(k: jax.Array, x: jax.Array) -> jax.Array:
        block = lax.dynamic_slice_in_dim(blocks, k, 1, allow_negative_indices=False)
        start = _start(*corner(_column(at, k)))
        return lax.dynamic_update_slice(x, block, start, allow_negative_indices=False)

    if blocks.shape[0] == 1:
        return copy(jnp.zeros((), jnp.int32), x)  # a chunk holds at least one
    return lax.fori_loop(0, count, copy, x)


def _scatter(
    x: jax.Array, blocks: jax.Array, corner: tuple[Any, ...], count: jax.Array
) -> jax.Array:
    number = blocks.shape[0]
    starts = jnp.stack([jnp.broadcast_to(jnp.asarray(i, jnp.int32), number) for i in corner], -1)
    beyond = jnp.arange(number, dtype=jnp.int32) >= count
    starts = starts.at[:, 0].set(jnp.where(beyond, x.shape[0], starts[:, 0]))  # dropped
    axes = lax.ScatterDimensionNumbers(
        update_window_dims=tuple(range(1, x.ndim)),
        inserted_window_dims=(0,),
        scatter_dims_to_operand_dims=tuple(range(x.ndim)),
    )
    return lax.scatter(
        x, starts, blocks, axes, unique_indices=True, mode=lax.GatherScatterMode.FILL_OR_DROP
    )


def _column(at: jax.Array, k: jax.Array) -> jax.Array:
    """`at[:, k]`, for a k that is not negative."""
    return lax.dynamic_index_in_dim(at, k, 1, keepdims=False, allow_negative_indices=False)


def _start(*indices: Any) -> tuple[jax.Array, ...]:
    """Where a slice begins, int32 whatever the host's default is."""
    return tuple(jnp.asarray(index, jnp.int32) for index in indices)


def _entry(x: jax.Array, k: jax.Array) -> jax.Array:
    """`x[k]` of a vector, for a k that is not negative."""
    return lax.dynamic_index_in_dim(x, k, keepdims=False, allow_negative_indices=False)
