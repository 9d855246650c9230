"""Pictures of requests: what is known is not done again, and nobody learns of another's."""

import numpy as np
import pytest
from serving import data_url, png
from tiny import FASTVITHD
from vlm_files import changed, screen

import diffvis_jax as dv
from diffvis_jax.serve import images
from diffvis_jax.serve.images import ImageLimits, PictureReader


@pytest.fixture
def reader():
    return PictureReader(FASTVITHD, ImageLimits())


def test_frames_are_those_of_preprocess(reader):
    for pixels in (screen(), changed(screen()), screen(1), screen()):
        found = reader.read(data_url(png(pixels)), "here")
        np.testing.assert_array_equal(found.frame, dv.preprocess(pixels, FASTVITHD))
        with pytest.raises(ValueError, match="read-only"):
            found.frame[:] = 0


def test_known_bytes_are_not_decoded_and_known_pixels_not_resized(reader, monkeypatch):
    pixels = screen()
    first = reader.read(data_url(png(pixels)), "here")
    assert first.source == "resized"
    other_bytes = png(pixels, compress_level=0)
    assert other_bytes != png(pixels)
    assert reader.read(data_url(other_bytes), "here").source == "same"
    decode = images.upright_rgb
    monkeypatch.setattr(images, "upright_rgb", None)
    again = reader.read(data_url(png(pixels)), "here")
    assert (again.source, again.digest) == ("known", first.digest)
    assert again.frame is first.frame
    with pytest.raises(TypeError):
        reader.read(data_url(png(pixels)), "here", tenant="other")
    monkeypatch.setattr(images, "upright_rgb", decode)
    theirs = reader.read(data_url(png(pixels)), "here", tenant="other")
    assert (theirs.source, theirs.digest) == ("resized", first.digest)


def test_what_is_kept_is_bounded():
    one = dv.preprocess(screen(), FASTVITHD).nbytes
    reader = PictureReader(FASTVITHD, ImageLimits(), kept_mb=2.5 * one / 1e6)
    urls = [data_url(png(screen(seed))) for seed in range(3)]
    for url in urls:
        reader.read(url, "here")
    assert [reader.read(url, "here").source for url in urls[1:]] == ["known", "known"]
    assert reader.read(urls[0], "here").source != "known"
    nothing = PictureReader(FASTVITHD, ImageLimits(), kept_mb=0.001)
    assert [nothing.read(urls[0], "here").source for _ in range(2)] == ["resized", "same"]
