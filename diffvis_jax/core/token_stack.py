"""The step of a vision transformer, in which every block attends to all tokens.

The rows to compute are the same in all blocks: they are gathered once and go straight through, and
their keys and values are replaced on the way. Kept are keys, values and tokens. Rows that are not
computed stay as they are; a pass of *all* rows, some blocks in each idle step, makes them exact.

B streams, P patches, N = num_prefix_tokens + P rows of a stream, R rows that are computed, D width,
H heads of width d, n blocks.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffvis_jax.core.cache import Cache
from diffvis_jax.core.plan import StepPlan
from diffvis_jax.core.recompute import Runs, runs_of_streams
from diffvis_jax.core.tuning import Tuning
from diffvis_jax.core.windows import (
    Cells,
    Grid,
    at_trip,
    for_each_stream,
    inside,
    listed,
    loop_if,
    put_blocks,
    read,
)
from diffvis_jax.ops.attention import (
    attention,
    kept_attention,
    key_heads,
    query_heads,
    value_heads,
)
from diffvis_jax.ops.one_of import pick
from diffvis_jax.ops.storage import keep, values_of
from diffvis_jax.towers.base import TokenStack, Tower
from diffvis_jax.towers.params import Params

State = tuple[jax.Array, jax.Array, jax.Array]  # keys, values, and tokens or hidden rows


def advance(params: Params, tower: Tower, cache: Cache, plan: StepPlan, tuning: Tuning) -> Cache:
    """Computes the planned rows, then the planned blocks of whole streams."""
    (stack,) = tower.layers
    assert isinstance(stack, TokenStack)
    keys, values, tokens, hidden = cache.keys[0], cache.values[0], cache.tokens, cache.hidden

    capacities = row_capacities(tower, cache.batch, tuning)
    some_rows = plan.compute[:, 0] & ~plan.dense
    cells = listed(some_rows, tower.grid, capacities[-1])
    state = keys, values, tokens

    def some(start: jax.Array, count: jax.Array, state: State) -> State:
        """The listed rows from `start` on, so many of them: as few as it is compiled for."""
        before = 0
        for capacity in capacities:
            fits = (count > before) & (count <= capacity)
            size, zero = (3, capacity), jnp.int32(0)
            at = lax.dynamic_slice(cells.at, (zero, start), size, allow_negative_indices=False)
            rows = Cells(at, count)

            def through(trip: jax.Array, state: State, rows: Cells = rows) -> State:
                # Or the rows of every capacity are embedded in front of these loops.
                own = inside(rows, trip)
                return _straight_through(params, tower, stack, cache.pixels, own, state, tuning)

            state = lax.fori_loop(0, fits.astype(jnp.int32), through, state)
            before = capacity
        return state

    if cache.batch == 1:
        state = some(jnp.int32(0), cells.count, state)
    else:
        ends = jnp.cumsum(some_rows.sum(-1, dtype=jnp.int32), dtype=jnp.int32)

        def group(carry: tuple[jax.Array, State]) -> tuple[jax.Array, State]:
            """Whole streams, as many as the largest capacity holds."""
            start, state = carry
            end = jnp.where(ends <= start + capacities[-1], ends, 0).max()
            return end, some(start, end - start, state)

        _, state = lax.while_loop(
            lambda carry: carry[0] < cells.count, group, (jnp.zeros_like(cells.count), state)
        )
    keys, values, tokens = state

    def whole(state: tuple[jax.Array, ...], b: jax.Array) -> tuple[jax.Array, ...]:
        return _all_rows(params, tower, stack, cache.pixels, plan, state, b, tuning)

    state = keys, values, tokens, hidden
    keys, values, tokens, hidden = for_each_stream(
        listed((plan.blocks > 0)[:, None], (1, 1)), whole, state
    )
    return dataclasses.replace(cache, keys=(keys,), values=(values,), tokens=tokens, hidden=hidden)


def row_capacities(tower: Tower, batch: int, tuning: Tuning) -> tuple[int, ...]:
    """How many rows go through together: a stream's largest number, and less."""
    most = min(tuning.row_capacities[-1], batch * max(1, tower.cells // 2))
    return (*(n for n in tuning.row_capacities if n < most), most)


def _straight_through(
    params: Params,
    tower: Tower,
    stack: TokenStack,
    pixels: jax.Array,
    rows: Cells,
    state: State,
    tuning: Tuning,
) -> State:
    """Pixels of some patches to their tokens."""
    keys, values, tokens = state
    batch, capacity, prefix = tokens.shape[0], rows.at.shape[1], stack.num_prefix_tokens

    def patch(at: jax.Array) -> jax.Array:
        return at[1] * tower.grid[1] + at[2]

    x = read(pixels[:, None], Grid(0, tower.patch, 0), rows.at, tower.patch, rows.count, tuning)
    x = stack.embed(stack.params(params), x, patch(rows.at)).astype(tower.dtype)
    width = min(capacity, tuning.attention_rows)
    runs = runs_of_streams(rows, batch, width)
    block, origin = stack.block, jnp.zeros((1,), jnp.int32)

    def one(number: jax.Array | int, own: Params, carry: Any) -> Any:
        x, keys, values = carry
        key, value = block.key_value(own, x[:, None], origin, origin)
        new = keep(key_heads(key, block.head_width, tower.dtype), keys)[:, None]
        corner = lambda at: (at[0], number, 0, prefix + patch(at), 0)  # noqa: E731
        keys = put_blocks(keys, new, corner, rows.at, rows.count, tuning)
        new = keep(value_heads(value, block.head_width, tower.dtype), values)[:, None]
        corner = lambda at: (at[0], number, 0, 0, prefix + patch(at))  # noqa: E731
        values = put_blocks(values, new, corner, rows.at, rows.count, tuning)
        query = query_heads(
            block.query(own, x[:, None], origin, origin), block.head_width, tower.dtype
        )
        mixed = _attend(query[:, 0], keys, values, number, runs, capacity)
        x = block.finish(own, x, mixed, origin, origin).astype(tower.dtype)
        return x, keys, values

    x, keys, values = _for_blocks(params, stack, one, (x, keys, values), tuning)
    new = x.astype(jnp.float32)[:, None]
    corner = lambda at: (at[0], patch(at), 0)  # noqa: E731
    tokens = put_blocks(tokens, new, corner, rows.at, rows.count, tuning)
    return keys, values, tokens


def _attend(
    query: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    number: jax.Array | int,
    runs: Runs,
    capacity: int,
) -> jax.Array:
    """Rows `[R, H, d]` to all keys and values of their own stream -> `[R, H * d]`."""
    if keys.shape[0] == 1:
        return kept_attention(query[None], keys, values, jnp.int32(0), number)[0]
    size = runs.size
    query = jnp.pad(query, ((0, size), (0, 0), (0, 0)))
    zero = jnp.int32(0)

    def run(i: jax.Array, mixed: jax.Array) -> jax.Array:
        b, start, _ = runs.start(i)
        q = lax.dynamic_slice(query, (start, zero, zero), (size, *query.shape[1:]))
        new = kept_attention(q[None], keys, values, b, number)[0]
        # The rows of the next stream at the end of this run are written again by their own.
        return lax.dynamic_update_slice(mixed, new, (start, zero))

    mixed = jnp.zeros((capacity + size, query.shape[1] * query.shape[2]), jnp.float32)
    varies = (0 * query[0, 0, 0]).astype(jnp.float32)  # over devices, as the queries do
    return lax.fori_loop(0, runs.total, run, mixed + varies)[:capacity]


def _for_blocks(params: Params, stack: TokenStack, body, carry: Any, tuning: Tuning) -> Any:
    """`body(number, parameters, carry)` for all blocks."""
    own = [stack.block_params(params, number) for number in range(stack.depth)]
    if tuning.blocks == "unroll":
        for number in range(stack.depth):
            carry = body(number, own[number], carry)
        return carry

    def trip(number: jax.Array, carry: Any) -> Any:
        return body(number, pick(own, number, stack=tuning.blocks == "stack"), carry)

    return lax.fori_loop(jnp.int32(0), jnp.int32(stack.depth), trip, carry)


def _all_rows(
    params: Params,
    tower: Tower,
    stack: TokenStack,
    pixels: jax.Array,
    plan: StepPlan,
    state: tuple[jax.Array, ...],
    b: jax.Array,
    tuning: Tuning,
) -> tuple[jax.Array, ...]:
    """All rows of stream b through the planned blocks, and to tokens if the last is among them."""
    keys, values, tokens, hidden = state
    block, origin = stack.block, jnp.zeros((1,), jnp.int32)
    own = [stack.block_params(params, number) for number in range(stack.depth)]
    start, zero = plan.start[b], jnp.int32(0)

    def embed(hidden: jax.Array) -> jax.Array:
        frame = at_trip(pixels, b, (b, 0, 0, 0), (1, *pixels.shape[1:]))
        x = stack.embed_all(params, frame, tower.patch)
        return lax.dynamic_update_slice(
            hidden, keep(x.astype(tower.dtype), hidden), (b, zero, zero)
        )

    def trip(number: jax.Array, carry: Any) -> Any:
        x, keys, values = carry
        weights = pick(own, number, stack=tuning.blocks == "stack")
        key, value = block.key_value(weights, x, origin, origin)
        key = key_heads(key, block.head_width, tower.dtype)
        value = value_heads(value, block.head_width, tower.dtype)
        at = (b, number, zero, zero, zero)
        keys = lax.dynamic_update_slice(keys, keep(key, keys)[:, None], at)
        values = lax.dynamic_update_slice(values, keep(value, values)[:, None], at)
        query = query_heads(block.query(weights, x, origin, origin), block.head_width, tower.dtype)
        mixed = attention(query, key, value)
        return block.finish(weights, x, mixed, origin, origin).astype(tower.dtype), keys, values

    hidden = loop_if(start == 0, embed, hidden)
    x = values_of(lax.dynamic_slice(hidden, (b, zero, zero), (1, *hidden.shape[1:])))
    stop = start + plan.blocks[b]
    x, keys, values = lax.fori_loop(start, stop, trip, (x, keys, values))
    hidden = lax.dynamic_update_slice(hidden, keep(x, hidden), (b, zero, zero))
    new = x[:, stack.num_prefix_tokens :].astype(jnp.float32)

    def done(tokens: jax.Array) -> jax.Array:
        return lax.dynamic_update_slice(tokens, new, (b, zero, zero))

    return keys, values, loop_if(stop == stack.depth, done, tokens), hidden
