"""float32 means float32: on every platform, and whatever it takes for products by default."""

import jax
import jax.numpy as jnp
from jax import lax


def precision_of(*operands: jax.Array) -> lax.Precision | None:
    """Of a product of these: the highest if all are float32, else the platform's own.

    By default GPUs round float32 operands to TF32 (10 bits) and TPUs to bfloat16
    (https://docs.jax.dev/en/latest/201/precision.html). That is as much as a typed letter moves
    the tokens, and partial results would no longer equal those of a full encode. Who wants speed
    asks for `dtype="bfloat16"`. On CPU nothing changes.
    """
    exact = all(operand.dtype == jnp.float32 for operand in operands)
    return lax.Precision.HIGHEST if exact else None
