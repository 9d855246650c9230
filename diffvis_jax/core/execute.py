"""The walk of a step through the layers, in which each does what was planned.

B streams, L layers, P cells.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from diffvis_jax.core import cells
from diffvis_jax.core import recompute as layer_step
from diffvis_jax.core.attention_selection import most_attending
from diffvis_jax.core.cache import CLEAN, HELD, PENDING, Cache
from diffvis_jax.core.change import grow
from diffvis_jax.core.plan import oldest, to_cells, within_budget
from diffvis_jax.core.policy import Policy
from diffvis_jax.core.recompute import Geometry, Outcome
from diffvis_jax.ops.storage import values_of
from diffvis_jax.towers.base import Global, Local, Params, Source, Tower


def advance(
    params: Params,
    tower: Tower,
    cache: Cache,
    frames: jax.Array,
    policy: Policy,
    plan: dict[str, jax.Array],
) -> tuple[Cache, jax.Array]:
    """Walks through the layers; returns the cache, and MACs done, float32 `[B, stages, P]`."""
    full, idle = plan["full"], plan["idle"]
    cache = dataclasses.replace(
        cache,
        pixels=_take_over(tower, cache.pixels, frames, plan["copy"]),
        distance=jnp.where(plan["acted"].any((1, 2))[:, None], plan["distance"], cache.distance),
    )
    margins = policy.margins(tower.stages)
    refreshed = oldest(tower, cache, policy.refresh_patches)
    budget = jnp.where(idle, policy.settle * float(tower.macs), 0).astype(jnp.float32)
    # What is made up for is made up for in full.
    makes_up = (full | idle)[:, None] | refreshed
    tolerance = jnp.where(makes_up, 0.0, policy.tolerance).astype(jnp.float32)
    done = nothing_done(tower, cache)
    maps, keys, values = list(cache.maps), list(cache.keys), list(cache.values)
    pending, scales = [], []
    dirty = to_cells(tower, grow(plan["copy"], tower.layers[0].halo), False)  # type: ignore[attr-defined]
    if tower.lead:
        dirty = dirty | (full[:, None] & (jnp.arange(tower.cells) < tower.lead))
    attention, chosen = 0, jnp.zeros_like(dirty)
    for index, layer in enumerate(tower.layers):
        geometry, own = Geometry(tower, index), layer.own(params)
        near = cache.distance <= margins[layer.stage]
        if isinstance(layer, Global):
            held, replaced = layer_step.key_value_step(
                own,
                geometry,
                maps[index - 1],
                dirty | full[:, None],
                (keys[attention], values[attention]),
            )
            keys[attention], values[attention] = held
            done = done.at[:, layer.stage].add(replaced * float(layer.macs_key_value))
            if not attention:
                candidates = ~near & ~(full | idle)[:, None]
                chosen, spent = most_attending(
                    own, geometry, maps[index - 1], held[0], dirty, candidates, policy.attending
                )
                done = done.at[:, layer.stage].add(spent[:, None])
            attention += 1
        was = cache.pending[:, index]
        held_back = (was == HELD) & (tolerance == 0)
        need = (was == PENDING) | full[:, None]
        if isinstance(layer, Source):
            need |= dirty
        elif isinstance(layer, Local):
            grid = dirty.reshape(-1, tower.rows, tower.columns)
            need |= grow(grid, layer.halo).reshape(dirty.shape)
        else:
            need |= dirty.any(-1, keepdims=True)
        left = jnp.where(need, PENDING, was)  # of what is not computed now
        need |= held_back
        allowed = jnp.where(idle[:, None], False, near | chosen) | refreshed | full[:, None]
        settled, budget = within_budget(need & idle[:, None], cache.distance, budget, layer)
        select = need & (allowed | settled) & plan["active"][:, None]
        dense = full | (select.mean(-1) > layer_step.break_even(layer))
        outcome = Outcome(
            map=maps[index],
            written=jnp.zeros_like(select),
            held=jnp.zeros_like(select),
            scale=cache.scale[:, index],
        )
        if isinstance(layer, Source):
            outcome = layer_step.source_step(
                own, geometry, cache.pixels, select, dense, outcome, tolerance
            )
        elif isinstance(layer, Local):
            outcome = layer_step.local_step(
                own, geometry, maps[index - 1], select, dense, outcome, tolerance
            )
        else:
            outcome = layer_step.global_step(
                own, geometry, maps[index - 1], held, select, dense, outcome, tolerance
            )
        computed = select | dense[:, None]
        macs = jnp.where(dense, float(layer.macs), float(layer.window_macs))
        done = done.at[:, layer.stage].add(computed * macs[:, None])
        pending.append(jnp.where(computed, jnp.where(outcome.held, HELD, CLEAN), left))
        maps[index], dirty = outcome.map, outcome.written
        scales.append(outcome.scale)
    readout = dirty.any(-1) | full
    done = done.at[:, -1].add(readout[:, None] * (tower.readout_macs / tower.cells))
    tokens = _read_out(params, tower, maps[-1], cache.tokens, readout)
    return (
        dataclasses.replace(
            cache,
            maps=tuple(maps),
            keys=tuple(keys),
            values=tuple(values),
            tokens=tokens,
            scale=jnp.stack(scales, 1),
            pending=jnp.stack(pending, 1).astype(jnp.uint8),
        ),
        done,
    )


def nothing_done(tower: Tower, cache: Cache) -> jax.Array:
    """Float32 zeros `[B, stages, P]`, which vary over devices as the cache does."""
    return jnp.zeros_like(cache.distance, jnp.float32)[:, None].repeat(tower.stages, 1)


def _take_over(tower: Tower, pixels: jax.Array, frames: jax.Array, copy: jax.Array) -> jax.Array:
    """Copies the marked patches of the frames into the bordered reference.

    No tower looks at pixels beyond the last whole patch (CLIP): they are left out.
    """
    source = tower.layers[0]
    assert isinstance(source, Source)
    side, grid = tower.patch, tower.grid

    def chunk(pixels: jax.Array, index: jax.Array) -> jax.Array:
        stream, row, column = cells.located(index, grid, grid)
        top, left, count = row * side, column * side, cells.present(index)
        new = cells.read(frames, stream, top, left, side, side, reach=side, count=count)
        return cells.write(pixels, new, stream, top + source.border, left + source.border, count)

    return cells.for_each_chunk(copy, cells.chunk_sizes(side, grid * grid)[:1], chunk, pixels)


def _read_out(
    params: Params, tower: Tower, last: jax.Array, tokens: jax.Array, which: jax.Array
) -> jax.Array:
    height, width = tower.layers[-1].shape

    def stream(tokens: jax.Array, b: jax.Array) -> jax.Array:
        x = lax.dynamic_slice(last, (b, 0, 0, 0), (1, height, width, last.shape[-1]))
        own, x = cells.inside((tower.readout_own(params), x), b)
        return lax.dynamic_update_slice(tokens, tower.readout(own, values_of(x)), (b, 0, 0))

    return cells.for_each_stream(which, stream, tokens)
