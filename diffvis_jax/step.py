"""The whole story: `encode`, `encode_step` and `audit`.

B streams, S pixels along the side of a frame, g patches along the side, L layers, P cells, N
tokens, D token width.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffvis_jax import cells, layer_step
from diffvis_jax.attending import most_attending
from diffvis_jax.bits import values_of
from diffvis_jax.cache import CLEAN, HELD, PENDING, Cache, Report, with_size
from diffvis_jax.change import distance_to, grow, patch_difference
from diffvis_jax.errors import CacheError, ConfigError, FrameError
from diffvis_jax.layer_step import Geometry, Outcome
from diffvis_jax.policy import Policy
from diffvis_jax.towers import VisionConfig, build, clip
from diffvis_jax.towers.clip import CLIPConfig
from diffvis_jax.towers.layers import Global, Layer, Local, Params, Source, Tower

FULL, PARTIAL, REUSE = 2, 1, 0


# ---- the full encode --------------------------------------------------------------------------


def encode(
    params: Params, frames: jax.Array, *, config: VisionConfig, output: str = "tokens"
) -> jax.Array | dict[str, jax.Array]:
    """Encodes frames in full, without a cache.

    Args:
      params: of the vision tower.
      frames: `uint8 [B, S, S, 3]`; FastViTHD takes any S, CLIP the config's.
      config: of the tower; static.
      output: "tokens": what the tower gives the projector; "intermediates": a dict of every
        layer's map `[B, H, W, C]` by name, and the tokens. CLIP also has "patch" (the tokens),
        "cls_patch", "last_hidden_state", "pooled" and "embedding" (see `towers.clip.outputs`).

    Returns:
      `[B, N, D]` float32 (FastViTHD at 1024 px: 256 x 3072), or what `output` names.

    Raises:
      FrameError: frames that are not square uint8 pictures.
      ConfigError: no config of a tower, a size that it does not take, or an unknown output.
    """
    frames = jnp.asarray(frames)
    check_frames(frames)
    config = with_size(config, frames.shape[1])
    if output == "tokens":
        return encode_layers(params, frames, build(config))[0]
    if output == "intermediates":
        tokens, maps = encode_layers(params, frames, build(config))
        return {**maps, "tokens": tokens}
    if isinstance(config, CLIPConfig):
        found = clip.outputs(params, frames, config)
        if output in found:
            return found[output]
        raise ConfigError(f"output must be 'tokens', 'intermediates' or one of {sorted(found)}")
    raise ConfigError(f"output must be 'tokens' or 'intermediates', got {output!r}")


def encode_layers(
    params: Params, x: jax.Array, tower: Tower
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Tokens `[B, N, D]` and every layer's map `[B, H, W, C]` by name, from what the first layer
    takes: frames, or in a tower without its first layers the map of the last of those."""
    maps: dict[str, jax.Array] = {}
    for layer in tower.layers:
        if isinstance(layer, Global):
            x = layer.dense(layer.own(params), x, tower.dtype)
        else:
            assert isinstance(layer, Source | Local)
            x = layer.dense(layer.own(params), x)
        x = x.astype(tower.dtype)
        maps[layer.name] = x
    return tower.readout(tower.readout_own(params), x), maps


# ---- the differential step --------------------------------------------------------------------


def encode_step(
    params: Params,
    cache: Cache,
    frames: jax.Array,
    *,
    config: VisionConfig,
    policy: Policy | None = None,
    active: jax.Array | None = None,
) -> tuple[jax.Array, Cache, Report]:
    """Encodes frames, recomputing only what changed since the cache's reference.

    Pure; jit it with `config` static and the cache donated (`make_step` does both).

    Args:
      params: of the vision tower.
      cache: from `init_cache`, or from the last step.
      frames: `uint8 [B, S, S, 3]`, one frame for each stream.
      config: of the tower; static.
      policy: what may be left out; None = `Policy()`.
      active: bool `[B]`, streams that take part: the others stay as they are, whatever their frame
        is, and their report is that of nothing done. None = all.

    Returns:
      tokens `[B, N, D]` float32, the new cache, and the report.

    Raises:
      FrameError: frames of another size, dtype or batch than the cache.
      CacheError: a cache of another config.
      ConfigError: margins for fewer stages than the tower has.
    """
    policy = Policy() if policy is None else policy
    frames = jnp.asarray(frames)
    check_frames(frames)
    check_cache(cache, frames, config)
    tower = build(cache.config)
    here = jnp.ones_like(cache.filled) if active is None else jnp.asarray(active, bool)
    plan = _plan(tower, cache, frames, policy, here)

    def work(_: jax.Array, state: tuple[Cache, jax.Array]) -> tuple[Cache, jax.Array]:
        return _advance(params, tower, state[0], frames, policy, plan)

    # A loop of one trip or none: a conditional that leaves the maps where they are.
    done = _nothing_done(tower, cache)
    needed = plan["work"].any().astype(jnp.int32)
    cache, done = lax.fori_loop(0, needed, work, (cache, done))

    macs = done.sum((1, 2))
    apart = np.array([layer.window_macs for layer in tower.layers], np.float32)
    dense = np.array([layer.macs for layer in tower.layers], np.float32) * tower.cells
    owed = jnp.minimum((cache.pending != CLEAN).sum(-1) * apart, dense).sum(-1)
    waiting = (cache.pending != CLEAN).any(1)[:, tower.lead :]
    cache = dataclasses.replace(
        cache,
        age=jnp.where(waiting, cache.age + here[:, None], 0),
        steps=jnp.where(plan["full"], 0, cache.steps + here),
        filled=cache.filled | here,
    )
    report = Report(
        path=jnp.where(plan["full"], FULL, jnp.where(macs > 0, PARTIAL, REUSE)).astype(jnp.int32),
        changed_patches=plan["count"],
        total_patches=jnp.full((cache.batch,), tower.grid**2, jnp.int32),
        changed=plan["changed"],
        skipped=plan["skipped"],
        recomputed=macs / float(tower.macs),
        cell_recomputed=done.sum(1) / (tower.macs / tower.cells),
        stage_recomputed=done / _stage_macs(tower)[:, None],
        pending=owed / float(tower.macs),
        oldest_age=cache.age.max(-1),
    )
    return cache.tokens, cache, report


def _plan(
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
    distance = _to_cells(tower, distance_to(acted), 0)
    # What a tolerance saves is not known beforehand.
    most = _most_work(tower, distance, policy.margins(tower.stages), policy.attending)
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


def _most_work(
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


def _advance(
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
    refreshed = _oldest(tower, cache, policy.refresh_patches)
    budget = jnp.where(idle, policy.settle * float(tower.macs), 0).astype(jnp.float32)
    # What is made up for is made up for in full.
    makes_up = (full | idle)[:, None] | refreshed
    tolerance = jnp.where(makes_up, 0.0, policy.tolerance).astype(jnp.float32)
    done = _nothing_done(tower, cache)
    maps, keys, values = list(cache.maps), list(cache.keys), list(cache.values)
    pending, scales = [], []
    dirty = _to_cells(tower, grow(plan["copy"], tower.layers[0].halo), False)  # type: ignore[attr-defined]
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
        settled, budget = _within_budget(need & idle[:, None], cache.distance, budget, layer)
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


def _nothing_done(tower: Tower, cache: Cache) -> jax.Array:
    """Float32 zeros `[B, stages, P]`, which vary over devices as the cache does."""
    return jnp.zeros_like(cache.distance, jnp.float32)[:, None].repeat(tower.stages, 1)


def _stage_macs(tower: Tower) -> np.ndarray:
    """MACs of a cell in each stage; those of the readout count for the last. Float32 `[stages]`."""
    found = np.zeros(tower.stages)
    for layer in tower.layers:
        found[layer.stage] += layer.macs + getattr(layer, "macs_key_value", 0)
    found[-1] += tower.readout_macs / tower.cells
    return found.astype(np.float32)


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


def _to_cells(tower: Tower, by_patch: jax.Array, lead: Any) -> jax.Array:
    """`[B, g, g]` to `[B, P]`; cells that are no patch (the class token) get `lead`."""
    flat = by_patch.reshape(by_patch.shape[0], -1)
    return jnp.pad(flat, ((0, 0), (tower.lead, 0)), constant_values=lead)


def _oldest(tower: Tower, cache: Cache, patches: jax.Array) -> jax.Array:
    """The cells of the patches that have waited longest, at most that many; bool `[B, P]`."""
    chosen = cells.lowest(-cache.age, cache.age > 0, patches)
    return jnp.pad(chosen, ((0, 0), (tower.lead, 0)), constant_values=patches > 0)


def _within_budget(
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


def _read_out(
    params: Params, tower: Tower, last: jax.Array, tokens: jax.Array, which: jax.Array
) -> jax.Array:
    height, width = tower.layers[-1].shape

    def stream(tokens: jax.Array, b: jax.Array) -> jax.Array:
        x = lax.dynamic_slice(last, (b, 0, 0, 0), (1, height, width, last.shape[-1]))
        own, x = cells.inside((tower.readout_own(params), x), b)
        return lax.dynamic_update_slice(tokens, tower.readout(own, values_of(x)), (b, 0, 0))

    return cells.for_each_stream(which, stream, tokens)


# ---- the truth about it -----------------------------------------------------------------------


def audit(
    params: Params, cache: Cache, *, config: VisionConfig, frames: jax.Array | None = None
) -> jax.Array:
    """Encodes in full what is on the screen, and returns the true error of the cached tokens.

    Args:
      params: of the vision tower.
      cache: from the last step.
      config: of the tower; static.
      frames: `uint8 [B, S, S, 3]`, those of the last step; None = the cache's reference. The two
        differ in changes that a policy did not take over (`change_threshold`,
        `skip_small_patches`), and only the frames themselves show what those cost.

    Returns:
      float32 `[B, N]`: for each token `|cached - full|` over the RMS norm of the full tokens of
      its frame (0 = exact).

    Raises:
      CacheError: a cache of another config.
      FrameError: frames of another size, dtype or batch than the cache.
    """
    frames = cache.reference if frames is None else jnp.asarray(frames)
    check_frames(frames)
    check_cache(cache, frames, config)
    full = encode(params, frames, config=cache.config)
    assert isinstance(full, jax.Array)
    error = jnp.linalg.norm(cache.tokens - full, axis=-1)
    return error / jnp.sqrt(jnp.square(full).sum(-1).mean(-1, keepdims=True))


def make_step(
    config: VisionConfig, *, donate: bool = True
) -> Callable[..., tuple[jax.Array, Cache, Report]]:
    """The jitted step for serving: `step(params, cache, frames, policy) -> tokens, cache, report`.

    What goes in and comes out is that of `encode_step`. The cache is donated: its buffers are
    reused, and the one passed in cannot be used again (`donate=False` keeps it). Tokens stay valid
    when later steps run. One compilation serves all policies of one metric.
    """
    stages = build(config).stages
    step = _donating_step if donate else _keeping_step

    def run(params: Params, cache: Cache, frames: jax.Array, policy: Policy | None = None):
        return step(params, cache, frames, config, one_shape(policy, stages))

    return run


def one_shape(policy: Policy | None, stages: int) -> Policy:
    """With a margin for each stage, so that all policies of a metric share a compilation."""
    policy = Policy() if policy is None else policy
    if isinstance(policy.margin, np.ndarray) and policy.margin.shape == (stages,):
        return policy
    return dataclasses.replace(policy, margin=np.asarray(policy.margins(stages)))


def _step(params, cache, frames, config, policy):
    return encode_step(params, cache, frames, config=config, policy=policy)


_donating_step = jax.jit(_step, static_argnames="config", donate_argnums=1)
_keeping_step = jax.jit(_step, static_argnames="config")
jit_encode = functools.partial(jax.jit, static_argnames=("config", "output"))(encode)
jit_audit = functools.partial(jax.jit, static_argnames="config")(audit)


# ---- what does not fit ------------------------------------------------------------------------


def check_frames(frames: jax.Array | np.ndarray) -> None:
    """Raises a FrameError unless these are square uint8 pictures `[B, S, S, 3]`."""
    shape = list(frames.shape)
    if frames.dtype != jnp.uint8:
        raise FrameError(f"frames must be uint8 pixels (0-255), got {frames.dtype} {shape}")
    if frames.ndim != 4 or shape[1] != shape[2] or shape[3] != 3 or 0 in shape:
        raise FrameError(f"frames must be [B, S, S, 3], got {shape}; dv.preprocess makes such")


def check_cache(cache: Cache, frames: jax.Array, config: VisionConfig) -> None:
    """Raises a CacheError for a cache of another config, a FrameError for frames of another size
    or batch."""
    size = cache.config.size
    # CLIP has one size: a cache of another is a cache of another config.
    resizable = type(config) is type(cache.config) and not isinstance(config, CLIPConfig)
    if cache.config != with_size(config, size if resizable else None):
        raise CacheError(
            f"the cache was made for {cache.config}, not for {config}: make one with init_cache"
        )
    if frames.shape[0] != cache.batch:
        raise FrameError(
            f"{frames.shape[0]} frames for a cache of {cache.batch} streams: make another with "
            f"init_cache(config, batch={frames.shape[0]})"
        )
    if frames.shape[1] != size:
        raise FrameError(
            f"frames of {frames.shape[1]} px for a cache of {size} px: make another with "
            f"init_cache(config, batch, size={frames.shape[1]})"
        )
