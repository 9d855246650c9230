"""How maps are kept: bfloat16 as its bits.

XLA:CPU has no updates of slices in bfloat16. It converts the whole array to float32 and back at
every loop of updates: 16 windows of 4 x 4 into a map of 64 x 64 x 384 take 1.4 ms, and 0.01 ms if
they are 16-bit integers (docs/lab).
"""

import jax
import jax.numpy as jnp
from jax import lax

_BITS = jnp.dtype(jnp.uint16)


def kept_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype in which arrays of `dtype` are kept."""
    return _BITS if dtype == jnp.bfloat16 else jnp.dtype(dtype)


def value_dtype(kept: jax.Array) -> jnp.dtype:
    """The dtype of what is kept there."""
    return jnp.dtype(jnp.bfloat16) if kept.dtype == _BITS else kept.dtype


def keep(values: jax.Array, like: jax.Array) -> jax.Array:
    """Values, rounded and as they are kept in an array such as `like`."""
    return bits_of(values.astype(value_dtype(like)))


def bits_of(values: jax.Array) -> jax.Array:
    """Values as they are kept: bfloat16 as its bits, others as they are."""
    return lax.bitcast_convert_type(values, _BITS) if values.dtype == jnp.bfloat16 else values


def values_of(kept: jax.Array) -> jax.Array:
    """What is kept."""
    return lax.bitcast_convert_type(kept, jnp.bfloat16) if kept.dtype == _BITS else kept
