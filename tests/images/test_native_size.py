"""Frames in nearly the size of the image, as Qwen2-VL's processor makes them (mode "native")."""

import jax
import numpy as np
import pytest
from checkpoint_files import DATA
from PIL import Image

import diffvis_jax as dv

NATIVE = dv.PreprocessConfig(0, "native")


@pytest.fixture(scope="module")
def golden():
    return np.load(DATA / "qwen2_5_vl_tiny.npz")


def test_sizes_equal_the_processors(golden):
    for height, width, least, most, *expected in golden["smart_resize"].tolist():
        config = dv.PreprocessConfig(0, "native", min_pixels=least, max_pixels=most)
        assert list(dv.frame_size(width, height, config)) == expected, (height, width)


@pytest.mark.parametrize("picture", ["a", "b"])
def test_pixels_equal_the_processors(golden, picture):
    image, expected = golden[f"{picture}_image"], golden[f"{picture}_resized"][None]
    np.testing.assert_array_equal(dv.preprocess(image, NATIVE), expected)
    in_graph = jax.jit(lambda x: dv.preprocess_in_graph(x, NATIVE))(image[None])
    np.testing.assert_array_equal(in_graph, expected)


def test_square_modes_have_one_size():
    assert dv.frame_size(1920, 1080, dv.PreprocessConfig(336)) == (336, 336)


def test_points_map_with_a_scale_for_each_axis():
    # 1920 x 1080 becomes 1932 x 1092: both sides to the nearest multiple of 28.
    where = dv.placement(1920, 1080, NATIVE)
    assert (where.frame_width, where.frame_height) == (1932, 1092)
    np.testing.assert_allclose(where.box_to_model((0, 0, 1920, 1080)), (0, 0, 1932, 1092))
    x, y = where.to_model(960, 100)
    np.testing.assert_allclose((x, y), (960.5 * 1932 / 1920 - 0.5, 100.5 * 1092 / 1080 - 0.5))
    np.testing.assert_allclose(where.to_original(x, y), (960, 100))
    inside = where.contains([1931, 1932, 0], [1091, 0, 1092])
    assert inside.tolist() == [True, False, False]


def test_images_of_one_call_become_frames_of_one_size():
    small, large = (Image.new("RGB", size) for size in ((100, 60), (200, 60)))
    assert dv.preprocess([small, small], NATIVE).shape == (2, 56, 112, 3)
    with pytest.raises(dv.ImageError, match=r"images\[1\]: becomes a frame of 196 x 56 pixels"):
        dv.preprocess([small, large], NATIVE)


def test_too_elongated():
    with pytest.raises(dv.ImageError, match=r"image: 2010 x 10 pixels .* at most 200 times"):
        dv.preprocess(np.zeros((10, 2010, 3), np.uint8), NATIVE)
    assert dv.preprocess(np.zeros((10, 2000, 3), np.uint8), NATIVE).shape[0] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"multiple": 0}, "multiple must be a positive whole number"),
        ({"min_pixels": 1.5}, "min_pixels must be a positive whole number"),
        ({"max_pixels": 783}, "max_pixels 783 must be at least"),
        ({"min_pixels": 4000, "max_pixels": 3999}, "max_pixels 3999 must be at least"),
        ({"size": -1}, "size must be a positive whole number"),
    ],
)
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises(dv.ConfigError, match=message):
        dv.PreprocessConfig(**{"size": 0, "mode": "native", **changes})
