"""Attention of a few query rows over all tokens: multi-head, and grouped causal (decoders)."""

from contextlib import nullcontext

import jax
import jax.numpy as jnp
from jax import lax

from diffvis_jax.ops.precision import precision_of

# With so many keys to each query or more, sorting keys and values by head takes longer on CPU than
# cutting each head out where it lies (docs/benchmarks.md).
_MANY_KEYS = 8


def _product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(
        equation, a, b, precision=precision_of(a, b), preferred_element_type=jnp.float32
    )


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

    def one_head(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        """`[B, R, d]`, `[B, N, d]`, `[B, N, d]` -> `[B, R, d]`."""
        scores = _product("bqd,bkd->bqk", q, k)
        scores *= head_width**-0.5
        if bias is not None:
            scores += bias
        weights = jnp.exp(scores - lax.stop_gradient(scores.max(-1, keepdims=True)))
        mixed = _product("bqk,bkd->bqd", weights.astype(v.dtype), v)
        return mixed / weights.sum(-1, keepdims=True)

    def head_by_head(*operands: jax.Array) -> jax.Array:
        def cut(x: jax.Array, head: jax.Array) -> jax.Array:
            return lax.dynamic_slice_in_dim(x, head * head_width, head_width, axis=2)

        if key.shape[1] >= _MANY_KEYS * query.shape[1]:
            mixed = lax.map(
                lambda head: one_head(*(cut(x, head) for x in operands)), jnp.arange(heads)
            )
        else:
            by_head = tuple(jnp.moveaxis(split(x), 2, 0) for x in operands)
            mixed = lax.map(lambda parts: one_head(*parts), by_head)
        return jnp.moveaxis(mixed, 0, 2).reshape(query.shape)

    def all_heads(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        visible = None if mask is None else mask[None, None, None, :]
        # It takes no precision of its own.
        exact = jax.default_matmul_precision("highest") if precision_of(q, k, v) else nullcontext()
        with exact:
            mixed = jax.nn.dot_product_attention(split(q), split(k), split(v), mask=visible)
        return mixed.reshape(q.shape).astype(jnp.float32)

    return lax.platform_dependent(query, key, value, cpu=head_by_head, default=all_heads)


def attention_to(
    query: jax.Array,
    key: jax.Array,
    marked: jax.Array,
    *,
    heads: int,
    mask: jax.Array | None = None,
) -> jax.Array:
    """How much of what each query attends to in `attention` is marked; the mean over the heads.

    Args:
      query: `[B, R, C]`.
      key: `[B, N, C]`.
      marked: float32 `[B, N]`, 1 for marked keys and 0 for others.
      heads: number of heads; C must divide by it.
      mask: bool `[N]`, True = may be attended to; None = all.

    Returns:
      float32 `[B, R]`, 0-1.
    """
    width = query.shape[-1] // heads
    bias = 0.0 if mask is None else jnp.where(mask, 0.0, -1e30)

    def one_head(operands: tuple[jax.Array, jax.Array]) -> jax.Array:
        scores = _product("bqd,bkd->bqk", *operands)
        return _product("bqk,bk->bq", jax.nn.softmax(scores * width**-0.5 + bias), marked)

    by_head = (jnp.moveaxis(x.reshape(*x.shape[:-1], heads, width), 2, 0) for x in (query, key))
    return lax.map(one_head, tuple(by_head)).mean(0)


def grouped_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, positions: jax.Array
) -> jax.Array:
    """Causal attention in which several query heads share one key-value head (arXiv 2305.13245).

    Slot j of the keys holds position j; a query at position p attends to the slots 0 to p.

    On CPU one key-value head at a time, for the reason given at `attention`.

    Args:
      query: `[B, R, H, d]`; head h uses key-value head `h // (H / G)`.
      key, value: `[B, G, T, d]`.
      positions: int32 `[B, R]`, of the queries.

    Returns:
      `[B, R, H d]` float32.
    """
    batch, rows, heads, width = query.shape
    groups, slots = key.shape[1:3]
    bias = jnp.where(jnp.arange(slots) <= positions[..., None], 0.0, -1e30)  # [B, R, T]
    query = query.reshape(batch, rows, groups, heads // groups, width).transpose(0, 2, 3, 1, 4)

    def one(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array) -> jax.Array:
        """`[H / G, R, d]`, `[T, d]`, `[T, d]`, `[R, T]` -> `[H / G, R, d]`."""
        scores = _product("srd,td->srt", q, k)
        scores = scores * width**-0.5 + bias
        weights = jnp.exp(scores - lax.stop_gradient(scores.max(-1, keepdims=True)))
        mixed = _product("srt,td->srd", weights.astype(v.dtype), v)
        return mixed / weights.sum(-1, keepdims=True)

    def one_by_one(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array) -> jax.Array:
        flat = [x.reshape(batch * groups, *x.shape[2:]) for x in (q, k, v)]
        of_group = (*flat, jnp.arange(batch * groups) // groups)
        mixed = lax.map(lambda x: one(x[0], x[1], x[2], bias[x[3]]), of_group)
        return mixed.reshape(q.shape)

    def all_groups(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array) -> jax.Array:
        return jax.vmap(jax.vmap(one, in_axes=(0, 0, 0, None)))(q, k, v, bias)

    operands = query, key, value, bias
    mixed = lax.platform_dependent(*operands, cpu=one_by_one, default=all_groups)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(batch, rows, heads * width)


def attention_weights(query: jax.Array, key: jax.Array, position: jax.Array) -> jax.Array:
    """What one query of each stream attends to in `grouped_attention`.

    Args:
      query: `[B, H, d]`.
      key: `[B, G, T, d]`.
      position: int32 `[B]`, of the query.

    Returns:
      float32 `[B, H, T]`, each row sums to 1.
    """
    batch, heads, width = query.shape
    groups, slots = key.shape[1:3]
    query = query.reshape(batch, groups, heads // groups, width)
    scores = _product("bgsd,bgtd->bgst", query, key)
    visible = jnp.arange(slots) <= position[:, None]
    scores = jnp.where(visible[:, None, None], scores * width**-0.5, -jnp.inf)
    return jax.nn.softmax(scores).reshape(batch, heads, slots)


def rms_norm(x: jax.Array, scale: jax.Array, epsilon: float) -> jax.Array:
    """RMSNorm over the last axis in float32 (arXiv 1910.07467)."""
    x = x.astype(jnp.float32)
    return x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + epsilon) * scale


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """LayerNorm over the last axis in float32, biased variance, as PyTorch computes it."""
    x = x.astype(jnp.float32)
    mean = x.mean(-1, keepdims=True)
    variance = jnp.square(x - mean).mean(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(variance + epsilon) * scale + bias
