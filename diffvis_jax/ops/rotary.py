"""Rotary position embeddings (arXiv 2104.09864): channels turned in pairs by a position's angle."""

import jax
import jax.numpy as jnp


def rotate(x: jax.Array, cosine: jax.Array, sine: jax.Array) -> jax.Array:
    """Channel i of the first half of a head turns with channel i of the second.

    Args:
      x: `[..., d]`.
      cosine, sine: of the angles, `[..., d / 2]`, as many axes as `x`.

    Returns:
      as `x`.
    """
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate(
        [first * cosine - second * sine, second * cosine + first * sine], axis=-1
    )
