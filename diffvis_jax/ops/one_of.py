"""The weights of one layer of many, picked by a traced index without copying them."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


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


def switched(function: Callable[..., Any], matrix: jax.Array | OneOf, *operands: Any) -> Any:
    """`function(matrix, *operands)`, of the matrix that is meant."""
    if not isinstance(matrix, OneOf):
        return function(matrix, *operands)
    branches = [functools.partial(function, option) for option in matrix.options]
    return lax.switch(matrix.index, branches, *operands)
