"""Pillow's resize inside a jitted function: the same bytes as Pillow's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import strict

from diffvis_jax.images.geometry import ImageError, PreprocessConfig, vertical_first
from diffvis_jax.images.preprocess import preprocess
from diffvis_jax.images.preprocess_in_graph import (
    _product_of_digits,
    _sum_of_taps,
    _weights,
    preprocess_in_graph,
    resize_bicubic_pil,
)

CLIP_COLOR = (122, 116, 104)


def noise(*shape, seed=0, hard=False):
    image = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    # Black and white makes the filter overshoot and clip.
    return np.where(image > 127, np.uint8(255), np.uint8(0)) if hard else image


def pillow(image, height, width):
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def assert_same(found, expected):
    """Within one grey level is promised; on the platforms tried so far not one differs."""
    difference = np.abs(np.asarray(found).astype(int) - expected)
    assert difference.max(initial=0) <= 1, f"{difference.max()} grey levels apart"
    share = (difference > 0).mean()
    assert share <= 1e-3, f"{share:.2%} of the values differ"
    if jax.default_backend() == "cpu":
        assert share == 0, f"{share:.2%} of the values differ, by one grey level"


resized = jax.jit(resize_bicubic_pil, static_argnames=("height", "width"))


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((90, 160), (64, 114)),  # shrink
        ((50, 37), (224, 333)),  # enlarge
        ((40, 200), (90, 60)),  # mixed: horizontally first
        ((64, 64), (64, 31)),  # one axis only
        ((64, 64), (31, 64)),
        ((48, 48), (48, 48)),  # nothing to do
        ((3, 900), (40, 16)),  # shrunk by far
        ((1, 1), (5, 9)),
        ((200, 40), (60, 90)),  # mixed: vertically first
        ((900, 300), (200, 200)),
    ],
)
def test_same_bytes_as_pillow(before, after, hard):
    image = noise(*before, 3, hard=hard)
    found = resized(image, height=after[0], width=after[1])
    assert found.dtype == jnp.uint8
    assert found.shape == (*after, 3)
    assert_same(found, pillow(image, *after))


@pytest.mark.parametrize(("before", "after"), [(90, 64), (37, 224), (64, 31)])
@pytest.mark.parametrize("axis", [-2, -3])
def test_matrix_units_give_the_same_sums(before, after, axis):
    image = noise(*((before, 5) if axis == -3 else (5, before)), 3, hard=True)
    weights = _weights(before, after, 3, after)[:, 2:-1]
    image = np.delete(image, (0, 1, -1), axis)
    sums = [np.asarray(f(image, axis, weights)) for f in (_product_of_digits, _sum_of_taps)]
    expected = np.tensordot(weights.astype(np.int64), image.astype(np.int64), ((1,), (axis % 3,)))
    np.testing.assert_array_equal(sums[0], np.moveaxis(expected, 0, axis % 3))
    np.testing.assert_array_equal(*sums)


def test_a_screen():
    image = noise(540, 960, 3)
    found = jax.jit(functools.partial(resize_bicubic_pil, height=288, width=512))(image)
    assert_same(found, pillow(image, 288, 512))


@settings(max_examples=100, deadline=None)
@given(*[st.integers(1, 60)] * 4)
def test_the_order_of_passes_is_pillows(width, height, new_width, new_height):
    image = Image.fromarray(noise(height, width, 3, hard=True))
    bicubic = Image.Resampling.BICUBIC
    first = vertical_first(width, height, new_width, new_height)
    between = (width, new_height) if first else (new_width, height)
    ours = image.resize(between, bicubic).resize((new_width, new_height), bicubic)
    assert ours.tobytes() == image.resize((new_width, new_height), bicubic).tobytes()


def test_leading_axes():
    images = noise(2, 3, 20, 30, 3)
    found = jax.jit(functools.partial(resize_bicubic_pil, height=12, width=40))(images)
    assert found.shape == (2, 3, 12, 40, 3)
    assert_same(found[1, 2], pillow(images[1, 2], 12, 40))


@pytest.mark.parametrize("mode", ["pad", "crop", "squash"])
@pytest.mark.parametrize(
    "shape", [(54, 96), (96, 54), (30, 41), (41, 30), (64, 64), (1, 7), (100, 3)]
)
def test_in_graph_equals_host(mode, shape):
    config = PreprocessConfig(64, mode, CLIP_COLOR)
    images = noise(2, *shape, 3)
    found = jax.jit(functools.partial(preprocess_in_graph, config=config))(images)
    assert found.shape == (2, 64, 64, 3)
    assert found.dtype == jnp.uint8
    assert_same(found, preprocess(images, config).astype(int))


@pytest.mark.parametrize("mode", ["pad", "crop"])
def test_in_graph_inside_a_strict_host(mode):
    config, images = PreprocessConfig(64, mode, CLIP_COLOR), noise(2, 30, 41, 3)
    with strict():
        found = preprocess_in_graph(images, config)
    assert_same(found, preprocess(images, config).astype(int))


def test_config_may_be_static():
    step = jax.jit(preprocess_in_graph, static_argnames="config")
    config = PreprocessConfig(16, "pad")
    assert_same(step(noise(1, 9, 16, 3), config=config), preprocess(noise(1, 9, 16, 3), config))


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), "u1")]
)
def test_bad_images(bad):
    with pytest.raises(ImageError, match="must"):
        resize_bicubic_pil(jnp.asarray(bad), 8, 8)
    with pytest.raises(ImageError, match="must"):
        preprocess_in_graph(jnp.asarray(bad)[None], PreprocessConfig(8))


def test_bad_sizes():
    with pytest.raises(ImageError, match="positive"):
        resize_bicubic_pil(jnp.zeros((4, 4, 3), jnp.uint8), 0, 8)
    with pytest.raises(ImageError, match=r"\[B, H, W, 3\]"):
        preprocess_in_graph(jnp.zeros((4, 4, 3), jnp.uint8), PreprocessConfig(8))
