"""Matrix products: operands in the compute dtype, sums in float32, weights of one layer of many.

Matrices are `[out, in]`, as PyTorch keeps them. I inputs, O outputs, R rows.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from diffvis_jax.ops.precision import precision_of

# Products of at most so many rows take the weights as their left operand on CPU. `x @ W.T` reaches
# 4 to 26 GMAC/s at 2 to 32 rows there, `(W @ x.T).T` 7 to 50, which is what the processor has
# (docs/lab).
_CPU_FEW_ROWS = 64

# XLA:CPU computes a bfloat16 product of a single row in a loop of its own, 10 to 20 times as slow
# as the product of 4 rows (docs/lab).
_CPU_BFLOAT16_ROWS = 4


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True)
class OneOf:
    """The same matrix of several equal layers, of which a traced index picks one.

    A loop over layers has one body, and this in the place of its weights. `lax.switch` picks the
    product, not the matrix: no weight is copied, as a slice of stacked weights would be.

    Attributes:
      options: the matrices, `[O, I]` each.
      index: int32 [], which of them.
    """

    options: tuple[jax.Array, ...]
    index: jax.Array

    def tree_flatten(self):
        return (self.options, self.index), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.options[0].shape

    @property
    def dtype(self) -> jnp.dtype:
        return self.options[0].dtype


Matrix: TypeAlias = jax.Array | OneOf


def pick(trees: Sequence[Any], index: jax.Array, *, stack: bool = False) -> Any:
    """The parameters of layer `index` of several equal layers.

    Args:
      trees: one tree of parameters for each layer, all of one structure.
      index: int32 [], traced.
      stack: whether to slice stacked parameters, as accelerators like it; else matrices become
        `OneOf`, and other leaves are copied by `lax.switch`.
    """
    leaves, structure = zip(*(jax.tree.flatten(tree) for tree in trees), strict=True)
    if stack:
        picked = [jnp.stack(same)[index] for same in zip(*leaves, strict=True)]
        return jax.tree.unflatten(structure[0], picked)
    big = [leaf.ndim == 2 for leaf in leaves[0]]

    def others(number: int):
        return lambda: [x for x, is_big in zip(leaves[number], big, strict=True) if not is_big]

    rest = iter(lax.switch(index, [others(number) for number in range(len(trees))]))
    picked = [
        OneOf(tuple(same), index) if is_big else next(rest)
        for same, is_big in zip(zip(*leaves, strict=True), big, strict=True)
    ]
    return jax.tree.unflatten(structure[0], picked)


def linear(x: jax.Array, weight: Matrix, bias: jax.Array | None = None) -> jax.Array:
    """`x @ weight.T + bias` with `x` cast to the weight's dtype and a float32 result.

    Args:
      x: `[..., I]`.
      weight: `[O, I]`; its dtype (float32 or bfloat16) is the compute dtype.
      bias: `[O]` or None.

    Returns:
      `[..., O]` float32.
    """
    x = x.astype(weight.dtype)
    flat = x.reshape(-1, x.shape[-1])
    if isinstance(weight, OneOf):
        products = [lambda x, w=option: _product(x, w) for option in weight.options]
        y = lax.switch(weight.index, products, flat)
    else:
        y = _product(flat, weight)
    if bias is not None:
        y = y + bias.astype(jnp.float32)[None]
    return y.reshape(*x.shape[:-1], y.shape[-1])


def _product(x: jax.Array, weight: jax.Array) -> jax.Array:
    """`[R, I]` and `[O, I]` -> float32 `[R, O]`."""
    rows = x.shape[0]
    if rows == 1 and weight.dtype == jnp.bfloat16:
        return lax.platform_dependent(x, weight, cpu=_padded, default=_rows_left)
    if 1 < rows <= _CPU_FEW_ROWS:
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
