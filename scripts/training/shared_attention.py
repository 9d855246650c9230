"""A full encode of a windowed tower in which similar tokens share their attention over the screen.

Windows and the merger need the grid, so all tokens stay: in the blocks over the whole screen pairs
of tokens with similar keys become one, attention runs on those that are left, and what it gives
goes to both (merge, run, unmerge: ToMe for Stable Diffusion, arXiv 2303.17604). The MLP sees every
token by itself: shared, too, it loses half as much again (docs/lab).

B streams, H x W positions of a map, n = H W tokens, C width.
"""

from typing import Any

import jax
import jax.numpy as jnp
from compensator_update import DEGREES

from diffvis_jax.compress.merged_vit import alternate_matching
from diffvis_jax.compress.token_set import check_budget, merge, token_boxes, token_set
from diffvis_jax.core.step import check_frames
from diffvis_jax.errors import ConfigError
from diffvis_jax.ops.attention import attention, key_heads, query_heads, value_heads
from diffvis_jax.towers import build
from diffvis_jax.towers.base import AttentionLayer, Tower
from diffvis_jax.towers.forward import read_out, run_layer
from diffvis_jax.towers.params import Params
from diffvis_jax.towers.qwen2_5_vl import Qwen25VisionConfig


def encode_shared(
    params: Params, frames: jax.Array, *, config: Qwen25VisionConfig, degree: int
) -> jax.Array:
    """Tokens float32 `[B, N, D]` of frames in full, at a degree of merging.

    Args:
      params: of the tower; `compensate` makes them suit the degree.
      frames: `uint8 [B, H, W, 3]`.
      config: of a tower in Qwen2.5-VL's shape; static.
      degree: d: in each block over the whole screen d / 32 of the tokens share another's attention;
        0-16, static.

    Raises:
      ConfigError: another tower or degree.
      FrameError: frames that are no uint8 pictures.
    """
    frames = jnp.asarray(frames)
    check_frames(frames)
    check_budget("degree", degree, DEGREES, least=0)
    if not isinstance(config, Qwen25VisionConfig):
        raise ConfigError(
            f"attention is shared in windowed towers alone, got {type(config).__name__}"
        )
    tower, x = build(config.resized(frames.shape[1], frames.shape[2])), frames
    for layer in tower.layers:
        own = layer.params(params)
        if degree and isinstance(layer, AttentionLayer):
            x = _shared(layer, own, x, tower, shared_tokens(degree, x.shape[1] * x.shape[2]))
        else:
            x = run_layer(params, layer, own, x, tower)
        x = x.astype(tower.dtype)
    return read_out(params, x, tower)


def shared_tokens(degree: Any, tokens: int) -> Any:
    """How many of so many tokens share another's attention: int, or int32 `[]` where d is."""
    return degree * tokens // (2 * DEGREES)


def _shared(layer: AttentionLayer, own: Params, x: jax.Array, tower: Tower, r: int) -> jax.Array:
    """A block over the whole map `[B, H, W, C]` in which r tokens share another's attention."""
    (batch, height, width, _), block = x.shape, layer.block
    number, nowhere = height * width, jnp.zeros((batch,), jnp.int32)
    key, value = block.key_value(own, x, nowhere, nowhere)
    parts = [block.query(own, x, nowhere, nowhere), key, value]
    rows = jnp.concatenate([part.reshape(batch, number, -1) for part in parts], -1)
    key = key.reshape(batch, number, block.heads, block.head_width)
    grouping = alternate_matching(key.mean(2, dtype=jnp.float32), r=r)
    left = merge(token_set(rows, token_boxes(layer.shape, 1)), grouping, slots=number - r)
    query, key, value = jnp.split(left.tokens, 3, axis=-1)
    mixed = attention(
        query_heads(query, block.head_width, tower.dtype),
        key_heads(key, block.head_width, tower.dtype),
        value_heads(value, block.head_width, tower.dtype),
        bias=jnp.log(left.size),
    )
    mixed = jnp.take_along_axis(mixed, grouping.slot[..., None], axis=1)
    return block.finish(own, x, mixed.reshape(batch, height, width, -1), nowhere, nowhere)
