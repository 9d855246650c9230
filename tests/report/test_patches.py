"""`visualize_changed_patches`: what is drawn where, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffvis_jax.errors import ConfigError, FrameError
from diffvis_jax.images.geometry import PreprocessConfig, placement
from diffvis_jax.report.patches import CHANGED, visualize_changed_patches

GREY = np.full((64, 64, 3), 100, np.uint8)


def marked_on(image, mask, **options):
    return visualize_changed_patches(image, mask, **{"patch_size": 16, **options})


def one_patch(row: int, column: int, grid: int = 4) -> np.ndarray:
    mask = np.zeros((grid, grid), bool)
    mask[row, column] = True
    return mask


def touched(image: np.ndarray, drawn: Image.Image) -> np.ndarray:
    """Which pixels are not as they were, bool `[H, W]`."""
    return (np.asarray(drawn) != image).any(-1)


@pytest.mark.parametrize("kind", [np.asarray, Image.fromarray])
def test_only_the_marked_patch_is_touched(kind):
    drawn = marked_on(kind(GREY), one_patch(1, 2))
    assert drawn.mode == "RGB"
    assert drawn.size == (64, 64)
    expected = np.zeros((64, 64), bool)
    expected[16:32, 32:48] = True
    np.testing.assert_array_equal(touched(GREY, drawn), expected)
    pixels = np.asarray(drawn)
    assert tuple(pixels[16, 32]) == CHANGED  # the outline
    np.testing.assert_allclose(pixels[24, 40], 100 + 0.15 * (np.array(CHANGED) - 100), atol=1)


def test_nothing_marked_is_the_same_picture():
    drawn = marked_on(GREY, np.zeros((4, 4), bool), heat=np.zeros((4, 4)))
    np.testing.assert_array_equal(np.asarray(drawn), GREY)


def test_neighbours_share_one_outline():
    mask = one_patch(0, 0) | one_patch(0, 1)
    drawn = marked_on(GREY, mask, alpha=0, outline=1)
    expected = np.zeros((64, 64), bool)
    expected[:16, :32] = True
    expected[1:15, 1:31] = False  # no line between the two
    np.testing.assert_array_equal(touched(GREY, drawn), expected)


def test_heat_grows_with_the_share():
    heat = np.array([[0.0, 0.25], [0.5, 1.0]])
    drawn = marked_on(
        GREY, np.zeros((2, 2), bool), heat=heat, heat_color=(0, 0, 255), patch_size=32
    )
    blue = np.asarray(drawn)[16::32, 16::32, 2].reshape(-1).astype(int)
    assert blue[0] == 100
    assert (np.diff(blue) > 0).all()


def test_jax_masks_and_heats_are_taken():
    drawn = marked_on(GREY, jnp.asarray(one_patch(0, 0)), heat=jnp.ones((4, 4)))
    assert touched(GREY, drawn).all()


def test_the_last_patch_may_be_smaller():
    image = GREY[:50, :40]
    drawn = marked_on(image, one_patch(3, 2), patch_size=16)
    expected = np.zeros((50, 40), bool)
    expected[48:, 32:] = True
    np.testing.assert_array_equal(touched(image, drawn), expected)


def test_placement_maps_patches_of_the_frame_onto_the_screenshot():
    # 128 x 64 padded to a square of 128, then halved: a patch of 16 px covers 32 px of the
    # original, and the upper and lower row of patches lie in the padding.
    image = np.full((64, 128, 3), 100, np.uint8)
    where = placement(128, 64, PreprocessConfig(size=64))
    drawn = marked_on(image, one_patch(1, 3), placement=where)
    expected = np.zeros((64, 128), bool)
    expected[:32, 96:] = True
    np.testing.assert_array_equal(touched(image, drawn), expected)
    padding = marked_on(image, one_patch(0, 3), placement=where)
    np.testing.assert_array_equal(np.asarray(padding), image)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": GREY.astype(np.float32)}, "uint8"),
        ({"image": GREY[..., 0]}, r"\[H, W, 3\]"),
        ({"mask": np.zeros((1, 4, 4), bool)}, r"mask\[0\]"),
        ({"mask": np.zeros((4, 4))}, "bool"),
        ({"heat": np.zeros((3, 4))}, "heat"),
        ({"heat": np.full((4, 4), np.nan)}, "finite"),
        ({"placement": placement(10, 10, PreprocessConfig(size=64))}, "10 x 10"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    arguments = {"image": GREY, "mask": one_patch(0, 0), **changes}
    with pytest.raises(FrameError, match=message):
        marked_on(**arguments)


@pytest.mark.parametrize(
    "changes",
    [
        {"color": (0, 0, 256)},
        {"alpha": 1.5},
        {"outline": -1},
        {"heat_alpha": -1},
        {"patch_size": 0},
    ],
)
def test_looks_that_make_no_sense_are_refused(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        marked_on(GREY, one_patch(0, 0), **changes)


@pytest.mark.parametrize(("size", "patch", "right"), [(36, 8, 32), (250, 64, 250)])
def test_the_last_patches_may_end_before_the_edge_or_reach_beyond_it(size, patch, right):
    image = np.full((size, size, 3), 100, np.uint8)
    drawn = visualize_changed_patches(image, one_patch(0, 3), patch_size=patch)
    rows, columns = np.nonzero(touched(image, drawn))
    assert (rows.max() + 1, columns.min(), columns.max() + 1) == (patch, 3 * patch, right)
    with pytest.raises(TypeError, match="patch_size"):
        visualize_changed_patches(image, one_patch(0, 3))
