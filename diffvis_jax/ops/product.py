"""Products of rows and a float matrix, as each platform does them fast.

I inputs, O outputs, R rows.
"""

import jax
import jax.numpy as jnp
from jax import lax

from diffvis_jax.ops.precision import precision_of

# Products of at most so many rows take the weights as their left operand on CPU. `x @ W.T` reaches
# 4 to 26 GMAC/s at 2 to 32 rows there, `(W @ x.T).T` 7 to 50, which is what the processor has
# (docs/lab).
CPU_FEW_ROWS = 64

# XLA:CPU computes a bfloat16 product of a single row in a loop of its own, 10 to 20 times as slow
# as the product of 4 rows (docs/lab).
_CPU_BFLOAT16_ROWS = 4


def product(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Rows `[R, I]` and weights `[O, I]` of one dtype -> float32 `[R, O]`."""
    rows = x.shape[0]
    if rows == 1 and weight.dtype == jnp.bfloat16:
        return lax.platform_dependent(x, weight, cpu=_padded, default=_rows_left)
    if 1 < rows <= CPU_FEW_ROWS:
        return lax.platform_dependent(x, weight, cpu=_weights_left, default=_rows_left)
    return _rows_left(x, weight)


def _contract(a: jax.Array, b: jax.Array) -> jax.Array:
    """Over the last axes of two matrices."""
    return lax.dot_general(
        a, b, (((1,), (1,)), ((), ())), precision_of(a, b), preferred_element_type=jnp.float32
    )


def _rows_left(x: jax.Array, weight: jax.Array) -> jax.Array:
    return _contract(x, weight)


def _weights_left(x: jax.Array, weight: jax.Array) -> jax.Array:
    # The barrier keeps XLA from folding the transposition into the product it came from.
    return lax.optimization_barrier(_contract(weight, x)).T


def _padded(x: jax.Array, weight: jax.Array) -> jax.Array:
    return _weights_left(jnp.pad(x, ((0, _CPU_BFLOAT16_ROWS - 1), (0, 0))), weight)[:1]
