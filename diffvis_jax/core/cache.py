"""The cache pytree, and the report of a step.

B streams, S pixels along the side of a frame, L layers, P cells, N tokens, D token width, G global
layers, c positions along the side of a cell.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.errors import CacheError, ConfigError
from diffvis_jax.ops.storage import kept_dtype
from diffvis_jax.towers import VisionConfig, build
from diffvis_jax.towers.base import Global, Source

# What `Cache.pending` says of a cell of a layer.
CLEAN, HELD, PENDING = 0, 1, 2


@flax.struct.dataclass(kw_only=True)
class Cache:
    """Everything a tower computed for the last frames, and what it still owes.

    Maps reach up to whole cells; what lies beyond the frame is zero.

    Attributes:
      pixels: the reference (the pixels the maps were computed from, patch by patch), with a
        border where the first layer's windows begin.
      maps: output of each layer, in the tower's dtype (bfloat16 as its bits, see `ops/storage.py`).
      keys, values: of each global layer, for every position of the map before it.
      tokens: the last tokens.
      scale: RMS of each layer's output at its last dense pass; tolerances are relative to it.
      pending: CLEAN; HELD: recomputed, but its move was within the tolerance and not written;
        PENDING: its input changed and it was not recomputed.
      distance: patches between each cell and the nearest one of the last change (class token: 0).
      age: steps for which each token has owed something; 0 = up to date.
      steps: steps since the last full encode.
      filled: whether the stream has been encoded at all.
      config: the tower's config, at the cache's size.
    """

    pixels: jax.Array  # uint8 [B, S', S', 3]
    maps: tuple[jax.Array, ...]  # L x [B, H, W, C]
    keys: tuple[jax.Array, ...]  # G x [B, H, W, C]
    values: tuple[jax.Array, ...]  # G x [B, H, W, C]
    tokens: jax.Array  # float32 [B, N, D]
    scale: jax.Array  # float32 [B, L]
    pending: jax.Array  # uint8 [B, L, P]
    distance: jax.Array  # int32 [B, P]
    age: jax.Array  # int32 [B, N]
    steps: jax.Array  # int32 [B]
    filled: jax.Array  # bool [B]
    config: Any = flax.struct.field(pytree_node=False)

    @property
    def reference(self) -> jax.Array:
        """`uint8 [B, S, S, 3]`, the pixels that the maps were computed from; 0 beyond the last
        whole patch (CLIP), where no tower looks."""
        source = build(self.config).layers[0]
        assert isinstance(source, Source)
        start, size = source.border, self.config.size
        return self.pixels[:, start : start + size, start : start + size]

    @property
    def batch(self) -> int:
        return self.tokens.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole cache."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self))


@flax.struct.dataclass(kw_only=True)
class Report:
    """What a step did, one entry per stream.

    Attributes:
      path: 0 reuse (nothing recomputed), 1 partial, 2 full.
      changed_patches: patches that differ from the reference by more than the threshold.
      total_patches: patches of a frame.
      changed: which patches those are.
      skipped: the change was at most `skip_small_patches` and was left for later.
      recomputed: MACs done over the MACs of a full encode.
      cell_recomputed: the same for each cell's own share.
      stage_recomputed: the same for each cell's own share of each stage.
      pending: MACs that a recomputation of all pending cells would take, of a full encode's.
      oldest_age: steps for which the oldest pending patch has waited.
    """

    path: jax.Array  # int32 [B]
    changed_patches: jax.Array  # int32 [B]
    total_patches: jax.Array  # int32 [B]
    changed: jax.Array  # bool [B, g, g]
    skipped: jax.Array  # bool [B]
    recomputed: jax.Array  # float32 [B]
    cell_recomputed: jax.Array  # float32 [B, P]
    stage_recomputed: jax.Array  # float32 [B, stages, P]
    pending: jax.Array  # float32 [B]
    oldest_age: jax.Array  # int32 [B]


PATHS = ("reuse", "partial", "full")


def describe(report: Report) -> list[dict[str, Any]]:
    """The report as plain Python: one dict per stream, without the per-cell arrays.

    Returns:
      `path`: "reuse", "partial" or "full"; `changed_patches` of `total_patches`; `skipped`: whether
      the change was left for later; `recomputed` and `pending`: shares of a full encode's MACs that
      were done, and that are still owed; `oldest_age`: steps for which a patch has waited.
    """
    host = jax.tree.map(np.asarray, report)
    return [
        {
            "path": PATHS[host.path[b]],
            "changed_patches": int(host.changed_patches[b]),
            "total_patches": int(host.total_patches[b]),
            "skipped": bool(host.skipped[b]),
            "recomputed": float(host.recomputed[b]),
            "pending": float(host.pending[b]),
            "oldest_age": int(host.oldest_age[b]),
        }
        for b in range(host.path.shape[0])
    ]


def stage_pending(cache: Cache) -> np.ndarray:
    """The share of each cell's MACs of a stage that is still owed, float32 `[B, stages, P]`."""
    tower = build(cache.config)
    stages = np.array([layer.stage for layer in tower.layers])
    macs = np.array([layer.macs for layer in tower.layers], np.float32)
    share = np.where(stages == np.arange(tower.stages)[:, None], macs, 0)
    waiting = np.asarray(cache.pending) != CLEAN
    return (share / share.sum(1, keepdims=True)) @ waiting.astype(np.float32)


def with_size(config: VisionConfig, size: int | None) -> VisionConfig:
    """The config at another size of frames.

    Raises:
      ConfigError: not a config, or a size that the architecture does not take.
    """
    build(config)  # refuses what is no config
    if size is None or size == config.size:
        return config
    from diffvis_jax.towers.clip import CLIPConfig

    if isinstance(config, CLIPConfig):
        raise ConfigError(
            f"this CLIP tower has position embeddings for {config.size} px only, not {size}"
        )
    return dataclasses.replace(config, size=size)


def init_cache(config: VisionConfig, batch: int = 1, size: int | None = None) -> Cache:
    """An empty cache; the first step with it is a full encode.

    Args:
      config: of the tower.
      batch: B, streams.
      size: S, pixels along the side of the frames; None = the config's. FastViTHD takes any.

    Returns:
      a cache of zeros, to be handed to `encode_step`; `cache.nbytes` is its memory.

    Raises:
      CacheError: batch is no whole number from 1 up.
      ConfigError: not a config, or a size that the tower does not take.
    """
    if not isinstance(batch, int) or batch < 1:
        raise CacheError(f"batch must be a whole number of streams, at least 1, got {batch!r}")
    config = with_size(config, size)
    tower = build(config)
    source = tower.layers[0]
    assert isinstance(source, Source)
    maps, keys, values = [], [], []
    for layer in tower.layers:
        shape = (batch, tower.rows * layer.cell, tower.columns * layer.cell, layer.width)
        maps.append(jnp.zeros(shape, kept_dtype(tower.dtype)))
        if isinstance(layer, Global):
            keys.append(jnp.zeros(shape, kept_dtype(tower.dtype)))
            values.append(jnp.zeros(shape, kept_dtype(tower.dtype)))
    # The last window may reach beyond the frame; CLIP's ignores what is left of the last patch.
    side = source.border + max(config.size, tower.grid * tower.patch)
    return Cache(
        pixels=jnp.zeros((batch, side, side, 3), jnp.uint8),
        maps=tuple(maps),
        keys=tuple(keys),
        values=tuple(values),
        tokens=jnp.zeros((batch, tower.tokens, tower.token_width), jnp.float32),
        scale=jnp.zeros((batch, len(tower.layers)), jnp.float32),
        pending=jnp.zeros((batch, len(tower.layers), tower.cells), jnp.uint8),
        distance=jnp.zeros((batch, tower.cells), jnp.int32),
        age=jnp.zeros((batch, tower.tokens), jnp.int32),
        steps=jnp.zeros((batch,), jnp.int32),
        filled=jnp.zeros((batch,), bool),
        config=config,
    )
