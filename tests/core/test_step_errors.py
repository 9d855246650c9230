"""Bad input: the documented error, with a message that names what was wrong."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny import CLIP, FASTVITHD, ODD, random_params

import diffvis_jax as dv
from diffvis_jax.core.slots import encode_slots, init_slots
from diffvis_jax.core.step import jit_encode

FRAME = np.zeros((1, 36, 36, 3), np.uint8)
BAD_FRAMES = {
    "float": (FRAME.astype(np.float32), "float32"),
    "float16": (FRAME.astype(np.float16), "float16"),
    "int32": (FRAME.astype(np.int32), "int32"),
    "bool": (FRAME.astype(bool), "bool"),
    "one picture": (FRAME[0], r"\[36, 36, 3\]"),
    "grey": (FRAME[..., :1], r"\[1, 36, 36, 1\]"),
    "alpha": (np.concatenate([FRAME, FRAME[..., :1]], -1), r"\[1, 36, 36, 4\]"),
    "channels first": (FRAME.transpose(0, 3, 1, 2), r"\[1, 3, 36, 36\]"),
    "no streams": (FRAME[:0], r"\[0, 36, 36, 3\]"),
    "no pixels": (FRAME[:, :0, :0], r"\[1, 0, 0, 3\]"),
}


@pytest.fixture
def cache():
    return dv.init_cache(CLIP)


CALLS = {
    "encode": lambda params, cache, frames: dv.encode(params, frames, config=CLIP),
    "encode_step": lambda *given: dv.encode_step(*given, config=CLIP),
    "make_step": lambda *given: dv.make_step(CLIP)(*given),
    "encode_slots": lambda params, _, frames: encode_slots(
        params, init_slots(CLIP), frames, config=CLIP
    ),
    "audit": lambda params, cache, frames: dv.audit(params, cache, config=CLIP, frames=frames),
}


@pytest.mark.parametrize("name", BAD_FRAMES)
@pytest.mark.parametrize("call", CALLS)
def test_bad_frames(call, name, cache):
    frames, message = BAD_FRAMES[name]
    with pytest.raises(dv.FrameError, match=message):
        CALLS[call](random_params(CLIP), cache, frames)


def test_frames_of_another_size_than_the_cache():
    cache = dv.init_cache(FASTVITHD)
    frames = np.zeros((1, 200, 200, 3), np.uint8)
    with pytest.raises(
        dv.FrameError, match=r"200 x 200 px .* a cache of 256 x 256 px.*size=\(200, 200\)"
    ):
        dv.encode_step(random_params(FASTVITHD), cache, frames, config=FASTVITHD)


def test_frames_of_another_batch_or_size_than_the_slots():
    with pytest.raises(dv.FrameError, match=r"2 frames for slots of 1 .*batch=2, slots=2"):
        encode_slots(random_params(CLIP), init_slots(CLIP), np.repeat(FRAME, 2, 0), config=CLIP)
    frames = np.zeros((1, 200, 200, 3), np.uint8)
    with pytest.raises(dv.FrameError, match=r"200 x 200 px .* a cache of 256 x 256 px"):
        encode_slots(random_params(FASTVITHD), init_slots(FASTVITHD), frames, config=FASTVITHD)


def test_frames_of_another_batch_than_the_cache(cache):
    with pytest.raises(dv.FrameError, match=r"2 frames .* 1 streams.*batch=2"):
        dv.encode_step(random_params(CLIP), cache, np.repeat(FRAME, 2, 0), config=CLIP)


@pytest.mark.parametrize(
    "config",
    [dataclasses.replace(CLIP, activation="gelu"), dataclasses.replace(CLIP, size=40), FASTVITHD],
    ids=["activation", "size", "tower"],
)
def test_cache_of_another_config(cache, config):
    params = random_params(CLIP)
    with pytest.raises(dv.CacheError, match="init_cache"):
        dv.encode_step(params, cache, FRAME, config=config)
    with pytest.raises(dv.CacheError, match="init_cache"):
        dv.audit(params, cache, config=config)


def test_a_config_serves_caches_of_other_sizes():
    cache = dv.init_cache(FASTVITHD, size=200)
    assert cache.config == dataclasses.replace(FASTVITHD, size=200)
    assert cache.reference.shape == (1, 200, 200, 3)
    assert dv.init_cache(FASTVITHD, size=None).reference.shape == (1, 256, 256, 3)
    assert dv.init_cache(ODD, 3, size=65).tokens.shape == (3, 4, 256)


@pytest.mark.parametrize("batch", [0, -1, 1.0, None, "2"])
def test_bad_batch(batch):
    with pytest.raises(dv.CacheError, match="batch must be a whole number"):
        dv.init_cache(CLIP, batch)


def test_clip_has_one_size():
    with pytest.raises(dv.ConfigError, match=r"36 x 36 pixels only, not for 48 x 48"):
        dv.init_cache(CLIP, size=48)
    with pytest.raises(dv.ConfigError, match=r"36 x 36 pixels only, not for 48 x 48"):
        dv.encode(random_params(CLIP), np.zeros((1, 48, 48, 3), np.uint8), config=CLIP)


@pytest.mark.parametrize("size", [0, -64])
def test_bad_size(size):
    with pytest.raises(dv.ConfigError, match="size"):
        dv.init_cache(FASTVITHD, size=size)


@pytest.mark.parametrize("config", [None, {"size": 36}, dv.CLIPConfig], ids=str)
def test_not_a_config(config):
    with pytest.raises(dv.ConfigError, match="config must be"):
        dv.init_cache(config)
    with pytest.raises(dv.ConfigError, match="config must be"):
        dv.encode({}, FRAME, config=config)
    with pytest.raises(dv.ConfigError, match="config must be"):
        dv.make_step(config)


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (FASTVITHD, {"depths": (1, 1, 1)}, "5 stages"),
        (FASTVITHD, {"widths": (8, 12, 32, 64, 128)}, "multiple of the one before"),
        (FASTVITHD, {"token_width": 200}, "token_width 200"),
        (FASTVITHD, {"head_width": 24}, "heads of 24"),
        (FASTVITHD, {"dtype": "float16"}, "dtype"),
        (CLIP, {"heads": 5}, "5 heads"),
        (CLIP, {"activation": "relu"}, "relu"),
        (CLIP, {"patch": 0}, "patch"),
        (CLIP, {"size": 7}, "size 7"),
        (CLIP, {"layers": 1}, "2 layers"),
        (CLIP, {"dtype": "int8"}, "dtype"),
    ],
)
def test_bad_architectures(make, changes, message):
    with pytest.raises(dv.ConfigError, match=message):
        dataclasses.replace(make, **changes)


def test_unknown_outputs():
    frames = np.zeros((1, 64, 64, 3), np.uint8)
    with pytest.raises(dv.ConfigError, match="intermediates"):
        jit_encode(random_params(FASTVITHD), frames, config=FASTVITHD, output="pooled")
    with pytest.raises(dv.ConfigError, match="cls_patch"):
        jit_encode(random_params(CLIP), FRAME, config=CLIP, output="features")


def test_a_picture_that_is_no_array_is_refused():
    a = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(dv.FrameError, match=r"b must be an array.*got Image"):
        dv.compute_patch_diff(a, Image.fromarray(a), 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda cache: {"age": cache.age[:, None]}, r"age is int32 \[1, 1, 16\] in place of"),
        (lambda cache: {"steps": cache.steps.astype(np.int8)}, r"steps is int8 .* int32 \[1\]"),
        (lambda cache: {"keys": ()}, "12 arrays in place of 13|arrays in place of"),
        (lambda cache: {"hidden": cache.hidden[:, 1:]}, r"hidden .*\[1, 16, 32\] in place of"),
    ],
    ids=["axes", "dtype", "missing", "positions"],
)
def test_a_cache_of_another_version_is_refused(change, message, cache):
    other = dataclasses.replace(cache, **change(cache))
    with pytest.raises(dv.CacheError, match=message):
        dv.encode_step(random_params(CLIP), other, FRAME, config=CLIP)
    with pytest.raises(dv.CacheError, match=message):
        dv.make_step(CLIP)(random_params(CLIP), other, FRAME)


@pytest.mark.parametrize("margin", [np.ones((1, 2), np.float32), np.ones(2, np.float32)])
def test_margins_that_jax_has_put_together_are_checked(margin, cache):
    leaves, structure = jax.tree.flatten(dv.Policy(margin=(1,)))
    leaves = [margin if np.ndim(leaf) else leaf for leaf in leaves]
    policy = jax.tree.unflatten(structure, leaves)  # unchecked, as a map over leaves leaves it
    step = functools.partial(dv.encode_step, config=CLIP)
    with pytest.raises(dv.ConfigError, match="entries for a tower of 1 stages"):
        jax.eval_shape(step, random_params(CLIP), cache, FRAME, policy=policy)


@pytest.mark.parametrize("active", [np.ones(2, bool), np.ones(1, np.int32), np.array(True)])
def test_bad_active(active, cache):
    with pytest.raises(dv.FrameError, match=r"active must be bool \[1\]"):
        dv.encode_step(random_params(CLIP), cache, FRAME, config=CLIP, active=active)


@pytest.mark.parametrize("size", ["256", 256.0, (256,), (256, 256, 3)])
def test_sizes_that_are_none(size):
    with pytest.raises(dv.ConfigError, match="size must be one side or"):
        dv.init_cache(FASTVITHD, size=size)


def test_compute_patch_diff_refuses():
    a = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(dv.FrameError, match="float32"):
        dv.compute_patch_diff(a.astype(np.float32), a, 4)
    with pytest.raises(dv.FrameError, match="b must be uint8"):
        dv.compute_patch_diff(a, a[None], 4)
    with pytest.raises(dv.FrameError, match="one shape"):
        dv.compute_patch_diff(a, a[:4], 4)
    with pytest.raises(dv.ConfigError, match="patch_size"):
        dv.compute_patch_diff(a, a, 0)
    with pytest.raises(dv.ConfigError, match="median"):
        dv.compute_patch_diff(a, a, 4, metric="median")
    for threshold in (-0.1, 1.1, float("nan")):
        with pytest.raises(dv.ConfigError, match="threshold"):
            dv.compute_patch_diff(jnp.asarray(a), a, 4, threshold)


def test_sides_that_a_tower_does_not_take():
    frames = np.zeros((1, 256, 200, 3), np.uint8)
    with pytest.raises(dv.ConfigError, match="square frames, not 256 x 200"):
        dv.encode(random_params(FASTVITHD), frames, config=FASTVITHD)
    with pytest.raises(dv.ConfigError, match="square frames, not 256 x 200"):
        dv.init_cache(FASTVITHD, size=(256, 200))
    with pytest.raises(dv.ConfigError, match=r"36 x 36 pixels only, not for 36 x 30"):
        dv.encode(random_params(CLIP), FRAME[:, :, :30], config=CLIP)


@pytest.mark.parametrize(
    ("focus", "message"),
    [
        (np.zeros((1, 4, 4), np.float32), r"bool \[1, 4, 4\].*float32"),
        (np.zeros((1, 4, 5), bool), r"bool \[1, 4, 4\].*\[1, 4, 5\]"),
        (np.zeros((1, 16), bool), r"got bool \[1, 16\]"),
        (np.zeros((2, 4, 4), bool), r"got bool \[2, 4, 4\]"),
    ],
)
def test_bad_focus(focus, message, cache):
    with pytest.raises(dv.FrameError, match=message):
        dv.encode_step(random_params(CLIP), cache, FRAME, config=CLIP, focus=focus)
    with pytest.raises(dv.FrameError, match=message):
        dv.make_step(CLIP)(random_params(CLIP), cache, FRAME, focus=focus)


def test_whole_numbers_of_numpy_are_whole_numbers():
    assert dv.init_cache(CLIP, np.int64(2)).batch == 2
    assert dv.init_cache(FASTVITHD, size=np.int64(200)).reference.shape == (1, 200, 200, 3)
    with pytest.raises(dv.CacheError, match="batch must be a whole number"):
        dv.init_cache(CLIP, True)
