"""Frames of a stream are what `preprocess` makes of each picture, byte for byte."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import diffvis_jax as dv
from diffvis_jax.images.frame_stream import FrameStream
from diffvis_jax.images.geometry import PreprocessConfig

CONFIGS = {
    "squash": PreprocessConfig(size=56, mode="squash"),
    "crop": PreprocessConfig(size=48, mode="crop"),
    "pad": PreprocessConfig(size=64, mode="pad", pad_color=(1, 2, 3)),
}
SIZES = [(90, 160), (160, 90), (40, 40), (300, 41), (41, 300), (64, 64)]  # height, width


def edited(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Nothing, a pixel, a rectangle, a faint one, a row, a column, or everything."""
    pixels = pixels.copy()
    height, width = pixels.shape[:2]
    top, left = rng.integers(height), rng.integers(width)
    how = rng.integers(7)
    if how == 1:
        pixels[top, left] ^= 255
    elif how == 2:
        pixels[top : top + 20, left : left + 30] = rng.integers(0, 256, 3)
    elif how == 3:
        pixels[top : top + 9, left : left + 9] ^= 1  # may vanish in rounding
    elif how == 4:
        pixels[top] = 0
    elif how == 5:
        pixels[:, left] = 255
    elif how == 6:
        pixels = rng.integers(0, 256, pixels.shape, np.uint8)
    return pixels


@given(st.integers(0, 10**6), st.sampled_from(sorted(CONFIGS)), st.sampled_from(SIZES))
def test_the_bytes_are_those_of_preprocess(seed, mode, size):
    config, rng = CONFIGS[mode], np.random.default_rng(seed)
    stream, held = FrameStream(config), []
    pixels = rng.integers(0, 256, (*size, 3), np.uint8)
    for _ in range(6):
        frame = stream(pixels)
        np.testing.assert_array_equal(frame, dv.preprocess(pixels, config))
        held.append((frame, frame.copy()))
        pixels = edited(pixels, rng)
    for frame, copy in held:  # later pictures leave it alone
        np.testing.assert_array_equal(frame, copy)


def test_only_what_changed_is_resized():
    config = CONFIGS["squash"]
    stream = FrameStream(config)
    pixels = np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8)
    stream(pixels)
    assert stream.resized == (90, 56)
    stream(pixels)
    assert stream.resized == (0, 0)
    pixels = pixels.copy()
    pixels[10:13, 80:84] = 7
    stream(pixels)
    rows, columns = stream.resized
    assert rows == 3
    assert 1 <= columns <= 10
    stream(pixels[:, :150])  # another size
    assert stream.resized == (90, 56)


def test_what_is_no_picture_forgets_the_last_one():
    stream = FrameStream(CONFIGS["pad"])
    pixels = np.zeros((40, 60, 3), np.uint8)
    stream(pixels)
    with pytest.raises(dv.ImageError, match="expected a uint8 array"):
        stream(pixels.astype(np.float32))
    np.testing.assert_array_equal(stream(pixels), dv.preprocess(pixels, CONFIGS["pad"]))
    assert stream.resized[0] > 0
