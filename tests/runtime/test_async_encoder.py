"""A tiny tower in the worker: the same features as without one, on the host, of every sort of
image; nothing is compiled later."""

import gc
import threading

import jax
import numpy as np
import pytest
from PIL import Image
from tiny import ROUNDING, deviation

import diffvis_jax as dv
from diffvis_jax.runtime.async_encoder import pool
from diffvis_jax.runtime.executor import InlineExecutor, ManualExecutor


@pytest.fixture(scope="module")
def model(square):
    return dv.Model(square.config, square.params, "toy")


def tokens_of(tokens, cache):
    return tokens


def inline(model, **options):
    options = {"summarise": tokens_of, "settle": False, **options}
    return dv.AsyncEncoder(model, executor=InlineExecutor(), **options)


@pytest.fixture
def screens(square):
    """Five screens `[H, W, 3]`: a start, two changes, nothing, another screen."""
    first = square.frames(0)[:1]
    second = square.change_patch(first, 1, 1)
    third = square.change_patch(second, 3, 2)
    return np.concatenate([first, second, third, third, square.frames(5)[:1]])


def test_features_are_those_of_the_steps_one_by_one(square, model, screens):
    encoder = inline(model)
    cache = dv.init_cache(square.config)
    for number, screen in enumerate(screens):
        expected, cache, report = square.serve(square.params, cache, screen[None], dv.Policy())
        if number:
            encoder.offer(screen)
        else:
            encoder.start(screen)
        found = encoder.latest()
        assert type(found.value) is np.ndarray
        np.testing.assert_array_equal(found.value, expected)
        (said,) = dv.describe(report)
        assert (found.path, found.pending, found.recomputed) == (
            said["path"],
            said["pending"],
            said["recomputed"],
        )


def test_every_sort_of_image_is_the_same(square, model, screens, tmp_path):
    Image.fromarray(screens[1]).save(tmp_path / "screen.png")
    opened = Image.open(tmp_path / "screen.png")
    encoder = inline(model, policy=dv.Policy.exact())
    encoder.start(screens[0])
    full = square.full(screens[1:2])
    sorts = (screens[1], Image.fromarray(screens[1]), tmp_path / "screen.png", opened, screens[1:2])
    for images in (*sorts, jax.numpy.asarray(screens[1])):
        encoder.offer(screens[0])
        encoder.offer(images)
        assert deviation(encoder.latest().value, full) < ROUNDING
    assert encoder.stats()["compiled_after_start"] == 0


def test_the_default_is_the_mean_of_the_tokens_on_the_host(square, model, screens):
    encoder = inline(model, summarise=None)
    value = encoder.start(screens[0]).value
    assert type(value) is np.ndarray
    assert value.shape == (1, square.tower.token_width)
    assert deviation(value, square.full(screens[:1]).mean(1)) < ROUNDING


def test_features_of_before_are_not_written_into(model, screens):
    """Buffers of the cache are donated to the next step: what was handed out must be a copy."""
    encoder = inline(model, summarise=lambda tokens, cache: (tokens, cache.tokens, cache.pixels))
    first = encoder.start(screens[0]).value
    kept = [np.array(x) for x in first]
    for screen in screens[1:]:
        encoder.offer(screen)
    for before, now in zip(kept, first, strict=True):
        np.testing.assert_array_equal(before, now)


def test_images_are_copied_unless_they_are_owned(model, screens):
    """A driver writes into its buffer after the offer, before the worker comes to it."""
    for owned, mine in ((False, screens[1]), (True, screens[4])):
        executor = ManualExecutor()
        encoder = dv.AsyncEncoder(
            model, dv.Policy.exact(), summarise=tokens_of, executor=executor, settle=False
        )
        encoder.start(screens[0])
        buffer = screens[1].copy()
        encoder.offer(buffer, owned=owned)
        buffer[:] = screens[4]
        executor.run()
        fresh = inline(model, policy=dv.Policy.exact()).start(mine)
        assert deviation(encoder.latest().value, fresh.value) < ROUNDING
    picture = Image.fromarray(screens[1])
    encoder.offer(picture)
    picture.paste(0, (0, 0, 72, 72))
    executor.run()
    fresh = inline(model, policy=dv.Policy.exact()).start(screens[1])
    assert deviation(encoder.latest().value, fresh.value) < ROUNDING


def test_a_picture_that_is_not_decoded_yet_is_left_to_the_worker(model, screens, tmp_path):
    Image.fromarray(screens[1]).save(tmp_path / "screen.png")
    executor = ManualExecutor()
    encoder = dv.AsyncEncoder(model, executor=executor, settle=False)
    encoder.start(screens[0])
    opened = Image.open(tmp_path / "screen.png")
    encoder.offer(opened)
    assert opened.tile  # what is still to be decoded
    executor.run()
    assert not opened.tile
    assert encoder.latest().sequence == 2


def test_pending_work_is_settled_while_nothing_comes(square, model, screens):
    encoder = inline(model, policy=dv.Policy(margin=0), settle=True)
    encoder.start(screens[0])
    encoder.offer(screens[1])
    found = encoder.latest()
    assert found.pending == 0
    assert encoder.stats()["slices"] > 1
    assert deviation(found.value, square.full(screens[1:2])) < ROUNDING
    slices = encoder.stats()["slices"]
    encoder.offer(screens[1])  # nothing changed, nothing pending
    assert encoder.stats()["slices"] == slices


def test_a_policy_that_never_settles_ends(model, screens):
    encoder = inline(model, policy=dv.Policy(margin=0, settle=0), settle=True)
    encoder.start(screens[0])
    encoder.offer(screens[1])
    assert encoder.latest().pending > 0
    assert encoder.stats()["slices"] == 1
    with pytest.raises(dv.ConfigError, match="its settle is 0"):
        dv.AsyncEncoder(model, dv.Policy(settle=0), publish="settled")


def test_a_reset_begins_in_full(square, model, screens):
    encoder = inline(model)
    encoder.start(screens[0])
    encoder.offer(screens[1])
    encoder.reset()
    encoder.offer(screens[2])
    assert encoder.latest().path == "full"
    assert deviation(encoder.latest().value, square.full(screens[2:3])) < ROUNDING
    assert encoder.stats()["compiled_after_start"] == 0


def test_a_step_that_fails_loses_its_cache_and_a_start_recovers(square, model, screens):
    broken = []

    def summarise(tokens, cache):
        if broken:
            raise ZeroDivisionError("in summarise")
        return tokens

    encoder = inline(model, summarise=summarise)
    encoder.start(screens[0])
    broken.append(True)
    encoder.offer(screens[1])
    with pytest.raises(dv.EncoderError, match="in summarise"):
        encoder.latest()
    broken.clear()
    encoder.reset()
    assert encoder.start(screens[2]).path == "full"
    encoder.offer(screens[2])
    assert encoder.latest().path == "reuse"


def test_what_is_compiled_later_is_counted(model, screens):
    """A summary whose shape hangs on the number of the call."""
    calls = []

    def summarise(tokens, cache):
        calls.append(1)
        return jax.numpy.tile(tokens[0, 0, :3], (1, 1000 + len(calls)))

    encoder = inline(model, summarise=summarise)
    encoder.start(screens[0])
    before = encoder.stats()["compiled_after_start"]
    encoder.offer(screens[1])
    assert encoder.stats()["compiled_after_start"] > before


# ---- views ------------------------------------------------------------------------------------


def test_views_are_streams_of_one_batch_by_their_names(square, model, screens):
    encoder = inline(model, policy=dv.Policy.exact())
    encoder.start({"base": screens[0], "wrist": screens[4]})
    encoder.offer({"wrist": screens[1], "base": screens[0]})
    found = encoder.latest()
    assert list(found.value) == ["base", "wrist"]
    assert deviation(found.value["base"], square.full(screens[:1])[0]) < ROUNDING
    assert deviation(found.value["wrist"], square.full(screens[1:2])[0]) < ROUNDING
    assert encoder.stats()["compiled_after_start"] == 0


def test_summaries_of_views_are_split_leaf_by_leaf(model, screens):
    encoder = inline(
        model, summarise=lambda tokens, cache: {"mean": pool(tokens, cache), "found": ["a", "b"]}
    )
    value = encoder.start({"base": screens[0], "wrist": screens[4]}).value
    assert value["wrist"]["found"] == "b"
    assert value["wrist"]["mean"].shape == value["base"]["mean"].shape == (16,)


class Pair:
    """Two views, of which one may be missing."""

    names = ("base", "wrist")

    def stack(self, images, model):
        frames, there = np.zeros((2, 72, 72, 3), np.uint8), np.zeros((1, 2), bool)
        for name, image in images.items():
            if image is not None:
                frames[self.names.index(name)] = image
                there[0, self.names.index(name)] = True
        return frames, there

    def split(self, x):
        return dict(zip(self.names, x, strict=True))


@pytest.mark.slow
def test_a_view_that_is_missing_stays_as_it_was(model, screens):
    encoder = inline(model, views=Pair())
    first = encoder.start({"base": screens[0], "wrist": screens[4]}).value
    encoder.offer({"base": None, "wrist": screens[1]})
    found = encoder.latest().value
    np.testing.assert_array_equal(found["base"], first["base"])
    assert (found["wrist"] != first["wrist"]).any()
    assert encoder.stats()["compiled_after_start"] == 0
    with pytest.raises(dv.FrameError, match="images must be a dict by view, got ndarray"):
        encoder.offer(screens[0])


# ---- what does not fit ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "error", "said"),
    [
        (np.zeros((72, 72, 3), np.float32), dv.ImageError, "expected a uint8 array"),
        (np.zeros((3, 72, 72), np.uint8), dv.ImageError, "channels come last"),
        (np.zeros((1, 80, 72, 3), np.uint8), dv.FrameError, "80 x 72 px .* start it was 72 x 72"),
        (np.zeros((2, 72, 72, 3), np.uint8), dv.FrameError, "2 x 72 x 72 px"),
        (np.zeros((1, 72, 72, 3), np.int32), dv.FrameError, "must be uint8"),
        ("no-such-file.png", dv.ImageError, "no such file"),
        ({"base": np.zeros((72, 72, 3), np.uint8)}, dv.FrameError, "views base, at the .* one im"),
        ({}, dv.FrameError, "is empty"),
        (None, dv.ImageError, "got NoneType"),
    ],
)
def test_images_that_do_not_fit_are_refused_by_the_offer(model, screens, images, error, said):
    encoder = inline(model)
    encoder.start(screens[0])
    with pytest.raises(error, match=said):
        encoder.offer(images)
    encoder.offer(screens[1])
    assert encoder.latest().sequence == 2


def test_views_that_do_not_fit_are_named(model, screens):
    encoder = inline(model)
    with pytest.raises(dv.ImageError, match="view 'wrist': expected a uint8 array"):
        encoder.start({"base": screens[0], "wrist": screens[4].astype(np.float32)})
    encoder.start({"base": screens[0], "wrist": screens[4]})
    with pytest.raises(dv.FrameError, match="views base, at the start they were the views base, w"):
        encoder.offer({"base": screens[0]})


# ---- a real thread ----------------------------------------------------------------------------


def test_a_loop_with_a_thread(square, model, screens):
    """Ends, without a deadlock, and its numbers are finite; features are arrays of NumPy."""
    kinds, count = set(), iter(range(10**6))

    def observe():
        return dv.Observation(screens[next(count) % len(screens)], owned=True)

    def act(encoded, images, age):
        kinds.add(type(encoded.value))
        assert age >= 0

    config = dv.LoopConfig(hz=50, max_age=60)
    with dv.AsyncEncoder(model) as encoder:
        stats = dv.ControlLoop(encoder, observe, act, config).run(40).as_dict()
    assert kinds == {np.ndarray}
    assert stats["ticks"] + stats["skipped"] == 40
    assert stats["encodes"] > 0
    assert stats["compiled_after_start"] == stats["failures"] == 0
    assert all(np.isfinite(list(stats[name].values())).all() for name in ("age_ms", "encode_ms"))
    assert not any(thread.name.startswith("diffvis") for thread in threading.enumerate())


def test_a_thread_that_nobody_closed_ends_with_its_encoder(model, screens):
    encoder = dv.AsyncEncoder(model)
    encoder.start(screens[0])
    assert any(thread.name.startswith("diffvis") for thread in threading.enumerate())
    before = [thread for thread in threading.enumerate() if thread.name.startswith("diffvis")]
    del encoder
    gc.collect()
    for thread in before:
        thread.join(10)
    assert not any(thread.is_alive() for thread in before)
