"""A full encode of CLIP or SigLIP in which tokens become fewer on the way.

Between attention and MLP of a block, tokens that resemble each other become one (ToMe, arXiv
2210.09461), or those that the class token looks at least (EViT, arXiv 2202.07800). For single
images, batches and keyframes: in a stream the step does less.

B streams, N tokens of a frame, n tokens that are left at some block, D width, H heads of width d.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from diffvis_jax.compress.matching import attentive
from diffvis_jax.compress.merge_schedule import MergeSchedule
from diffvis_jax.compress.token_set import (
    Grouping,
    TokenSet,
    check_budget,
    compose,
    group_by,
    merge,
    token_boxes,
    token_set,
)
from diffvis_jax.core.step import check_frames
from diffvis_jax.ops.attention import attention, key_heads, query_heads, value_heads
from diffvis_jax.towers import build, clip
from diffvis_jax.towers.base import TokenStack
from diffvis_jax.towers.params import Params


def encode_merged(
    params: Params, frames: jax.Array, *, config: clip.CLIPConfig, schedule: MergeSchedule
) -> tuple[TokenSet, Grouping]:
    """Encodes frames in full and merges tokens in every block, as the schedule says.

    The class token is never merged. Without a merger this is `encode`.

    Args:
      params: of the tower.
      frames: `uint8 [B, S, S, 3]`.
      config: of a CLIP or SigLIP tower; static.
      schedule: static: each is a program of its own.

    Returns:
      M = `schedule.left(N)` tokens with what they stand for, and which of the N went to which.

    Raises:
      ConfigError: another tower, or a schedule that does not fit it.
      FrameError: frames that are no uint8 pictures.
    """
    frames = jnp.asarray(frames)
    check_frames(frames)
    schedule.check(config)
    tower = build(config.resized(frames.shape[1], frames.shape[2]))
    (stack,) = tower.layers
    assert isinstance(stack, TokenStack)
    block, prefix, batch = stack.block, stack.num_prefix_tokens, frames.shape[0]
    nowhere = jnp.zeros((batch,), jnp.int32)  # rows of tokens have no place in a map

    x = stack.embed_all(params, frames, tower.patch).astype(tower.dtype)
    left = token_set(x[:, prefix:], token_boxes(tower.token_grid, tower.token))
    total = group_by(jnp.broadcast_to(jnp.arange(tower.tokens, dtype=jnp.int32), left.size.shape))
    for number, r in enumerate(schedule.r):
        own = stack.block_params(params, number)
        key, value = block.key_value(own, x, nowhere, nowhere)
        query = query_heads(block.query(own, x, nowhere, nowhere), block.head_width, tower.dtype)
        key = key_heads(key, block.head_width, tower.dtype)
        value = value_heads(value, block.head_width, tower.dtype)
        bias = None
        if schedule.proportional and any(schedule.r[:number]):
            bias = jnp.pad(jnp.log(left.size), ((0, 0), (prefix, 0)))
        x = clip.add_mixed(own, x, attention(query, key, value, bias=bias))
        if r:
            left = dataclasses.replace(left, tokens=x[:, prefix:])
            if schedule.by == "keys":
                grouping = alternate_matching(key.mean(1, dtype=jnp.float32)[:, prefix:], r=r)
            else:
                grouping = _looked_at(query[:, 0], key, left, r)
            left = merge(left, grouping, slots=left.size.shape[1] - r)
            total = compose(total, grouping)
            x = jnp.concatenate([x[:, :prefix], left.tokens], 1)
        x = clip.add_mlp(config, own, x).astype(tower.dtype)
    return dataclasses.replace(left, tokens=x[:, prefix:].astype(jnp.float32)), total


def alternate_matching(metric: jax.Array, *, r: int) -> Grouping:
    """One round of ToMe: every second token finds the one of the others whose direction is most
    like its own; of these pairs the r that are most alike become one.

    Of equal pairs, and of equal partners, the first ones count.

    Args:
      metric: `[B, n, C]`; tokens 0, 2, ... look for partners among 1, 3, ...
      r: at most n // 2; static.

    Raises:
      ConfigError: more than that.
    """
    batch, number, _ = metric.shape
    check_budget("r", r, number // 2, least=0)
    metric = metric.astype(jnp.float32)
    norm = jnp.linalg.norm(metric, axis=-1, keepdims=True)
    unit = metric / jnp.where(norm > 0, norm, 1)
    cosine = jnp.einsum(
        "bac,btc->bat", unit[:, ::2], unit[:, 1::2], precision=lax.Precision.HIGHEST
    )
    _, giving = lax.top_k(cosine.max(-1), r)
    taking = jnp.take_along_axis(cosine.argmax(-1).astype(jnp.int32), giving, axis=1)
    index = jnp.broadcast_to(jnp.arange(number, dtype=jnp.int32), (batch, number))
    leader = index.at[jnp.arange(batch)[:, None], 2 * giving].set(2 * taking + 1)
    return group_by(leader)


def _looked_at(query: jax.Array, key: jax.Array, left: TokenSet, r: int) -> Grouping:
    """The tokens that the class token attends to least become one, weighted by that: r fewer.

    Args:
      query: of the class token, `[B, H, d]`.
      key: `[B, H, prefix + n, d]`.
    """
    number = left.size.shape[1]
    scores = (
        jnp.einsum("bhd,bhnd->bhn", query, key, preferred_element_type=jnp.float32)
        * query.shape[-1] ** -0.5
    )
    scores = jax.nn.softmax(scores).mean(1)[:, -number:]
    grouping = attentive(scores, keep=number - r - 1)
    return dataclasses.replace(
        grouping, weight=grouping.weight / left.size
    )  # `merge` weighs by size, too
