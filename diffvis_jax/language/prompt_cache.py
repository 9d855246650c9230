"""A prompt as the decoder reads it, and what is kept of the last one.

B streams, T positions of the padded prompt, D width, L layers, H heads, V vocabulary rows.
"""

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from diffvis_jax.errors import CacheError
from diffvis_jax.language.config import DecoderConfig
from diffvis_jax.language.generate import PREFILL_LENGTHS
from diffvis_jax.language.kv_cache import KVCache, init_kv_cache


@flax.struct.dataclass(kw_only=True)
class Prompt:
    """A spliced prompt: text and images as the decoder sees them.

    Attributes:
      embeddings: zero beyond `length`.
      image: which positions are image tokens.
      length: positions that count.
      rotary: by what keys are rotated (`positions.py`); None unless the model has an
        `mrope_section`.
      ids: those of the text, and of image tokens `image_token_id`; -1 = none. What is penalised
        as a repetition; None = nothing can be.
    """

    embeddings: jax.Array  # float32 [B, T, D]
    image: jax.Array  # bool [B, T]
    length: jax.Array  # int32 [B]
    rotary: jax.Array | None = None  # int32 [B, T, 3]
    ids: jax.Array | None = None  # int32 [B, T]


@flax.struct.dataclass(kw_only=True)
class PromptCache:
    """What is kept of the last prompt.

    Attributes:
      kv: keys and values; T slots for the prompt, and more for an answer.
      reference, rotary: what the keys and values of each position were computed from.
      length: of the last prompt; 0 = there was none.
      exact: from this position on keys and values may be those of an approximation.
      steps: steps since all of them were exact.
      logits: of the last position of the prompt.
      attention: what that position attended to, in every layer; None if nobody wants to know.
    """

    kv: KVCache
    reference: jax.Array  # float32 [B, T, D]
    rotary: jax.Array | None  # int32 [B, T, 3]
    length: jax.Array  # int32 [B]
    exact: jax.Array  # int32 [B]
    steps: jax.Array  # int32 [B]
    logits: jax.Array  # float32 [B, V]
    attention: jax.Array | None  # float32 [B, L, H, T]


def init_prompt_cache(
    config: DecoderConfig, batch: int, padded: int, capacity: int, *, attention: bool = False
) -> PromptCache:
    """An empty cache; the first prefill with it recomputes everything.

    Args:
      config: of the language model.
      batch: B.
      padded: T, as `Prompt` is padded.
      capacity: slots for prompt and answer.
      attention: whether the attention of the last position is kept.
    """
    if capacity < padded:
        raise CacheError(f"{capacity} slots do not hold a prompt padded to {padded}")

    def count() -> jax.Array:
        return jnp.zeros((batch,), jnp.int32)

    shape = batch, config.layers, config.heads, padded
    weights = jnp.zeros(shape, jnp.float32) if attention else None
    return PromptCache(
        kv=init_kv_cache(config, batch, capacity),
        reference=jnp.zeros((batch, padded, config.width), jnp.float32),
        rotary=jnp.zeros((batch, padded, 3), jnp.int32) if config.mrope_section else None,
        length=count(),
        exact=count(),
        steps=count(),
        logits=jnp.zeros((batch, config.vocabulary), jnp.float32),
        attention=weights,
    )


def resize_prompt_cache(cache: PromptCache, padded: int, capacity: int) -> PromptCache:
    """The same cache for prompts of another padding: what fits is kept.

    Args:
      padded: T of the prompts to come; positions beyond it are forgotten.
      capacity: slots for prompt and answer.

    Raises:
      CacheError: fewer slots than positions.
    """
    if capacity < padded:
        raise CacheError(f"{capacity} slots do not hold a prompt padded to {padded}")
    old = cache.reference.shape[1]
    # By way of the usual lengths between the two: few compilations then serve all pairs.
    between = [n for n in PREFILL_LENGTHS if min(old, padded) < n < max(old, padded)]
    for length in (*(between if old < padded else reversed(between)), padded):
        cache = _resized(cache, length, length + capacity - padded)
    return cache


@functools.partial(jax.jit, static_argnums=(1, 2))
def _resized(cache: PromptCache, padded: int, capacity: int) -> PromptCache:
    def fitted(x: jax.Array, axis: int, size: int) -> jax.Array:
        x = lax.slice_in_dim(x, 0, min(size, x.shape[axis]), axis=axis)
        room = [(0, size - x.shape[axis]) if i == axis else (0, 0) for i in range(x.ndim)]
        return jnp.pad(x, room)

    kv, rotary, attention = cache.kv, cache.rotary, cache.attention
    length = jnp.minimum(cache.length, padded)
    return dataclasses.replace(
        cache,
        kv=dataclasses.replace(
            kv,
            keys=tuple(fitted(x, 2, capacity) for x in kv.keys),
            values=tuple(fitted(x, 2, capacity) for x in kv.values),
            length=jnp.minimum(kv.length, padded),
        ),
        reference=fitted(cache.reference, 1, padded),
        rotary=None if rotary is None else fitted(rotary, 1, padded),
        length=length,
        exact=jnp.minimum(cache.exact, length),
        attention=None if attention is None else fitted(attention, 3, padded),
    )
