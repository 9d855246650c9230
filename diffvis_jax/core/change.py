"""Which patches of a frame changed. Knows pixels, no towers.

B streams, S pixels along the side of a frame, p along that of a patch, g patches along the side.
"""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.errors import ConfigError, FrameError

Metric = Literal["max", "mean", "p99"]
METRICS: tuple[Metric, ...] = ("max", "mean", "p99")


def patch_difference(a: jax.Array, b: jax.Array, patch_size: int, metric: Metric) -> jax.Array:
    """How much every patch differs, in shares of the full scale.

    Args:
      a, b: `uint8 [B, H, W, C]`.
      patch_size: p; patches at the right and lower edge may be smaller.
      metric: "max": the strongest channel of the strongest pixel; "mean": the mean over the
        patch's own pixels and channels; "p99": the smallest difference that 99 % of them do not
        exceed.

    Returns:
      float32 `[B, ceil(H / p), ceil(W / p)]` in 0..1.
    """
    if metric == "p99":
        return _p99(a, b, patch_size).astype(jnp.float32) / 255
    levels, most = _levels(a, b, patch_size, metric)
    return levels / most


def changed_patches(
    a: jax.Array, b: jax.Array, patch_size: int, metric: Metric, threshold: float | jax.Array
) -> jax.Array:
    """Which patches differ by more than a threshold, 0-1, one number or `[B]`; bool
    `[B, ceil(H / p), ceil(W / p)]`.

    As `patch_difference(...) > threshold`, but the same in and outside of jit: XLA makes a division
    by a constant a product with its reciprocal, which is another number for every second grey
    level. Here whole grey levels are compared with `threshold * 255`, which is whole for 3 / 255.
    """
    threshold = jnp.asarray(threshold, jnp.float32)
    if threshold.ndim:
        threshold = threshold[:, None, None]
    if metric == "p99":
        # Whole levels exceed a threshold where they exceed the level below it.
        level = jnp.floor(threshold * 255).astype(jnp.uint8)
        above, most = _above(a, b, patch_size, level[..., None] if level.ndim else level)
        return above > most
    levels, most = _levels(a, b, patch_size, metric)
    return levels > threshold * most


def _levels(
    a: jax.Array, b: jax.Array, patch_size: int, metric: Metric
) -> tuple[jax.Array, np.ndarray]:
    """Grey levels by which every patch differs, and the most that it could; both float32 of whole
    numbers, `[B, rows, columns]` and `[1, rows, columns]`."""
    if metric not in METRICS:
        raise ConfigError(f"metric must be one of {METRICS}, got {metric!r}")
    by_row, columns = _by_row(a, b, patch_size)
    batch, rows = by_row.shape[:2]
    if metric == "max":
        strongest = _fold(by_row, jnp.maximum)[:, :, 0]
        strongest = strongest.reshape(batch, rows, columns, -1).max(-1)
        return strongest.astype(jnp.float32), np.full((1, rows, columns), 255, np.float32)
    small = jnp.uint16 if patch_size < 256 else jnp.uint32  # as fast as they are narrow
    total = _fold(by_row.astype(small), jnp.add)[:, :, 0].reshape(batch, rows, columns, -1)
    most = (255 * _values(a, patch_size)).astype(np.float32)
    return total.sum(-1, dtype=jnp.uint32).astype(jnp.float32), most


def _by_row(a: jax.Array, b: jax.Array, patch_size: int) -> tuple[jax.Array, int]:
    """Differences of all pixels and channels, uint8 `[B, rows, p, columns * p * C]`, zero beyond
    the frame; and the number of columns."""
    batch, height, width, channels = a.shape
    rows, columns = -(-height // patch_size), -(-width // patch_size)
    # In uint8 throughout: as fast as memory, and exact.
    difference = jnp.maximum(a, b) - jnp.minimum(a, b)
    padding = ((0, 0), (0, rows * patch_size - height), (0, columns * patch_size - width), (0, 0))
    if any(after for _, after in padding):
        difference = jnp.pad(difference, padding)
    # Rows first: that reduction runs along whole rows of pixels, which vectorises.
    return difference.reshape(batch, rows, patch_size, columns * patch_size * channels), columns


def _above(
    a: jax.Array, b: jax.Array, patch_size: int, level: jax.Array
) -> tuple[jax.Array, np.ndarray]:
    """How many values of every patch differ by more than a level, int32 `[B, rows, columns]`, and
    how many may where the 99 % quantile does not, int32 `[1, rows, columns]`.

    Args:
      level: uint8, of a shape that broadcasts to `[B, rows, p, columns * p * C]`.
    """
    by_row, columns = _by_row(a, b, patch_size)
    # At most p of them: counted in bytes it is as fast as a maximum.
    dtype = jnp.uint8 if patch_size < 256 else jnp.int32
    above = _fold((by_row > level).astype(dtype), jnp.add)[:, :, 0]
    above = above.reshape(*by_row.shape[:2], columns, -1).sum(-1, dtype=jnp.int32)
    return above, (_values(a, patch_size) // 100).astype(np.int32)


def _p99(a: jax.Array, b: jax.Array, patch_size: int) -> jax.Array:
    """The 99 % quantile of every patch, uint8 `[B, rows, columns]`, found bit by bit."""
    rows, columns = (-(-side // patch_size) for side in a.shape[1:3])
    found = jnp.zeros((a.shape[0], rows, columns), jnp.uint8)
    for bit in (128, 64, 32, 16, 8, 4, 2, 1):
        level = jnp.repeat(found + np.uint8(bit - 1), patch_size * a.shape[3], 2)[:, :, None]
        above, most = _above(a, b, patch_size, level)
        found = jnp.where(above > most, found + np.uint8(bit), found)
    return found


def _values(a: jax.Array, patch_size: int) -> np.ndarray:
    """How many values each patch has of its own, int64 `[1, rows, columns]`."""
    height, width, channels = a.shape[1:]
    extents = (_patch_extents(side, patch_size) for side in (height, width))
    return (np.outer(*extents) * channels)[None]


def _fold(x: jax.Array, combine: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
    """Combines axis 2, kept, by folding it in half: on CPU ten times as fast as a reduction."""
    while (length := x.shape[2]) > 1:
        half = length // 2
        folded = combine(x[:, :, :half], x[:, :, half : 2 * half])
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
      metric: "max", "mean" or "p99" (edge patches: over their own pixels).

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
