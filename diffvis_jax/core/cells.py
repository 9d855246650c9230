"""Work that follows the change under static shapes: compaction, windows, write-back.

Knows maps, no networks. B streams, P cells of a stream, K cells of a chunk, C channels.

A `fori_loop` with a dynamic trip count over the compacted cells costs nothing when there is
nothing to do, and keeps its buffers in place, where `lax.cond` would copy a large carry.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from diffvis_jax.ops.storage import keep, values_of

Carry = TypeVar("Carry")

# Positions (rows of the matrix products) per chunk of cells. On CPU about what fills a product
# without computing many more cells than are dirty; an accelerator wants few, large launches.
_CHUNK_POSITIONS = {"cpu": 128}
_CHUNK_POSITIONS_ELSEWHERE = 4096
_MOST_CELLS_PER_CHUNK = 1024

# Queries of attention per chunk, where a stream has twice as many positions: keys and values are
# sorted by heads once for each chunk (docs/benchmarks.md).
_CHUNK_QUERIES = {"cpu": 512}

# Chunks of so many cells or more are wide: what does not fill one goes into narrow ones, an eighth
# as large. Each size is compiled, and for larger cells narrow chunks gain nothing
# (docs/benchmarks.md).
_WIDE_CELLS = {"cpu": 32}
_NARROWER = 8


def chunk_sizes(positions_per_cell: int, cells: int, *, attending: bool = False) -> tuple[int, ...]:
    """K for cells of that many positions, at most `cells`, on the default backend: one size, or a
    wide and a narrow one. `attending`: whether the positions are queries of attention."""
    backend = jax.default_backend()
    positions = _CHUNK_POSITIONS.get(backend, _CHUNK_POSITIONS_ELSEWHERE)
    queries = _CHUNK_QUERIES.get(backend, positions)
    if attending and 2 * queries <= cells * positions_per_cell:
        positions = queries
    wide = max(1, min(positions // positions_per_cell, _MOST_CELLS_PER_CHUNK, cells))
    if wide < max(_NARROWER, _WIDE_CELLS.get(backend, wide + 1)):
        return (wide,)
    return (wide, wide // _NARROWER)


def for_each_chunk(
    mask: jax.Array, sizes: tuple[int, ...], body: Callable[[Carry, jax.Array], Carry], carry: Carry
) -> Carry:
    """Runs `body(carry, index)` over the marked cells, so many at a time.

    Args:
      mask: bool of any shape, flattened.
      sizes: K, or a wide K and a narrow one, less than half of it: a rest that one or two narrow
        chunks hold gets no wide one. A chunk that is not full repeats its first cell (`present`
        counts the others), so a body must give a cell the same result however often it stands in
        a chunk.
      body: takes int32 `[K]` flat indices of marked cells.
      carry: pytree of arrays, updated in place.
    """
    flat = mask.reshape(-1)
    wide, narrow = sizes[0], sizes[-1]
    capacity = -(-flat.size // wide) * wide
    upto = jnp.cumsum(flat, dtype=jnp.int32)
    count, place = upto[-1], jnp.where(flat, upto - 1, capacity)
    index = jnp.zeros(capacity, jnp.int32).at[place].set(jnp.arange(flat.size), mode="drop")

    def run(first: jax.Array | int, trips: jax.Array, size: int, carry: Carry) -> Carry:
        def trip(i: jax.Array, carry: Carry) -> Carry:
            start = first + i * size
            chunk = lax.dynamic_slice(index, (start,), (size,), allow_negative_indices=False)
            chunk = jnp.where(start + jnp.arange(size) < count, chunk, chunk[0])
            return body(carry, chunk)

        return lax.fori_loop(0, trips, trip, carry)

    if len(sizes) == 1:
        return run(0, quotient(count + wide - 1, wide), wide, carry)
    trips = quotient(jnp.maximum(count - 2 * narrow + wide - 1, 0), wide)
    carry = run(0, trips, wide, carry)
    rest = jnp.maximum(count - trips * wide, 0)
    return run(trips * wide, quotient(rest + narrow - 1, narrow), narrow, carry)


def quotient(x: jax.Array, by: int) -> jax.Array:
    """`x // by` of what is not negative: one operation, where minding the sign takes twenty."""
    return lax.div(x, jnp.asarray(by, x.dtype))


def located(index: jax.Array, rows: int, columns: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Flat indices `[K]` over `[B, rows * columns]` -> stream, row, column, each `[K]`."""
    stream = quotient(index, rows * columns)
    cell = index - stream * (rows * columns)
    row = quotient(cell, columns)
    return stream, row, cell - row * columns


def lowest(keys: jax.Array, among: jax.Array, count: jax.Array) -> jax.Array:
    """Of the marked cells those with the lowest keys, the first of equal ones.

    Args:
      keys: `[B, P]`.
      among: bool `[B, P]`.
      count: how many to choose at most, `[B, 1]` or a scalar.

    Returns:
      bool `[B, P]`.
    """
    order = jnp.lexsort((keys, ~among), axis=-1)
    return among & (jnp.argsort(order, axis=-1) < count)


def present(index: jax.Array) -> jax.Array:
    """How many cells a chunk `[K]` of `for_each_chunk` holds before its first one repeats."""
    return 1 + (index[1:] != index[0]).sum(dtype=jnp.int32)


def for_each_stream(
    mask: jax.Array, body: Callable[[Carry, jax.Array], Carry], carry: Carry
) -> Carry:
    """Runs `body(carry, b)` for every marked stream; `mask` is bool `[B]`."""
    if mask.shape[0] == 1:  # the trip number is the stream
        return lax.fori_loop(0, mask[0].astype(jnp.int32), lambda b, c: body(c, b), carry)
    return for_each_chunk(mask, (1,), lambda c, index: body(c, index[0]), carry)


def inside(tree: Carry, index: jax.Array) -> Carry:
    """Keeps work on `tree` inside the loop that `index` belongs to.

    XLA moves what does not depend on the loop in front of it: casts and broadcasts of weights, up
    to a whole dense pass (of one stream, whose number it knows to be 0). In front of a loop of no
    trips that work is done for nothing.
    """
    return lax.optimization_barrier((tree, index))[0]


def read(
    x: jax.Array,
    stream,
    row,
    column,
    height: int,
    width: int,
    reach: int = 0,
    count: jax.Array | None = None,
) -> jax.Array:
    """Cuts windows out of a map.

    Args:
      x: `[B, H, W, C]`.
      stream, row, column: int `[K]` where each window begins.
      height, width: positions along its sides.
      reach: positions by which windows may reach beyond the map; there they are zero.
      count: how many windows are wanted, int32; the others are anything finite. None = all.

    Returns:
      `[K, height, width, C]`.
    """
    most = stream.shape[0]
    # What of a window lies inside is cut at a place that exists, and zeros are put around it.
    inner = (1, min(height, x.shape[1]), min(width, x.shape[2]), x.shape[-1])
    first = jnp.clip(row, 0, x.shape[1] - inner[1]), jnp.clip(column, 0, x.shape[2] - inner[2])
    shift = reach + row - first[0], reach + column - first[1]
    after = reach + height - inner[1], reach + width - inner[2]
    around = (0, 0, 0), (reach, after[0], 0), (reach, after[1], 0), (0, 0, 0)

    def window(k: jax.Array) -> jax.Array:
        at = (_entry(stream, k), _entry(first[0], k), _entry(first[1], k), 0)
        cut = lax.dynamic_slice(x, at, inner, allow_negative_indices=False)
        padded = lax.pad(cut, jnp.zeros((), x.dtype), around)
        at = (0, _entry(shift[0], k), _entry(shift[1], k), 0)
        size = (1, height, width, x.shape[-1])
        return lax.dynamic_slice(padded, at, size, allow_negative_indices=False)

    if jax.default_backend() != "cpu":
        return values_of(jax.vmap(window)(jnp.arange(most))[:, 0])

    def copy(k: jax.Array, windows: jax.Array) -> jax.Array:
        return lax.dynamic_update_slice(windows, window(k), (k, 0, 0, 0))

    # Zeros made from x: under shard_map others would be of another type.
    empty = jnp.broadcast_to(jnp.zeros_like(x[:1, :1, :1]), (most, height, width, x.shape[-1]))
    return values_of(lax.fori_loop(0, most if count is None else count, copy, empty))


def write(
    x: jax.Array, windows: jax.Array, stream, row, column, count: jax.Array | None = None
) -> jax.Array:
    """Puts windows `[K, h, w, C]`, or the first `count` of them, back into a map `[B, H, W, C]`,
    rounded to the map's dtype, in place inside a loop.

    One window a trip: XLA:CPU fuses a chain of updates into one pass over the whole map, which
    made a step of a second out of one of 0.1 s (docs/benchmarks.md).
    """

    def copy(k: jax.Array, x: jax.Array) -> jax.Array:
        window = lax.dynamic_slice(windows, (k, 0, 0, 0), size, allow_negative_indices=False)
        at = (_entry(stream, k), _entry(row, k), _entry(column, k), 0)
        return lax.dynamic_update_slice(x, window, at, allow_negative_indices=False)

    windows = keep(windows, x)
    size = (1, *windows.shape[1:])
    return lax.fori_loop(0, windows.shape[0] if count is None else count, copy, x)


def _entry(x: jax.Array, k: jax.Array) -> jax.Array:
    """`x[k]` of a vector, for a k that is not negative."""
    return lax.dynamic_index_in_dim(x, k, keepdims=False, allow_negative_indices=False)
