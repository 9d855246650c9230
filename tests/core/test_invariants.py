"""What must hold after every step, whatever the frames: section by section of the promise."""

import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import EDITS, ROUNDING, deviation, edit, patch_distance, report_of

import diffvis_jax as dv
from diffvis_jax.core.step import jit_audit
from diffvis_jax.core.tuning import CPU
from diffvis_jax.towers.base import AttentionLayer, TokenStack

FULL, PARTIAL, REUSE = 2, 1, 0

# A step of an episode: one (kind, seed) for each of two streams.
one_edit = st.tuples(st.sampled_from(EDITS), st.integers(0, 2**16))
episodes = st.lists(st.tuples(one_edit, one_edit), min_size=2, max_size=6)
policies = st.builds(
    dict,
    change_threshold=st.sampled_from([0.0, 2 / 255, 0.1]),
    margin=st.sampled_from([0, 1, "fast", "faithful", None]),
    settle=st.sampled_from([0.0, 0.05, 1.0]),
    budget=st.sampled_from([1.0, 1.0, 0.3, 0.01]),
    refresh_patches=st.sampled_from([0, 3]),
    max_changed_patches=st.sampled_from([None, 6]),
    skip_small_patches=st.sampled_from([0, 2]),
)


def play(first, episode):
    """The frames of an episode, `[B, H, W, 3]` each."""
    frames = first
    for edits in episode:
        frames = np.stack(
            [edit(frames[b], kind, seed, first[b]) for b, (kind, seed) in enumerate(edits)]
        )
        yield frames


def clean(cache) -> bool:
    return not np.asarray(cache.stale).any()


def same_bits(one, other) -> bool:
    return np.asarray(one).tobytes() == np.asarray(other).tobytes()


# ---- 1: equal to the full encode ---------------------------------------------------------------


def maps_of(kit, cache):
    """Every layer's map in a cache: name -> `[B, H, W, C]`, valid positions, and all of them."""
    for name, layer, place in zip(kit.tower.names, kit.tower.layers, kit.tower.places, strict=True):
        if isinstance(layer, TokenStack):
            continue
        border = kit.tower.borders[place.array]
        whole = np.array(cache.maps[place.array][:, place.slot])
        valid = np.zeros(whole.shape[1:3], bool)
        height, width = layer.shape
        valid[border : border + height, border : border + width] = True
        yield name, whole, valid


def test_empty_cache_gives_the_full_encode(kit):
    frames, tokens, cache = kit.start()
    assert kit.error(tokens, frames) < ROUNDING
    assert same_bits(kit.seen(cache.reference), kit.seen(frames))
    rest = np.array(cache.reference)
    rest[:, : kit.seen(frames).shape[1], : kit.seen(frames).shape[2]] = 0
    assert not rest.any()
    # Every layer's map, not only what comes out at the end.
    for b in range(2):
        maps = kit.maps(frames[b])
        for name, whole, valid in maps_of(kit, cache):
            height, width = maps[name].shape[1:3]
            inside = whole[b][valid].reshape(1, height, width, -1)
            assert deviation(inside, maps[name]) < ROUNDING, name


@given(episode=episodes)
def test_exact_tokens_equal_the_encoded_reference(kit, episode):
    first, _, cache = kit.start(dv.Policy.exact())
    for frames in play(first, episode):
        tokens, cache, _ = kit.step(kit.params, cache, frames, dv.Policy.exact())
        assert kit.error(tokens, cache.reference) < ROUNDING
        assert clean(cache)


@given(episode=episodes, threshold=st.sampled_from([2 / 255, 0.1, 0.5]))
def test_exact_means_the_reference_also_with_a_threshold(toy, episode, threshold):
    kit, policy = toy, dv.Policy.exact(change_threshold=threshold)
    first, _, cache = kit.start(policy)
    for frames in play(first, episode):
        tokens, cache, _ = kit.step(kit.params, cache, frames, policy)
        assert kit.error(tokens, cache.reference) < ROUNDING


@pytest.mark.parametrize("name", ["toy", pytest.param("odd", marks=pytest.mark.slow)])
def test_positions_beyond_the_frame_stay_zero(name, request):
    # The dense network pads with zeros there; a step must not leave anything behind.
    kit = request.getfixturevalue(name)
    frames, _, cache = kit.start()
    rows, columns = kit.tower.grid
    policies = dv.Policy(margin=0), dv.Policy.exact(), dv.Policy(margin=1)
    for number in range(min(rows, columns)):
        frames = kit.change_patch(frames, number, columns - 1)
        frames = kit.change_patch(frames, rows - 1, number)
        _, cache, _ = kit.step(kit.params, cache, frames, policies[number % 3])
    for name, whole, valid in maps_of(kit, cache):
        assert not whole[:, ~valid].any(), name


# ---- 2, 3: the reference -----------------------------------------------------------------------


def check_reference(kit, policy, episode):
    first, _, cache = kit.start(policy)
    for frames in play(first, episode):
        _, cache, report = kit.step(kit.params, cache, frames, policy)
        difference = patch_distance(
            kit.seen(frames), kit.seen(cache.reference), kit.tower.patch, policy.metric
        )
        kept = ~np.asarray(report.skipped)
        assert (difference[kept] <= float(policy.change_threshold) + 1e-7).all()


@given(episode=episodes, values=policies)
def test_frames_stay_within_the_threshold_of_the_reference(kit, episode, values):
    check_reference(kit, dv.Policy(**values), episode)


@pytest.mark.slow
@given(episode=episodes, values=policies)
def test_frames_stay_within_the_mean_threshold(clip, episode, values):
    check_reference(clip, dv.Policy(**values, metric="mean"), episode)


@given(episode=episodes)
def test_without_a_threshold_the_reference_is_the_frame(toy, episode):
    first, _, cache = toy.start()
    for frames in play(first, episode):
        _, cache, _ = toy.step(toy.params, cache, frames, dv.Policy())
        assert same_bits(cache.reference, frames)


@pytest.mark.parametrize(
    "metric", ["max", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mean", "p99"))]
)
def test_slow_fade_is_picked_up(clip, metric):
    kit, p = clip, clip.tower.patch
    policy = dv.Policy(metric=metric, change_threshold=3.5 / 255, settle=0, margin=0)
    first, _, cache = kit.start(policy)
    first[:, 8 : 8 + p, 16 : 16 + p] = 100  # patch (1, 2)
    first[:, 24 : 24 + p, :p] = 0
    _, cache, _ = kit.step(kit.params, cache, first, policy)
    for grey in range(1, 10):
        frames = first.copy()
        frames[:, 8 : 8 + p, 16 : 16 + p] = 100 + grey
        # The second stream has something to do in every step, in another patch.
        frames[1, 24 : 24 + p, :p] = 200 * (grey % 2)
        _, cache, report = kit.step(kit.params, cache, frames, policy)
        # Each step moves by 1, below 3.5; the fourth since the last update passes it.
        assert np.asarray(cache.reference)[:, 8, 16, 0].tolist() == [100 + grey // 4 * 4] * 2
        assert report_of(report, 0)["path"] == ("reuse" if grey % 4 else "partial")
        changed = [] if grey % 4 else [[1, 2]]
        assert np.argwhere(report.changed[0]).tolist() == changed
        assert np.argwhere(report.changed[1]).tolist() == [*changed, [3, 0]]


# ---- 4: nothing changed ------------------------------------------------------------------------


def test_nothing_changed_gives_the_same_bits(kit):
    frames, _, cache = kit.start()
    frames = kit.change_patch(frames, 1, 1)
    before, cache, _ = kit.step(kit.params, cache, frames, dv.Policy.exact())
    after, kept, report = kit.step(kit.params, cache, frames, dv.Policy.exact())
    assert same_bits(before, after)
    assert all(same_bits(a, b) for a, b in zip(cache.maps, kept.maps, strict=True))
    assert np.asarray(report.path).tolist() == [REUSE, REUSE]
    assert not np.asarray(report.recomputed).any()
    assert not np.asarray(report.cell_recomputed).any()
    assert not np.asarray(report.changed_patches).any()


@pytest.mark.parametrize("settle", [1.0, 0.3, 0.07])
def test_idle_steps_settle_within_the_bound(kit, settle):
    """Layers settle in order, so no cell is computed twice: all of them cost at most one encode,
    and every idle step but the last spends at least its share."""
    frames, _, cache = kit.start()
    frames = kit.change_patch(frames, 1, 2)
    policy = dv.Policy(margin=0, settle=settle)
    tokens, cache, report = kit.step(kit.params, cache, frames, policy)
    late = kit.error(tokens, frames)
    assert late > 100 * ROUNDING
    assert float(report.pending[0]) > 0
    steps, spent = 0, np.zeros(2)
    while not clean(cache):
        steps += 1
        assert steps <= math.ceil(1 / settle)
        tokens, cache, report = kit.step(kit.params, cache, frames, policy)
        assert (np.asarray(report.path) == PARTIAL).all()
        spent += np.asarray(report.recomputed)
        if not clean(cache):
            assert (np.asarray(report.recomputed) > 0.99 * settle).all()
    assert kit.error(tokens, frames) < ROUNDING
    assert not np.asarray(report.pending).any()
    assert not np.asarray(report.oldest_age).any()
    # The head is not in the budget, and comes again with every step.
    head = kit.tower.head_macs / kit.tower.macs
    assert (spent < 1.01 + head * steps).all()
    tokens, _, report = kit.step(kit.params, cache, frames, policy)
    assert np.asarray(report.path).tolist() == [REUSE, REUSE]


def test_without_settling_an_idle_step_leaves_stale_cells_alone(kit):
    policy = dv.Policy(margin=0, settle=0)
    frames, _, cache = kit.start()
    frames = kit.change_patch(frames, 1, 2)
    before, cache, _ = kit.step(kit.params, cache, frames, policy)
    after, cache, report = kit.step(kit.params, cache, frames, policy)
    assert same_bits(before, after)
    assert np.asarray(report.path).tolist() == [REUSE, REUSE]
    assert (np.asarray(report.pending) > 0).all()
    assert np.asarray(report.oldest_age).tolist() == [2, 2]


def test_a_change_between_idle_steps_begins_the_settling_anew(kit):
    """What a pass over all rows has done before is of another frame."""
    frames, _, cache = kit.start()
    policy = dv.Policy(margin=0, settle=0.4)
    for number in range(3):
        frames = kit.change_patch(frames, number, 2, seed=number)
        for _ in range(2):  # the change, and one idle step that does not finish
            tokens, cache, _ = kit.step(kit.params, cache, frames, policy)
        assert not clean(cache)
    for _ in range(3):
        tokens, cache, _ = kit.step(kit.params, cache, frames, policy)
    assert clean(cache)
    assert kit.error(tokens, frames) < ROUNDING


# ---- a budget -----------------------------------------------------------------------------------


def one_patch(tower) -> float:
    """What it costs in all layers, and the head; over a full encode."""
    macs = sum(layer.window_macs + layer.kv_macs for layer in tower.layers) + tower.head_macs
    return macs / tower.macs


def of_a_layer(tower) -> float:
    """Idle steps do a layer, or a block of a stack, as a whole where that is cheaper."""
    return max(
        (layer.macs + layer.kv_macs) * tower.cells / getattr(layer, "depth", 1)
        for layer in tower.layers
    ) / tower.macs  # fmt: skip


@given(
    episode=st.lists(st.tuples(one_edit, one_edit), min_size=4, max_size=10),
    budget=st.sampled_from([0.001, 0.02, 0.1, 0.3, 0.7]),
    margin=st.sampled_from([0, 2, "faithful", None]),
)
def test_no_step_spends_more_than_its_budget(kit, episode, budget, margin):
    first, _, cache = kit.start()
    policy, idle = dv.Policy(budget=budget, margin=margin), of_a_layer(kit.tower)
    for frames in play(first, episode):
        quiet = ~np.asarray(cache.waiting).any(-1)
        _, cache, report = kit.step(kit.params, cache, frames, policy)
        over = idle * (quiet & ~np.asarray(report.changed).any((1, 2)))
        assert (np.asarray(report.recomputed) <= budget + one_patch(kit.tower) + over + 1e-5).all()
        busy = np.asarray(report.changed).any((1, 2))
        assert (np.asarray(report.recomputed)[busy] > 0).all()  # it makes progress


@pytest.mark.parametrize("budget", [0.001, 0.05, 0.4])
def test_under_a_budget_tokens_settle_in_bounded_steps(kit, budget):
    frames, _, cache = kit.start()
    frames = edit(frames[0], "everything", 1, frames[0])[None].repeat(2, 0)
    policy, steps = dv.Policy(budget=budget), 0
    while not clean(cache) or not steps:
        tokens, cache, report = kit.step(kit.params, cache, frames, policy)
        steps += 1
        room = max(1, int(budget / one_patch(kit.tower)))
        # An idle step does a cell of a layer at least.
        idle = min(len(kit.tower.layers) * kit.tower.cells, 1 / min(budget, 0.25))
        assert steps <= 2 + kit.tower.cells / room + idle
        assert not np.asarray(report.path == FULL).any()
    assert steps > 1
    assert kit.error(tokens, frames) < ROUNDING
    assert not np.asarray(report.waiting_patches).any()


def test_under_a_budget_nothing_waits_for_ever(toy):
    """Everything changes all the time, and there is room for two patches of a hundred."""
    kit, (frames, _, cache) = toy, toy.start()
    policy = dv.Policy(budget=2.5 * one_patch(kit.tower))
    cells, rng = kit.tower.cells, np.random.default_rng(0)
    for _ in range(2 * cells):
        frames = rng.integers(0, 256, frames.shape, np.uint8)
        _, cache, report = kit.step(kit.params, cache, frames, policy)
        assert (np.asarray(report.oldest_age) <= cells).all()
        assert (np.asarray(report.recomputed) > 0).all()
    assert (np.asarray(report.waiting_patches) > cells // 2).all()
    assert not np.asarray(report.margin_share).any()


# ---- nothing is forgotten ----------------------------------------------------------------------


@given(episode=episodes, values=policies)
def test_stale_cells_are_never_forgotten(kit, episode, values):
    first, _, cache = kit.start()
    policy = dv.Policy(**values)
    for frames in play(first, episode):
        _, cache, _ = kit.step(kit.params, cache, frames, policy)
    reference = np.asarray(cache.reference)
    for _ in range(2):  # what a budget had no room for counts as a change of the next step
        tokens, cache, _ = kit.step(kit.params, cache, reference, dv.Policy(settle=1))
    assert clean(cache)
    assert kit.error(tokens, reference) < ROUNDING


@given(episode=episodes, values=policies)
def test_what_is_not_stale_is_exact(toy, episode, values):
    """Cell by cell and layer by layer, against the full encode of the reference."""
    kit, rows = toy, toy.tower.grid
    first, _, cache = kit.start()
    for frames in play(first, episode):
        _, cache, _ = kit.step(kit.params, cache, frames, dv.Policy(**values))
    maps = [kit.maps(frame) for frame in np.asarray(cache.reference)]
    stale = np.asarray(cache.stale)
    for number, (name, whole, valid) in enumerate(maps_of(kit, cache)):
        layer = kit.tower.layers[number]
        for b in range(2):
            truth = maps[b][name][0]
            inside = whole[b][valid].reshape(truth.shape)
            wrong = np.abs(inside - truth).max(-1) > ROUNDING * np.abs(truth).max()
            padded = np.zeros([cells * layer.cell for cells in rows], bool)
            padded[: truth.shape[0], : truth.shape[1]] = wrong
            by_cell = padded.reshape(rows[0], layer.cell, rows[1], layer.cell).any((1, 3))
            assert not (by_cell.reshape(-1) & ~stale[b, number]).any(), name


@given(episode=episodes, values=policies)
def test_an_exact_step_makes_up_for_everything(kit, episode, values):
    first, _, cache = kit.start()
    for frames in play(first, episode):
        _, cache, _ = kit.step(kit.params, cache, frames, dv.Policy(**values))
    frames = kit.change_patch(np.asarray(cache.reference), 2, 1)
    tokens, cache, _ = kit.step(kit.params, cache, frames, dv.Policy.exact())
    assert clean(cache)
    assert kit.error(tokens, frames) < ROUNDING


# ---- 5: streams --------------------------------------------------------------------------------


def assert_same_report(one: dict, other: dict) -> None:
    for name in ("recomputed", "pending"):
        assert one.pop(name) == pytest.approx(other.pop(name), rel=1e-5)
    assert one == other


@given(episode=episodes, values=policies)
def test_permuting_streams_permutes_results(kit, episode, values):
    policy = dv.Policy(**values)
    first, _, cache = kit.start()
    swapped = jax.tree.map(lambda x: x[::-1], cache)
    for frames in play(first, episode):
        tokens, cache, report = kit.step(kit.params, cache, frames, policy)
        other, swapped, swapped_report = kit.step(kit.params, swapped, frames[::-1], policy)
        assert deviation(other[::-1], tokens) < ROUNDING
        for b in range(2):
            assert_same_report(report_of(swapped_report, 1 - b), report_of(report, b))


@given(episode=episodes, values=policies)
def test_streams_together_equal_single_streams(kit, episode, values):
    first, _, cache = kit.start()
    singles = [
        kit.serve(kit.params, dv.init_cache(kit.config, 1), first[b : b + 1])[1] for b in range(2)
    ]
    policy = dv.Policy(**values)
    for frames in play(first, episode):
        tokens, cache, report = kit.step(kit.params, cache, frames, policy)
        for b in range(2):
            token, singles[b], single = kit.serve(kit.params, singles[b], frames[b : b + 1], policy)
            assert deviation(tokens[b : b + 1], token) < ROUNDING
            assert_same_report(report_of(single, 0), report_of(report, b))


def test_a_busy_stream_leaves_an_idle_one_alone(kit):
    """Bit by bit: also what is stale in it."""
    first, _, cache = kit.start()
    policy = dv.Policy(margin=0, settle=0)
    frames = kit.change_patch(first, 1, 1)
    tokens, cache, _ = kit.step(kit.params, cache, frames, policy)
    assert np.asarray(cache.stale[0]).any()
    frames = kit.change_patch(frames, 2, 2, stream=1)
    new_tokens, new, report = kit.step(kit.params, cache, frames, policy)
    assert np.asarray(report.path).tolist() == [REUSE, PARTIAL]
    assert same_bits(tokens[0], new_tokens[0])
    for field in ("pixels", "maps", "keys", "values", "hidden", "stale", "distance"):
        pairs = jax.tree.map(
            lambda *x: same_bits(x[0][0], x[1][0]), *(getattr(x, field) for x in (cache, new))
        )
        assert jax.tree.all(pairs), field


def test_a_stream_may_start_later(clip):
    """An empty stream beside one that is being followed: full beside partial."""
    kit = clip
    frames, _, cache = kit.start()
    empty = dv.init_cache(kit.config, 2)
    cache = jax.tree.map(lambda old, new: old.at[1].set(new[1]), cache, empty)
    frames = kit.change_patch(frames, 0, 3)
    tokens, cache, report = kit.step(kit.params, cache, frames, dv.Policy(margin=0))
    assert np.asarray(report.path).tolist() == [PARTIAL, FULL]
    assert kit.error(tokens[1:], frames[1:]) < ROUNDING


# ---- 6: nothing is compiled after warm-up ------------------------------------------------------


def test_an_episode_compiles_nothing(kit, compilations):
    frames, _, cache = kit.start()
    sweep = [
        dv.Policy(),
        dv.Policy.exact(),
        dv.Policy.fast(),
        dv.Policy(margin=2),
        dv.Policy(margin=np.arange(kit.tower.stages) + 0.5),
        dv.Policy(change_threshold=0.05, settle=0.5, refresh_patches=2),
        dv.Policy(max_changed_patches=0),
        dv.Policy(skip_small_patches=3, keyframe_every=4),
        dv.Policy(settle=0),
        dv.Policy(budget=0.1),
    ]
    jax.block_until_ready(kit.step(kit.params, cache, frames, None))
    del compilations[:]
    seed = 0
    for policy in sweep:
        for kind in EDITS:
            seed += 1
            frames = np.stack([edit(x, kind, seed + b, x) for b, x in enumerate(frames)])
            _, cache, report = kit.step(kit.params, cache, frames, policy)
            dv.describe(report)
    assert compilations == []


def test_the_count_of_compilations_counts(compilations):
    jax.jit(lambda x: x * 3 + 1)(np.arange(3))
    assert compilations


# ---- 8: the report -----------------------------------------------------------------------------


def test_first_step_is_a_whole_encode(kit):
    frames = kit.frames()
    _, _, report = kit.step(kit.params, dv.init_cache(kit.config, 2), frames)
    np.testing.assert_allclose(report.recomputed, 1, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(report.cell_recomputed).mean(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(report.stage_recomputed).mean(-1), 1, rtol=1e-5)
    assert report_of(report, 1) == {
        "path": "full",
        "changed_patches": 0,
        "total_patches": kit.tower.cells,
        "skipped": False,
        "recomputed": pytest.approx(1),
        "pending": 0,
        "oldest_age": 0,
        "waiting_patches": 0,
        "margin_share": 1.0,
        "moved_patches": 0,
    }


def test_margin_zero_is_counted_by_hand(kit):
    frames, _, cache = kit.start()
    changed = kit.change_patch(frames, 2, 1, stream=0)  # the other stream stays as it is
    _, cache, report = kit.step(kit.params, cache, changed, dv.Policy(margin=0, settle=0))
    tower = kit.tower
    macs = tower.head_macs + sum(layer.macs + layer.kv_macs for layer in tower.layers)
    assert float(report.recomputed[0]) == pytest.approx(macs / tower.macs, rel=1e-5)
    assert float(report.recomputed[1]) == 0
    assert np.asarray(report.path).tolist() == [PARTIAL, REUSE]
    assert np.asarray(report.changed_patches).tolist() == [1, 0]
    assert np.argwhere(report.changed).tolist() == [[0, 2, 1]]
    # Where it was done: at the patch, but for the head.
    where = np.asarray(report.cell_recomputed[0]) - tower.head_macs / tower.macs
    assert np.flatnonzero(where > 1e-6).tolist() == [2 * tower.grid[1] + 1]
    # What is pending: stale cells at their cost, alone or in a pass over the whole map.
    pending = sum(
        min(
            int(np.asarray(cache.stale[0, i]).sum()) * (layer.window_macs + layer.kv_macs),
            tower.cells * (layer.macs + layer.kv_macs),
        )
        for i, layer in enumerate(tower.layers)
    )
    assert pending > 0
    assert float(report.pending[0]) == pytest.approx(pending / tower.macs, rel=1e-5)
    assert float(report.pending[1]) == 0


@pytest.mark.parametrize("patch", [(0, 0), (1, 2), (3, 3)])
def test_exact_work_lies_between_what_changed_and_what_could(toy, patch):
    """An independent count: from the full encodes before and after, and from geometry alone."""
    kit, tower, (rows, columns) = toy, toy.tower, toy.tower.grid
    frames, _, cache = kit.start()
    after = kit.change_patch(frames, *patch)
    _, _, report = kit.step(kit.params, cache, after, dv.Policy.exact())
    maps = [kit.maps(x[0]) for x in (frames, after)]
    distance = np.maximum(
        *(abs(i - p) for i, p in zip(np.indices((rows, columns)), patch, strict=True))
    )

    def total(counts) -> float:
        macs, before = 0.0, 1
        for layer, count in zip(tower.layers, counts, strict=True):
            if count * layer.window_macs > CPU.break_even * tower.cells * layer.macs:
                count = tower.cells
            macs += count * layer.macs
            macs += before * layer.kv_macs if isinstance(layer, AttentionLayer) else 0
            before = count
        return (macs + tower.head_macs) / tower.macs

    moved, reached, stride, reach = [], [], 1, 0
    for name, layer in zip(tower.names, tower.layers, strict=True):
        differs = (maps[0][name] != maps[1][name])[0].any(-1)
        padded = np.zeros((rows * layer.cell, columns * layer.cell), bool)
        padded[: differs.shape[0], : differs.shape[1]] = differs
        moved.append(padded.reshape(rows, layer.cell, columns, layer.cell).any((1, 3)).sum())
        reach = math.inf if isinstance(layer, AttentionLayer) else reach + max(layer.reach) * stride
        stride = tower.patch / layer.cell
        reached.append((distance * tower.patch < reach + tower.patch).sum())
    low, high = total(moved), total(reached)
    assert low * 0.9999 <= float(report.recomputed[0]) <= high * 1.0001
    assert high < 1  # else the bound says nothing


@given(episode=episodes, values=policies)
def test_reports_agree_with_the_frames_and_the_cache(kit, episode, values):
    policy = dv.Policy(**values)
    first, _, cache = kit.start(policy)
    for frames in play(first, episode):
        before = cache
        tokens, cache, report = kit.step(kit.params, cache, frames, policy)
        difference = patch_distance(
            kit.seen(frames), kit.seen(before.reference), kit.tower.patch, "max"
        )
        changed = difference > values["change_threshold"] + 1e-7
        count = changed.sum((1, 2))
        np.testing.assert_array_equal(report.changed, changed)
        np.testing.assert_array_equal(report.changed_patches, count)
        full = (count > int(policy.most_changed(kit.tower))) & (values["budget"] == 1)
        assert (np.asarray(report.path) == FULL)[full].all()  # or it would cost nearly as much
        skipped = ~full & (count > 0) & (count <= values["skip_small_patches"])
        np.testing.assert_array_equal(report.skipped, skipped)
        np.testing.assert_array_equal(np.asarray(report.path) == REUSE, report.recomputed == 0)
        np.testing.assert_allclose(np.asarray(report.recomputed)[full], 1, rtol=1e-5)
        np.testing.assert_allclose(
            np.asarray(report.cell_recomputed).mean(-1), report.recomputed, rtol=1e-4
        )
        stale = np.asarray(cache.stale).any((1, 2))
        np.testing.assert_array_equal(np.asarray(report.pending) > 0, stale)
        np.testing.assert_array_equal(np.asarray(report.oldest_age) > 0, stale)
        for b in np.flatnonzero(np.asarray(report.path) == REUSE):
            assert same_bits(before.tokens[b], tokens[b])


def test_audit_is_the_true_error(kit):
    frames, _, cache = kit.start()
    frames = kit.change_patch(frames, 1, 1)
    tokens, cache, _ = kit.step(kit.params, cache, frames, dv.Policy(margin=0))
    full = kit.full(frames).astype(np.float64)
    norm = np.sqrt((full**2).sum(-1).mean(-1))
    expected = np.sqrt(((np.asarray(tokens) - full) ** 2).sum(-1)) / norm[:, None]
    found = np.asarray(jit_audit(kit.params, cache, config=kit.config))
    assert expected.max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
