"""Multi-head attention of a few query rows over all tokens."""

import jax
import jax.numpy as jnp
from jax import lax


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    heads: int,
    mask: jax.Array | None = None,
) -> jax.Array:
    """Softmax attention with scale `(C / heads) ** -0.5`; softmax and sums in float32.

    On CPU one head at a time, so that the scores (4 MB at 1024 x 1024) stay in the cache: six
    times as fast as one einsum over all heads (`docs/benchmarks.md`).

    Args:
      query: `[B, R, C]`.
      key, value: `[B, N, C]`.
      heads: number of heads; C must divide by it.
      mask: bool `[N]`, True = may be attended to; None = all.

    Returns:
      `[B, R, C]` float32.
    """
    head_width = query.shape[-1] // heads
    bias = None if mask is None else jnp.where(mask, 0.0, -1e30)

    def split(x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], heads, head_width)

    def one_head(operands: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        q, k, v = operands  # [B, R, d], [B, N, d], [B, N, d]
        scores = jnp.einsum("bqd,bkd->bqk", q, k, preferred_element_type=jnp.float32)
        scores *= head_width**-0.5
        if bias is not None:
            scores += bias
        weights = jnp.exp(scores - lax.stop_gradient(scores.max(-1, keepdims=True)))
        mixed = jnp.einsum(
            "bqk,bkd->bqd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
        )
        return mixed / weights.sum(-1, keepdims=True)

    def head_by_head(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        by_head = [jnp.moveaxis(split(x), 2, 0) for x in (q, k, v)]
        return jnp.moveaxis(lax.map(one_head, tuple(by_head)), 0, 2).reshape(q.shape)

    def all_heads(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        visible = None if mask is None else mask[None, None, None, :]
        mixed = jax.nn.dot_product_attention(split(q), split(k), split(v), mask=visible)
        return mixed.reshape(q.shape).astype(jnp.float32)

    return lax.platform_dependent(query, key, value, cpu=head_by_head, default=all_heads)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """LayerNorm over the last axis in float32, biased variance, as PyTorch computes it."""
    x = x.astype(jnp.float32)
    mean = x.mean(-1, keepdims=True)
    variance = jnp.square(x - mean).mean(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(variance + epsilon) * scale + bias
