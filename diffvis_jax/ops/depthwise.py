"""Depthwise convolution with the lowering that is fast on each platform."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from diffvis_jax.ops.broadcast import per_channel
from diffvis_jax.ops.precision import precision_of


def depthwise_conv(x: jax.Array, kernel: jax.Array, bias: jax.Array, stride: int = 1) -> jax.Array:
    """VALID depthwise convolution, accumulated in float32.

    On CPU as shifted multiply-adds: XLA:CPU's grouped convolution reaches about 1.4 GFLOP/s, the
    shifts 25-70 (jax issue 23713; `docs/lab`). Elsewhere as a grouped convolution.
    Differentiable in reverse mode.

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


# Each sum of taps is several that do not wait for each other (docs/lab).
_CPU_SUMS = 4


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _shift_add(x: jax.Array, kernel: jax.Array, bias: jax.Array, stride: int) -> jax.Array:
    # Materialised once: fused into the taps, what makes it would run k * k times.
    x = lax.optimization_barrier(x.astype(jnp.float32))
    kernel, bias = kernel.astype(jnp.float32), bias.astype(jnp.float32)
    # An output for each of an input's multiples, then woven together: to repeat the input is to
    # read it channel by channel at every tap.
    multiplier = kernel.shape[-1] // x.shape[-1]
    parts = [
        _sum_of_taps(x, kernel[..., i::multiplier], bias[i::multiplier], stride)
        for i in range(multiplier)
    ]
    if multiplier == 1:
        return parts[0]
    return jnp.stack(parts, -1).reshape(*parts[0].shape[:3], -1)


# Jitted, so that blocks of the same shape are traced once: the taps were half of what it takes.
@functools.partial(jax.jit, static_argnames="stride")
def _sum_of_taps(x: jax.Array, kernel: jax.Array, bias: jax.Array, stride: int) -> jax.Array:
    taps = kernel.shape[:2]
    height, width = ((side - k) // stride + 1 for side, k in zip(x.shape[1:3], taps, strict=True))
    # With a stride, taps of one parity read one plane: splitting first keeps every read contiguous.
    planes = {(i, j): x[:, i::stride, j::stride] for i in range(stride) for j in range(stride)}

    def tap(i: int, j: int) -> jax.Array:
        row, column = i // stride, j // stride
        plane = planes[i % stride, j % stride]
        return plane[:, row : row + height, column : column + width] * kernel[i, j][None, None]

    products = [tap(i, j) for i in range(taps[0]) for j in range(taps[1])]
    sums = [products[n::_CPU_SUMS] for n in range(min(_CPU_SUMS, len(products)))]
    return sum((sum(part[1:], part[0]) for part in sums), per_channel(bias, x))


# Derived by JAX, the gradient is 49 padded maps to add and 49 reductions to compile for each
# convolution: minutes for a whole tower, and ten times slower to run (docs/lab).
def _shift_add_forward(x: jax.Array, kernel: jax.Array, bias: jax.Array, stride: int):
    return _shift_add(x, kernel, bias, stride), (x, kernel, bias)


def _shift_add_backward(stride: int, held: tuple[jax.Array, ...], grad: jax.Array):
    x, kernel, bias = held
    return (
        _input_gradient(grad, kernel, x.shape, stride).astype(x.dtype),
        _kernel_gradient(grad, x, kernel.shape, stride).astype(kernel.dtype),
        grad.sum((0, 1, 2)).astype(bias.dtype),
    )


_shift_add.defvjp(_shift_add_forward, _shift_add_backward)


def _input_gradient(
    grad: jax.Array, kernel: jax.Array, shape: tuple[int, ...], stride: int
) -> jax.Array:
    """The transposed convolution, one parity of positions at a time.

    With a stride, a position meets only the taps of its own parity. Spreading the gradient by the
    stride instead means to multiply zeros, three of four of them with a stride of 2.
    """
    k, (batch, height, width, channels) = kernel.shape[0], shape
    rows, columns = (-(-n // stride) for n in (height, width))
    grad = grad.astype(jnp.float32)

    def parity(i: int, j: int) -> jax.Array:
        flipped = kernel[i::stride, j::stride][::-1, ::-1]
        pads = [
            (taps - 1, n - m)
            for taps, n, m in zip(flipped.shape, (rows, columns), grad.shape[1:3], strict=False)
        ]
        padded = jnp.pad(grad, ((0, 0), *pads, (0, 0)))
        back = _shift_add(padded, flipped, jnp.zeros(kernel.shape[-1], jnp.float32), 1)
        assert isinstance(back, jax.Array)
        return back.reshape(*back.shape[:3], channels, -1).sum(-1)

    # A kernel smaller than the stride leaves positions that no tap reads.
    unread = jnp.zeros((batch, rows, columns, channels), jnp.float32)
    parts = [
        parity(i, j) if i < k and j < k else unread for i in range(stride) for j in range(stride)
    ]
    grid = jnp.stack(parts, 3).reshape(batch, rows, columns, stride, stride, channels)
    whole = grid.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * stride, columns * stride, -1)
    return whole[:, :height, :width]


def _kernel_gradient(
    grad: jax.Array, x: jax.Array, shape: tuple[int, ...], stride: int
) -> jax.Array:
    """For each tap the product of the gradient with what the tap has read, summed."""
    k = shape[0]
    multiplier = shape[-1] // x.shape[-1]
    x = x.astype(jnp.float32)
    if multiplier > 1:
        x = jnp.repeat(x, multiplier, axis=-1)
    batch, height, width, channels = grad.shape
    # Whole planes of one parity each, so that one compiled tap serves all.
    rows, columns = ((n + (k - 1) // stride) for n in (height, width))
    x = jnp.pad(
        x[:, : rows * stride, : columns * stride],
        [(0, 0)]
        + [(0, max(0, n * stride - m)) for n, m in zip((rows, columns), x.shape[1:3], strict=True)]
        + [(0, 0)],
    )
    planes = x.reshape(batch, rows, stride, columns, stride, channels).transpose(2, 4, 0, 1, 3, 5)

    def tap(number: jax.Array) -> jax.Array:
        i, j = number // k, number % k
        start = (i % stride, j % stride, 0, i // stride, j // stride, 0)
        return (lax.dynamic_slice(planes, start, (1, 1, *grad.shape))[0, 0] * grad).sum((0, 1, 2))

    return lax.map(tap, jnp.arange(k * k)).reshape(shape)


def _grouped(x: jax.Array, kernel: jax.Array, bias: jax.Array, stride: int) -> jax.Array:
    y = lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        (stride, stride),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
        precision=precision_of(x),
        preferred_element_type=jnp.float32,
    )
    return y + per_channel(bias.astype(jnp.float32), y)
