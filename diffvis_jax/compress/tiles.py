"""Overview and detail: the whole screen as ever, and tiles of it enlarged, each a stream.

A tile is encoded by itself, so one whose pixels stay is reused exactly, on any tower. What a step
cannot afford waits for a later one, and is not handed on as the present meanwhile.

B screens, H x W pixels of one, R tiles of a screen, w pixels along the side of a tile's window, S
along the side of its frame, N tokens of the overview, n of a tile, D token width.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffvis_jax.compress.relevance import change
from diffvis_jax.compress.tile_grid import TileGrid, check_screens, windows_of
from diffvis_jax.core.cache import Cache, init_cache
from diffvis_jax.core.change import changed_patches
from diffvis_jax.core.policy import Policy
from diffvis_jax.core.report import Report
from diffvis_jax.core.step import encode_step
from diffvis_jax.core.windows import for_each_stream, listed
from diffvis_jax.errors import CacheError, ConfigError, FrameError
from diffvis_jax.images.geometry import frame_size
from diffvis_jax.images.preprocess_in_graph import preprocess_in_graph, resize_bicubic_pil
from diffvis_jax.towers import VisionConfig, build, with_size
from diffvis_jax.towers.params import Params
from diffvis_jax.utils.validation import checked, concrete


@flax.struct.dataclass(kw_only=True)
class DetailState:
    """What is remembered of some screens.

    Attributes:
      overview, tiles: caches of B and of B * R streams.
      seen: what the tiles showed at the last step.
      encoded: what they showed when they were last encoded.
      unchanged: steps since a tile's pixels changed; from the first step on.
    """

    overview: Cache
    tiles: Cache
    seen: jax.Array  # uint8 [B, R, w, w, 3]
    encoded: jax.Array  # uint8 [B, R, w, w, 3]
    unchanged: jax.Array  # int32 [B, R]

    @property
    def nbytes(self) -> int:
        """Bytes of it all."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self))


@flax.struct.dataclass(kw_only=True)
class Details:
    """What is known of the present screens.

    Attributes:
      overview: tokens of the whole screen.
      tiles: tokens of each tile's window; zeros of those that are not fresh.
      fresh: which tiles are encoded from what is on the screen, as exactly as the policy asks for.
    """

    overview: jax.Array  # float32 [B, N, D]
    tiles: jax.Array  # float32 [B, R, n, D]
    fresh: jax.Array  # bool [B, R]


@flax.struct.dataclass(kw_only=True)
class DetailReport:
    """What a step did.

    Attributes:
      changed: tiles whose pixels differ from the last screen's.
      encoded: tiles that took part, if only to settle what a policy had left out.
      cost: multiply-accumulates done, over those of a full encode of the overview.
      overview, tiles: of the B overviews, and of the B * R tiles.
    """

    changed: jax.Array  # bool [B, R]
    encoded: jax.Array  # bool [B, R]
    cost: jax.Array  # float32 [B]
    overview: Report
    tiles: Report


@flax.struct.dataclass(kw_only=True)
class DetailPolicy:
    """Which tiles a step encodes. All is traced, but for what is static in the two policies.

    Attributes:
      max_tiles: at most so many tiles of a screen a step, one number for all or `[B]`; 0 = the
        overview alone.
      relevance_above: in a step in which some tiles changed, others are encoded only where they are
        at least this relevant; 0 = all that there is room for.
      always_changed: whether those that changed now need not be that relevant.
      overview, detail: what may be left out of the overview and of the tiles.
    """

    max_tiles: Any = 8
    relevance_above: Any = 0.0
    always_changed: Any = True
    overview: Policy = dataclasses.field(default_factory=Policy)
    detail: Policy = dataclasses.field(default_factory=Policy)


def init_details(config: VisionConfig, grid: TileGrid, batch: int = 1) -> DetailState:
    """A state that has seen nothing; `state.nbytes` is its memory, nearly all of it R caches.

    Args:
      config: of the tower, at the size of the overview.
      grid: of the tiles.
      batch: B.

    Raises:
      ConfigError: a tower that does not take the tiles' frames, or whose frames such screens do not
        become.
      CacheError: batch is no whole number from 1 up.
    """
    tiles = init_cache(with_size(config, grid.side), batch * len(grid.places))
    found = frame_size(grid.width, grid.height, config)
    if found != (size := build(config).frame):
        raise ConfigError(
            f"screens of {grid.width} x {grid.height} px become frames of {found} (height, width), "
            f"the tower is for {size}: take the config of `resolution.sizes.at_size`"
        )
    shape = batch, len(grid.places), grid.window, grid.window, 3
    return DetailState(
        overview=init_cache(config, batch),
        tiles=tiles,
        seen=jnp.zeros(shape, jnp.uint8),
        encoded=jnp.zeros(shape, jnp.uint8),
        unchanged=jnp.zeros(shape[:2], jnp.int32),
    )


def detail_step(
    params: Params,
    state: DetailState,
    screens: jax.Array,
    *,
    config: VisionConfig,
    grid: TileGrid,
    policy: DetailPolicy | None = None,
    relevance: jax.Array | None = None,
    frames: jax.Array | None = None,
) -> tuple[Details, DetailState, DetailReport]:
    """Encodes the overview, and the tiles that are wanted most. Pure; shapes never change.

    A tile is *stale* when its pixels differ from those it was encoded from. Of the stale ones a
    step encodes those that changed now, or are relevant; a step in which nothing changed any that
    are left, and then those that `policy.detail` has left something out of. Of too many the most
    relevant come first.

    Args:
      params: of the vision tower.
      state: from `init_details`, or from the last step.
      screens: uint8 `[B, H, W, 3]`, in their own pixels.
      config: of the tower, at the size of the overview; static.
      grid: of the tiles; static.
      policy: None = `DetailPolicy()`, of no more tiles than there are.
      relevance: float32 `[B, R]`; None = `relevance.change`.
      frames: the overviews, as `preprocess` makes them of the screens, which is faster on a CPU;
        None = made here.

    Returns:
      what is known of these screens, the new state, and the report.

    Raises:
      FrameError: screens of another size than the grid's, or another number than the state's.
      CacheError: a state of another config or grid.
      ConfigError: more tiles a step than there are; a relevance of another shape, or (outside of
        jit, where its values are known) one that is no number.
    """
    policy = policy or DetailPolicy(max_tiles=min(8, len(grid.places)))
    screens = jnp.asarray(screens)
    _check(state, screens, grid, policy, relevance)
    batch, number = state.unchanged.shape
    now = windows_of(screens, grid)
    begun, known = state.overview.filled[:, None], state.tiles.filled.reshape(batch, number)
    changed = _differs(now, state.seen) & begun
    stale = _differs(now, state.encoded) | ~known
    unchanged = jnp.where(changed | ~begun, 0, state.unchanged + 1)
    relevance = change(unchanged) if relevance is None else jnp.asarray(relevance, jnp.float32)

    wanted = (changed & policy.always_changed) | (relevance >= policy.relevance_above)
    idle = ~changed.any(1, keepdims=True)
    inexact = (state.tiles.stale.any((1, 2)) | state.tiles.waiting.any(1)).reshape(stale.shape)
    candidates = jnp.where(idle, stale | inexact, stale & wanted)
    most = jnp.reshape(policy.max_tiles, (-1, 1))
    order = jnp.lexsort((-relevance, ~stale, ~candidates), axis=-1)  # NaN comes last
    chosen = candidates & (jnp.argsort(order, axis=-1) < most)

    frames = preprocess_in_graph(screens, config) if frames is None else frames
    overview, overview_cache, overview_report = encode_step(
        params, state.overview, frames, config=config, policy=policy.overview
    )
    tiles, tile_cache, tile_report = encode_step(
        params,
        state.tiles,
        _frames(now, chosen, grid),
        config=with_size(config, grid.side),
        policy=policy.detail,
        active=chosen.reshape(-1),
    )
    waiting = tile_cache.waiting.any(1).reshape(stale.shape)
    fresh = (~stale | chosen) & ~waiting
    tiles = tiles.reshape(batch, number, *tiles.shape[1:])
    share = np.float32(build(tile_cache.config).macs / build(overview_cache.config).macs)
    done = share * tile_report.recomputed.reshape(stale.shape).sum(1)
    return (
        Details(overview=overview, tiles=jnp.where(fresh[..., None, None], tiles, 0), fresh=fresh),
        DetailState(
            overview=overview_cache,
            tiles=tile_cache,
            seen=now,
            encoded=jnp.where(chosen[..., None, None, None], now, state.encoded),
            unchanged=unchanged,
        ),
        DetailReport(
            changed=changed,
            encoded=chosen,
            cost=overview_report.recomputed + done,
            overview=overview_report,
            tiles=tile_report,
        ),
    )


def make_detail_step(
    config: VisionConfig, grid: TileGrid, *, donate: bool = True
) -> Callable[..., tuple[Details, DetailState, DetailReport]]:
    """The jitted step: `step(params, state, screens, policy=None, relevance=None, frames=None)`.

    The state is donated (`donate=False` keeps it). One compilation serves all numbers.
    """
    run = _donating if donate else _keeping

    def step(params, state, screens, policy=None, relevance=None, frames=None):
        policy = policy or DetailPolicy(max_tiles=min(8, len(grid.places)))
        _check(state, screens, grid, policy, relevance)
        return run(params, state, screens, policy, relevance, frames, config=config, grid=grid)

    return step


def _step(params, state, screens, policy, relevance, frames, *, config, grid):
    options = {"policy": policy, "relevance": relevance, "frames": frames}
    return detail_step(params, state, screens, config=config, grid=grid, **options)


_donating = jax.jit(_step, static_argnames=("config", "grid"), donate_argnames="state")
_keeping = jax.jit(_step, static_argnames=("config", "grid"))


def _differs(now: jax.Array, then: jax.Array) -> jax.Array:
    """Which tiles differ in any pixel: uint8 `[B, R, w, w, 3]` twice -> bool `[B, R]`."""
    a, b = (x.reshape(-1, *x.shape[2:]) for x in (now, then))
    return changed_patches(a, b, a.shape[1], "max", 0.0).reshape(now.shape[:2])


def _frames(windows: jax.Array, chosen: jax.Array, grid: TileGrid) -> jax.Array:
    """The chosen tiles enlarged, uint8 `[B * R, S, S, 3]`; zeros of the others."""
    flat = windows.reshape(-1, *windows.shape[2:])

    def enlarge(frames: jax.Array, tile: jax.Array) -> jax.Array:
        frame = resize_bicubic_pil(lax.dynamic_slice_in_dim(flat, tile, 1), grid.side, grid.side)
        return lax.dynamic_update_slice_in_dim(frames, frame, tile, 0)

    empty = jnp.zeros((len(flat), grid.side, grid.side, 3), jnp.uint8)
    return for_each_stream(listed(chosen.reshape(-1, 1), (1, 1)), enlarge, empty)


def _check(
    state: DetailState, screens: Any, grid: TileGrid, policy: DetailPolicy, relevance: Any
) -> None:
    check_screens(screens, grid)
    batch, number, window = state.seen.shape[:3]
    if (number, window) != (len(grid.places), grid.window):
        raise CacheError(f"the state was not made for {grid}: make one with init_details")
    if len(screens) != batch:
        raise FrameError(f"{len(screens)} screens for a state of {batch}: see init_details")
    checked("max_tiles", policy.max_tiles, np.int32, number)
    if (shape := np.shape(policy.max_tiles)) not in ((), (batch,)):
        raise ConfigError(f"max_tiles must be one number, or one of {batch}, got {list(shape)}")
    checked("relevance_above", policy.relevance_above, np.float32, 1)
    checked("always_changed", policy.always_changed, np.bool_)
    if relevance is None:
        return
    if np.shape(relevance) != (batch, number):
        raise ConfigError(f"relevance must be [{batch}, {number}], got {list(np.shape(relevance))}")
    values = concrete(relevance)
    if values is not None and np.isnan(values).any():
        raise ConfigError("relevance holds numbers that are none (NaN)")
