"""The decoder of Qwen2, Llama and Mistral: some rows against a KV cache, in one pure function.

Prefill, decoding and differential prefill are all `forward`: they differ in which rows they give
it. Source: arXiv 2407.10671; transformers `modeling_qwen2.py`. The parameters are described at
`DecoderConfig`.

B streams, R rows, T slots of the cache, D width, H heads, G key-value heads, d head width,
L layers, V vocabulary rows.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.language.config import DecoderConfig
from diffvis_jax.language.kv_cache import KVCache, write_rows, write_run
from diffvis_jax.ops.attention import attention_weights, grouped_attention, rms_norm
from diffvis_jax.ops.matmul import linear
from diffvis_jax.ops.rotary import rotate
from diffvis_jax.towers.params import Params


def forward(
    params: Params,
    cache: KVCache,
    x: jax.Array,
    positions: jax.Array,
    *,
    config: DecoderConfig,
    rotary: jax.Array | None = None,
    scattered: bool = False,
    span: int | None = None,
    watch: jax.Array | None = None,
    layers: range | None = None,
) -> tuple[jax.Array, KVCache, jax.Array | None]:
    """Runs rows through the layers; their keys and values are written into the cache first.

    Operands of the matrix products are in the dtype of the matrices, sums and the residual stream
    in float32.

    Args:
      cache: holds every position that the rows attend to and that is not among them.
      x: float32 `[B, R, D]`, embeddings of the rows.
      positions: int32 `[B, R]`, slots in the cache but for what a layer lacks (`dropped`);
        consecutive unless `scattered`.
      rotary: int32 `[B, R, 3]`, by what queries and keys are rotated; None = by their positions,
        moved by the cache's `rope_delta`.
      scattered: whether positions are arbitrary; those at T or beyond are not written then.
      span: no row attends beyond this many slots; None = T. Static.
      watch: int32 `[B]`, the row of each stream whose attention is wanted; None = of none.
      layers: those to run; None = all. Static.

    Returns:
      the residual stream after the last layer, float32 `[B, R, D]`; the cache, its `length` as it
      was; attention weights of the watched rows, float32 `[B, L, H, span]`, or None.
    """
    layers = range(config.layers) if layers is None else layers
    moved = positions + cache.rope_delta[:, None]
    rotation = _rotation(moved[..., None] if rotary is None else rotary, config)
    keys, values, watched = list(cache.keys), list(cache.values), []
    for n in layers:
        slots = positions if cache.dropped is None else positions - cache.dropped[:, n, None]
        layer = params[f"layer_{n}"]
        normed = rms_norm(x, layer["input_norm"]["scale"], config.norm_epsilon)
        query, key, value = _query_key_value(layer["attention"], normed, rotation, config)
        if scattered:
            keys[n] = write_rows(keys[n], key, slots)
            values[n] = write_rows(values[n], value, slots)
        else:
            keys[n] = write_run(keys[n], key, slots[:, 0])
            values[n] = write_run(values[n], value, slots[:, 0])
        visible = keys[n][:, :, :span], values[n][:, :, :span]
        mixed = grouped_attention(query, *visible, slots)
        x = x + linear(mixed, layer["attention"]["output"]["weight"])
        normed = rms_norm(x, layer["mlp_norm"]["scale"], config.norm_epsilon)
        x = x + _mlp(layer["mlp"], normed)
        if watch is not None:
            stream = jnp.arange(len(watch))
            row = query[stream, watch], visible[0], slots[stream, watch]
            watched.append(attention_weights(*row))
    cache = dataclasses.replace(cache, keys=tuple(keys), values=tuple(values))
    return x, cache, jnp.stack(watched, 1) if watched else None


def embed(params: Params, ids: jax.Array) -> jax.Array:
    """Embeddings of ids, float32 `[..., D]`."""
    return params["embed"]["embedding"][ids].astype(jnp.float32)


def read_out(params: Params, x: jax.Array, *, config: DecoderConfig) -> jax.Array:
    """What `forward` gives, `[..., D]` -> logits, float32 `[..., V]`."""
    x = rms_norm(x, params["final_norm"]["scale"], config.norm_epsilon)
    if not config.tied:
        return linear(x, params["head"]["weight"])
    return linear(x, params["embed"]["embedding"])


def _query_key_value(
    attention: Params, x: jax.Array, rotation: tuple[jax.Array, jax.Array], config: DecoderConfig
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`[B, R, D]` -> `[B, R, H, d]` and twice `[B, R, G, d]`, in the dtype of the matrices."""
    dtype = attention["query"]["weight"].dtype

    def heads(name: str, count: int) -> jax.Array:
        own = attention[name]
        y = linear(x, own["weight"], own.get("bias"))
        return y.reshape(*y.shape[:-1], count, config.head_width)

    query = rotate(heads("query", config.heads), *rotation)
    key = rotate(heads("key", config.kv_heads), *rotation)
    value = heads("value", config.kv_heads)
    return query.astype(dtype), key.astype(dtype), value.astype(dtype)


def _rotation(rotary: jax.Array, config: DecoderConfig) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of the rotary embedding (arXiv 2104.09864), float32 `[B, R, 1, d / 2]`, for
    positions on one axis or three, `[B, R, 1]` or `[B, R, 3]`."""
    exponent = jnp.arange(0, config.head_width, 2, dtype=jnp.float32) / config.head_width
    frequency = 1.0 / config.rope_theta**exponent
    if rotary.shape[-1] == 3:  # the frequencies fall into three runs, one for each axis
        rotary = rotary[..., np.repeat(np.arange(3), config.mrope_section)]
    angle = rotary[..., None, :].astype(jnp.float32) * frequency[None, None, None]
    return jnp.cos(angle), jnp.sin(angle)


def _mlp(mlp: Params, x: jax.Array) -> jax.Array:
    gate, up = linear(x, mlp["gate"]["weight"]), linear(x, mlp["up"]["weight"])
    return linear(jax.nn.silu(gate) * up, mlp["down"]["weight"])
