"""Observations as openpi and LeRobot have them; the dicts are written by hand, as published."""

import types

import numpy as np
import pytest
from tiny import CLIP

import diffvis_jax as dv
from diffvis_jax.views import ViewSet, from_lerobot, from_openpi

# Every byte there is, so that a conversion that rounds wrongly shows.
BYTES = np.resize(np.arange(256, dtype=np.uint8), (2, 20, 24, 3))


def openpi(batch: bool = True, floats: bool = True) -> dict:
    """What openpi's data transforms give; `Observation.from_dict` makes floats of bytes."""
    image = BYTES if batch else BYTES[0]
    if floats:
        image = image.astype(np.float32) / 255.0 * 2.0 - 1.0
    there = np.ones(2, bool) if batch else np.True_
    return {
        "image": {"base_0_rgb": image, "left_wrist_0_rgb": image, "right_wrist_0_rgb": image * 0},
        "image_mask": {"base_0_rgb": there, "right_wrist_0_rgb": ~there},
        "state": np.zeros((2, 32) if batch else 32, np.float32),
        "tokenized_prompt": np.zeros((2, 48), np.int32),
    }


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("floats", [True, False])
def test_observations_of_openpi(batch, floats):
    data = openpi(batch, floats)
    observation = types.SimpleNamespace(images=data["image"], image_masks=data["image_mask"])
    for given in (data, observation):
        images, masks = from_openpi(given)
        assert list(images) == ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"]
        expected = BYTES if batch else BYTES[0]
        for name in ("base_0_rgb", "left_wrist_0_rgb"):
            assert images[name].dtype == np.uint8
            np.testing.assert_array_equal(images[name], expected)
            assert masks[name].all()  # where no mask is given, too
        assert masks["right_wrist_0_rgb"].shape == ((2,) if batch else ())
        assert not masks["right_wrist_0_rgb"].any()
    views = ViewSet.of({name: image[0] if batch else image for name, image in images.items()}, CLIP)
    _, present = views.stack(images, CLIP, present=masks, agents=2 if batch else 1)
    assert present.tolist() == [[True, True, False]] * (2 if batch else 1)


def lerobot(batch: bool) -> dict:
    """What `prepare_observation_for_inference` and the observation processor give a policy."""
    image = np.moveaxis(BYTES, -1, -3).astype(np.float32) / 255
    image = image if batch else image[0]
    return {
        "observation.images.top": image,
        "observation.images.wrist": image,
        "observation.images.wrist_padding_mask": np.zeros(2, bool) if batch else np.False_,
        "observation.state": np.zeros((2, 6), np.float32),
        "task": "put the cube into the box",
    }


@pytest.mark.parametrize("batch", [True, False])
def test_observations_of_lerobot(batch):
    images, masks = from_lerobot(lerobot(batch))
    assert list(images) == ["top", "wrist"]
    for image in images.values():
        np.testing.assert_array_equal(image, BYTES if batch else BYTES[0])
    assert masks["top"].all()
    assert not masks["wrist"].any()


def test_other_forms_of_lerobot():
    """Frames of data sets and robots, one camera without a name, Gymnasium's environments."""
    for given, names in (
        ({"observation.images.top": BYTES, "observation.state": np.zeros(6)}, ["top"]),
        ({"observation.image": BYTES}, ["image"]),
        ({"pixels": BYTES, "agent_pos": np.zeros((2, 2))}, ["image"]),
        ({"pixels": {"top": BYTES, "side": BYTES}}, ["top", "side"]),
    ):
        images, masks = from_lerobot(given)
        assert list(images) == list(masks) == names
        assert all((image == BYTES).all() for image in images.values())


FLOATS = BYTES.astype(np.float32) / 255


@pytest.mark.parametrize(
    ("convert", "given", "said"),
    [
        (from_openpi, {}, "no observation of openpi"),
        (from_openpi, {"image": BYTES}, "no observation of openpi"),
        (from_openpi, {"image": {"a": 255 * FLOATS}}, r"'a': floats must lie in -1..1, got 0..255"),
        (from_openpi, {"image": {"a": FLOATS * np.nan}}, "'a': floats must lie in -1..1, got nan"),
        (from_openpi, {"image": {"a": np.moveaxis(FLOATS, -1, 1)}}, "its channels come first"),
        (from_openpi, {"image": {"a": np.moveaxis(BYTES, -1, 1)}}, "its channels come first"),
        (from_openpi, {"image": {"a": BYTES.astype(int)}}, "'a': expected uint8 or floats"),
        (from_openpi, {"image": {"a": BYTES[0, 0]}}, r"'a': expected uint8 \[H, W, 3\]"),
        (
            from_openpi,
            {"image": {"a": BYTES}, "image_mask": {"a": np.ones(3, bool)}},
            r"mask of 'a' must be bool \[2\], got bool \[3\]",
        ),
        (
            from_openpi,
            {"image": {"a": BYTES}, "image_mask": {"a": np.ones(2)}},
            r"mask of 'a' must be bool \[2\], got float64 \[2\]",
        ),
        (from_lerobot, BYTES, "is a dict, got ndarray"),
        (from_lerobot, {"observation.state": 1}, 'no key begins with "observation.images."'),
        (from_lerobot, {"observation.images.a": FLOATS}, "its channels come last"),
        (from_lerobot, {"observation.images.a": np.moveaxis(BYTES, -1, 1)}, "channels come first"),
        (
            from_lerobot,
            {"observation.images.a": 2 * np.moveaxis(FLOATS, -1, 1) - 1},
            "'a': floats must lie in 0..1, got -1..1",
        ),
        (
            from_lerobot,
            {"observation.images.a": BYTES, "observation.images.a_padding_mask": np.ones(2)},
            "mask of 'a' must be bool",
        ),
    ],
)
def test_other_observations_are_refused(convert, given, said):
    with pytest.raises((dv.FrameError, dv.ImageError), match=said):
        convert(given)
