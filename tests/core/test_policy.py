"""What each knob of a policy does, and which values it takes."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import ODD, ROUNDING, Kit, report_of

import diffvis_jax as dv
from diffvis_jax.core import recompute as layer_step
from diffvis_jax.core.change import distance_to
from diffvis_jax.core.plan import most_work, to_cells
from diffvis_jax.towers import build

FULL, PARTIAL, REUSE = 2, 1, 0


def paths(kit, cache, frames, policy, steps: int) -> list[int]:
    found = []
    for _ in range(steps):
        _, cache, report = kit.step(kit.params, cache, frames, policy)
        found.append(int(report.path[0]))
    return found


def test_what_would_cost_nearly_everything_is_done_in_full(monkeypatch):
    monkeypatch.setitem(layer_step._FULL_ABOVE, "cpu", 0.5)
    # A config of its own: the others are compiled with the limit that conftest.py sets.
    kit = Kit(dataclasses.replace(ODD, pad_color=(1, 2, 3)))
    frames, _, cache = kit.start()
    frames = kit.change_patch(frames, 1, 1)
    for fields, path in (({"margin": None}, FULL), ({"margin": 0}, PARTIAL)):
        tokens, new, report = kit.step(kit.params, cache, frames, dv.Policy(**fields))
        assert np.asarray(report.path).tolist() == [path, path]
        assert np.asarray(report.changed_patches).tolist() == [1, 1]
        assert (kit.error(tokens, frames) < ROUNDING) == (path == FULL)
        assert np.asarray(new.pending).any() == (path == PARTIAL)
    # What a tolerance will save cannot be foreseen.
    policy = dv.Policy(margin=None, tolerance=1e-6)
    assert paths(kit, cache, frames, policy, 1) == [PARTIAL]


@pytest.mark.parametrize("margin", [0, 1, (0, 1, 1, 2, 3), None])
def test_no_step_costs_more_than_was_foreseen(kit, margin):
    frames, _, cache = kit.start()
    policy = dv.Policy(margin=margin, settle=0)
    for row, column in ((0, 0), (1, 1), (2, 3)):
        after = kit.change_patch(frames, row, column)
        mask = jnp.zeros((2, 4, 4), bool).at[:, row, column].set(True)
        distance = to_cells(kit.tower, distance_to(mask), 0)
        most = most_work(kit.tower, distance, policy.margins(kit.tower.stages))
        _, _, report = kit.step(kit.params, cache, after, policy)
        assert (np.asarray(report.recomputed) <= np.asarray(most) + 1e-6).all()
        assert (np.asarray(most) <= 1 + 1e-6).all()


def test_what_is_foreseen_of_the_full_size_tower():
    """Its MACs do not fit into 32 bits. A change that stays in its patch moves all attention."""
    tower = build(dv.FastViTHDConfig())
    near = jnp.full((1, tower.cells), 99).at[0, 0].set(0)
    for margin, low, high in ((0, 0.003, 0.006), (math.inf, 0.2, 0.23)):
        most = float(most_work(tower, near, dv.Policy(margin=margin).margins(tower.stages))[0])
        assert low < most < high
    everything = most_work(tower, 0 * near, dv.Policy(margin=0).margins(tower.stages))
    assert float(everything[0]) == pytest.approx(1, abs=1e-5)


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


def test_refreshing_bounds_the_age(fastvithd):
    """Sixteen patches, four a step, oldest first: none waits for more than four steps."""
    kit = fastvithd
    frames, _, cache = kit.start()
    ages = {0: [], 4: []}
    for refresh in ages:
        policy, kept, picture = (
            dv.Policy(margin=0, settle=0, refresh_patches=refresh),
            cache,
            frames,
        )
        for step in range(12):
            picture = kit.change_patch(picture, step % 4, step // 4, seed=step)
            _, kept, report = kit.step(kit.params, kept, picture, policy)
            ages[refresh].append(int(report.oldest_age[0]))
    assert max(ages[4]) <= 4
    assert max(ages[0]) > 8


def test_refreshing_renews_what_a_tolerance_held_back(clip):
    """Else held cells are for ever the oldest, and nothing else is refreshed any more."""
    first, _, cache = clip.start()
    policy = dv.Policy(margin=None, tolerance=1e6, settle=0)
    _, cache, report = clip.step(clip.params, cache, clip.change_patch(first, 0, 0), policy)
    assert report_of(report, 0)["pending"] > 0
    policy = dv.Policy(margin=0, tolerance=1e6, settle=0, refresh_patches=4)
    frames, ages = clip.change_patch(first, 0, 0), []
    for step in range(12):  # a busy screen: never idle
        frames = clip.change_patch(frames, 3, 3, seed=step)
        _, cache, report = clip.step(clip.params, cache, frames, policy)
        ages.append(int(report.oldest_age[0]))
    assert max(ages) <= 5


def test_refreshing_alone_settles(fastvithd):
    kit = fastvithd
    frames, _, cache = kit.start()
    frames = kit.change_patch(frames, 1, 2)
    policy = dv.Policy(margin=0, settle=0, refresh_patches=16)
    # What is refreshed marks its neighbours in the layers behind: a few rounds, ever deeper.
    for _ in range(len(kit.tower.layers)):
        tokens, cache, _ = kit.step(kit.params, cache, frames, policy)
    assert not np.asarray(cache.pending).any()
    assert kit.error(tokens, frames) < ROUNDING


def test_wider_margins_are_nearer_to_the_truth(fastvithd):
    kit = fastvithd
    frames, _, cache = kit.start()
    frames = kit.change_patch(frames, 0, 0)
    full = kit.full(frames)
    errors, shares = [], []
    for margin in (0, 1, (1, 1, 2, 3, 3), None):
        policy = dv.Policy(margin=margin)
        tokens, _, report = kit.step(kit.params, cache, frames, policy)
        errors.append(float(np.sqrt(np.square(np.asarray(tokens) - full).mean())))
        shares.append(float(report.recomputed[0]))
    assert errors == sorted(errors, reverse=True)
    assert shares == sorted(shares)
    assert errors[0] > 3 * errors[2] > 3 * errors[3]


def test_margin_holds_stage_by_stage(fastvithd):
    """A cell beyond its stage's margin keeps its old value; what lies within is renewed."""
    kit, margin = fastvithd, (0, 1, 0, 2, 3)
    frames, _, cache = kit.start()
    changed = kit.change_patch(frames, 0, 0)
    _, after, _ = kit.step(kit.params, cache, changed, dv.Policy(margin=margin))
    distance = np.maximum(*np.indices((4, 4)))
    for layer, old, new in zip(kit.tower.layers, cache.maps, after.maps, strict=True):
        c = layer.cell
        moved = (np.asarray(old)[0] != np.asarray(new)[0]).any(-1)
        moved = moved.reshape(4, c, 4, c).any((1, 3))
        assert moved[0, 0], layer.name
        if (distance <= margin[layer.stage]).mean() < 0.5:  # else one dense pass is cheaper
            assert not moved[distance > margin[layer.stage]].any(), layer.name


def test_a_huge_tolerance_keeps_everything_back(fastvithd):
    kit = fastvithd
    frames, before, cache = kit.start()
    frames = kit.change_patch(frames, 1, 1)
    tokens, cache, report = kit.step(kit.params, cache, frames, dv.Policy(tolerance=1e6))
    np.testing.assert_array_equal(tokens, before)
    assert (np.asarray(report.pending) > 0).all()
    np.testing.assert_array_equal(cache.reference, frames)


def test_tolerance_trades_error_for_work(fastvithd):
    kit = fastvithd
    frames, _, cache = kit.start()
    frames = frames.copy()
    frames[:, 100, 100] ^= 255  # one pixel: its influence fades with the distance
    full, errors, shares = kit.full(frames), [], []
    for tolerance in (0.3, 1e-2, 1e-4, 0):
        policy = dv.Policy(margin=None, tolerance=tolerance)
        tokens, _, report = kit.step(kit.params, cache, frames, policy)
        errors.append(float(np.abs(np.asarray(tokens) - full).max()))
        shares.append(float(report.recomputed[0]))
    assert errors == sorted(errors, reverse=True)
    assert shares == sorted(shares)
    assert shares[0] < 0.5 * shares[-1]


# ---- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("change_threshold", -0.1),
        ("change_threshold", 1.5),
        ("change_threshold", math.nan),
        ("change_threshold", "0.1"),
        ("change_threshold", None),
        ("tolerance", -1e-9),
        ("tolerance", math.nan),
        ("attending", -0.1),
        ("attending", 1.5),
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
        ("margin", [[1, 2], [3, 4]]),
        ("margin", "wide"),
        ("margin", ["a", "b"]),
        ("metric", "median"),
        ("metric", None),
        # None is for the one limit that it means something for.
        ("skip_small_patches", None),
        ("refresh_patches", None),
        ("change_threshold", [0.1]),
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


def test_what_jax_makes_of_a_policy_is_a_policy(clip):
    """On a device, traced, and with an axis to map over."""
    policy = jax.device_put(dv.Policy(change_threshold=0.1, margin=(1, 2, 3)))
    assert isinstance(policy.settle, jax.Array)
    many = jax.tree.map(lambda x: jnp.stack([x, x]), policy)
    found = jax.vmap(lambda policy: policy.change_threshold + policy.margins(3)[2])(many)
    np.testing.assert_allclose(found, [3.1, 3.1], rtol=1e-6)


def test_margin_must_reach_every_stage(fastvithd):
    frames, _, cache = fastvithd.start()
    with pytest.raises(dv.ConfigError, match="3 entries for a tower of 5 stages"):
        fastvithd.step(fastvithd.params, cache, frames, dv.Policy(margin=(1, 2, 3)))


def test_margins_of_a_tower():
    assert np.asarray(dv.Policy(margin=2).margins(5)).tolist() == [2] * 5
    assert np.asarray(dv.Policy(margin=None).margins(2)).tolist() == [math.inf] * 2
    assert np.asarray(dv.Policy(margin=(1, 2, 3, 4, 5)).margins(1)).tolist() == [1]


def test_presets():
    exact, classic = dv.Policy.exact(), dv.Policy.classic()
    assert np.isinf(exact.margin)
    assert exact.tolerance == exact.change_threshold == 0
    assert classic.metric == "mean"
    assert classic.change_threshold == pytest.approx(0.05)
    assert classic.max_changed_patches == 50
    np.testing.assert_array_equal(dv.Policy.faithful().margin, dv.Policy().margin)
    assert (dv.Policy.fast().margin <= dv.Policy().margin).all()
    assert dv.Policy.fast(settle=0.5, margin=1).settle == 0.5


def test_policy_is_a_pytree_with_the_metric_outside():
    leaves, structure = jax.tree.flatten(dv.Policy())
    assert len(leaves) == 9
    assert structure != jax.tree.structure(dv.Policy(metric="mean"))
    jax.tree.unflatten(structure, [object()] * 9)  # JAX does so: placeholders must pass
