"""The whole story: `encode`, `encode_step` and `audit`.

`plan.compare` looks at the pixels, `plan.make_plan` decides which cells each layer computes, and
`execute.execute` computes them.

B streams, H x W pixels of a frame, L layers, P cells, N tokens, D token width.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffvis_jax.core.cache import Cache, init_cache
from diffvis_jax.core.execute import execute
from diffvis_jax.core.plan import Change, compare, make_plan
from diffvis_jax.core.policy import Policy
from diffvis_jax.core.report import FULL, PARTIAL, REUSE, Report, by_stage, stage_macs
from diffvis_jax.core.scroll import check_moves, follow
from diffvis_jax.core.tuning import CPU, GPU, TPU, Tuning
from diffvis_jax.core.windows import loop_if
from diffvis_jax.errors import CacheError, ConfigError, FrameError
from diffvis_jax.towers.base import Tower
from diffvis_jax.towers.forward import encode_layers
from diffvis_jax.towers.params import Params
from diffvis_jax.towers.registry import VisionConfig, build, family_of, with_size

# ---- the full encode --------------------------------------------------------------------------


def encode(
    params: Params, frames: jax.Array, *, config: VisionConfig, output: str = "tokens"
) -> jax.Array | dict[str, jax.Array]:
    """Encodes frames in full, without a cache.

    Args:
      params: of the vision tower.
      frames: `uint8 [B, H, W, 3]`; FastViTHD takes any square, CLIP the config's.
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
    config = with_size(config, (frames.shape[1], frames.shape[2]))
    if output in ("tokens", "intermediates"):
        tokens, maps = encode_layers(params, frames, build(config))
        return tokens if output == "tokens" else {**maps, "tokens": tokens}
    outputs = family_of(config).outputs
    named = outputs(params, frames, config) if outputs else {}
    if output not in named:
        raise ConfigError(
            f"output must be one of {['tokens', 'intermediates', *named]}, got {output!r}"
        )
    return named[output]


# ---- the differential step --------------------------------------------------------------------


def encode_step(
    params: Params,
    cache: Cache,
    frames: jax.Array,
    *,
    config: VisionConfig,
    policy: Policy | None = None,
    active: jax.Array | None = None,
    focus: jax.Array | None = None,
    tuning: Tuning | None = None,
) -> tuple[jax.Array, Cache, Report]:
    """Encodes frames, recomputing only what changed since the cache's reference.

    Pure; jit it with `config` static and the cache donated (`make_step` does both).

    Args:
      params: of the vision tower.
      cache: from `init_cache`, or from the last step.
      frames: `uint8 [B, H, W, 3]`, one frame for each stream.
      config: of the tower; static.
      policy: what may be left out; None = `Policy()`.
      active: bool `[B]`, streams that take part: the others stay as they are, whatever their frame
        is, and their report is that of nothing done. None = all.
      focus: bool `[B, rows, columns]` over the patches (`build(config).grid`): places that are to
        be up to date now, whatever the policy leaves out. None = none.
      tuning: how the step is laid out; static. None = as suits the platform it is lowered for.

    Returns:
      tokens `[B, N, D]` float32, the new cache, and the report.

    Raises:
      FrameError: frames of another size, dtype or batch than the cache; a mask of another shape or
        dtype.
      CacheError: a cache of another config, or of another version of the library.
      ConfigError: margins for another number of stages than the tower has, numbers for another
        number of streams, or `scroll` of a tower that it is not for.
    """
    policy = Policy() if policy is None else policy
    frames = jnp.asarray(frames)
    check_frames(frames)
    check_cache(cache, frames, config)
    policy.check_streams(cache.batch)
    tower = build(cache.config)
    if policy.scroll:
        check_moves(tower)
    if active is None:
        active = jnp.ones_like(cache.filled)
    else:
        active = jnp.asarray(active)
        check_mask("active", active, (cache.batch,), "stream")
    if focus is not None:
        focus = jnp.asarray(focus)
        check_mask("focus", focus, (cache.batch, *tower.grid), "patch")
    operands = (params, cache, frames, policy, active, focus)

    def tuned(tuning: Tuning):
        return lambda *operands: _tuned_step(tower, tuning, *operands)

    if tuning is not None:
        return tuned(tuning)(*operands)
    return lax.platform_dependent(*operands, cpu=tuned(CPU), tpu=tuned(TPU), default=tuned(GPU))


def _tuned_step(
    tower: Tower,
    tuning: Tuning,
    params: Params,
    cache: Cache,
    frames: jax.Array,
    policy: Policy,
    active: jax.Array,
    focus: jax.Array | None,
) -> tuple[jax.Array, Cache, Report]:
    change = compare(tower, cache, frames, policy, active, focus)
    moved = jnp.zeros_like(change.count)
    if policy.scroll:
        cache, shift = follow(params, tower, cache, frames, change.acted)
        moved = shift.moved.sum((1, 2), dtype=jnp.int32)

        def again(_: Change) -> Change:
            return compare(tower, cache, frames, policy, active, focus)

        change = loop_if(moved.any(), again, change)

    def work(state: tuple[Cache, *tuple[jax.Array, ...]]) -> tuple[Cache, *tuple[jax.Array, ...]]:
        cache, *_ = state
        plan = make_plan(tower, cache, change, policy, focus, tuning)
        cache = execute(params, tower, cache, frames, plan, tuning)
        cache = dataclasses.replace(
            cache,
            stale=plan.stale,
            distance=plan.distance,
            waiting=plan.waiting,
            progress=plan.progress,
            age=jnp.where(plan.compute[:, -1], 0, cache.age),
        )
        return cache, by_stage(tower, plan.macs), plan.full, plan.margin_share

    # Zeros that vary over devices as the cache does.
    nothing = jnp.zeros_like(cache.distance, jnp.float32)[:, None].repeat(tower.stages, 1)
    state = cache, nothing, jnp.zeros_like(active), jnp.ones_like(nothing[:, 0, 0])
    cache, done, full, margin_share = loop_if(change.work.any(), work, state)
    macs = done.sum((1, 2))
    window = np.array([[layer.window_macs + layer.kv_macs for layer in tower.layers]], np.float32)
    dense = (tower.layer_macs * tower.cells).astype(np.float32)[None]
    pending = jnp.minimum(cache.stale.sum(-1, dtype=jnp.float32) * window, dense).sum(-1)
    cache = dataclasses.replace(
        cache,
        age=jnp.where(cache.stale[:, -1], cache.age + active.astype(jnp.int32)[:, None], 0),
        steps=jnp.where(full, 0, cache.steps + active.astype(jnp.int32)),
        filled=cache.filled | active,
    )
    partial = jnp.where(macs > 0, PARTIAL, REUSE)
    report = Report(
        path=jnp.where(full, FULL, partial).astype(jnp.int32),
        changed_patches=change.count,
        total_patches=jnp.full((cache.batch,), tower.cells, jnp.int32),
        changed=change.changed,
        skipped=change.skipped,
        recomputed=macs / float(tower.macs),
        cell_recomputed=done.sum(1) / (tower.macs / tower.cells),
        stage_recomputed=done / stage_macs(tower)[None, :, None],
        pending=pending / float(tower.macs),
        oldest_age=cache.age.max(-1),
        waiting_patches=cache.waiting.sum(-1, dtype=jnp.int32),
        margin_share=margin_share,
        moved_patches=moved,
    )
    return cache.tokens, cache, report


# ---- audit and serving ---------------------------------------------------------------------------


def audit(
    params: Params, cache: Cache, *, config: VisionConfig, frames: jax.Array | None = None
) -> jax.Array:
    """Encodes in full what is on the screen, and returns the true error of the cached tokens.

    Args:
      params: of the vision tower.
      cache: from the last step.
      config: of the tower; static.
      frames: `uint8 [B, H, W, 3]`, those of the last step; None = the cache's reference. The two
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
    return token_error(cache.tokens, full)


@jax.jit
def token_error(tokens: jax.Array, full: jax.Array) -> jax.Array:
    """For each token of `[..., N, D]`, `|token - full|` over the RMS norm of the full ones of its
    frame: `[..., N]`."""
    error = jnp.linalg.norm(tokens - full, axis=-1)
    return error / jnp.sqrt(jnp.square(full).sum(-1).mean(-1, keepdims=True))


def make_step(
    config: VisionConfig, *, donate: bool = True, tuning: Tuning | None = None
) -> Callable[..., tuple[jax.Array, Cache, Report]]:
    """The jitted step for serving: `step(params, cache, frames, policy=None, *, active=None,
    focus=None) -> tokens, cache, report`.

    What goes in and comes out is that of `encode_step`. The cache is donated: its buffers are
    reused, and the one passed in cannot be used again (`donate=False` keeps it). Tokens stay valid
    when later steps run. One compilation serves all policies of one metric, and another those
    with a number for each stream.
    """
    tower = build(config)
    step = _donating_step if donate else _keeping_step

    def arguments(params, cache, frames, policy=None, *, active=None, focus=None):
        policy = (Policy() if policy is None else policy).resolved(tower)
        return params, cache, frames, policy, active, focus

    def run(*args, **kwargs):
        return step(*arguments(*args, **kwargs), config=config, tuning=tuning)

    def lower(*args, **kwargs):
        return step.lower(*arguments(*args, **kwargs), config=config, tuning=tuning)

    run.lower = lower  # as of other jitted functions
    return run


def _step(params, cache, frames, policy, active, focus, *, config, tuning):
    return encode_step(
        params,
        cache,
        frames,
        config=config,
        policy=policy,
        active=active,
        focus=focus,
        tuning=tuning,
    )


_donating_step = jax.jit(_step, static_argnames=("config", "tuning"), donate_argnums=1)
_keeping_step = jax.jit(_step, static_argnames=("config", "tuning"))
jit_encode = functools.partial(jax.jit, static_argnames=("config", "output"))(encode)
jit_audit = functools.partial(jax.jit, static_argnames="config")(audit)


# ---- input checks -----------------------------------------------------------------------------


def check_frames(frames: jax.Array | np.ndarray) -> None:
    """Raises a FrameError unless these are uint8 pictures `[B, H, W, 3]`."""
    shape = list(frames.shape)
    if frames.dtype != jnp.uint8:
        raise FrameError(f"frames must be uint8 pixels (0-255), got {frames.dtype} {shape}")
    if frames.ndim != 4 or shape[3] != 3 or 0 in shape:
        raise FrameError(f"frames must be [B, H, W, 3], got {shape}; dv.preprocess makes such")


def check_cache(
    cache: Cache, frames: jax.Array, config: VisionConfig, *, maker: str = "init_cache"
) -> None:
    """Raises a CacheError for a cache of another config, a FrameError for frames of another size
    or batch. `maker`: the function that makes such a cache, for the error."""
    height, width = build(cache.config).frame
    try:
        same = cache.config == with_size(config, (height, width))
    except ConfigError:  # this tower has another size, and only that
        same = False
    if not same:
        raise CacheError(
            f"the cache was made for {cache.config}, not for {config}: make one with {maker}"
        )
    made = jax.eval_shape(lambda: init_cache(cache.config, cache.batch))
    if wrong := _differing(cache, made):
        raise CacheError(f"{wrong}: a cache of another version; make one with {maker}")
    if frames.shape[0] != cache.batch:
        raise FrameError(
            f"{frames.shape[0]} frames for a cache of {cache.batch} streams: make another with "
            f"{maker}(config, batch={frames.shape[0]})"
        )
    if frames.shape[1:3] != (height, width):
        raise FrameError(
            f"frames of {frames.shape[1]} x {frames.shape[2]} px (height x width) for a cache of "
            f"{height} x {width} px: make another with {maker}(config, batch, "
            f"size={frames.shape[1:3]})"
        )


def _differing(cache: Cache, made: Cache) -> str | None:
    """The first difference in structure, shapes or dtypes between two caches."""
    (ours, ours_tree), (theirs, theirs_tree) = (
        jax.tree_util.tree_flatten_with_path(x) for x in (made, cache)
    )
    if ours_tree != theirs_tree:
        return f"{len(theirs)} arrays in place of {len(ours)}"
    for (path, x), (_, y) in zip(ours, theirs, strict=True):
        if (x.shape, x.dtype) != (y.shape, y.dtype):
            name = jax.tree_util.keystr(path).lstrip(".")
            return f"{name} is {y.dtype} {list(y.shape)} in place of {x.dtype} {list(x.shape)}"
    return None


def check_mask(name: str, mask: jax.Array, shape: tuple[int, ...], each: str) -> None:
    """Raises a FrameError unless the mask is bool and of this shape."""
    if mask.dtype != bool or mask.shape != shape:
        raise FrameError(
            f"{name} must be bool {list(shape)}, one entry for each {each}; got {mask.dtype} "
            f"{list(mask.shape)}"
        )
