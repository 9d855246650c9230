"""Pixels to numbers, activations, and the feed-forward network."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffvis_jax.ops.broadcast import per_channel
from diffvis_jax.ops.matmul import linear
from diffvis_jax.ops.storage import bits_of, values_of

# Rows x hidden floats of one feed-forward chunk on CPU: 6 MiB stays in the cache between the two
# products and is not paged in anew; twice as fast as one pass at 256x256x96 (docs/lab).
_CPU_HIDDEN_FLOATS = 6 * 2**20 // 4


def normalized(pixels: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """`uint8 [..., 3]` as a tower takes them: (share of the full scale - mean) / std, float32."""
    x = pixels.astype(jnp.float32) / 255
    shift, scale = (per_channel(np.array(values, np.float32), x) for values in (mean, std))
    return (x - shift) / scale


def gelu(x: jax.Array) -> jax.Array:
    """Exact (erf) GELU, as PyTorch's default; `jax.nn.gelu`'s default is the tanh one."""
    return 0.5 * x * (1 + lax.erf(x * 0.7071067811865476))


def quick_gelu(x: jax.Array) -> jax.Array:
    """`x * sigmoid(1.702 x)`, as OpenAI's CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


def gelu_tanh(x: jax.Array) -> jax.Array:
    """GELU in its tanh approximation (SigLIP)."""
    return jax.nn.gelu(x, approximate=True)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "quick_gelu": quick_gelu,
    "gelu_pytorch_tanh": gelu_tanh,
}


def feed_forward(
    x: jax.Array,
    residual: jax.Array,
    fc1: dict[str, Any],
    fc2: dict[str, Any],
    activation: Callable[[jax.Array], jax.Array] = gelu,
    *,
    inset: int = 0,
) -> jax.Array:
    """`residual + fc2(activation(fc1(x)))`, on CPU a chunk of positions at a time.

    Args:
      x: `[..., C]`; with an inset `[B, H, W, C]`.
      residual: as `x`, and wider by `inset` positions on all four sides of the map.
      fc1, fc2: `{"weight": [F, C], "bias": [F]}` and `{"weight": [C, F], "bias": [C]}`.
      activation: applied to the hidden layer in float32; a gated one halves it, so that `fc1` is
        `[2 F, C]`.
      inset: positions of the residual before the first one of `x`, in both directions.

    Returns:
      As `x`, summed in float32 and rounded to the weights' dtype.
    """
    width = x.shape[-1]

    def trim(residual: jax.Array) -> jax.Array:
        return residual[:, inset:-inset, inset:-inset] if inset else residual

    def forward(x: jax.Array, residual: jax.Array) -> jax.Array:
        hidden = activation(linear(x, **fc1))
        y = residual.astype(jnp.float32) + linear(hidden, **fc2)
        return y.astype(fc2["weight"].dtype)

    def chunked(x: jax.Array, residual: jax.Array) -> jax.Array:
        chunk = max(1, _CPU_HIDDEN_FLOATS // fc1["weight"].shape[0])
        if x.size // width < 2 * chunk:
            return forward(x, trim(residual))
        if x.ndim == 4 and x.shape[1] * x.shape[2] > chunk:
            return _in_bands(forward, x, residual, inset, max(1, chunk // x.shape[2]))
        flat, around = (a.reshape(1, -1, 1, width) for a in (x, trim(residual)))
        return _in_bands(forward, flat, around, 0, chunk).reshape(x.shape)

    return lax.platform_dependent(
        x, residual, cpu=chunked, default=lambda x, residual: forward(x, trim(residual))
    )


def _in_bands(
    forward: Callable[[jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    residual: jax.Array,
    inset: int,
    most: int,
) -> jax.Array:
    """`forward` on at most so many lines of the maps `[B, H, W, C]` at a time.

    The bands are cut out of the maps where they lie, and put together as bits: XLA:CPU has no
    updates of slices in bfloat16 (`storage.py`).
    """
    batch, height, width, channels = x.shape
    bands = -(-height // most)
    lines = -(-height // bands)

    def band(i: jax.Array, y: jax.Array) -> jax.Array:
        # The last band may begin inside the one before, and finds there what that has found.
        b, line = i // bands, jnp.minimum(i % bands * lines, height - lines)
        size = (1, lines, width, channels)
        inner = lax.dynamic_slice(residual, (b, line + inset, inset, 0), size)
        new = forward(lax.dynamic_slice(x, (b, line, 0, 0), size), inner)
        return lax.dynamic_update_slice(y, bits_of(new), (b, line, 0, 0))

    # Not zeros: those are made once for all layers, and copied for each.
    first = x[0, 0, 0, 0].astype(jax.eval_shape(forward, x, x).dtype)
    empty = jnp.broadcast_to(bits_of(first), x.shape)
    return values_of(lax.fori_loop(0, batch * bands, band, empty))
