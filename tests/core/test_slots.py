"""Several references for each stream, and streams that sit a step out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import ROUNDING, report_of

import diffvis_jax as dv
from diffvis_jax.core.slots import encode_slots, init_slots, make_slot_step

FULL, PARTIAL, REUSE = 2, 1, 0
TWO = 2  # slots of most tests: another number is another compilation


@pytest.fixture(scope="module", params=["clip", pytest.param("toy", marks=pytest.mark.slow)])
def either(request):
    """A kit whose streams have slots, or sit out: of both kinds of towers."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def slot_step(either):
    """Two streams of two slots; keeps the slots it was given."""
    return make_slot_step(either.config, donate=False)


@pytest.fixture(scope="module")
def partly(either):
    """`encode_step` of two streams, of which some sit out."""
    return jax.jit(functools.partial(dv.encode_step, config=either.config))


def screens(kit, count: int):
    """So many unlike screens of two streams, `uint8 [count, 2, H, W, 3]`."""
    return [kit.frames(seed) for seed in range(count)]


def walk(kit, step, frames, policy=None, slots=None):
    """Runs the frames; each step's tokens, report and slots."""
    slots = init_slots(kit.config, 2, slots=TWO) if slots is None else slots
    for frame in frames:
        tokens, slots, report, at = step(kit.params, slots, frame, policy)
        yield np.asarray(tokens), report, np.asarray(at), slots


def test_a_screen_that_comes_back_costs_nothing(either, slot_step):
    a, b = screens(either, 2)
    first, second, third, fourth = walk(either, slot_step, [a, b, a, b])
    assert np.asarray(first[1].path).tolist() == [FULL, FULL]
    for stream in range(2):
        assert second[2][stream] != first[2][stream]
        for again, before in ((third, first), (fourth, second)):
            assert report_of(again[1], stream)["path"] == "reuse"
            assert report_of(again[1], stream)["changed_patches"] == 0
            assert again[2][stream] == before[2][stream]
            assert np.array_equal(again[0][stream], before[0][stream])


def test_exact_whatever_the_way(either, slot_step):
    a, b = screens(either, 2)
    near_a, near_b = either.change_patch(a, 1, 1), either.change_patch(b, 2, 0)
    frames = [a, near_a, b, near_a, near_b, a, b, near_b]
    for frame, (tokens, *_) in zip(
        frames, walk(either, slot_step, frames, dv.Policy.exact()), strict=True
    ):
        assert either.error(tokens, frame) < ROUNDING


@pytest.mark.slow
def test_streams_have_policies_of_their_own(either, slot_step):
    """A change that one stream sees and the other does not, in every slot of theirs."""
    a, b = screens(either, 2)
    policy = dv.Policy(change_threshold=[0.0, 0.9], settle=0)
    near, p = [frame.copy() for frame in (a, b)], either.tower.patch
    for frame in near:
        frame[:, :p, :p] ^= 32
    *_, third, fourth = walk(either, slot_step, [a, b, *near], policy)
    for step in (third, fourth):
        assert np.asarray(step[1].changed_patches).tolist() == [1, 0]
    with pytest.raises(dv.ConfigError, match="change_threshold has 3 entries for 2 streams"):
        list(walk(either, slot_step, [a], dv.Policy(change_threshold=[0, 0, 0])))


def test_small_changes_stay_and_large_ones_move(either, slot_step):
    a, b = screens(either, 2)
    near = either.change_patch(a, 1, 1)  # 1 of 16 or 20 patches
    first, second, third, back = walk(either, slot_step, [a, near, b, near])
    assert second[2].tolist() == first[2].tolist()
    assert (third[2] != first[2]).all()
    assert back[2].tolist() == first[2].tolist()
    assert np.asarray(back[1].changed_patches).tolist() == [0, 0]


def test_the_slot_not_used_for_longest_is_replaced(either, slot_step):
    a, b, c = screens(either, 3)
    *_, of_b, of_c, again_b, again_a = walk(either, slot_step, [a, b, c, b, a])
    assert (of_c[2] != of_b[2]).all()
    assert np.asarray(again_b[1].path).tolist() == [REUSE, REUSE]
    assert (np.asarray(again_a[1].changed_patches) > 0).all()  # it was replaced by c


def test_streams_turn_to_other_screens_alone(either, slot_step):
    a, b = screens(either, 2)
    mixed = np.stack([b[0], a[1]])
    first, second = walk(either, slot_step, [a, mixed])
    assert second[2][0] != first[2][0]
    assert second[2][1] == first[2][1]
    assert report_of(second[1], 1)["path"] == "reuse"
    assert np.array_equal(second[0][1], first[0][1])


@pytest.mark.slow
def test_one_slot_is_a_plain_step(either):
    a, b = (frames[:1] for frames in screens(either, 2))
    step = make_slot_step(either.config)
    slots, cache = init_slots(either.config, 1, slots=1), dv.init_cache(either.config)
    for frame in (a, either.change_patch(a, 1, 1), b, a):
        tokens, slots, report, at = step(either.params, slots, frame)
        plain, cache, said = either.serve(either.params, cache, frame)
        np.testing.assert_allclose(tokens, plain, atol=1e-5)
        assert report_of(report, 0) == report_of(said, 0)
        assert at.tolist() == [0]


# Slots sit out as well: that they stay as they are is seen when their screen comes back.
@pytest.mark.slow
def test_those_who_sit_out_stay_as_they_are(either, partly):
    frames, _, cache = either.start(dv.Policy(margin=0, settle=0))
    policy = dv.Policy(margin=0, settle=1.0, refresh_patches=3, keyframe_every=2)
    _, cache, _ = either.step(either.params, cache, either.change_patch(frames, 1, 1), policy)
    other = either.frames(5)
    only_first = jnp.array([True, False])
    _, new, report = partly(either.params, cache, other, policy=policy, active=only_first)
    old_leaves, new_leaves = (jax.tree.leaves(tree) for tree in (cache, new))
    for old, now in zip(old_leaves, new_leaves, strict=True):
        assert np.array_equal(old[1], now[1])
    assert report_of(report, 1)["path"] == "reuse"
    assert report_of(report, 1)["recomputed"] == 0
    assert report_of(report, 0)["path"] == "full"
    assert either.error(new.tokens[:1], other[:1]) < ROUNDING


@pytest.mark.slow
def test_an_empty_stream_that_sits_out_stays_empty(either, partly):
    cache = dv.init_cache(either.config, 2)
    nobody = jnp.zeros(2, bool)
    tokens, cache, report = partly(
        either.params, cache, either.frames(), policy=dv.Policy(margin=0), active=nobody
    )
    assert not np.asarray(cache.filled).any()
    assert not np.asarray(tokens).any()
    assert not np.asarray(report.recomputed).any()


def test_bad_slots_are_refused(toy):
    with pytest.raises(dv.ConfigError, match="at least 1 slot"):
        init_slots(toy.config, slots=0)
    with pytest.raises(dv.FrameError, match="3 frames for slots of 2 streams"):
        encode_slots(toy.params, init_slots(toy.config, 2), toy.frames(batch=3), config=toy.config)
    larger = np.zeros((1, 64, 96, 3), np.uint8)
    with pytest.raises(dv.FrameError, match=r"make another with init_slots\(config, batch, size="):
        encode_slots(toy.params, init_slots(toy.config), larger, config=toy.config)
