"""The cache pytree: all state of a tower's streams.

B streams, H x W pixels of a frame, L layers, P cells, N tokens, D token width, c positions along
the side of a cell.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.errors import CacheError
from diffvis_jax.ops.storage import kept_dtype, values_of
from diffvis_jax.towers.base import AttentionLayer, TokenStack
from diffvis_jax.towers.registry import build, with_size


@flax.struct.dataclass(kw_only=True)
class Cache:
    """All state of a tower: features of the last frame, and which of them are out of date.

    Every array has the streams first. Maps reach up to whole cells and have a border as wide as
    any window that reads them; what lies beyond the frame is zero. bfloat16 is kept as its bits
    (see `ops/storage.py`).

    Attributes:
      pixels: the reference (the pixels the features were computed from, patch by patch), with a
        border where the first layer's windows begin.
      maps: the outputs of the layers, those of equal shape that follow each other in one array
        (`Tower.places` says where each is).
      keys, values: of the attention layers of each segment, or of all blocks of a token stack, by
        heads and cell by cell.
      hidden: of a token stack, the rows `[B, num_prefix_tokens + P, D]` of a pass over all of
        them, as they enter block number `progress`; else of no entries.
      progress: blocks of a token stack that this pass has done since the last change.
      tokens: the last tokens.
      stale: for each layer, the cells whose output may differ from a full encode's.
      distance: patches between each cell and the nearest one of the last change.
      waiting: changed patches that no step has had room for yet (`Policy.budget`).
      age: steps for which each cell has been out of date since it was last computed; 0 = up to
        date.
      steps: steps since the last full encode.
      filled: whether the stream has been encoded at all.
      config: the tower's config, at the cache's size.
    """

    pixels: jax.Array  # uint8 [B, H', W', 3]
    maps: tuple[jax.Array, ...]  # [B, S, H, W, C] each
    keys: tuple[jax.Array, ...]  # [B, n, heads, positions, d] each
    values: tuple[jax.Array, ...]  # [B, n, heads, d, positions] each
    hidden: jax.Array  # [B, num_prefix_tokens + P, D]
    progress: jax.Array  # int32 [B]
    tokens: jax.Array  # float32 [B, N, D]
    stale: jax.Array  # bool [B, L, P]
    distance: jax.Array  # int32 [B, P]
    waiting: jax.Array  # bool [B, P]
    age: jax.Array  # int32 [B, P]
    steps: jax.Array  # int32 [B]
    filled: jax.Array  # bool [B]
    config: Any = flax.struct.field(pytree_node=False)

    @property
    def reference(self) -> jax.Array:
        """`uint8 [B, H, W, 3]`, the pixels that the features were computed from; 0 beyond the last
        whole patch (CLIP), where no tower looks."""
        tower = build(self.config)
        first = tower.layers[0].reach[0]
        pixels = self.pixels[:, first:, first:]
        height, width = tower.frame
        pixels = pixels[:, :height, :width]
        beyond = [(0, 0), (0, height - pixels.shape[1]), (0, width - pixels.shape[2]), (0, 0)]
        return jnp.pad(pixels, beyond)

    def map(self, layer: int) -> jax.Array:
        """The output of that layer, `[B, H, W, C]` in the tower's dtype.

        Raises:
          CacheError: the tower keeps no map of it.
        """
        tower = build(self.config)
        place, (height, width) = tower.places[layer], tower.layers[layer].shape
        if place.array < 0:
            raise CacheError(f"no map is kept of the layer {tower.names[layer]!r}")
        first = tower.borders[place.array]
        maps = self.maps[place.array][:, place.slot]
        return values_of(maps[:, first : first + height, first : first + width])

    @property
    def batch(self) -> int:
        return self.tokens.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole cache."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self))


def init_cache(config: Any, batch: int = 1, size: int | tuple[int, int] | None = None) -> Cache:
    """An empty cache; the first step with it is a full encode.

    Args:
      config: of the tower.
      batch: B, streams.
      size: of the frames in pixels, one side or (height, width); None = the config's. FastViTHD
        takes any square.

    Returns:
      a cache of zeros, to be handed to `encode_step`; `cache.nbytes` is its memory.

    Raises:
      CacheError: batch is no whole number from 1 up.
      ConfigError: not a config, or a size that the tower does not take.
    """
    if isinstance(batch, bool) or not isinstance(batch, int | np.integer) or batch < 1:
        raise CacheError(f"batch must be a whole number of streams, at least 1, got {batch!r}")
    config = with_size(config, size)
    tower = build(config)
    kept, (rows, columns) = kept_dtype(tower.dtype), tower.grid
    before, after = tower.layers[0].reach
    sides = (before + cells * tower.patch + after for cells in tower.grid)
    maps = []
    for layer, slots, border in tower.map_arrays:
        height, width = (n * layer.cell + 2 * border for n in (rows, columns))
        maps.append(jnp.zeros((batch, slots, height, width, layer.width), kept))
    keys, values, hidden = [], [], jnp.zeros((batch, 0, 0), kept)
    for segment in tower.segments:
        for layer in segment.layers:
            if isinstance(layer, AttentionLayer):
                count, positions, block = segment.repeat, tower.cells * layer.cell**2, layer.block
            elif isinstance(layer, TokenStack):
                block, count = layer.block, layer.depth
                positions = layer.num_prefix_tokens + tower.cells
                hidden = jnp.zeros((batch, positions, layer.width), kept)
            else:
                continue
            heads, width = block.heads, block.head_width
            keys.append(jnp.zeros((batch, count, heads, positions, width), kept))
            values.append(jnp.zeros((batch, count, heads, width, positions), kept))
    return Cache(
        pixels=jnp.zeros((batch, *sides, 3), jnp.uint8),
        maps=tuple(maps),
        keys=tuple(keys),
        values=tuple(values),
        hidden=hidden,
        progress=jnp.zeros((batch,), jnp.int32),
        tokens=jnp.zeros((batch, tower.tokens, tower.token_width), jnp.float32),
        stale=jnp.zeros((batch, len(tower.layers), tower.cells), bool),
        distance=jnp.zeros((batch, tower.cells), jnp.int32),
        waiting=jnp.zeros((batch, tower.cells), bool),
        age=jnp.zeros((batch, tower.cells), jnp.int32),
        steps=jnp.zeros((batch,), jnp.int32),
        filled=jnp.zeros((batch,), bool),
        config=config,
    )


def restart(cache: Cache, which: jax.Array) -> Cache:
    """The cache with some streams as if they had never been encoded: their next step is full.

    Touches no map: a full step writes all of them. In a jitted step it costs nothing, and other
    streams are unaffected.

    Args:
      cache: of B streams.
      which: bool `[B]`.
    """

    def clear(x: jax.Array) -> jax.Array:
        return jnp.where(which.reshape(-1, *[1] * (x.ndim - 1)), jnp.zeros((), x.dtype), x)

    small = ("progress", "stale", "distance", "waiting", "age", "steps")
    return dataclasses.replace(
        cache,
        **{name: clear(getattr(cache, name)) for name in small},
        filled=cache.filled & ~which,
    )
