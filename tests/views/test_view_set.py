"""Views by name, and back: pictures, masks, shapes."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny import CLIP, QWEN

import diffvis_jax as dv
from diffvis_jax.views import ViewSet

NAMES = ("base", "wrist")
VIEWS = ViewSet(NAMES, dict.fromkeys(NAMES, (36, 36)))


def picture(seed: int = 0, height: int = 36, width: int = 36):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_pictures_become_streams_in_the_order_of_the_names(tmp_path):
    large = picture(1, 50, 70)
    Image.fromarray(large).save(tmp_path / "large.png")
    expected = dv.preprocess(large, CLIP)[0]
    for given in (large, Image.fromarray(large), tmp_path / "large.png", jnp.asarray(large)):
        frames, present = VIEWS.stack({"wrist": given, "base": picture()}, CLIP)
        assert (frames.shape, frames.dtype) == ((2, 36, 36, 3), np.uint8)
        np.testing.assert_array_equal(frames[0], picture())  # taken as it is
        np.testing.assert_array_equal(frames[1], expected)
        assert present.tolist() == [[True, True]]


def test_agents_come_first():
    images = {"base": np.stack([picture(a) for a in range(3)]), "wrist": [None, picture(7), None]}
    counts = {"base": np.array([True, True, False])}
    frames, present = VIEWS.stack(images, CLIP, present=counts, agents=3)
    assert frames.shape == (6, 36, 36, 3)
    assert present.tolist() == [[True, False], [True, True], [False, False]]
    np.testing.assert_array_equal(frames[2], picture(1))
    np.testing.assert_array_equal(frames[3], picture(7))
    assert not frames[[1, 4, 5]].any()
    split = VIEWS.split({"frames": frames, "number": jnp.arange(6)})
    assert split["wrist"]["number"].tolist() == [1, 3, 5]
    np.testing.assert_array_equal(split["base"]["frames"], frames[::2])
    joined = VIEWS.join({name: split[name]["number"] for name in reversed(NAMES)})
    assert joined.tolist() == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(dv.FrameError, match="not of 2 views"):
        VIEWS.split(np.zeros((3, 4)))
    with pytest.raises(dv.FrameError, match="arrays of one shape for"):
        VIEWS.join({"base": jnp.zeros((1, 4)), "wrist": jnp.zeros((1, 5))})
    with pytest.raises(dv.FrameError, match="arrays of one shape for"):
        VIEWS.join({"base": jnp.zeros((1, 4))})


def test_sizes_are_those_of_the_first_pictures():
    images = {"base": picture(0, 56, 72), "wrist": picture(0, 40, 48)}
    views = ViewSet.of(images, QWEN)
    assert views.names == NAMES
    assert views.sizes == {
        n: dv.frame_size(x.shape[1], x.shape[0], QWEN) for n, x in images.items()
    }
    assert ViewSet.of(images, CLIP).sizes == dict.fromkeys(NAMES, (36, 36))
    with pytest.raises(dv.ImageError, match=r"view 'wrist': .* no such file"):
        ViewSet.of({**images, "wrist": "nowhere.png"}, QWEN)


def test_views_of_several_sizes_share_no_call():
    sizes = {"base": (56, 72), "wrist": (72, 72), "top": (56, 72)}
    views = ViewSet(tuple(sizes), sizes)
    with pytest.raises(dv.FrameError, match=r"several sizes, \[\(56, 72\), \(72, 72\)\]"):
        views.stack({}, QWEN)
    assert [group.size for group in views.groups] == [(56, 72), (72, 72)]
    frames, present = views.groups[0].stack({"top": picture(0, 56, 72)}, QWEN)
    assert frames.shape == (2, 56, 72, 3)
    assert present.tolist() == [[False, True]]
    with pytest.raises(dv.FrameError, match=r"becomes a frame of 64 x 64 px .* are 56 x 72 px"):
        views.groups[0].stack({"top": picture(0, 64, 64)}, QWEN)
    with pytest.raises(dv.ConfigError, match="position embeddings for 36 x 36"):
        views.groups[0].stack({}, CLIP)


@pytest.mark.parametrize(
    ("names", "sizes", "said"),
    [
        ((), {}, "at least one view"),
        (("a", ""), {"a": (1, 1), "": (1, 1)}, "at least one view"),
        (("a", 1), {"a": (1, 1), 1: (1, 1)}, "at least one view"),
        (("a", "a"), {"a": (1, 1)}, r"several \['a'\]"),
        (("a", "b"), {"a": (1, 1)}, "sizes must be those of"),
        (("a",), {"a": (1, 1), "b": (1, 1)}, "sizes must be those of"),
        (("a",), (36, 36), "sizes must be those of"),
        (("a",), {"a": 36}, "view 'a': a size is"),
        (("a",), {"a": (36, 0)}, "view 'a': a size is"),
        (("a",), {"a": (36, 36.5)}, "view 'a': a size is"),
    ],
)
def test_bad_sets_are_refused(names, sizes, said):
    with pytest.raises(dv.ConfigError, match=said):
        ViewSet(names, sizes)
