"""Depthwise convolution with the lowering that is fast on each platform."""

import jax
import jax.numpy as jnp
from jax import lax


def depthwise_conv(x: jax.Array, kernel: jax.Array, bias: jax.Array, stride: int = 1) -> jax.Array:
    """VALID depthwise convolution, accumulated in float32.

    On CPU as shifted multiply-adds: XLA:CPU's grouped convolution reaches about 1.4 GFLOP/s, the
    shifts 25-70 (jax issue 23713; `docs/benchmarks.md`). Elsewhere as a grouped convolution.

    Args:
      x: `[B, H, W, C]`, any float dtype.
      kernel: `[k, k, 1, C * m]` with channel multiplier m; output channel o reads input o // m.
      bias: `[C * m]`.
      stride: step between outputs, in positions.

    Returns:
      `[B, (H - k) // stride + 1, (W - k) // stride + 1, C * m]` float32.
    """
    return lax.platform_dependent(
        x,
        kernel,
        bias,
        cpu=lambda x, kernel, bias: _shift_add(x, kernel, bias, stride),
        default=lambda x, kernel, bias: _grouped(x, kernel, bias, stride),
    )


def _shift_add(x: jax.Array, kernel: jax.Array, bias: jax.Array, stride: int) -> jax.Array:
    k = kernel.shape[0]
    multiplier = kernel.shape[-1] // x.shape[-1]
    height, width = ((side - k) // stride + 1 for side in x.shape[1:3])
    if x.dtype != jnp.float32:
        # Materialised once: fused into the taps, the conversion would run k * k times.
        x = lax.optimization_barrier(x.astype(jnp.float32))
    if multiplier > 1:
        x = jnp.repeat(x, multiplier, axis=-1)
    kernel = kernel.astype(jnp.float32)
    # With a stride, taps of one parity read one plane: splitting first keeps every read contiguous.
    planes = {(i, j): x[:, i::stride, j::stride] for i in range(stride) for j in range(stride)}
    total = jnp.broadcast_to(bias.astype(jnp.float32), (x.shape[0], height, width, bias.shape[0]))
    for i in range(k):
        for j in range(k):
            plane = planes[i % stride, j % stride]
            row, column = i // stride, j // stride
            total += plane[:, row : row + height, column : column + width] * kernel[i, j]
    return total


def _grouped(x: jax.Array, kernel: jax.Array, bias: jax.Array, stride: int) -> jax.Array:
    y = lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        (stride, stride),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
        preferred_element_type=jnp.float32,
    )
    return y + bias.astype(jnp.float32)
