"""Fewer tokens without looking at what they show: what every method must beat.

B streams, N tokens, M slots, T frames, D token width.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffvis_jax.compress.token_set import Grouping, check_budget, check_metric, group_by


def pool(grid: tuple[int, int], factor: int, *, batch: int = 1) -> Grouping:
    """Squares of `factor` x `factor` tokens become one each; those at the edges may be smaller.

    Args:
      grid: rows and columns of tokens.
    """
    check_budget("factor", factor, max(grid))
    row, column = np.indices(grid) // factor * factor
    leader = jnp.asarray((row * grid[1] + column).ravel(), jnp.int32)
    return group_by(jnp.broadcast_to(leader, (batch, leader.size)))


def keep(kept: jax.Array, metric: jax.Array) -> Grouping:
    """Some tokens stay as they are; each of the others is represented by the nearest of them.

    Args:
      kept: bool `[B, N]`, at least one in each stream.
      metric: float32 `[B, N, C]`, by which near is meant: places, or whitened tokens.
    """
    check_metric(metric, kept.shape)
    index = jnp.arange(kept.shape[1], dtype=jnp.int32)[None]
    squares = jnp.square(metric).sum(-1)
    distance = (
        squares[:, :, None] + squares[:, None] - 2 * jnp.einsum("bnc,bmc->bnm", metric, metric)
    )
    nearest = jnp.where(kept[:, None], distance, jnp.inf).argmin(-1).astype(jnp.int32)
    leader = jnp.where(kept, index, nearest)
    return group_by(leader, jnp.where(kept, 1.0, 0.0))


def keep_random(key: jax.Array, metric: jax.Array, *, count: int) -> Grouping:
    """`count` tokens by chance, see `keep`."""
    batch, number, _ = metric.shape
    check_budget("count", count, number)
    order = jax.random.uniform(key, (batch, number)).argsort(1)
    return keep(
        jnp.zeros((batch, number), bool).at[jnp.arange(batch)[:, None], order[:, :count]].set(True),
        metric,
    )


def keep_strided(metric: jax.Array, *, count: int) -> Grouping:
    """`count` tokens at equal distances in raster order, see `keep`."""
    batch, number, _ = metric.shape
    check_budget("count", count, number)
    chosen = np.zeros(number, bool)
    chosen[np.arange(count) * number // count] = True
    return keep(jnp.broadcast_to(jnp.asarray(chosen), (batch, number)), metric)


def merge_frames(tokens: jax.Array, *, threshold: float = 0.95) -> tuple[jax.Array, jax.Array]:
    """Whole frames of a clip that resemble the one before are merged into it, weighted by their
    cosine, as often proposed for videos.

    Args:
      tokens: float32 `[B, T, N, D]`.
      threshold: least mean cosine to the frame before.

    Returns:
      float32 `[B, T, N, D]`, what each frame is represented by; bool `[B, T]`, which frames began
      one.
    """

    def cosine(a: jax.Array, b: jax.Array) -> jax.Array:
        norms = jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)
        return ((a * b).sum(-1) / jnp.where(norms > 0, norms, 1)).mean(-1)

    def step(carry, frame):
        held, before, started = carry
        alike = cosine(before, frame)
        begins = ~(alike > threshold) | ~started
        share = jnp.where(begins, 0.0, alike / 2)[:, None, None]
        held = share * held + (1 - share) * frame
        return (held, frame, jnp.ones_like(started)), (held, begins)

    frames = tokens.swapaxes(0, 1)
    nothing = jnp.zeros(len(tokens), bool)
    _, (held, begins) = lax.scan(step, (frames[0], frames[0], nothing), frames)
    begins = begins.T
    # A frame is represented by what its group has become at its end.
    last = jnp.roll(begins, -1, axis=1).at[:, -1].set(True)
    steps = jnp.where(last, jnp.arange(last.shape[1])[None], last.shape[1])
    end = lax.cummin(steps, axis=1, reverse=True)
    held = jnp.take_along_axis(held.swapaxes(0, 1), end[:, :, None, None], axis=1)
    return held, begins
