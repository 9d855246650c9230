"""Attention of some query rows over all tokens: multi-head, and grouped causal (decoders)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffvis_jax.ops.broadcast import per_channel
from diffvis_jax.ops.precision import precision_of
from diffvis_jax.ops.storage import values_of

# Scores (queries x keys) of one head that are computed together on CPU: 5 MiB stays in the cache.
# A head of 4888 x 4888 takes two thirds of the time that it takes at once (docs/lab).
_CPU_SCORES = 5 * 2**20 // 4


def _product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(
        equation, a, b, precision=precision_of(a, b), preferred_element_type=jnp.float32
    )


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None = None,
    *,
    bias: jax.Array | None = None,
) -> jax.Array:
    """Softmax attention with scale `d ** -0.5`; softmax and sums in float32.

    Keys and values come by heads, values transposed, so that both products read them as they lie.
    On CPU one head at a time, and so many queries, that the scores stay in the cache: six times as
    fast as one einsum over all heads (docs/lab).

    Args:
      query: `[B, R, H, d]`.
      key: `[B, H, N, d]`.
      value: `[B, H, d, N]`.
      mask: bool `[N]` or `[B, N]`, True = may be attended to; None = all.
      bias: float32 `[B, N]`, added to the scores of all queries, such as the logarithm of how many
        tokens a key stands for; None = nothing.

    Returns:
      `[B, R, H * d]` float32.
    """
    added = _bias_of(mask)
    if bias is not None:
        added = bias[:, None] if added is None else added + bias[:, None]

    def head_by_head(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        by_head = (jnp.moveaxis(q, 2, 0), jnp.moveaxis(k, 1, 0), jnp.moveaxis(v, 1, 0))
        mixed = lax.map(lambda parts: _in_chunks(parts[0], parts[1], parts[2], added), by_head)
        return jnp.moveaxis(mixed, 0, 2)

    def all_heads(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jax.vmap(_one_head, in_axes=(2, 1, 1, None), out_axes=2)(q, k, v, added)

    mixed = lax.platform_dependent(query, key, value, cpu=head_by_head, default=all_heads)
    return mixed.reshape(*query.shape[:2], -1)


def kept_attention(
    query: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    stream: jax.Array,
    number: jax.Array | int,
    mask: jax.Array | None = None,
) -> jax.Array:
    """`attention` of one stream's rows to the keys and values that are kept of one layer.

    On CPU each head is read where it lies: to cut out all heads first is two copies of them, which
    takes longer than the attention of few rows, and half as long as all products of 8 bits (docs/
    lab).

    Args:
      query: `[1, R, H, d]`.
      keys, values: `[B, n, H, N, d]` and `[B, n, H, d, N]`, as `storage.keep` keeps them.
      stream, number: int32 [], which of the B and of the n.
      mask: bool `[N]`, True = may be attended to; None = all.

    Returns:
      `[1, R, H * d]` float32.
    """
    bias = _bias_of(mask)
    _, rows, heads, width = query.shape

    def cut(x: jax.Array, head: jax.Array | int, many: int, at: jax.Array) -> jax.Array:
        start = [jnp.asarray(i, jnp.int32) for i in (at[0], at[1], head, 0, 0)]
        size = (1, 1, many, *x.shape[3:])
        return values_of(lax.dynamic_slice(x, start, size, allow_negative_indices=False)[:, 0])

    def head_by_head(q: jax.Array, keys: jax.Array, values: jax.Array, at: jax.Array) -> jax.Array:
        def one(head: jax.Array, mixed: jax.Array) -> jax.Array:
            key, value = (cut(x, head, 1, at)[:, 0] for x in (keys, values))
            own = lax.dynamic_index_in_dim(q, head, 2, keepdims=False)
            new = _in_chunks(own, key, value, bias)
            return lax.dynamic_update_index_in_dim(mixed, new, head, 2)

        varies = (0 * q[0, 0, 0, 0]).astype(jnp.float32)  # over devices, as the queries do
        empty = jnp.zeros((1, rows, heads, width), jnp.float32) + varies
        return lax.fori_loop(jnp.int32(0), jnp.int32(heads), one, empty)

    def all_heads(q: jax.Array, keys: jax.Array, values: jax.Array, at: jax.Array) -> jax.Array:
        key, value = (cut(x, 0, heads, at) for x in (keys, values))
        return jax.vmap(_one_head, in_axes=(2, 1, 1, None), out_axes=2)(q, key, value, bias)

    at = jnp.stack([jnp.asarray(i, jnp.int32) for i in (stream, number)])
    operands = query, keys, values, at
    mixed = lax.platform_dependent(*operands, cpu=head_by_head, default=all_heads)
    return mixed.reshape(1, rows, heads * width)


def _bias_of(mask: jax.Array | None) -> jax.Array | None:
    """What is added to scores, `[1 or B, 1, N]`."""
    if mask is None:
        return None
    return jnp.where(mask, np.float32(0), np.float32(-1e30)).reshape(-1, 1, mask.shape[-1])


def _one_head(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None) -> jax.Array:
    """`[B, R, d]`, `[B, N, d]`, `[B, d, N]` -> `[B, R, d]`."""
    scores = _product("brd,bnd->brn", q, k)
    scores *= q.shape[-1] ** -0.5
    if bias is not None:
        scores += bias
    weights = jnp.exp(scores - lax.stop_gradient(scores.max(-1, keepdims=True)))
    mixed = _product("brn,bdn->brd", weights.astype(v.dtype), v)
    return mixed / weights.sum(-1, keepdims=True)


def _in_chunks(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None) -> jax.Array:
    """The same, so many queries at a time that their scores stay in the cache."""
    batch, rows, width = q.shape
    chunks = -(-rows * k.shape[1] // _CPU_SCORES)
    if chunks == 1:
        return _one_head(q, k, v, bias)
    size = -(-rows // chunks)
    q = jnp.pad(q, ((0, 0), (0, chunks * size - rows), (0, 0)))
    q = q.reshape(batch, chunks, size, width).swapaxes(0, 1)
    mixed = lax.map(lambda q: _one_head(q, k, v, bias), q)
    return mixed.swapaxes(0, 1).reshape(batch, -1, width)[:, :rows]


def query_heads(x: jax.Array, width: int, dtype: jnp.dtype) -> jax.Array:
    """Queries `[B, ..., H * d]` as `attention` takes them, `[B, R, H, d]`."""
    return x.reshape(x.shape[0], -1, x.shape[-1] // width, width).astype(dtype)


def key_heads(x: jax.Array, width: int, dtype: jnp.dtype) -> jax.Array:
    """Keys `[B, ..., H * d]` as `attention` takes them, `[B, H, N, d]`."""
    return query_heads(x, width, dtype).swapaxes(1, 2)


def value_heads(x: jax.Array, width: int, dtype: jnp.dtype) -> jax.Array:
    """Values `[B, ..., H * d]` as `attention` takes them, `[B, H, d, N]`."""
    return query_heads(x, width, dtype).transpose(0, 2, 3, 1)


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
    slot = jnp.arange(slots, dtype=jnp.int32)
    visible = slot[None, None] <= positions[..., None]
    bias = jnp.where(visible, np.float32(0), np.float32(-1e30))  # [B, R, T]
    query = query.reshape(batch, rows, groups, heads // groups, width).transpose(0, 2, 3, 1, 4)

    def one(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array) -> jax.Array:
        """`[H / G, R, d]`, `[T, d]`, `[T, d]`, `[R, T]` -> `[H / G, R, d]`."""
        scores = _product("srd,td->srt", q, k)
        scores = scores * width**-0.5 + bias[None]
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
    visible = jnp.arange(slots, dtype=jnp.int32)[None] <= position[:, None]
    scores = jnp.where(visible[:, None, None], scores * width**-0.5, -jnp.inf)
    return jax.nn.softmax(scores).reshape(batch, heads, slots)


def rms_norm(x: jax.Array, scale: jax.Array, epsilon: float) -> jax.Array:
    """RMSNorm over the last axis in float32 (arXiv 1910.07467)."""
    x = x.astype(jnp.float32)
    return x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + epsilon) * per_channel(scale, x)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """LayerNorm over the last axis in float32, biased variance, as PyTorch computes it."""
    x = x.astype(jnp.float32)
    mean = x.mean(-1, keepdims=True)
    variance = jnp.square(x - mean).mean(-1, keepdims=True)
    normed = (x - mean) * lax.rsqrt(variance + epsilon)
    return normed * per_channel(scale, x) + per_channel(bias, x)
