"""Candidate places to click, found in a map of attention."""

import numpy as np
import pytest

from diffvis_jax.agent.click_regions import click_regions
from diffvis_jax.errors import ConfigError, FrameError
from diffvis_jax.images.geometry import PreprocessConfig, placement

# 1920 x 1080 in 1024: rows 224 to 800 of the square; patches of 64 px are 120 px of the screen.
HD = placement(1920, 1080, PreprocessConfig(size=1024))
SQUARE = placement(160, 160, PreprocessConfig(size=160))  # patches of 10 px are what they are


def heat(*hot: tuple[int, int, float]) -> np.ndarray:
    found = np.zeros((16, 16))
    for row, column, value in hot:
        found[row, column] = value
    return found


def regions_of(heat, place, **options):
    return click_regions(heat, place, **{"patch_size": place.frame_width // 16, **options})


def test_one_hot_patch_is_one_box_in_pixels_of_the_screenshot():
    (region,) = regions_of(heat((8, 4, 2.0)), HD)
    # Columns 4 * 64 to 5 * 64 of 1024; rows 8 * 64 - 224 = 288 to 352 of 576.
    assert region.box == (480.0, 540.0, 600.0, 660.0)
    assert region.point.pixel == (540, 600)
    assert (region.peak, region.share) == (1.0, 1.0)
    assert region.area == 120 * 120


def test_patches_at_the_edge_are_clipped_and_those_in_the_padding_do_not_count():
    # Row 3 is half padding; row 0 lies in it and is the hottest of all.
    (region,) = regions_of(heat((0, 0, 99.0), (3, 15, 2.0)), HD)
    assert region.box == (1800.0, 0.0, 1920.0, 60.0)
    assert region.share == 1.0
    assert regions_of(heat((0, 0, 99.0)), HD) == []


def test_without_a_threshold_the_whole_screen_is_one_region_and_no_padding():
    (region,) = regions_of(heat((0, 0, 99.0), (3, 15, 2.0)), HD, threshold=0.0)
    assert region.box == (0.0, 0.0, 1920.0, 1080.0)
    assert region.share == 1.0


def test_patches_that_touch_are_one_region():
    hot = [(2, 2, 4.0), (3, 3, 3.0), (3, 4, 3.0), (10, 10, 2.0)]
    first, second = regions_of(heat(*hot), SQUARE)
    assert first.box == (20.0, 20.0, 50.0, 40.0)
    assert second.box == (100.0, 100.0, 110.0, 110.0)
    assert first.share == pytest.approx(10 / 12)


def test_the_point_is_near_the_hottest_patch_not_in_the_middle_of_the_box():
    ring = [(row, column, 3.0) for row in range(2, 9) for column in (2, 8)]
    ring += [(row, column, 3.0) for row in (2, 8) for column in range(3, 8)]
    (region,) = regions_of(heat(*ring, (5, 2, 6.0)), SQUARE, threshold=0.3)
    assert region.box == (20.0, 20.0, 90.0, 90.0)
    # Three patches of the left side, alike above and below.
    assert region.point.pixel == (25, 55) or region.point.pixel == (24, 54)
    assert (region.point.x, region.point.y) == (24.5, 54.5)


def test_heat_on_one_side_draws_the_point_there():
    (region,) = regions_of(heat((5, 5, 4.0), (5, 6, 2.0)), SQUARE, threshold=0.3)
    assert region.point.x == pytest.approx((55 * 1.0 + 65 * 0.5) / 1.5 - 0.5)
    assert region.point.y == 54.5


def test_boxes_that_overlap_much_are_merged():
    # Two L-shapes around each other: apart as patches, but their boxes are nearly the same.
    outer = [(2, column, 2.0) for column in range(2, 9)] + [(row, 2, 2.0) for row in range(3, 9)]
    inner = [(8, column, 1.8) for column in range(4, 9)] + [(row, 8, 1.8) for row in range(4, 8)]
    both = heat(*outer, *inner)
    (merged,) = regions_of(both, SQUARE, threshold=0.5)
    assert merged.box == (20.0, 20.0, 90.0, 90.0)
    assert merged.share == pytest.approx(1.0)
    assert len(regions_of(both, SQUARE, threshold=0.5, merge=1.0)) == 2


def test_the_threshold_is_relative_to_the_hottest_patch():
    hot = heat((2, 2, 10.0), (5, 5, 6.0), (8, 8, 2.0))
    for threshold, found in ((0.1, 3), (0.5, 2), (0.9, 1)):
        assert len(regions_of(hot, SQUARE, threshold=threshold)) == found


def test_without_one_it_adapts_within_bounds():
    # One patch in 256: mean and deviation are small, the lower bound of 0.3 counts.
    assert len(regions_of(heat((2, 2, 10.0), (5, 5, 3.1), (8, 8, 2.9)), SQUARE)) == 2
    # Nearly all is hot: the upper bound of 0.8 counts.
    warm = np.full((16, 16), 7.9)
    warm[0, :4] = 0.0
    warm[8, 8] = 10.0
    (region,) = regions_of(warm, SQUARE)
    assert region.box == (80.0, 80.0, 90.0, 90.0)


def test_the_order_of_the_candidates():
    hot = heat((2, 2, 10.0), *((8, column, 4.0) for column in range(5)), (12, 12, 7.0))
    options = {"threshold": 0.35}
    by_peak = regions_of(hot, SQUARE, order="peak", **options)
    assert [region.peak for region in by_peak] == pytest.approx([1.0, 0.7, 0.4])
    by_share = regions_of(hot, SQUARE, order="share", **options)
    assert [region.peak for region in by_share] == pytest.approx([0.4, 1.0, 0.7])
    by_area = regions_of(hot, SQUARE, order="area", **options)
    assert by_area[0].area == 500
    assert regions_of(hot, SQUARE, order="peak", limit=1, **options) == by_peak[:1]


def test_equal_heat_says_nothing():
    assert regions_of(np.ones((16, 16)), HD) == []
    assert regions_of(np.zeros((16, 16)), HD) == []


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"threshold": 2.0}, ConfigError, "threshold must lie in 0-1"),
        ({"merge": -0.1}, ConfigError, "merge must lie in 0-1"),
        ({"order": "luck"}, ConfigError, "order must be one of peak, share, area"),
        ({"limit": 0}, ConfigError, "limit must be at least 1"),
        ({"heat": np.ones(4)}, FrameError, r"heat must be \[gh, gw\]"),
        ({"heat": -np.ones((4, 4))}, FrameError, "nowhere negative"),
        ({"heat": np.full((4, 4), np.nan)}, FrameError, "nowhere negative"),
        ({"heat": np.full((4, 4), np.inf)}, FrameError, "must be finite"),
    ],
)
def test_bad_input_is_named(options, error, said):
    with pytest.raises(error, match=said):
        regions_of(options.pop("heat", np.eye(4)), HD, **options)


def test_the_last_patches_may_end_before_the_edge_or_reach_beyond_it():
    hot = np.eye(4)[::-1] * np.array([4.0, 0, 0, 0])[:, None]  # the upper right one
    for size, patch, right in ((36, 8, 32), (250, 64, 250)):
        place = placement(size, size, PreprocessConfig(size=size))
        (region,) = click_regions(hot, place, patch_size=patch)
        assert region.box == (3 * patch, 0, right, patch)
    with pytest.raises(TypeError, match="patch_size"):
        click_regions(hot, place)
