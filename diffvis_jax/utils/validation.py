"""Numbers that a policy holds: concrete ones are checked, traced ones pass."""

import math
from collections.abc import Mapping, Sequence, Set
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from diffvis_jax.errors import ConfigError

T = TypeVar("T")


def checked(name: str, value: Any, dtype: type, high: float = math.inf) -> Any:
    """The number, as `dtype` if it is one of Python's or NumPy's.

    JAX's arrays stay as they are, and may have an axis to map over. Tracers pass, and so does what
    JAX puts in a leaf's place.

    Args:
      name: of the field, for the error.
      value: what was given.
      dtype: float32; int32 for whole numbers; bool for true or false.
      high: the largest; the smallest is 0.

    Raises:
      ConfigError: no such number; names the field.
    """
    values = concrete(value)
    logical = dtype is np.bool_
    kind = {np.int32: "a whole number", np.bool_: "true or false"}.get(dtype, "a number")
    limits = "" if logical else f" in 0-{high:g}" if math.isfinite(high) else ", at least 0"
    wrong = ConfigError(f"{name} must be {kind}{limits}, got {value!r}")
    if values is None:
        if value is None or isinstance(value, str | Sequence | Mapping | Set):
            raise wrong
        return value
    if (values.dtype == bool) != logical:
        raise wrong
    if not logical:
        if not jnp.issubdtype(values.dtype, jnp.number):
            raise wrong
        if not ((values >= 0) & (values <= high)).all():
            raise wrong
        if dtype is np.int32 and (values != np.floor(values)).any():
            raise wrong
    return value if isinstance(value, jax.Array) else np.asarray(values, dtype)[()]


def unchecked(cls: type[T], values: Mapping[str, Any]) -> T:
    """An object of a frozen dataclass with whatever stands in its fields: JAX rebuilds pytrees with
    all sorts of leaves, and looking at an array's values waits for its device."""
    made = object.__new__(cls)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


def concrete(value: Any) -> np.ndarray | None:
    """The values of numbers and arrays; None of tracers, placeholders, and arrays elsewhere."""
    if isinstance(value, jax.Array):
        there = not isinstance(value, Tracer) and value.is_fully_addressable
        return np.asarray(value) if there else None
    return np.asarray(value) if isinstance(value, int | float | np.ndarray | np.generic) else None
