"""Pictures of a recording, for people: the same pixels that a model sees."""

import numpy as np
import pytest
from PIL import Image

from diffvis_jax.images.preprocess import ImageError, PreprocessConfig, preprocess
from diffvis_jax.images.recording import open_screenshot


def test_pictures_are_those_that_the_model_sees(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(path)  # 16-bit grey
    picture = open_screenshot(path)
    assert picture.mode == "RGB"
    np.testing.assert_array_equal(
        np.asarray(picture), preprocess(path, PreprocessConfig(8, "squash"))[0]
    )


def test_pictures_are_upright(tmp_path):
    path = tmp_path / "picture.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(path, exif=exif)
    assert open_screenshot(path).size == (4, 8)


def test_a_damaged_picture_is_named(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ImageError, match=r"picture\.png': damaged or truncated"):
        open_screenshot(path)
