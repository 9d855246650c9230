"""Attention over patches, drawn onto screenshots."""

import io

import numpy as np
import pytest
from PIL import Image

from diffvis_jax.agent.actions import Point
from diffvis_jax.agent.attention_map import attention_map, draw_heatmap, relative_heat, seen_patches
from diffvis_jax.agent.click_regions import ClickRegion
from diffvis_jax.errors import ConfigError, FrameError
from diffvis_jax.images.geometry import PreprocessConfig, placement
from diffvis_jax.report.patches import patch_boxes

GREY = np.full((90, 160, 3), 128, np.uint8)
WIDE = placement(160, 90, PreprocessConfig(size=64))  # 14 rows of padding above and below
CROPPED = placement(160, 90, PreprocessConfig(size=64, mode="crop"))


def heat_at(row: int, column: int, grid: int = 4) -> np.ndarray:
    heat = np.zeros((grid, grid))
    heat[row, column] = 5.0
    return heat


def changed(picture) -> np.ndarray:
    """Which pixels differ from the grey picture: bool [H, W]."""
    return (np.asarray(picture) != GREY).any(-1)


# ---- maps ---------------------------------------------------------------------------------------


def test_layers_are_chosen_and_averaged():
    attention = np.arange(3 * 2 * 4, dtype=np.float32).reshape(3, 2, 4)
    by_layer = attention.mean(1).reshape(3, 2, 2)
    np.testing.assert_allclose(attention_map(attention, (2, 2)), by_layer[2])
    np.testing.assert_allclose(attention_map(attention, (2, 2), layer=0), by_layer[0])
    np.testing.assert_allclose(attention_map(attention, (2, 2), layer=-2), by_layer[1])
    both = attention_map(attention, (2, 2), layer=1, average=2)
    np.testing.assert_allclose(both, by_layer[:2].mean(0))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layer": 3}, "layer 3 does not exist: there are 3"),
        ({"layer": -4}, "layer -4 does not exist"),
        ({"average": 0}, "not 0 to average"),
        ({"layer": 0, "average": 2}, "there are 1 layers up to layer 0, not 2"),
    ],
)
def test_layers_that_do_not_exist(options, said):
    with pytest.raises(ConfigError, match=said):
        attention_map(np.ones((3, 2, 4)), (2, 2), **options)


def test_attention_of_another_grid():
    with pytest.raises(FrameError, match=r"must be \[layers, heads, 9\], got \[3, 2, 4\]"):
        attention_map(np.ones((3, 2, 4)), (3, 3))


def drawn_on(image, heat, **options):
    return draw_heatmap(image, heat, **{"patch_size": 16, **options})


def test_heat_is_relative_to_what_shows_the_screen():
    seen = np.array([[True, True], [True, False]])
    heat = np.array([[2.0, 4.0], [3.0, 99.0]])  # the last lies in the padding
    np.testing.assert_allclose(relative_heat(heat, seen), [[0, 1], [0.5, 0]])
    np.testing.assert_array_equal(relative_heat(np.ones((2, 2)), seen), np.zeros((2, 2)))
    np.testing.assert_array_equal(relative_heat(heat, np.zeros((2, 2), bool)), np.zeros((2, 2)))
    with pytest.raises(FrameError, match="finite"):
        relative_heat(np.full((2, 2), np.nan), seen)


def test_patches_in_the_padding_are_not_seen():
    boxes = patch_boxes((160, 90), (8, 8), WIDE, 8)
    expected = np.zeros((8, 8), bool)
    expected[1:7] = True  # rows 14 to 50 of 64
    np.testing.assert_array_equal(seen_patches(boxes), expected)


# ---- pictures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["smooth", "tile"])
def test_heat_lies_where_the_patch_shows_the_screen(mode):
    drawn = drawn_on(GREY, heat_at(1, 2), placement=WIDE, mode=mode, alpha=1.0)
    assert drawn.size == (160, 90)
    rows, columns = np.nonzero(changed(drawn))
    # Patch (1, 2) of 16 px covers input rows 16-32, columns 32-48: 2.5 px of the screen each.
    reach = 0 if mode == "tile" else 40
    assert columns.min() >= 80 - reach
    assert columns.max() < 120 + reach
    assert rows.max() < 45 + reach
    hottest = np.asarray(drawn, int)[25, 100]  # the middle of the patch
    np.testing.assert_allclose(hottest, [190, 0, 45], atol=15)


def test_a_tile_is_the_patch_and_nothing_else():
    marked = changed(drawn_on(GREY, heat_at(1, 2), placement=WIDE, mode="tile"))
    expected = np.zeros((90, 160), bool)
    left, top, right, bottom = patch_boxes((160, 90), (4, 4), WIDE, 16)[1, 2]
    expected[top:bottom, left:right] = True
    np.testing.assert_array_equal(marked, expected)


def test_smooth_heat_falls_off_evenly():
    drawn = np.asarray(drawn_on(GREY, heat_at(1, 1), placement=WIDE, alpha=1.0), int)
    away = np.abs(drawn - GREY).sum(-1)[25]  # along a row through the middle of the patch
    assert away.argmax() in (59, 60)
    assert (np.diff(away[60:100]) <= 0).all()
    assert (np.diff(away[20:59]) >= 0).all()


def test_parts_of_the_screen_that_the_model_does_not_see_stay_as_they_are():
    drawn = drawn_on(GREY, np.arange(16.0).reshape(4, 4), placement=CROPPED, alpha=1.0)
    marked = changed(drawn)
    assert not marked[:, :34].any()  # the crop keeps columns 35 to 125
    assert not marked[:, 126:].any()
    assert marked[60:, 40:120].all()


def test_alpha_is_the_strength_where_it_is_hottest():
    heat = heat_at(1, 1)
    strong, weak = (
        np.asarray(drawn_on(GREY, heat, placement=WIDE, mode="tile", alpha=alpha), int)
        for alpha in (1.0, 0.5)
    )
    np.testing.assert_allclose(weak, (GREY.astype(int) + strong) / 2, atol=1)
    np.testing.assert_array_equal(drawn_on(GREY, heat, placement=WIDE, alpha=0.0), GREY)


def test_a_frame_may_be_drawn_on_without_a_placement():
    frame = np.full((64, 64, 3), 128, np.uint8)
    marked = (np.asarray(drawn_on(frame, heat_at(3, 0), mode="tile")) != frame).any(-1)
    rows, columns = np.nonzero(marked)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (48, 63, 0, 15)


def test_regions_are_framed():
    region = ClickRegion((20.0, 10.0, 60.0, 40.0), Point(40.0, 25.0), 1.0, 0.5)
    drawn = drawn_on(Image.fromarray(GREY), np.ones((4, 4)), placement=WIDE, regions=[region])
    marked = changed(drawn)
    assert marked[10, 20:60].all()
    assert marked[10:40, 20].all()
    assert marked[25, 40]  # the cross
    assert not marked[:9].any()
    assert not marked[42:].any()


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"mode": "blurred"}, ConfigError, "mode must be one of smooth, tile"),
        ({"alpha": 1.5}, ConfigError, "alpha must lie in 0-1"),
        ({"alpha": float("nan")}, ConfigError, "alpha must lie in 0-1"),
        ({"patch_size": 0}, ConfigError, "patch_size must be at least 1"),
        ({"heat": np.ones(4)}, FrameError, r"heat must be \[gh, gw\]"),
        ({"heat": np.full((4, 4), np.inf)}, FrameError, "heat must be finite"),
        ({"image": GREY.astype(float)}, FrameError, "image must be"),
        ({"placement": placement(50, 50, PreprocessConfig(size=64))}, FrameError, "50 x 50"),
    ],
)
def test_bad_input_is_named(options, error, said):
    given = {"image": GREY, "heat": np.ones((4, 4)), **options}
    with pytest.raises(error, match=said):
        drawn_on(given.pop("image"), given.pop("heat"), **given)


def test_pictures_that_are_stored_sideways_are_drawn_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(np.rot90(GREY))
    buffer = io.BytesIO()
    image.save(buffer, "png", exif=exif)
    drawn = drawn_on(Image.open(buffer), heat_at(1, 2), placement=WIDE, mode="tile")
    np.testing.assert_array_equal(drawn, drawn_on(GREY, heat_at(1, 2), placement=WIDE, mode="tile"))
