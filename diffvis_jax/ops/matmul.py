"""Matrix products: operands in the compute dtype, sums in float32, weights of one layer of many.

Matrices are `[out, in]`, as PyTorch keeps them. I inputs, O outputs, R rows.
"""

from typing import TypeAlias

import jax
import jax.numpy as jnp

from diffvis_jax.ops.one_of import OneOf, switched
from diffvis_jax.ops.product import product
from diffvis_jax.ops.quantised import QuantKernel, quantised_product

Matrix: TypeAlias = jax.Array | OneOf | QuantKernel


def linear(x: jax.Array, weight: Matrix, bias: jax.Array | None = None) -> jax.Array:
    """`x @ weight.T + bias` with `x` cast to the weight's dtype and a float32 result.

    Args:
      x: `[..., I]`.
      weight: `[O, I]`; its dtype (float32 or bfloat16) is the compute dtype. A quantised one is
        multiplied as its kind says.
      bias: `[O]` or None.

    Returns:
      `[..., O]` float32.
    """
    flat = x.reshape(-1, x.shape[-1])
    if isinstance(weight, QuantKernel):
        y = quantised_product(flat, weight)
    else:
        y = switched(lambda w, x: product(x, w), weight, flat.astype(weight.dtype))
    if bias is not None:
        y = y + bias.astype(jnp.float32)[None]
    return y.reshape(*x.shape[:-1], y.shape[-1])
