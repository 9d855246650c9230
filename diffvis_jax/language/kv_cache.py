"""The keys and values of a decoder as an explicit pytree of static size.

B streams, L layers, G key-value heads, T slots (the capacity), d head width, R rows.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from diffvis_jax.errors import CacheError
from diffvis_jax.language.config import DecoderConfig


@flax.struct.dataclass(kw_only=True)
class KVCache:
    """What a decoder remembers of a sequence.

    The slot of a position is the position itself, and a query sees no slot beyond its own position:
    what lies beyond `length` means nothing, needs no mask, and is overwritten when its turn comes.
    By what keys are rotated may be another number, where images stand in rows and columns.

    Attributes:
      keys, values: of each layer, in the dtype of the matrices; keys are already rotated.
      length: positions that are filled.
      rope_delta: what is added to the position of text after the prompt, to rotate it; 0 unless
        the model has an `mrope_section`.
      dropped: image tokens of the prompt that each layer lacks (`LayerKeep`): what follows them
        stands so many slots before its position. None = no layer lacks any.
    """

    keys: tuple[jax.Array, ...]  # L x [B, G, T, d]
    values: tuple[jax.Array, ...]  # L x [B, G, T, d]
    length: jax.Array  # int32 [B]
    rope_delta: jax.Array  # int32 [B]
    dropped: jax.Array | None = None  # int32 [B, L]

    @property
    def capacity(self) -> int:
        """T."""
        return self.keys[0].shape[2]


def init_kv_cache(config: DecoderConfig, batch: int = 1, capacity: int = 512) -> KVCache:
    """An empty cache.

    Args:
      batch: B, streams.
      capacity: T, positions for prompt and answer together.
    """
    if batch < 1 or capacity < 1:
        raise CacheError(f"batch and capacity must be at least 1, got {batch} and {capacity}")
    shape = (batch, config.kv_heads, capacity, config.head_width)

    def empty() -> tuple[jax.Array, ...]:
        return tuple(jnp.zeros(shape, config.dtype) for _ in range(config.layers))

    def count() -> jax.Array:
        return jnp.zeros((batch,), jnp.int32)

    return KVCache(keys=empty(), values=empty(), length=count(), rope_delta=count())


def write_run(slots: jax.Array, rows: jax.Array, start: jax.Array) -> jax.Array:
    """Writes rows into consecutive slots, in place inside jit.

    Args:
      slots: `[B, G, T, d]`.
      rows: `[B, R, G, d]`.
      start: int32 `[B]`, slot of each stream's first row; `start + R` must be at most T.
    """
    rows = rows.swapaxes(1, 2).astype(slots.dtype)

    def stream(b: jax.Array, slots: jax.Array) -> jax.Array:
        row, zero = lax.dynamic_slice_in_dim(rows, b, 1), jnp.int32(0)
        return lax.dynamic_update_slice(slots, row, (b, zero, start[b], zero))

    if len(slots) == 1:
        return stream(jnp.int32(0), slots)
    return lax.fori_loop(jnp.int32(0), jnp.int32(len(slots)), stream, slots)


def write_rows(slots: jax.Array, rows: jax.Array, positions: jax.Array) -> jax.Array:
    """Writes rows `[B, R, G, d]` into the slots `[B, G, T, d]` of their positions `[B, R]`; those
    at T or beyond are dropped."""
    stream = jnp.arange(len(slots))[:, None]
    return slots.at[stream, :, positions].set(rows.astype(slots.dtype), mode="drop")
