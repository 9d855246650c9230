"""Pillow's bicubic resize inside a jitted function, for accelerators.

`jax.image.resize` is up to 18 grey levels away from Pillow, which resizes one axis, *rounds to
uint8*, then resizes the other. Here both passes are matrix products with the same fixed-point
weights as Pillow's (22 fractional bits), so the results are the same bytes, not just close ones.

Fixed point on matrix units: a weight is split into three signed base-256 digits. Digits and pixels
are whole numbers of at most 256, which bfloat16 holds exactly, and so are their sums in float32
below 2^24, in whatever order they are added: three bfloat16 products with float32 accumulation
give the integer sum that Pillow computes.

A CPU adds up the few pixels that count, in whole numbers of 32 bits. There prefer `dv.preprocess`,
Pillow itself, which is several times as fast.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.images.geometry import (
    HasPreprocess,
    ImageError,
    PreprocessConfig,
    frame_size,
    layout,
    preprocess_config,
    vertical_first,
)

_BITS = 22  # Pillow: Resample.c, PRECISION_BITS = 32 - 8 - 2
_WIDTH_AXIS, _HEIGHT_AXIS = -2, -3


def resize_bicubic_pil(image: jax.Array, height: int, width: int) -> jax.Array:
    """Resizes as Pillow's `Image.resize((width, height), BICUBIC)` does on 8-bit images.

    H x W is the size before. Antialiased when shrinking. Jittable; the sizes are static.

    Args:
        image: uint8 [..., H, W, 3].
        height, width: the new size, in pixels.

    Returns:
        uint8 [..., height, width, 3].

    Raises:
        ImageError: (a ValueError) the image is not uint8 [..., H, W, 3], or a size is not positive.
    """
    image = _checked(image, 3, "image")
    if height < 1 or width < 1:
        raise ImageError(f"height and width must be positive, got {height} and {width}")
    rows, columns = image.shape[-3:-1]
    for axis in _order(columns, rows, width, height):
        image = _pass(image, axis, (columns, width) if axis == _WIDTH_AXIS else (rows, height))
    return image


def preprocess_in_graph(images: jax.Array, config: HasPreprocess | PreprocessConfig) -> jax.Array:
    """`dv.preprocess` inside a jitted function, for raw captures on the accelerator.

    B images of one size H x W, to frames of H' x W' (`frame_size`). The same bytes as `preprocess`
    gives; padding and the cropped-away parts are never computed. Jittable with `config` closed
    over or static; one compilation for each H x W.

    Args:
        images: uint8 [B, H, W, 3], RGB, upright; of a capture in BGRA `[..., 2::-1]`.
        config: a model's config (any object with `.preprocess`), or a PreprocessConfig.

    Returns:
        uint8 [B, H', W', 3].

    Raises:
        ImageError: (a ValueError) images are not uint8 [B, H, W, 3], or empty.
    """
    settings = preprocess_config(config)
    images = _checked(images, 4, "images")
    if images.ndim != 4:
        raise ImageError(f"images must be uint8 [B, H, W, 3], got shape {images.shape}")
    width, height = images.shape[2], images.shape[1]
    steps, kept = layout(width, height, settings), frame_size(width, height, settings)
    passes = {
        _WIDTH_AXIS: (
            (steps.canvas_width, steps.resized_width),
            (steps.crop_left, steps.crop_left + kept[1]),
            steps.paste_left,
        ),
        _HEIGHT_AXIS: (
            (steps.canvas_height, steps.resized_height),
            (steps.crop_top, steps.crop_top + kept[0]),
            steps.paste_top,
        ),
    }
    # Lines that are padding throughout keep the pad colour in the first pass, so the second may
    # pad after it as well as before.
    for axis in _order(*steps[:2], steps.resized_width, steps.resized_height):
        sizes, keep, paste = passes[axis]
        images = _pass(images, axis, sizes, keep=keep, paste=paste, color=settings.pad_color)
    return images


def _order(width: int, height: int, new_width: int, new_height: int) -> tuple[int, int]:
    if vertical_first(width, height, new_width, new_height):
        return _HEIGHT_AXIS, _WIDTH_AXIS
    return _WIDTH_AXIS, _HEIGHT_AXIS


def _checked(image: jax.Array, min_ndim: int, name: str) -> jax.Array:
    image = jnp.asarray(image)
    if image.dtype != jnp.uint8 or image.ndim < min_ndim or image.shape[-1] != 3:
        lead = "B" if min_ndim == 4 else "..."
        raise ImageError(f"{name} must be uint8 [{lead}, H, W, 3], got {image.dtype} {image.shape}")
    if 0 in image.shape[-3:]:
        raise ImageError(f"{name} must hold at least one pixel, got shape {image.shape}")
    return image


def _pass(
    image: jax.Array,
    axis: int,
    sizes: tuple[int, int],
    keep: tuple[int, int] | None = None,
    paste: int = 0,
    color: tuple[int, int, int] = (0, 0, 0),
) -> jax.Array:
    """Resizes one axis and rounds to uint8.

    Args:
        sizes: lengths of the axis before (padding included) and after.
        keep: the slice of the output that is wanted; None for all of it.
        paste: where in the padded axis the image begins.
        color: of the padding.
    """
    before, after = sizes
    start, stop = keep or (0, after)
    length = image.shape[axis]
    if before == after:  # Pillow leaves such an axis alone, too.
        pads = [(0, 0)] * image.ndim
        pads[axis] = (paste, before - paste - length)
        if any(pads[axis]):
            channels = [
                jnp.pad(image[..., c : c + 1], pads, constant_values=np.uint8(value))
                for c, value in enumerate(color)
            ]
            image = jnp.concatenate(channels, axis=-1)
        return jax.lax.slice_in_dim(image, start, stop, axis=axis % image.ndim)

    weights = _weights(before, after, start, stop)  # int32 [out, before]
    padding = weights.sum(axis=1) - weights[:, paste : paste + length].sum(axis=1)
    weights = weights[:, paste : paste + length]
    # What the padding contributes is known beforehand, and so is the half for rounding.
    known = padding[:, None] * np.asarray(color, np.int32) + 2 ** (_BITS - 1)  # [out, 3]
    known = known.astype(np.int32)  # NumPy's sums have 64 bits
    known = known if axis == _WIDTH_AXIS else known[:, None]
    known = known.reshape((1,) * (image.ndim - known.ndim) + known.shape)
    total = jax.lax.platform_dependent(
        image,
        cpu=functools.partial(_sum_of_taps, axis=axis, weights=weights),
        default=functools.partial(_product_of_digits, axis=axis, weights=weights),
    )
    return jnp.clip((total + known) >> _BITS, 0, 255).astype(jnp.uint8)


def _product_of_digits(image: jax.Array, axis: int, weights: np.ndarray) -> jax.Array:
    """The weighted sums along an axis, int32, on matrix units."""
    pixels = image.astype(jnp.bfloat16)
    equation = "...hwc,ow->...hoc" if axis == _WIDTH_AXIS else "...hwc,oh->...owc"
    parts = (
        jnp.einsum(
            equation,
            pixels,
            jnp.asarray(digit).astype(jnp.bfloat16),
            preferred_element_type=jnp.float32,
        )
        for digit in _digits(weights)
    )
    low, middle, high = (part.astype(jnp.int32) for part in parts)
    return low + (middle << 8) + (high << 16)


def _sum_of_taps(image: jax.Array, axis: int, weights: np.ndarray) -> jax.Array:
    """The same sums, of the few pixels alone whose weights are not 0."""
    after, before = weights.shape
    used = weights != 0
    first, end = used.argmax(1), before - used[:, ::-1].argmax(1)
    taps = int(np.where(used.any(1), end - first, 1).max())
    first = np.minimum(first, before - taps).astype(np.int32)
    shape = [1] * image.ndim
    shape[axis] = after
    total = jnp.zeros((), jnp.int32)
    for at in (first + np.int32(tap) for tap in range(taps)):
        weight = weights[np.arange(after), at].reshape(shape)
        total = total + jnp.take(image, at, axis=axis).astype(jnp.int32) * weight
    return total


@functools.lru_cache(maxsize=4)
def _weights(before: int, after: int, start: int, stop: int) -> np.ndarray:
    """Pillow's weights for outputs start..stop of an axis: int32 [stop - start, before], 2^-22."""
    scale = before / after
    stretch = max(scale, 1.0)  # Shrinking widens the kernel: antialiasing.
    support = 2.0 * stretch
    center = (np.arange(start, stop) + 0.5)[:, None] * scale
    first = np.maximum((center - support + 0.5).astype(np.int64), 0)
    last = np.minimum((center + support + 0.5).astype(np.int64), before)
    position = np.arange(before)[None, :]
    # Pillow multiplies by the reciprocal; so do we, for its float rounding.
    weights = _cubic((position - center + 0.5) * (1.0 / stretch))
    weights = np.where((position >= first) & (position < last), weights, 0.0)
    weights = weights / weights.sum(axis=1, keepdims=True) * 2.0**_BITS
    # Halves away from zero.
    return np.trunc(weights + np.copysign(0.5, weights)).astype(np.int32)


def _cubic(x: np.ndarray) -> np.ndarray:
    a = -0.5  # Pillow's; OpenCV and PyTorch take -0.75
    x = np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _digits(weights: np.ndarray) -> list[np.ndarray]:
    """Splits weights into signed digits d: weights = d[0] + 256 d[1] + 65536 d[2], int8 each."""
    digits = []
    for _ in range(2):
        low = (weights + 128) % 256 - 128
        digits.append(low.astype(np.int8))
        weights = (weights - low) // 256
    digits.append(weights.astype(np.int8))  # at most 1.3 * 2^22 / 2^16 = 83
    return digits
