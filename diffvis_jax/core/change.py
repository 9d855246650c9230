"""Which patches of a frame changed. Knows pixels, no towers.

B streams, S pixels along the side of a frame, p along that of a patch, g patches along the side.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.errors import ConfigError, FrameError

Metric = Literal["max", "mean"]
METRICS: tuple[Metric, ...] = ("max", "mean")


def patch_difference(a: jax.Array, b: jax.Array, patch_size: int, metric: Metric) -> jax.Array:
    """How much every patch differs, in shares of the full scale.

    Args:
      a, b: `uint8 [B, H, W, C]`.
      patch_size: p; patches at the right and lower edge may be smaller.
      metric: "max": the strongest channel of the strongest pixel; "mean": the mean over the
        patch's own pixels and channels.

    Returns:
      float32 `[B, ceil(H / p), ceil(W / p)]` in 0..1.
    """
    levels, most = _levels(a, b, patch_size, metric)
    return levels / most


def changed_patches(
    a: jax.Array, b: jax.Array, patch_size: int, metric: Metric, threshold: float | jax.Array
) -> jax.Array:
    """Which patches differ by more than a threshold, 0-1; bool `[B, ceil(H / p), ceil(W / p)]`.

    As `patch_difference(...) > threshold`, but the same in and outside of jit: XLA makes a division
    by a constant a product with its reciprocal, which is another number for every second grey
    level. Here whole grey levels are compared with `threshold * 255`, which is whole for 3 / 255.
    """
    levels, most = _levels(a, b, patch_size, metric)
    return levels > jnp.asarray(threshold, jnp.float32) * most


def _levels(
    a: jax.Array, b: jax.Array, patch_size: int, metric: Metric
) -> tuple[jax.Array, np.ndarray]:
    """Grey levels by which every patch differs, and the most that it could; both float32 of whole
    numbers, `[B, rows, columns]` and `[1, rows, columns]`."""
    if metric not in METRICS:
        raise ConfigError(f"metric must be one of {METRICS}, got {metric!r}")
    batch, height, width, channels = a.shape
    rows, columns = -(-height // patch_size), -(-width // patch_size)
    # In uint8 throughout: as fast as memory, and exact.
    difference = jnp.maximum(a, b) - jnp.minimum(a, b)
    padding = ((0, 0), (0, rows * patch_size - height), (0, columns * patch_size - width), (0, 0))
    if any(after for _, after in padding):
        difference = jnp.pad(difference, padding)
    # Rows first: that reduction runs along whole rows of pixels, which vectorises.
    by_row = difference.reshape(batch, rows, patch_size, columns * patch_size * channels)
    if metric == "max":
        strongest = _fold_max(by_row)[:, :, 0]
        strongest = strongest.reshape(batch, rows, columns, patch_size * channels).max(-1)
        return strongest.astype(jnp.float32), np.full((1, rows, columns), 255, np.float32)
    total = by_row.sum(2, dtype=jnp.uint32).reshape(batch, rows, columns, patch_size * channels)
    values = np.outer(*(_patch_extents(side, patch_size) for side in (height, width))) * channels
    most = (255 * values[None]).astype(np.float32)
    return total.sum(-1, dtype=jnp.uint32).astype(jnp.float32), most


def _fold_max(x: jax.Array) -> jax.Array:
    """Maximum over axis 2, kept, by folding it in half: on CPU ten times as fast as a reduction."""
    while (length := x.shape[2]) > 1:
        half = length // 2
        folded = jnp.maximum(x[:, :, :half], x[:, :, half : 2 * half])
        x = jnp.concatenate([folded, x[:, :, 2 * half :]], 2) if length % 2 else folded
    return x


def _patch_extents(side: int, patch_size: int) -> np.ndarray:
    """Pixels of each patch along a side: all p, but for the last."""
    starts = np.arange(0, side, patch_size)
    return np.minimum(starts + patch_size, side) - starts


def compute_patch_diff(
    a: np.ndarray | jax.Array,
    b: np.ndarray | jax.Array,
    patch_size: int,
    threshold: float = 0.0,
    metric: Metric = "max",
) -> jax.Array:
    """Which patches of two pictures differ by more than a threshold.

    Args:
      a, b: `uint8 [H, W, C]` of one shape.
      patch_size: pixels along the side of a patch.
      threshold: 0-1, share of the full scale that must be exceeded.
      metric: "max" or "mean" (edge patches: over their own pixels).

    Returns:
      bool `[ceil(H / patch_size), ceil(W / patch_size)]`.

    Raises:
      FrameError: shapes or dtypes that do not fit.
      ConfigError: a patch size, threshold or metric that makes no sense.
    """
    for name, picture in (("a", a), ("b", b)):
        if not isinstance(picture, np.ndarray | jax.Array):
            raise FrameError(f"{name} must be an array [H, W, C], got {type(picture).__name__}")
        if picture.dtype != np.uint8 or picture.ndim != 3 or 0 in picture.shape:
            raise FrameError(
                f"{name} must be uint8 [H, W, C], got {picture.dtype} {list(picture.shape)}"
            )
    if a.shape != b.shape:
        raise FrameError(f"a and b must be of one shape, got {a.shape} and {b.shape}")
    if patch_size < 1:
        raise ConfigError(f"patch_size must be at least 1 pixel, got {patch_size}")
    if not (math.isfinite(threshold) and 0 <= threshold <= 1):
        raise ConfigError(f"threshold must lie in 0-1, got {threshold}")
    a, b = jnp.asarray(a)[None], jnp.asarray(b)[None]
    return changed_patches(a, b, patch_size, metric, threshold)[0]


def distance_to(mask: jax.Array) -> jax.Array:
    """Chebyshev distance of every patch to the nearest marked one.

    Args:
      mask: bool `[B, rows, columns]`.

    Returns:
      int32 `[B, rows, columns]`; where nothing is marked, larger than any distance.
    """
    rows, columns = mask.shape[1:]
    far = 2 * max(rows, columns) + 1
    row_offset, column_offset = (
        jnp.abs(at[:, None] - at[None])
        for at in (jnp.arange(n, dtype=jnp.int32) for n in (rows, columns))
    )
    # max(|rows|, |columns|) <= d  <=>  some marked patch lies in the square of radius d: the
    # distance is the smallest of max(row part, column part), found one marked row at a time.
    # in_row: to the nearest one in the same row.
    in_row = jnp.where(mask[:, :, None, :], column_offset[None, None], far).min(-1)
    return jnp.maximum(in_row[:, None], row_offset[None, :, :, None]).min(2)


def shifted(mask: jax.Array) -> jax.Array:
    """Marks also the neighbours to the right, below and on the diagonal between, of the marked
    patches; bool `[B, rows, columns]` in and out."""
    right = mask | jnp.pad(mask, ((0, 0), (0, 0), (1, 0)))[:, :, :-1]
    return right | jnp.pad(right, ((0, 0), (1, 0), (0, 0)))[:, :-1]
