"""The whole story: `encode`, `encode_step` and `audit`. `plan` decides, `walk` does.

B streams, S pixels along the side of a frame, g patches along the side, L layers, P cells, N
tokens, D token width.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffvis_jax.core.cache import CLEAN, Cache, Report, with_size
from diffvis_jax.core.execute import advance, nothing_done
from diffvis_jax.core.plan import make_plan
from diffvis_jax.core.policy import Policy
from diffvis_jax.errors import CacheError, ConfigError, FrameError
from diffvis_jax.towers import VisionConfig, build, clip
from diffvis_jax.towers.base import Global, Local, Params, Source, Tower
from diffvis_jax.towers.clip import CLIPConfig

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
    plan = make_plan(tower, cache, frames, policy, here)

    def work(_: jax.Array, state: tuple[Cache, jax.Array]) -> tuple[Cache, jax.Array]:
        return advance(params, tower, state[0], frames, policy, plan)

    # A loop of one trip or none: a conditional that leaves the maps where they are.
    done = nothing_done(tower, cache)
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


def _stage_macs(tower: Tower) -> np.ndarray:
    """MACs of a cell in each stage; those of the readout count for the last. Float32 `[stages]`."""
    found = np.zeros(tower.stages)
    for layer in tower.layers:
        found[layer.stage] += layer.macs + getattr(layer, "macs_key_value", 0)
    found[-1] += tower.readout_macs / tower.cells
    return found.astype(np.float32)


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


def check_cache(
    cache: Cache, frames: jax.Array, config: VisionConfig, *, maker: str = "init_cache"
) -> None:
    """Raises a CacheError for a cache of another config, a FrameError for frames of another size
    or batch. `maker`: the function that makes such a cache, for the error."""
    size = cache.config.size
    # CLIP has one size: a cache of another is a cache of another config.
    resizable = type(config) is type(cache.config) and not isinstance(config, CLIPConfig)
    if cache.config != with_size(config, size if resizable else None):
        raise CacheError(
            f"the cache was made for {cache.config}, not for {config}: make one with {maker}"
        )
    if frames.shape[0] != cache.batch:
        raise FrameError(
            f"{frames.shape[0]} frames for a cache of {cache.batch} streams: make another with "
            f"{maker}(config, batch={frames.shape[0]})"
        )
    if frames.shape[1] != size:
        raise FrameError(
            f"frames of {frames.shape[1]} px for a cache of {size} px: make another with "
            f"{maker}(config, batch, size={frames.shape[1]})"
        )
