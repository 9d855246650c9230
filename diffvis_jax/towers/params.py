"""What parameters a tower has: shape and initial values, said once.

Initialising, loading, saving and converting all read these specifications.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

Params: TypeAlias = dict[str, Any]
Specs: TypeAlias = Mapping[str, Any]  # nested as the parameters are; leaves are `Param`
Initializer: TypeAlias = Callable[[jax.Array, tuple[int, ...]], jax.Array]


def zeros(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jnp.zeros(shape, jnp.float32)


def ones(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jnp.ones(shape, jnp.float32)


def normal(scale: float) -> Initializer:
    return lambda key, shape: scale * jax.random.normal(key, shape, jnp.float32)


@dataclasses.dataclass(frozen=True)
class Param:
    """One parameter.

    Attributes:
      shape: of the array.
      init: (key, shape) -> initial values, float32 (`dtypes.py` says in which dtype they are kept).
      sets_scale: whether `init_params` scales it so that its layer's output has an RMS of 1.
    """

    shape: tuple[int, ...]
    init: Initializer = zeros
    sets_scale: bool = False


def matrix(outputs: int, inputs: int, gain: float = 1.0, **kwargs: Any) -> Param:
    """`[O, I]`, normal with the variance `gain ** 2 / I`."""
    return Param((outputs, inputs), normal(gain * inputs**-0.5), **kwargs)


def affine(outputs: int, inputs: int, gain: float = 1.0, *, bias: bool = True) -> Specs:
    """Weight `[O, I]` and bias `[O]` of a linear layer."""
    weight = {"weight": matrix(outputs, inputs, gain)}
    return {**weight, "bias": Param((outputs,))} if bias else weight


def norm(width: int) -> Specs:
    """Scale and bias of a layer norm."""
    return {"norm_scale": Param((width,), ones), "norm_bias": Param((width,))}


def flatten(specs: Specs, prefix: str = "") -> Iterator[tuple[str, Param]]:
    """Paths such as "stem/conv_0/kernel", and what stands there."""
    for name, spec in specs.items():
        if isinstance(spec, Param):
            yield prefix + name, spec
        else:
            yield from flatten(spec, f"{prefix}{name}/")


def draw(specs: Specs, key: jax.Array) -> Params:
    """Initial values, float32; each parameter's depend on its own path alone."""
    drawn: Params = {}
    for number, (name, spec) in enumerate(sorted(specs.items())):
        own = jax.random.fold_in(key, number)
        drawn[name] = spec.init(own, spec.shape) if isinstance(spec, Param) else draw(spec, own)
    return drawn


def subtree(params: Params, path: tuple[str, ...]) -> Params:
    for name in path:
        params = params[name]
    return params


def put(tree: dict[str, Any], path: tuple[str, ...], value: Mapping[str, Any]) -> None:
    """Puts a subtree there, beside what there is."""
    for name in path:
        tree = tree.setdefault(name, {})
    tree.update(value)
