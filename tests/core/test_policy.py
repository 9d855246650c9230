"""What each knob of a policy does, and which values it takes."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import ROUNDING, deviation, report_of

import diffvis_jax as dv
from diffvis_jax.core.plan import compare
from diffvis_jax.towers.base import Preset

FULL, PARTIAL, REUSE = 2, 1, 0


def paths(kit, cache, frames, policy, steps: int) -> list[int]:
    found = []
    for _ in range(steps):
        _, cache, report = kit.step(kit.params, cache, frames, policy)
        found.append(int(report.path[0]))
    return found


def test_keyframes_come_at_their_interval(clip):
    frames, _, cache = clip.start()
    policy = dv.Policy(keyframe_every=3)
    assert paths(clip, cache, frames, policy, 7) == [0, 0, FULL, 0, 0, FULL, 0]
    assert paths(clip, cache, frames, dv.Policy(keyframe_every=1), 2) == [FULL, FULL]
    assert paths(clip, cache, frames, dv.Policy(), 9) == [0] * 9


def test_keyframe_clears_what_is_pending(clip):
    frames, _, cache = clip.start()
    frames = clip.change_patch(frames, 1, 1)
    policy = dv.Policy(margin=0, settle=0, keyframe_every=2)
    _, cache, report = clip.step(clip.params, cache, frames, policy)
    assert float(report.pending[0]) > 0
    tokens, cache, report = clip.step(clip.params, cache, frames, policy)
    assert np.asarray(report.path).tolist() == [FULL, FULL]
    assert not np.asarray(report.pending).any()
    assert clip.error(tokens, frames) < ROUNDING


def test_a_forced_full_encode_restarts_the_interval(clip):
    frames, _, cache = clip.start()
    policy = dv.Policy(keyframe_every=3, max_changed_patches=0)
    found = []
    for step in range(6):
        if step == 1:
            frames = clip.change_patch(frames, 0, 0)
        _, cache, report = clip.step(clip.params, cache, frames, policy)
        found.append(int(report.path[0]))
    assert found == [0, FULL, 0, 0, FULL, 0]


def test_max_changed_patches(clip):
    frames, _, cache = clip.start()
    two = clip.change_patch(clip.change_patch(frames, 0, 0), 3, 3, stream=0)
    _, _, report = clip.step(clip.params, cache, two, dv.Policy(margin=0, max_changed_patches=1))
    assert np.asarray(report.changed_patches).tolist() == [2, 1]
    assert np.asarray(report.path).tolist() == [FULL, PARTIAL]  # above it, not from it on
    _, _, report = clip.step(clip.params, cache, two, dv.Policy(margin=0))
    assert np.asarray(report.path).tolist() == [PARTIAL, PARTIAL]


def test_small_changes_are_skipped_but_not_lost(clip):
    first, tokens, cache = clip.start()
    reference = cache.reference
    policy = dv.Policy.exact(skip_small_patches=1)
    one = clip.change_patch(first, 0, 0)
    same, cache, report = clip.step(clip.params, cache, one, policy)
    assert report_of(report, 0)["skipped"]
    assert report_of(report, 0)["changed_patches"] == 1
    assert int(report.path[0]) == REUSE
    np.testing.assert_array_equal(same, tokens)
    np.testing.assert_array_equal(cache.reference, reference)
    two = clip.change_patch(one, 2, 2)  # with the skipped one it is two
    tokens, cache, report = clip.step(clip.params, cache, two, policy)
    assert not report_of(report, 0)["skipped"]
    assert clip.error(tokens, two) < ROUNDING


@pytest.mark.parametrize("metric", ["max", "mean"])
def test_the_metric_says_which_patches_changed(clip, metric):
    frames, _, cache = clip.start()
    p, seen = clip.tower.patch, frames.copy()
    seen[0, p, 2 * p, 0] ^= 128  # one pixel of patch (1, 2)
    half = seen[1, 2 * p : 3 * p, :p]
    half[:] = np.where(half > 127, half - 5, half + 5)  # 5 levels all over patch (2, 0)
    policy = dv.Policy(metric=metric, change_threshold=3.5 / 255)
    change = jax.jit(compare, static_argnums=0)(
        clip.tower, cache, seen, policy.resolved(clip.tower), jnp.ones(2, bool), None
    )
    expected = [[0, 1, 2]] * (metric == "max") + [[1, 2, 0]]
    assert np.argwhere(change.changed).tolist() == expected


def test_refreshing_bounds_the_age(toy):
    """Twenty patches, five a step, oldest first: none waits for more than four steps."""
    frames, _, cache = toy.start()
    ages = {0: [], 5: []}
    for refresh in ages:
        policy, kept, picture = (
            dv.Policy(margin=0, settle=0, refresh_patches=refresh),
            cache,
            frames,
        )
        for step in range(12):
            picture = toy.change_patch(picture, step % 4, step // 4, seed=step)
            _, kept, report = toy.step(toy.params, kept, picture, policy)
            ages[refresh].append(int(report.oldest_age[0]))
    assert max(ages[5]) <= 4
    assert max(ages[0]) > 8


@pytest.mark.slow
def test_refreshing_everything_settles(kit):
    frames, _, cache = kit.start()
    frames = kit.change_patch(frames, 1, 2)
    policy = dv.Policy(margin=0, settle=0, refresh_patches=99)
    _, cache, _ = kit.step(kit.params, cache, frames, policy)
    tokens, cache, _ = kit.step(kit.params, cache, frames, policy)
    assert not np.asarray(cache.stale).any()
    assert kit.error(tokens, frames) < ROUNDING


@pytest.mark.slow
def test_focus_is_computed_beside_the_margins(kit):
    """Places that somebody wants to be right, far from the change."""
    frames, _, cache = kit.start()
    frames = kit.change_patch(frames, 0, 0)
    focus = np.zeros((2, *kit.tower.grid), bool)
    focus[:, 3, 3] = True
    policy = dv.Policy(margin=0, settle=0)
    for given, places in ((None, [(0, 0)]), (focus, [(0, 0), (3, 3)])):
        *_, report = kit.step(kit.params, cache, frames, policy, focus=given)
        done = np.asarray(report.cell_recomputed)[0].reshape(kit.tower.grid)
        done = done - kit.tower.head_macs / kit.tower.macs
        assert [tuple(place) for place in np.argwhere(done > 1e-6)] == places
    tokens, cache, _ = kit.step(kit.params, cache, frames, policy, focus=focus | True)
    assert not np.asarray(cache.stale).any()
    assert kit.error(tokens, frames) < ROUNDING


def test_wider_margins_are_nearer_to_the_truth(toy):
    frames, _, cache = toy.start()
    frames = toy.change_patch(frames, 0, 0)
    full = toy.full(frames)
    errors, shares = [], []
    for margin in (0, 1, (1, 2), None):
        policy = dv.Policy(margin=margin)
        tokens, _, report = toy.step(toy.params, cache, frames, policy)
        errors.append(float(np.sqrt(np.square(np.asarray(tokens) - full).mean())))
        shares.append(float(report.recomputed[0]))
    assert errors == sorted(errors, reverse=True)
    assert shares == sorted(shares)
    assert errors[0] > 2 * errors[2] > 2 * errors[3]


# ---- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("change_threshold", -0.1),
        ("change_threshold", 1.5),
        ("change_threshold", math.nan),
        ("change_threshold", "0.1"),
        ("change_threshold", None),
        ("settle", -1),
        ("settle", np.array(-1.0)),
        ("settle", 1.01),
        ("settle", math.nan),
        ("max_changed_patches", -1),
        ("max_changed_patches", 1.5),
        ("skip_small_patches", -2),
        ("refresh_patches", 0.5),
        ("refresh_patches", math.inf),
        ("keyframe_every", -1),
        ("keyframe_every", 2.5),
        ("keyframe_every", None),
        ("margin", -1),
        ("margin", math.nan),
        ("margin", [1, 2, -3, 4, 5]),
        ("margin", [1, math.nan]),
        ("margin", []),
        ("margin", [[[1, 2], [3, 4]]]),
        ("margin", [[1, 2], [3]]),
        ("margin", [[1, 2], [3, -4]]),
        ("margin", "wide"),
        ("margin", ["a", "b"]),
        ("metric", "median"),
        ("metric", None),
        # None is for the one limit that it means something for.
        ("skip_small_patches", None),
        ("refresh_patches", None),
        ("change_threshold", []),
        ("change_threshold", [0.1, 2]),
        ("change_threshold", [[0.1]]),
        ("change_threshold", [0.1, [0.2]]),
        ("change_threshold", ["a"]),
        ("change_threshold", jnp.ones((2, 2))),
        ("skip_small_patches", [1, 1.5]),
        ("keyframe_every", (True, False)),
        ("settle", {"a": 1}),
        ("settle", True),
        ("change_threshold", np.array(["x"])),
        ("change_threshold", np.array([-1.0, 0.5])),
        ("change_threshold", jnp.nan),
        ("change_threshold", jnp.float32(jnp.nan)),
        ("skip_small_patches", jnp.int32(-1)),
        ("margin", jnp.array([1.0, jnp.nan])),
        ("margin", {1, 2}),
        ("margin", {"stage": 1}),
    ],
)
def test_bad_values_are_refused_by_name(field, value):
    with pytest.raises(dv.ConfigError, match=field):
        dv.Policy(**{field: value})


def test_what_jax_makes_of_a_policy_is_a_policy(toy):
    """On a device, traced, and with an axis to map over."""
    policy = jax.device_put(dv.Policy(change_threshold=0.1, margin=(1, 2)))
    assert isinstance(policy.settle, jax.Array)
    many = jax.tree.map(lambda x: jnp.stack([x, x]), policy)
    tower = toy.tower
    found = jax.vmap(lambda policy: policy.change_threshold + policy.margins(tower)[1])(many)
    np.testing.assert_allclose(found, [2.1, 2.1], rtol=1e-6)


@pytest.mark.parametrize("policy", [dv.Policy(), dv.Policy(margin=2), dv.Policy.fast()])
def test_anything_may_stand_in_a_leaf(policy):
    shapes = jax.tree.map(np.shape, policy)
    assert shapes.settle == ()
    assert jax.tree.map(lambda x: None, policy, is_leaf=lambda x: x is None).settle is None
    assert not jax.tree.all(jax.tree.map(lambda x: x is None, policy))
    leaves, structure = jax.tree.flatten(policy)
    assert jax.tree.unflatten(structure, [object()] * len(leaves)).metric == "max"


def test_margins_must_be_those_of_the_tower(toy):
    frames, _, cache = toy.start()
    with pytest.raises(dv.ConfigError, match="3 entries for a tower of 2 stages"):
        toy.step(toy.params, cache, frames, dv.Policy(margin=(1, 2, 3)))
    with pytest.raises(dv.ConfigError, match="3 entries for a tower of 2 stages"):
        jax.eval_shape(
            functools.partial(dv.encode_step, config=toy.config),
            *(toy.params, cache, frames),
            policy=dv.Policy(margin=jnp.ones(3)),
        )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("change_threshold", [0.1, 0.2, 0.3]),
        ("skip_small_patches", np.array([1])),
        ("settle", jnp.array([0.1] * 3)),
        ("margin", [[1, 2]] * 3),
        ("margin", [[1, 2]]),
    ],
)
def test_numbers_for_each_stream_must_be_as_many(toy, field, value):
    frames, _, cache = toy.start()
    with pytest.raises(dv.ConfigError, match=rf"^{field} has .* entries for 2 streams"):
        toy.step(toy.params, cache, frames, dv.Policy(**{field: value}))
    with pytest.raises(dv.ConfigError, match="2 x 3 entries for a tower of 2 stages"):
        toy.step(toy.params, cache, frames, dv.Policy(margin=[[1, 2, 3]] * 2))


def test_every_number_may_be_one_for_each_stream(toy, compilations):
    """As if each stream had a policy of its own, number by number and all together."""
    both = {
        "change_threshold": [0.0, 0.4],
        "max_changed_patches": [20, 1],
        "skip_small_patches": [3, 0],
        "margin": [[0, 1], [1, 3]],
        "settle": [0.0, 0.3],
        "refresh_patches": [0, 4],
        "keyframe_every": [3, 0],
    }
    one = toy.change_patch(toy.start()[0], 0, 1)
    faint = one.copy()
    faint[:, :20, :20] ^= 16
    two = toy.change_patch(toy.change_patch(faint, 2, 2), 3, 0)
    pictures = [one, one, faint, two, two]

    def run(policy):
        _, _, cache = toy.start()
        found = []
        for frames in pictures:
            tokens, cache, report = toy.step(toy.params, cache, frames, policy)
            found.append((np.asarray(tokens), jax.tree.map(np.asarray, report)))
        return found

    separate = [run(dv.Policy(**{k: v[b] for k, v in both.items()})) for b in range(2)]
    together = run(dv.Policy(**both))
    different = 0
    for (tokens, report), *own in zip(together, *separate, strict=True):
        for b in range(2):
            assert deviation(tokens[b], own[b][0][b]) < ROUNDING
            assert report_of(report, b) == report_of(own[b][1], b)
        different += report_of(own[0][1], 1) != report_of(own[1][1], 1)
    assert different == len(pictures)
    # Numbers that are the same for all do not become arrays: that would be another compilation.
    del compilations[:]
    run(dv.Policy(**{**both, "settle": [0.1, 0.2]}))
    run(dv.Policy())
    assert compilations == []


def test_a_policy_of_streams_is_repeated_for_caches_of_each():
    policy = dv.Policy(change_threshold=[0.1, 0.2], margin=[[1, 2], [3, 4]], settle=0.5)
    twice = policy.repeated(2)
    assert twice.change_threshold.tolist() == pytest.approx([0.1, 0.1, 0.2, 0.2])
    assert twice.margin.tolist() == [[1, 2], [1, 2], [3, 4], [3, 4]]
    assert twice.settle == policy.settle
    assert dv.Policy(margin=(1, 2)).repeated(3).margin.tolist() == [1, 2]
    assert dv.Policy().repeated(3) == dv.Policy()


def test_margins_of_a_tower(toy, clip):
    tower = toy.tower
    assert np.asarray(dv.Policy(margin=2).margins(tower)).tolist() == [2] * 2
    assert np.asarray(dv.Policy(margin=None).margins(tower)).tolist() == [math.inf] * 2
    assert np.asarray(dv.Policy(margin=(1, 2)).margins(tower)).tolist() == [1, 2]
    for kit in (toy, clip):  # a preset means the tower's own numbers
        for name in ("faithful", "fast"):
            policy = getattr(dv.Policy, name)()
            assert np.asarray(policy.margins(kit.tower)).tolist() == list(
                kit.tower.presets[name].margins
            )
            assert policy.resolved(kit.tower).margin.tolist() == list(
                kit.tower.presets[name].margins
            )


def test_presets_are_what_the_documentation_says():
    exact, classic = dv.Policy.exact(), dv.Policy.classic()
    assert np.isinf(exact.margin)
    assert classic.metric == "mean"
    assert (float(classic.change_threshold), int(classic.max_changed_patches)) == (
        pytest.approx(0.05),
        50,
    )
    assert dv.Policy().margin == dv.Policy.faithful().margin == "faithful"
    assert dv.Policy.fast(settle=0.5, margin=1).settle == 0.5


def test_the_metric_and_a_presets_name_are_static():
    structure = jax.tree.structure(dv.Policy())
    assert structure != jax.tree.structure(dv.Policy(metric="mean"))
    assert structure != jax.tree.structure(dv.Policy.fast())
    assert structure == jax.tree.structure(dv.Policy(settle=0.1))


def test_a_preset_may_say_when_a_frame_is_encoded_in_full(toy):
    tower = dataclasses.replace(toy.tower, presets={"fast": Preset((1.0, 1.0), full_above=0.25)})
    assert dv.Policy.fast().most_changed(tower) == tower.cells // 4
    assert dv.Policy.fast().resolved(tower).max_changed_patches == tower.cells // 4
    few = dataclasses.replace(tower, presets={"fast": Preset((1.0, 1.0), full_above=0.01)})
    assert dv.Policy.fast().most_changed(few) == 1
    traced = jax.tree.map(jnp.asarray, dv.Policy.fast())
    assert int(traced.most_changed(tower)) == tower.cells // 4
    # A number of the user's own, or margins without a name, are what they are.
    assert dv.Policy.fast(max_changed_patches=3).most_changed(tower) == 3
    unbounded = dv.Policy(margin=1).resolved(tower).max_changed_patches
    assert unbounded == dv.Policy().max_changed_patches


def test_a_policy_by_name_is_bounded_inside_a_function_of_ones_own(toy):
    """Where nobody has resolved it."""
    first, second = (toy.change_patch(toy.start()[0], 1, column) for column in (1, 2))
    frames, _, cache = toy.start()
    both = np.where(first != frames, first, second)
    tower = dataclasses.replace(toy.tower, presets={"fast": Preset((1.0, 1.0), full_above=0.08)})
    active = jnp.ones(cache.batch, bool)
    for seen, must in ((first, False), (both, True)):
        change = compare(tower, cache, seen, dv.Policy.fast(), active, None)
        assert np.asarray(change.must).any() == must
