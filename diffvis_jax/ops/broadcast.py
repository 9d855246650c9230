"""Axes that are added by hand: a host may forbid JAX to (`jax_numpy_rank_promotion="raise"`)."""

from typing import TypeVar

import jax
import numpy as np

Array = TypeVar("Array", jax.Array, np.ndarray)


def per_channel(values: Array, like: jax.Array) -> Array:
    """`[C]` as it meets `[..., C]`: with as many axes."""
    return values.reshape((1,) * (like.ndim - 1) + values.shape)
