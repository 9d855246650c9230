"""The tower that is trained, its head, and what the head sees of it, in full or differentially."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

import diffvis_jax as dv
from diffvis_jax.grounding.find import map_indices
from diffvis_jax.grounding.head import HeadConfig
from diffvis_jax.towers import build
from diffvis_jax.towers.base import Tower
from diffvis_jax.towers.forward import read_out, run_layer

LONG_SIDE = 1024  # of the frames that the tower is for, in pixels

TOWER = dv.Qwen25VisionConfig(
    width=256,
    depth=6,
    heads=8,
    mlp_width=640,
    full_blocks=(1, 3, 5),
    patch=32,
    merge=1,
    window=64,
    token_width=256,
    stem_widths=(64, 128),
    size=(LONG_SIDE * 9 // 16, LONG_SIDE),
    min_pixels=256 * 256,
    max_pixels=LONG_SIDE * LONG_SIDE * 9 // 16,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
HEAD = HeadConfig(
    token_width=TOWER.token_width,
    map_width=TOWER.stem_widths[1],
    detail_width=TOWER.stem_widths[0],
    patch=TOWER.token,
    hidden=192,
    detail_hidden=96,
    rows=4,
    columns=2,
)
ABOUT = (
    f"A vision transformer in Qwen2.5-VL's shape (arXiv 2502.13923): {TOWER.depth} blocks of width "
    f"{TOWER.width}, {len(TOWER.full_blocks)} of them over the whole screen, the others in windows "
    f"of {TOWER.window} pixels, after a convolutional patch embedding in those windows. Frames of "
    f"any shape, of at most {TOWER.size[1]} x {TOWER.size[0]} pixels or as many."
)

Maps = list[jax.Array]  # of every layer, `[B, H, W, C]`


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Seen:
    """What a head sees, and what the teacher is imitated in.

    Attributes:
      tokens: `[B, N, D]`.
      maps: of every layer.
    """

    tokens: jax.Array
    maps: Maps

    @property
    def for_head(self) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Tokens and maps as the head takes them."""
        return self.tokens, tuple(self.maps[index] for index in map_indices(TOWER, HEAD))


def _tower_for(pixels: jax.Array) -> Tower:
    height, width = pixels.shape[1:3]
    return build(TOWER.resized(height, width))


def see(params: dict[str, Any], pixels: jax.Array) -> Seen:
    """A full encode of crops `uint8 [B, h, w, 3]`."""
    tower, x, maps = _tower_for(pixels), pixels, []
    for layer in tower.layers:
        x = run_layer(params, layer, layer.params(params), x, tower)
        maps.append(x)
    return Seen(read_out(params, x, tower), maps)


def see_after(params: dict[str, Any], before: jax.Array, pixels: jax.Array) -> tuple[Seen, Seen]:
    """Full encodes of what was there before, and what a step with margin 0 makes of the crops.

    A step recomputes the windows whose pixels differ, in all layers, and leaves the others; in the
    blocks over the whole screen its rows attend to the old keys and values of the others.

    Args:
      params: of the tower.
      before, pixels: `uint8 [B, h, w, 3]`.
    """
    tower = _tower_for(pixels)
    changed = changed_windows(before, pixels)
    old, new, olds, news = before, pixels, [], []
    for layer in tower.layers:
        own = layer.params(params)
        old = run_layer(params, layer, own, old, tower)
        fresh = run_layer(params, layer, own, new, tower)
        here = jnp.repeat(jnp.repeat(changed, layer.cell, 1), layer.cell, 2)[..., None]
        new = jnp.where(here, fresh, old)
        olds.append(old)
        news.append(new)
    return (
        Seen(read_out(params, old, tower), olds),
        Seen(read_out(params, new, tower), news),
    )


def changed_windows(before: jax.Array, pixels: jax.Array) -> jax.Array:
    """Bool `[B, h / window, w / window]`: which windows of crops have another pixel."""
    window, (batch, height, width, _) = TOWER.window, pixels.shape
    differs = (before != pixels).any(-1)
    cut = differs.reshape(batch, height // window, window, width // window, window)
    return cut.any((2, 4))
