"""The history of a stream, against one in plain Python that keeps every frame."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffvis_jax.compress.history import (
    HistoryPolicy,
    current_tokens,
    history_set,
    init_history,
    restart_history,
    tokens_at,
)
from diffvis_jax.compress.history_update import update_history
from diffvis_jax.compress.token_scale import fit_scale
from diffvis_jax.errors import CacheError, ConfigError

N, WIDTH, SLOTS = 6, 3, 14
SCALE = fit_scale(np.random.default_rng(9).normal(size=(50, WIDTH)))
LOSSLESS = HistoryPolicy(tolerance=0)
update = jax.jit(update_history)


def clip_of(seed: int, frames: int = 12, streams: int = 2, share: float = 0.3):
    """Tokens `[T, B, N, D]` of which a share changes from frame to frame, and which."""
    rng = np.random.default_rng(seed)
    tokens = [rng.normal(size=(streams, N, WIDTH)).astype(np.float32)]
    changed = [np.ones((streams, N), bool)]
    for _ in range(frames - 1):
        moved = rng.random((streams, N)) < share
        new = rng.normal(size=(streams, N, WIDTH)).astype(np.float32)
        tokens.append(np.where(moved[..., None], new, tokens[-1]))
        changed.append(moved)
    return np.stack(tokens), np.stack(changed)


def run(tokens, changed, policy=LOSSLESS, **further):
    history = init_history(N, WIDTH, slots=SLOTS, batch=tokens.shape[1])
    reports = []
    for x, moved in zip(tokens, changed, strict=True):
        history, report = update(history, x, moved, policy=policy, scale=SCALE, **further)
        reports.append(jax.tree.map(np.asarray, report))
    return history, reports


def test_nothing_moved_adds_nothing():
    tokens, changed = clip_of(0, frames=1)
    before, _ = run(tokens, changed)
    idle = np.zeros_like(changed[0])
    after, report = update(before, tokens[0], idle, policy=LOSSLESS, scale=SCALE)
    for name in ("tokens", "patch", "first", "length", "open"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
    assert report.added.tolist() == [0, 0]
    np.testing.assert_array_equal(after.last[:, :N], 1)
    np.testing.assert_array_equal(after.weight[:, :N], 2)


@given(st.integers(0, 10**6), st.sampled_from([0.05, 0.3, 0.9]))
def test_every_frame_that_is_kept_comes_back_bit_for_bit(seed, share):
    tokens, changed = clip_of(seed, share=share)
    history, reports = run(tokens, changed)
    length = np.asarray(history.length)
    added = sum(report.added for report in reports)
    freed = sum(report.freed for report in reports)
    np.testing.assert_array_equal(length, added - freed)
    assert (length <= SLOTS).all()
    weights = np.asarray(history.weight).sum(1) + np.asarray(history.lost)
    np.testing.assert_array_equal(weights, len(tokens) * N)
    np.testing.assert_array_equal(current_tokens(history), tokens[-1])
    gone = 0
    for step, frame in enumerate(tokens):
        back, known = tokens_at(history, step)
        np.testing.assert_array_equal(back[known], frame[np.asarray(known)])
        gone += (~np.asarray(known)).sum(1)
    np.testing.assert_array_equal(gone, history.lost)  # all that is missing was given up
    for stream in range(2):
        used = np.asarray(history.patch[stream]) >= 0
        assert used.tolist() == [i < length[stream] for i in range(SLOTS)]
        arrived = np.asarray(history.first[stream])[used]
        assert (np.diff(arrived) >= 0).all()


def test_what_ended_first_goes_first():
    """Patch 0 changes in every frame: its old runs go, those of the others stay."""
    tokens = np.repeat(np.arange(N, dtype=np.float32)[None, None, :, None], 12, 0)
    tokens = np.broadcast_to(tokens, (12, 1, N, WIDTH)).copy()
    tokens[:, 0, 0] = np.arange(12)[:, None] + 100
    history, reports = run(tokens, np.ones((12, 1, N), bool))
    used = np.asarray(history.patch[0, : int(history.length[0])])
    assert sum(int(report.freed[0]) for report in reports) == history.lost[0] > 0
    assert sorted(used[used > 0]) == [1, 2, 3, 4, 5]
    kept = np.asarray(history.first[0])[: len(used)][used == 0]
    assert kept.tolist() == list(range(12))[-len(kept) :]
    np.testing.assert_array_equal(history.tokens[0, : len(used)][used == 0][:, 0], kept + 100)


def test_slow_drift_is_caught_when_it_adds_up():
    step = np.sqrt(0.03) * np.asarray(SCALE.std)
    tokens = np.arange(8)[:, None, None, None] * step * np.ones((8, 1, N, WIDTH))
    tokens = tokens.astype(np.float32)
    policy = HistoryPolicy(tolerance=0.1)
    history, reports = run(tokens, np.zeros((8, 1, N), bool), policy)
    # 0.03, 0.12: the second step from a run's token is above 0.1.
    assert [int(report.added[0]) for report in reports] == [N, 0, N, 0, N, 0, N, 0]
    assert reports[2].corrections[0] == N
    np.testing.assert_allclose(reports[1].drift, 0.03, rtol=1e-3)
    assert float(np.asarray(history.drift).max()) <= 0.1
    for number, frame in enumerate(tokens):
        back, known = tokens_at(history, number)
        distance = np.square((np.asarray(back) - frame) / np.asarray(SCALE.std)).mean(-1)
        assert (distance[np.asarray(known)] <= 0.1).all()


def test_tokens_that_come_together_may_share_a_run():
    """The first three patches and the last three look alike: two runs hold the frame. Idle frames
    add nothing, though no token is the mean; one that moves leaves the others their run."""
    kind = np.arange(N) // 3
    rng = np.random.default_rng(0)
    frame = (5.0 * kind[:, None] + 0.1 * rng.normal(size=(N, WIDTH))).astype(np.float32)[None]
    policy = HistoryPolicy(tolerance=1e-6, keep=1 / 3)
    moved = frame.copy()
    moved[0, 0] += 9
    none = np.zeros((1, N), bool)
    history, reports = run(np.stack([frame, frame, moved]), np.stack([none] * 3), policy)
    assert [int(report.added[0]) for report in reports] == [2, 0, 1]
    assert history.length[0] == 3
    assert history.open[0].tolist() == [2, 0, 0, 1, 1, 1]
    np.testing.assert_allclose(history.tokens[0, 0], frame[0, :3].mean(0), rtol=1e-5)
    np.testing.assert_allclose(history.tokens[0, 1], frame[0, 3:].mean(0), rtol=1e-5)
    assert history.weight[0, :3].tolist() == [3 + 3 + 2, 3 + 3 + 3, 1]
    np.testing.assert_array_equal(history.reference, moved)
    # The first patch left the run that others go on with: what it showed is known at any step.
    for step, value in ((1, history.tokens[0, 0]), (2, moved[0, 0])):
        back, known = tokens_at(history, step)
        np.testing.assert_array_equal(back[0, 0], value)
        assert known[0].tolist() == [True, False, False, True, False, False]


@pytest.mark.parametrize("criterion", ["tokens", "pixels", "either"])
def test_what_ends_a_run(criterion):
    tokens, _ = clip_of(3, frames=2, streams=1, share=0)
    tokens[1, 0, 1] += 1
    changed = np.zeros((2, 1, N), bool)
    changed[1, 0, 4] = True
    _, reports = run(tokens, changed, HistoryPolicy(criterion=criterion))
    assert reports[1].added == {"tokens": 1, "pixels": 1, "either": 2}[criterion]
    assert reports[1].corrections == (criterion != "pixels")


def test_keyframes_and_tokens_that_are_no_numbers():
    tokens, _ = clip_of(3, frames=3, streams=1, share=0)
    tokens[1, 0, :3] += 1
    tokens[2] = tokens[1]
    tokens[2, 0, 5] = np.nan
    none = np.zeros((3, 1, N), bool)
    _, reports = run(tokens, none, HistoryPolicy(keyframe_above=0.4))
    assert [int(report.added[0]) for report in reports] == [N, N, 1]
    assert reports[2].not_finite == 1


def test_patches_that_nobody_sees_and_streams_that_rest():
    tokens, changed = clip_of(5)
    seen = np.arange(N) < 4
    history, _ = run(tokens, changed, seen=seen)
    assert np.asarray(history.patch).max() == 3
    np.testing.assert_array_equal(history.open[:, 4:], -1)
    weights = np.asarray(history.weight).sum(1) + np.asarray(history.lost)
    np.testing.assert_array_equal(weights, len(tokens) * 4)
    rested, report = update(
        history,
        tokens[0],
        changed[0],
        policy=LOSSLESS,
        scale=SCALE,
        seen=seen,
        active=np.array([True, False]),
    )
    for before, after in zip(jax.tree.leaves(history), jax.tree.leaves(rested), strict=True):
        np.testing.assert_array_equal(before[1], after[1])
    assert report.added[1] == 0 != report.added[0]


def test_streams_are_alone_and_a_scan_is_a_loop():
    tokens, changed = clip_of(7)
    together, _ = run(tokens, changed)
    for stream in range(2):
        alone, _ = run(tokens[:, stream : stream + 1], changed[:, stream : stream + 1])
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_array_equal(a[stream], b[0])
    advance = functools.partial(update_history, policy=LOSSLESS, scale=SCALE)
    scanned, _ = jax.jit(
        lambda history, clip: jax.lax.scan(lambda h, x: advance(h, *x), history, clip)
    )(init_history(N, WIDTH, slots=SLOTS, batch=2), (tokens, changed))
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(scanned), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_goes_along_stays_with_its_run():
    tokens, changed = clip_of(11)
    history = init_history(N, WIDTH, slots=SLOTS, batch=2, along=2)
    for x, moved in zip(tokens, changed, strict=True):
        history, _ = update(history, x, moved, policy=LOSSLESS, scale=SCALE, along=10 * x[..., :2])
    np.testing.assert_array_equal(history.along, 10 * history.tokens[..., :2])


def test_restarts_and_token_sets():
    tokens, changed = clip_of(13)
    history, _ = run(tokens, changed)
    boxes = np.arange(4 * N, dtype=np.float32).reshape(N, 4)
    found = history_set(history, boxes)
    used = int(history.length[0])
    np.testing.assert_array_equal(found.box[0, :used], boxes[history.patch[0, :used]])
    assert found.count.tolist() == history.length.tolist()
    begun = restart_history(history, [True, False])
    empty = init_history(N, WIDTH, slots=SLOTS, batch=2)
    leaves = (jax.tree.leaves(x) for x in (begun, empty, history))
    for a, fresh, old in zip(*leaves, strict=True):
        np.testing.assert_array_equal(a[0], fresh[0])
        np.testing.assert_array_equal(a[1], old[1])


def test_bad_arguments():
    with pytest.raises(ConfigError, match="at least 12 slots, got 11"):
        init_history(N, WIDTH, slots=11)
    with pytest.raises(ConfigError, match="width = 0"):
        init_history(N, 0, slots=SLOTS)
    with pytest.raises(ConfigError, match="dtype must be"):
        init_history(N, WIDTH, slots=SLOTS, dtype="int8")
    with pytest.raises(ConfigError, match="criterion must be one of"):
        HistoryPolicy(criterion="cosine")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="tolerance must be a number, at least 0, got -1"):
        HistoryPolicy(tolerance=-1)
    with pytest.raises(ConfigError, match="tolerance must be a number"):
        HistoryPolicy(tolerance=float("nan"))
    history = init_history(N, WIDTH, slots=SLOTS)
    x, moved = np.zeros((1, N, WIDTH), np.float32), np.zeros((1, N), bool)
    with pytest.raises(CacheError, match=r"tokens \[1, 6, 3\], got \[1, 6, 4\]"):
        update_history(
            history, np.zeros((1, N, 4), np.float32), moved, policy=LOSSLESS, scale=SCALE
        )
    with pytest.raises(CacheError, match="changed must be of 6 patches"):
        update_history(history, x, moved[:, 1:], policy=LOSSLESS, scale=SCALE)
    with pytest.raises(CacheError, match="goes along"):
        update_history(history, x, moved, policy=LOSSLESS, scale=SCALE, along=x)
    with pytest.raises(ConfigError, match="compares tokens, which needs a scale"):
        update_history(history, x, moved, policy=LOSSLESS)
    policy = HistoryPolicy(criterion="pixels", keep=0.5)
    with pytest.raises(ConfigError, match="keep below 1 compares tokens"):
        update_history(history, x, moved, policy=policy)
    with pytest.raises(CacheError, match="which must be bool"):
        restart_history(history, [True, False])
