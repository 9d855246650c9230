"""A step does what was planned, layer by layer.

B streams, S maps of equal shape, L layers, P cells.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffvis_jax.core import token_stack
from diffvis_jax.core.cache import Cache
from diffvis_jax.core.plan import StepPlan
from diffvis_jax.core.recompute import (
    Maps,
    Work,
    attention_step,
    conv_step,
    key_value_step,
)
from diffvis_jax.core.tuning import Tuning
from diffvis_jax.core.windows import (
    Grid,
    at_trip,
    for_each_chunk,
    for_each_stream,
    listed,
    read,
    write,
)
from diffvis_jax.ops.one_of import pick
from diffvis_jax.ops.storage import values_of
from diffvis_jax.towers.base import AttentionLayer, ConvLayer, Segment, TokenStack, Tower
from diffvis_jax.towers.params import Params, subtree


def execute(
    params: Params, tower: Tower, cache: Cache, frames: jax.Array, plan: StepPlan, tuning: Tuning
) -> Cache:
    """Computes what the plan says; returns the cache with pixels, maps, keys, values and tokens
    renewed."""
    pixels = update_reference(tower, cache.pixels, frames, plan.update, tuning)
    cache = dataclasses.replace(cache, pixels=pixels)
    work = planned_work(tower, plan, tuning)
    first = 0
    for number, segment in enumerate(tower.segments):
        if isinstance(segment.layers[0], TokenStack):
            return token_stack.advance(params, tower, cache, plan, tuning)
        cache = _run_segment(params, tower, cache, work, number, first, tuning)
        first += len(segment.layers) * segment.repeat
    tokens = read_out(params, tower, cache, plan.compute[:, -1].any(-1))
    return dataclasses.replace(cache, tokens=tokens)


def planned_work(tower: Tower, plan: StepPlan, tuning: Tuning) -> Work:
    """What each layer computes, as lists: the first axis is layers."""
    batch = plan.full.shape[0]
    chunks = (tuning.window_sizes(layer.cell**2, batch * tower.cells)[-1] for layer in tower.layers)
    room = max(*chunks, min(tuning.query_rows, tower.cells))
    compute, dense = plan.compute.swapaxes(0, 1), plan.dense.swapaxes(0, 1)[..., None]
    return Work(listed(compute & ~dense, tower.grid, room), listed(dense, (1, 1)))


def _run_segment(
    params: Params,
    tower: Tower,
    cache: Cache,
    work: Work,
    number: int,
    first: int,
    tuning: Tuning,
) -> Cache:
    """All repetitions of one segment, the number of whose first layer is `first`."""
    segment, per_block = tower.segments[number], len(tower.segments[number].layers)
    attends = tower.attention_arrays[number]
    array = tower.places[first].array

    def block(repetition: jax.Array | int, own: tuple[Params, ...], carry: Any) -> Any:
        maps, keys, values = carry
        for offset, layer in enumerate(segment.layers):
            index = first + repetition * per_block + offset
            slot = tower.places[first].slot + repetition * per_block + offset
            target = Maps(maps, slot, tower.borders[array])
            source = _source(tower, cache, target, first, slot)
            if isinstance(layer, ConvLayer):
                maps = conv_step(layer, own[offset], source, target, work.of(index), tower, tuning)
                continue
            assert isinstance(layer, AttentionLayer)
            before = work.of(index - 1)
            keys, values = key_value_step(
                layer, own[offset], source, keys, values, repetition, before, tower, tuning
            )
            maps = attention_step(
                layer,
                own[offset],
                source,
                target,
                keys,
                values,
                repetition,
                work.of(index),
                tower,
                tuning,
            )
        return maps, keys, values

    none = (jnp.zeros((0,), jnp.float32),) * 2
    kv = none if attends is None else (cache.keys[attends], cache.values[attends])
    carry = _for_each_block(params, segment, block, (cache.maps[array], *kv), tuning)

    def put(arrays: tuple[jax.Array, ...], at: int, new: jax.Array) -> tuple[jax.Array, ...]:
        return (*arrays[:at], new, *arrays[at + 1 :])

    cache = dataclasses.replace(cache, maps=put(cache.maps, array, carry[0]))
    if attends is None:
        return cache
    return dataclasses.replace(
        cache,
        keys=put(cache.keys, attends, carry[1]),
        values=put(cache.values, attends, carry[2]),
    )


def _for_each_block(params: Params, segment: Segment, body, carry: Any, tuning: Tuning) -> Any:
    """`body(repetition, parameters, carry)` for all repetitions: one compiled body, or one each."""
    own = [segment.params(params, repetition) for repetition in range(segment.repeat)]
    if segment.repeat == 1 or tuning.blocks == "unroll":
        for repetition in range(segment.repeat):
            carry = body(repetition, own[repetition], carry)
        return carry

    def trip(repetition: jax.Array, carry: Any) -> Any:
        return body(repetition, pick(own, repetition, stack=tuning.blocks == "stack"), carry)

    return lax.fori_loop(jnp.int32(0), jnp.int32(segment.repeat), trip, carry)


def _source(tower: Tower, cache: Cache, target: Maps, first: int, slot: jax.Array | int) -> Maps:
    """The map that a layer reads: the one before its own, which the layer before has left."""
    if first == 0 and isinstance(slot, int) and slot == 0:
        return Maps(cache.pixels[:, None], 0, tower.layers[0].reach[0])
    if isinstance(slot, int) and slot == 0:
        before = tower.places[first - 1]
        return Maps(cache.maps[before.array], before.slot, tower.borders[before.array])
    return Maps(target.array, slot - 1, target.border)


def update_reference(
    tower: Tower, pixels: jax.Array, frames: jax.Array, which: jax.Array, tuning: Tuning
) -> jax.Array:
    """Copies the marked patches of the frames into the bordered reference.

    No tower looks at pixels beyond the last whole patch (CLIP): they are left out.

    Args:
      pixels: `uint8 [B, H', W', 3]`.
      frames: `uint8 [B, H, W, 3]`.
      which: bool `[B, rows, columns]`.
    """
    patch, border = tower.patch, tower.layers[0].reach[0]
    height, width = (cells * patch for cells in tower.grid)
    pads = [(0, height - frames.shape[1], 0), (0, width - frames.shape[2], 0)]
    frames = lax.pad(frames, jnp.uint8(0), [(0, 0, 0), *pads, (0, 0, 0)])[:, None]
    size = 1 if tuning.loops else min(256, which.size)

    def chunk(pixels: jax.Array, at: jax.Array, count: jax.Array) -> jax.Array:
        new = read(frames, Grid(0, patch, 0), at, patch, count, tuning)
        return write(pixels, new, Grid(0, patch, border), at, count, tuning)

    cells = listed(which.reshape(which.shape[0], -1), tower.grid, size)
    return for_each_chunk(cells, size, chunk, pixels[:, None])[:, 0]


def read_out(params: Params, tower: Tower, cache: Cache, which: jax.Array) -> jax.Array:
    """The tokens, of the marked streams from their last maps."""
    place, (height, width) = tower.places[-1], tower.layers[-1].shape
    array, border = cache.maps[place.array], tower.borders[place.array]
    size = (1, 1, height, width, array.shape[-1])

    def stream(tokens: jax.Array, b: jax.Array) -> jax.Array:
        x = values_of(at_trip(array, b, (b, place.slot, border, border, 0), size)[:, 0])
        new = tower.head(subtree(params, tower.head_path), x).reshape(1, *tokens.shape[1:])
        at = tuple(jnp.asarray(i, jnp.int32) for i in (b, 0, 0))
        return lax.dynamic_update_slice(tokens, new, at, allow_negative_indices=False)

    return for_each_stream(listed(which[:, None], (1, 1)), stream, cache.tokens)
