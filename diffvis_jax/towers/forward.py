"""The full encode of a tower: every layer over its whole map, nothing kept.

B streams, H x W positions of a map, C width, N tokens, D token width.
"""

import itertools

import jax
import jax.numpy as jnp
from jax import lax

from diffvis_jax.ops.attention import attention, key_heads, query_heads, value_heads
from diffvis_jax.towers.base import (
    AttentionLayer,
    ConvLayer,
    Layer,
    TokenStack,
    Tower,
)
from diffvis_jax.towers.params import Params, subtree


def encode_layers(
    params: Params, frames: jax.Array, tower: Tower
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Tokens `[B, N, D]` float32 of frames `uint8 [B, H, W, 3]`, and every layer's map
    `[B, H, W, C]` by name."""
    maps = run_layers(params, frames, tower)
    return read_out(params, maps[tower.names[-1]], tower), maps


def run_layers(
    params: Params, x: jax.Array, tower: Tower, start: int = 0, stop: int | None = None
) -> dict[str, jax.Array]:
    """The maps of some layers by name, in the order in which they run.

    Args:
      params: of the tower; of those layers will do.
      x: frames, or the map before layer `start`.
      start, stop: numbers of the first layer, and of the one after the last; None = all.
    """
    maps: dict[str, jax.Array] = {}
    number = -1
    for segment in tower.segments:
        for repetition, layer in itertools.product(range(segment.repeat), segment.layers):
            number += 1
            if start <= number and (stop is None or number < stop):
                own = layer.params(params, segment.first_block + repetition)
                x = run_layer(params, layer, own, x, tower).astype(tower.dtype)
                maps[tower.names[number]] = x
    return maps


def read_out(params: Params, x: jax.Array, tower: Tower) -> jax.Array:
    """The last map `[B, H, W, C]` to tokens `[B, N, D]` float32."""
    return tower.head(subtree(params, tower.head_path), x)


def run_layer(params: Params, layer: Layer, own: Params, x: jax.Array, tower: Tower) -> jax.Array:
    """One layer over the whole map before it: `[B, H, W, C]` -> `[B, H', W', C']`."""
    if isinstance(layer, ConvLayer):
        return run_conv(layer, own, x)
    if isinstance(layer, AttentionLayer):
        return run_attention(layer, own, x, tower)
    assert isinstance(layer, TokenStack)
    *_, last = hidden_states(params, layer, x, tower)
    patches = last[:, layer.num_prefix_tokens :]
    return patches.reshape(patches.shape[0], *layer.shape, layer.width)


def run_conv(layer: ConvLayer, own: Params, x: jax.Array) -> jax.Array:
    """One big window around the map `[B, H, W, C]`."""
    needed = [side * layer.stride + layer.after for side in layer.shape]
    pads = [(layer.before, n - side, 0) for n, side in zip(needed, x.shape[1:3], strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
    origin = jnp.zeros((x.shape[0],), jnp.int32)
    return layer.apply(own, x, origin, origin)


def run_attention(layer: AttentionLayer, own: Params, x: jax.Array, tower: Tower) -> jax.Array:
    """All positions of the map `[B, H, W, C]` against each other."""
    block, origin = layer.block, jnp.zeros((x.shape[0],), jnp.int32)
    key, value = block.key_value(own, x, origin, origin)
    mixed = attention(
        query_heads(block.query(own, x, origin, origin), block.head_width, tower.dtype),
        key_heads(key, block.head_width, tower.dtype),
        value_heads(value, block.head_width, tower.dtype),
    )
    return block.finish(own, x, mixed.reshape(*x.shape[:3], -1), origin, origin)


def hidden_states(
    params: Params, stack: TokenStack, frames: jax.Array, tower: Tower
) -> list[jax.Array]:
    """`[B, num_prefix_tokens + N, D]`, in the tower's dtype: as embedded, and after every block."""
    x = stack.embed_all(params, frames, tower.patch).astype(tower.dtype)
    states = [x]
    for number in range(stack.depth):
        x = run_block(stack, stack.block_params(params, number), x).astype(tower.dtype)
        states.append(x)
    return states


def run_block(stack: TokenStack, own: Params, x: jax.Array) -> jax.Array:
    """One block of a stack, all rows `[B, R, D]` against each other."""
    block, at = stack.block, jnp.zeros((x.shape[0],), jnp.int32)
    key, value = block.key_value(own, x, at, at)
    mixed = attention(
        query_heads(block.query(own, x, at, at), block.head_width, x.dtype),
        key_heads(key, block.head_width, x.dtype),
        value_heads(value, block.head_width, x.dtype),
    )
    return block.finish(own, x, mixed, at, at)
