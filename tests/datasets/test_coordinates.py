"""Coordinates with their frames: they go from one to another, and cannot be mixed up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffvis_jax.datasets import THOUSAND, UNIT, CoordinateError, Points, pixels, resized
from diffvis_jax.datasets.coordinates import (
    Boxes,
    Frame,
    Outline,
    bounds,
    in_pixels,
    read_box,
    read_outline,
)
from diffvis_jax.metrics import Polygon, Refusal

SCREEN = pixels(1920, 1080)


def test_one_position_in_all_frames():
    middle = Points(np.array([960.0, 540.0]), SCREEN)
    for frame, xy in (
        (UNIT, (0.5, 0.5)),
        (THOUSAND, (500, 500)),
        (resized(1092, 616), (546, 308)),
        (SCREEN, (960, 540)),
    ):
        assert middle.to(frame).xy.tolist() == pytest.approx(xy)
        assert middle.to(frame).frame == frame


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=2),
    st.lists(st.sampled_from([UNIT, THOUSAND, resized(1092, 616), SCREEN]), max_size=6),
)
def test_there_and_back(xy, way):
    start = Points(np.array(xy), UNIT)
    now = start
    for frame in way:
        now = now.to(frame)
    np.testing.assert_allclose(now.to(UNIT).xy, start.xy, atol=1e-12)


def test_pixels_of_another_image_are_refused():
    with pytest.raises(CoordinateError, match="pixels 1920 x 1080 and pixels 1280 x 720 are not"):
        Points(np.zeros(2), SCREEN).to(pixels(1280, 720))
    with pytest.raises(CoordinateError, match="cannot be 0 x 10"):
        Frame("pixels", 0, 10)


def test_box_forms():
    ltrb = read_box([10, 20, 30, 50], "xyxy", SCREEN, "here")
    ltwh = read_box([10, 20, 20, 30], "xywh", SCREEN, "here")
    np.testing.assert_array_equal(ltrb.xy, [[[10, 20], [30, 50]]])
    np.testing.assert_array_equal(ltwh.xy, ltrb.xy)
    assert in_pixels(Boxes(ltrb), 1920, 1080).tolist() == [[10, 20, 30, 50]]
    unit = Boxes(read_box([0.25, 0.5, 0.25, 0.5], "xywh", UNIT, "here"))
    assert in_pixels(unit, 200, 100).tolist() == [[50, 50, 100, 100]]


def test_outline_and_refusal():
    outline = Outline(read_outline([0, 0, 0.5, 0, 0, 0.5], UNIT, "here"))
    target = in_pixels(outline, 200, 100)
    assert isinstance(target, Polygon)
    assert np.asarray(target.vertices).tolist() == [[0, 0], [100, 0], [0, 50]]
    assert bounds(target).tolist() == [0, 0, 100, 50]
    assert in_pixels(Refusal(), 200, 100) == Refusal()


@pytest.mark.parametrize(
    ("numbers", "form", "frame", "said"),
    [
        ([10, 20, 5, 50], "xyxy", SCREEN, "inverted.*is it left, top, width, height"),
        ([10, 20, -5, 50], "xywh", SCREEN, "inverted.*is it left, top, right, bottom"),
        ([10, 20, 1915, 50], "xywh", pixels(1900, 1080), "reaches outside the image"),
        ([-30, 20, 10, 50], "xyxy", SCREEN, "reaches outside the image"),
        ([10, 20, 30, 40], "xywh", UNIT, "reaches outside the image .0-1; taken as xywh."),
        ([0.1, 0.2, 0.3, 0.4], "xyxy", SCREEN, "looks like 0-1, not pixels 1920 x 1080"),
        ([0.1, 0.2, 0.3, 0.4], "xyxy", THOUSAND, "looks like 0-1"),
        ([10, 20, 30], "xyxy", SCREEN, "4 finite numbers are needed"),
        ([10, 20, 30, float("nan")], "xyxy", SCREEN, "4 finite numbers are needed"),
        ("10,20", "xyxy", SCREEN, "4 finite numbers are needed"),
        (None, "xyxy", SCREEN, "4 finite numbers are needed"),
    ],
)
def test_bad_boxes_name_the_record(numbers, form, frame, said):
    with pytest.raises(CoordinateError, match=f"^'a.json' record 3: .*{said}"):
        read_box(numbers, form, frame, "'a.json' record 3")


@pytest.mark.parametrize("numbers", [[0, 0, 1, 1], [0, 0, 1, 1, 5], None, [0, 0, 9, 9, 9, 5000]])
def test_bad_outlines(numbers):
    with pytest.raises(CoordinateError, match=r"^here: .*polygon"):
        read_outline(numbers, SCREEN, "here")


def test_rounding_at_the_edge_is_no_fault():
    read_box([0, 0, 1920.4, 1080.2], "xyxy", SCREEN, "here")
    read_box([0, 0, 0, 0], "xyxy", UNIT, "here")
