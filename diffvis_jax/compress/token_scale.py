"""What makes distances between tokens mean something: mean and spread of every channel.

A few channels of a tower hold most of the energy (63 % in one of FastViTHD's), so that any two
tokens have nearly the same direction, and plain cosines and norms tell nothing.

B streams, N tokens, D token width.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.errors import ConfigError

_DEAD = 1e-6  # of the largest spread: a channel with less is left out


@flax.struct.dataclass(kw_only=True)
class TokenScale:
    """Mean and spread of the channels of a tower's tokens.

    Attributes:
      mean, std: of each channel.
      live: which channels say anything.
    """

    mean: jax.Array  # float32 [D]
    std: jax.Array  # float32 [D]
    live: jax.Array  # bool [D]


def fit_scale(tokens: Any) -> TokenScale:
    """The scale of tokens `[..., D]`, on the host; of frames as various as what will be seen.

    Raises:
      ConfigError: fewer than two tokens, numbers that are not finite, or no channel that varies.
    """
    rows = np.asarray(tokens, np.float64)
    rows = rows.reshape(-1, rows.shape[-1])
    if len(rows) < 2 or not np.isfinite(rows).all():
        raise ConfigError(f"a scale needs two or more finite tokens [..., D], got {rows.shape}")
    std = rows.std(0)
    if not std.max() > 0:
        raise ConfigError("a scale cannot be fitted: all tokens are the same")
    return TokenScale(
        mean=jnp.asarray(rows.mean(0), jnp.float32),
        std=jnp.asarray(std, jnp.float32),
        live=jnp.asarray(std >= _DEAD * std.max()),
    )


def whiten(tokens: jax.Array, scale: TokenScale) -> jax.Array:
    """Tokens `[..., D]` with mean 0 and spread 1 in every channel; channels that are dead are 0."""
    check_width(tokens, scale)
    std = jnp.where(scale.live, scale.std, 1)
    return jnp.where(scale.live, (tokens - scale.mean) / std, 0)


def squared_distance(a: jax.Array, b: jax.Array, scale: TokenScale) -> jax.Array:
    """Mean square over the live channels of the whitened difference, float32 `[...]`."""
    check_width(a, scale)
    std = jnp.where(scale.live, scale.std, 1)
    difference = jnp.where(scale.live, (a - b) / std, 0)
    return jnp.square(difference).sum(-1) / scale.live.sum()


def whitened_error(tokens: jax.Array, approximate: jax.Array, scale: TokenScale) -> jax.Array:
    """How much of what distinguishes a frame's tokens was lost: 0 = nothing, 1 = as if each were
    their mean.

    Args:
      tokens, approximate: float32 `[B, N, D]`.

    Returns:
      float32 `[B]`.
    """
    true = whiten(tokens, scale)
    lost = jnp.square(whiten(approximate, scale) - true).sum((1, 2))
    there = jnp.square(true - true.mean(1, keepdims=True)).sum((1, 2))
    return lost / jnp.where(there > 0, there, 1)  # of a blank screen nothing can be lost


def check_width(tokens: jax.Array, scale: TokenScale) -> None:
    """Raises `ConfigError` unless the scale is of tokens this wide."""
    if tokens.shape[-1] != scale.mean.shape[0]:
        raise ConfigError(
            f"the scale is of tokens {scale.mean.shape[0]} wide, got tokens {tokens.shape[-1]} wide"
        )
