"""Matrices in 8 or 4 bits, and their products.

A scale belongs to a row of a matrix, or to a row of what it is multiplied with: never to a batch, a
chunk or a window. So a row's result depends on that row alone, to the bit: sums of 8-bit products
are exact, whatever the order.

I inputs, O outputs, R rows, G inputs of a group.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffvis_jax.errors import ConfigError
from diffvis_jax.ops.one_of import switched
from diffvis_jax.ops.product import CPU_FEW_ROWS, product

# kind -> largest code of a weight
KINDS = {"w8": 127, "w8a8": 127, "w8a16": 127, "w4": 7}
_CODES = {"w8a8": 127, "w8a16": 127 * 256}  # largest code of an activation
_LEAST = np.float32(1e-12)  # of a row: one of zeros has a scale, too
_MOST_INPUTS = 1 << 16  # sums of so many products of codes stay within 31 bits

# Weights that are cast at a time where few rows meet them: 128 KiB as float32 stay in the cache
# between the cast and the product.
_CPU_BLOCK = 1 << 15


@flax.struct.dataclass
class QuantKernel:
    """A matrix `[O, I]` whose rows are codes times a scale; stands where a float one would.

    Attributes:
      values: the codes: int8 `[O, I]`, or of kind "w4" uint8 `[O, I / 2]`, each two codes plus 8,
        the even input in the lower four bits.
      scale: what a code is worth: float32 `[O]`, or of kind "w4" `[O, I / G]`.
      kind: "w8": activations stay floats. "w8a8": each row of activations is rounded to 8 bits by
        its own largest, and sums are of integers. "w8a16": likewise to 16 bits, as two rows of 8.
        "w4": as "w8", with a scale for each group.
      dtype: of what is not quantised: "float32" or "bfloat16".
    """

    values: jax.Array
    scale: jax.Array
    kind: str = flax.struct.field(pytree_node=False, default="w8")
    dtype: str = flax.struct.field(pytree_node=False, default="float32")

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)."""
        outputs, inputs = self.values.shape
        return outputs, inputs * (2 if self.kind == "w4" else 1)

    @property
    def nbytes(self) -> int:
        """Of codes and scales."""
        return self.values.nbytes + self.scale.nbytes


def quantise_kernel(
    kernel: jax.Array | np.ndarray, kind: str, group: int | None = None, dtype: str = "float32"
) -> QuantKernel:
    """Rounds a matrix to codes, on the host; half goes to even.

    Args:
      kernel: `[O, I]`, float32 or bfloat16.
      kind: of `KINDS`.
      group: G, inputs that share a scale; of kind "w4" alone.
      dtype: see `QuantKernel`.

    Raises:
      ConfigError: not a float matrix, NaN or infinite weights, an unknown kind, or a group that
        does not divide the inputs.
    """
    if isinstance(kernel, QuantKernel):
        raise ConfigError("the matrix is quantised already")
    if kind not in KINDS:
        raise ConfigError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    weights = np.asarray(kernel)
    if weights.ndim != 2 or not jnp.issubdtype(weights.dtype, jnp.floating):
        raise ConfigError(f"a float matrix is needed, got {weights.dtype} {list(weights.shape)}")
    weights = weights.astype(np.float32)
    if not np.isfinite(weights).all():
        raise ConfigError("NaN or infinite weights")
    inputs, most = weights.shape[1], KINDS[kind]
    if inputs > _MOST_INPUTS:
        raise ConfigError(f"at most {_MOST_INPUTS} inputs can be summed, got {inputs}")
    if (group is not None) != (kind == "w4"):
        raise ConfigError(f"a group belongs to kind 'w4' alone, got {group!r} for {kind!r}")
    if group is not None and (group < 2 or group % 2 or inputs % group):
        raise ConfigError(
            f"a group must be an even number of inputs that divides {inputs}, got {group}"
        )
    grouped = weights.reshape(len(weights), -1, group or inputs)
    largest = np.abs(grouped).max(-1)
    scale = np.where(largest > 0, largest / np.float32(most), np.float32(1))
    codes = np.rint(grouped / scale[..., None]).clip(-most, most).reshape(weights.shape)
    if kind == "w4":
        nibbles = (codes + 8).astype(np.uint8)
        packed = nibbles[:, ::2] | nibbles[:, 1::2] << 4
        return QuantKernel(jnp.asarray(packed), jnp.asarray(scale), kind, dtype)
    return QuantKernel(jnp.asarray(codes, jnp.int8), jnp.asarray(scale[:, 0]), kind, dtype)


def dequantise(kernel: QuantKernel) -> jax.Array:
    """The matrix `[O, I]` that the codes stand for, float32."""
    if kernel.kind != "w4":
        return kernel.values.astype(jnp.float32) * kernel.scale[:, None]
    low, high = kernel.values & 15, kernel.values >> 4
    codes = jnp.stack([low, high], -1).reshape(kernel.shape).astype(jnp.float32) - 8
    grouped = codes.reshape(*kernel.scale.shape, -1) * kernel.scale[..., None]
    return grouped.reshape(kernel.shape)


# ---- products ---------------------------------------------------------------------------------


def quantised_product(x: jax.Array, kernel: QuantKernel) -> jax.Array:
    """Rows `[R, I]` and a quantised matrix -> float32 `[R, O]`."""
    most = _CODES.get(kernel.kind)
    if most is None:
        rows = x.astype(kernel.dtype)
        if len(rows) > CPU_FEW_ROWS:
            return _cast_product(rows, kernel)
        return lax.platform_dependent(rows, kernel, cpu=_in_blocks, default=_cast_product)
    codes, scale = _codes_of(x, most)
    sums = switched(_integers, kernel.values, codes).astype(jnp.float32)
    if kernel.kind == "w8a16":
        upper, lower = jnp.split(sums, 2)
        sums = 256 * upper + lower
    return sums * (scale * kernel.scale[None])


def _codes_of(x: jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
    """Rows `[R, I]` as int8 codes, and float32 `[R, 1]`, what a code is worth.

    Of 16 bits they are two rows each, `[2 R, I]`: the upper 8 bits of all, then the lower 8.
    """
    x = x.astype(jnp.float32)
    scale = jnp.maximum(jnp.abs(x).max(-1, keepdims=True), _LEAST) / np.float32(most)
    codes = jnp.round(x / scale).astype(jnp.int32)
    if most > 127:
        upper = codes + 128 >> 8
        codes = jnp.concatenate([upper, codes - 256 * upper])
    # Made once: fused into the product, the rounding would be repeated for each block of outputs.
    return lax.optimization_barrier(codes.astype(jnp.int8)), scale


def _integers(values: jax.Array, codes: jax.Array) -> jax.Array:
    """`[O, I]` and `[R, I]`, int8 -> int32 `[R, O]`."""
    if len(codes) > CPU_FEW_ROWS:
        return _contract(codes, values)
    return lax.platform_dependent(
        values, codes, cpu=_weights_left, default=lambda values, codes: _contract(codes, values)
    )


def _contract(a: jax.Array, b: jax.Array) -> jax.Array:
    return lax.dot_general(a, b, (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32)


def _weights_left(values: jax.Array, codes: jax.Array) -> jax.Array:
    # XLA:CPU has no 8-bit product of a single row: it casts all weights to 32 bits, which takes ten
    # times as long as two rows (docs/lab).
    padded = jnp.pad(codes, ((0, max(0, 2 - len(codes))), (0, 0)))
    # The barrier keeps XLA from folding the transposition into the product it came from.
    return lax.optimization_barrier(_contract(values, padded)).T[: len(codes)]


def _cast_product(rows: jax.Array, kernel: QuantKernel) -> jax.Array:
    """The product of floats with all weights cast."""
    if kernel.kind == "w4":
        kernel = _cut(kernel, jnp.int32(0), kernel.shape[0])
        return _cast(kernel.values, rows, kernel)
    sums = switched(lambda values, rows: _cast(values, rows, kernel), kernel.values, rows)
    return sums * kernel.scale[None]


def _in_blocks(rows: jax.Array, kernel: QuantKernel) -> jax.Array:
    """The same, a few outputs at a time: their weights stay in the cache as they are cast."""
    outputs, inputs = kernel.shape
    size = max(1, _CPU_BLOCK // inputs)
    if size >= outputs:
        return _cast_product(rows, kernel)

    def block(i: jax.Array, sums: jax.Array) -> jax.Array:
        start = jnp.minimum(i * size, outputs - size)  # the last begins inside the one before
        some = _cut(kernel, start, size)
        new = _cast(some.values, rows, some)
        if kernel.kind != "w4":
            new = new * some.scale[None]
        return lax.dynamic_update_slice_in_dim(sums, new.T, start, 0, allow_negative_indices=False)

    empty = jnp.zeros((outputs, len(rows)), jnp.float32)
    varies = (0 * rows[0, 0]).astype(jnp.float32)  # over devices, as the rows do
    return lax.fori_loop(0, -(-outputs // size), block, empty + varies).T


def _cut(kernel: QuantKernel, start: jax.Array, size: int) -> QuantKernel:
    """Some outputs of a matrix."""

    def cut(x: jax.Array, start: jax.Array) -> jax.Array:
        return lax.dynamic_slice_in_dim(x, start, size, allow_negative_indices=False)

    values, scale = (switched(cut, x, start) for x in (kernel.values, kernel.scale))
    return dataclasses.replace(kernel, values=values, scale=scale)


def _cast(values: jax.Array, rows: jax.Array, kernel: QuantKernel) -> jax.Array:
    """The product of floats with the values of a kernel; of kind "w4" with their scales."""
    # Bound to the rows, or XLA casts the weights once in front of a loop, and keeps them.
    rows, values = lax.optimization_barrier((rows, values))
    if kernel.kind == "w4":
        weights = dequantise(dataclasses.replace(kernel, values=values))
        return product(rows, weights.astype(kernel.dtype))
    return product(rows, values.astype(kernel.dtype))
