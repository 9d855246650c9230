"""The stateful wrapper: images in, tokens out, and true counts."""

import dataclasses

import numpy as np
import pytest
from PIL import Image
from tiny import CLIP, ROUNDING, Kit, deviation

import diffvis_jax as dv


@pytest.fixture(scope="module")
def model(square):
    return dv.Model(square.config, square.params, "toy")


def first(kit, seed: int = 0):
    return kit.frames(seed)[:1]


def test_images_of_every_sort(square, model, tmp_path):
    """A picture, an array, a path and a ready frame of the same screen are one screen."""
    frame = first(square)
    Image.fromarray(frame[0]).save(tmp_path / "screen.png")
    encoder = dv.DifferentialVisionEncoder(model)
    tokens = [
        np.asarray(encoder.encode(image))
        for image in (Image.fromarray(frame[0]), frame[0], tmp_path / "screen.png", frame)
    ]
    assert deviation(tokens[0], square.full(frame)) < ROUNDING
    assert all(np.array_equal(tokens[0], other) for other in tokens[1:])
    stats = encoder.get_stats()
    assert (stats["full_encodes"], stats["cache_hits"], stats["total_frames"]) == (1, 3, 4)


def test_counts_are_true(square, model):
    frame = first(square)
    changed = square.change_patch(frame, 1, 1)
    encoder = dv.DifferentialVisionEncoder(model, dv.Policy.exact())
    for image in (frame, changed, changed, frame):
        tokens = encoder.encode(image)
        assert deviation(tokens, square.full(image)) < ROUNDING
    stats = encoder.get_stats()
    assert stats["full_encodes"] == 1
    assert stats["partial_encodes"] == 2
    assert stats["cache_hits"] == 1
    assert stats["differential_encodes"] == 3
    assert stats["changed_patches_total"] == 2
    assert stats["total_patches_total"] == 4 * 25
    assert stats["avg_change_ratio"] == 2 / 100
    assert 0.25 < stats["avg_recomputed"] < 1  # the first of four frames in full
    encoder.policy = dv.Policy(skip_small_patches=1)
    encoder.encode(changed)
    assert encoder.get_stats()["skipped_small"] == 1


def test_a_reset_forgets(square, model):
    encoder = dv.DifferentialVisionEncoder(model, audit_every=1)
    encoder.encode(first(square))
    encoder.reset_cache()
    stats = encoder.get_stats()
    assert stats["total_frames"] == 0
    assert "audits" not in stats
    with pytest.raises(dv.FrameError, match="nothing to audit"):
        encoder.audit()
    encoder.encode(first(square))
    assert encoder.get_stats()["full_encodes"] == 1


def test_frames_of_another_size_restart(square, model, toy):
    encoder = dv.DifferentialVisionEncoder(model)
    encoder.encode(first(square))
    frame = toy.frames()[:1]  # 56 x 72 px
    assert deviation(encoder.encode(frame), toy.full(frame)) < ROUNDING
    stats = encoder.get_stats()
    assert (stats["cache_restarts"], stats["full_encodes"]) == (1, 2)


@pytest.mark.slow
def test_remembered_screens(square, model):
    a, b = first(square, 0), first(square, 1)
    encoder = dv.DifferentialVisionEncoder(model, slots=2)
    for image in (a, b, a, b):
        tokens = encoder.encode(image)
        assert deviation(tokens, square.full(image)) < ROUNDING
        assert encoder.audit().max() < 1e-4  # of the slot it is in
    stats = encoder.get_stats()
    assert (stats["cache_hits"], stats["slot_changes"]) == (2, 3)


@pytest.mark.slow
def test_a_smaller_change_is_another_screen_if_asked(square, model):
    a = first(square)
    b = square.change_patch(a, 1, 1)  # 1 of 25 patches
    for above, changes in ((0.1, 0), (0.03, 2)):
        encoder = dv.DifferentialVisionEncoder(model, slots=2, new_slot_above=above)
        for image in (a, b, a):
            encoder.encode(image)
        assert encoder.get_stats()["slot_changes"] == changes


@pytest.fixture(scope="module", params=[1, 2])
def slotted(request, clip):
    """A kit, and an encoder's arguments: several slots are another program, of a smaller tower."""
    kit = clip if request.param == 1 else Kit(dataclasses.replace(CLIP, layers=2, size=16))
    return kit, {"model": dv.Model(kit.config, kit.params, "clip"), "slots": request.param}


def test_the_cache_can_be_looked_at(slotted):
    kit, given = slotted
    encoder = dv.DifferentialVisionEncoder(**given)
    assert encoder.cache is None
    for seed in (0, 1):
        tokens = encoder.encode(first(kit, seed))
    assert encoder.cache.config == kit.config
    assert np.array_equal(encoder.cache.tokens, tokens)
    assert np.array_equal(kit.seen(encoder.cache.reference), kit.seen(first(kit, 1)))


def test_a_refused_frame_costs_nothing(slotted):
    kit, given = slotted
    frame = first(kit)
    encoder = dv.DifferentialVisionEncoder(**given)
    encoder.encode(frame)
    for wrong in (frame.astype(np.float32), frame.transpose(0, 3, 1, 2), frame[..., :2]):
        with pytest.raises(dv.FrameError):
            encoder.encode(wrong)
    encoder.policy = dv.Policy(margin=(1, 2, 3))
    with pytest.raises(dv.ConfigError, match="3 entries"):
        encoder.encode(frame)
    encoder.policy = dv.Policy()
    assert encoder.audit().max() < 1e-4
    encoder.encode(frame)
    stats = encoder.get_stats()
    assert (stats["cache_hits"], stats["full_encodes"], stats["cache_restarts"]) == (1, 1, 0)


@pytest.mark.slow
def test_an_audit_sees_what_was_not_taken_over(square, model):
    """The reference keeps the old pixels, and by them all would be well."""
    frame = first(square)
    encoder = dv.DifferentialVisionEncoder(model, dv.Policy(skip_small_patches=4))
    encoder.encode(frame)
    changed = np.array(square.change_patch(frame, 1, 1))
    encoder.encode(changed)
    error = encoder.audit()
    assert error.max() > 1e-2
    cached = dv.audit(model.params, encoder.cache, config=model.config)
    assert np.asarray(cached).max() < 1e-4
    changed[:] = 0  # the caller's array is the caller's
    assert np.array_equal(encoder.audit(), error)


def test_audits_by_itself(square, model):
    frame = first(square)
    encoder = dv.DifferentialVisionEncoder(model, dv.Policy(margin=0, settle=0), audit_every=2)
    for image in (frame, square.change_patch(frame, 1, 1), frame, frame, frame):
        encoder.encode(image)
    stats = encoder.get_stats()
    assert stats["audits"] == 2
    assert 0 <= stats["audit_median"] <= stats["audit_p90"] <= stats["audit_max"]
    assert stats["audit_max"] > 1e-3  # a margin of 0 misses what travels
    assert "audits" not in dv.DifferentialVisionEncoder(model).get_stats()


def test_bad_input(square, model):
    for wrong in ({"slots": 0}, {"audit_every": -1}):
        with pytest.raises(dv.ConfigError, match="slots must be"):
            dv.DifferentialVisionEncoder(model, **wrong)
    with pytest.raises(dv.ConfigError, match="new_slot_above"):
        dv.DifferentialVisionEncoder(model, slots=2, new_slot_above=25)
    encoder = dv.DifferentialVisionEncoder(model)
    with pytest.raises(dv.FrameError, match="one image at a time"):
        encoder.encode(square.frames())
    with pytest.raises(dv.ImageError):
        encoder.encode("no/such/screen.png")


@pytest.mark.slow
def test_a_tower_of_any_size_follows_its_images(qwen):
    """Screens in sizes of their own: the cache starts again where the size does."""
    model = dv.Model(qwen.config, qwen.params, "qwen")
    encoder = dv.DifferentialVisionEncoder(model, dv.Policy.exact())
    large, small = (Image.new("RGB", size, "teal") for size in ((75, 54), (50, 79)))
    shapes = [encoder.encode(image).shape for image in (large, large, small)]
    assert shapes == [(1, 63, 24), (1, 63, 24), (1, 60, 24)]  # 7 x 9 and 10 x 6 tokens
    stats = encoder.get_stats()
    assert (stats["full_encodes"], stats["cache_hits"], stats["cache_restarts"]) == (2, 1, 1)
