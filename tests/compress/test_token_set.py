"""Groups of tokens, against NumPy's sums."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffvis_jax.compress import baselines
from diffvis_jax.compress.token_scale import (
    fit_scale,
    squared_distance,
    whiten,
    whitened_error,
)
from diffvis_jax.compress.token_set import (
    Grouping,
    compose,
    group_by,
    merge,
    token_boxes,
    token_set,
    unmerge,
)
from diffvis_jax.errors import ConfigError

GRID, WIDTH = (3, 4), 5
N = 12
BOXES = token_boxes(GRID, 8)


@pytest.fixture
def tokens():
    return np.random.default_rng(0).normal(size=(2, N, WIDTH)).astype(np.float32)


@pytest.fixture
def leaders():
    """Of two streams: a random one with a token dropped, and everything in one group."""
    rng = np.random.default_rng(1)
    leader = rng.integers(0, 4, N)
    roots = {group: np.flatnonzero(leader == group)[-1] for group in set(leader)}
    random = np.array([roots[group] for group in leader], np.int32)
    random[3] = -1
    return np.stack([random, np.zeros(N, np.int32)])


def groups_of(grouping: Grouping, stream: int) -> list[list[int]]:
    slot = np.asarray(grouping.slot[stream])
    return [np.flatnonzero(slot == g).tolist() for g in range(int(grouping.count[stream]))]


def test_slots_are_in_the_order_of_their_first_members(leaders):
    grouping = group_by(jnp.asarray(leaders))
    for stream, leader in enumerate(leaders):
        groups = groups_of(grouping, stream)
        assert sorted(i for group in groups for i in group) == np.flatnonzero(leader >= 0).tolist()
        assert [group[0] for group in groups] == sorted(group[0] for group in groups)
        assert all(len(set(leader[group])) == 1 for group in groups)
        assert grouping.slot[stream].max() == grouping.count[stream] - 1


def test_a_merged_token_is_the_mean_by_weight_and_size(tokens, leaders):
    weight = np.random.default_rng(2).uniform(0.5, 2, (2, N)).astype(np.float32)
    grouping = group_by(jnp.asarray(leaders), jnp.asarray(weight))
    whole = token_set(jnp.asarray(tokens), BOXES, time=[3, 7])
    size = np.random.default_rng(3).integers(1, 5, (2, N)).astype(np.float32)
    merged = merge(dataclasses.replace(whole, size=jnp.asarray(size)), grouping, slots=6)
    for stream in range(2):
        groups = groups_of(grouping, stream)
        assert merged.count[stream] == len(groups)
        for number, group in enumerate(groups):
            share = (weight * size)[stream, group]
            mean = (share[:, None] * tokens[stream, group]).sum(0) / share.sum()
            np.testing.assert_allclose(merged.tokens[stream, number], mean, atol=1e-5)
            assert merged.size[stream, number] == size[stream, group].sum()
            hull = [*BOXES[group, :2].min(0), *BOXES[group, 2:].max(0)]
            assert merged.box[stream, number].tolist() == hull
            assert merged.time[stream, number] == [3, 7][stream]
        assert not merged.tokens[stream, len(groups) :].any()
        assert not merged.size[stream, len(groups) :].any()


def test_groups_of_one_and_groups_of_equals_keep_their_bits(tokens):
    whole = token_set(jnp.asarray(tokens), BOXES)
    alone = group_by(jnp.broadcast_to(jnp.arange(N, dtype=jnp.int32), (2, N)))
    same = merge(whole, alone, slots=N)
    for before, after in zip(
        (whole.tokens, whole.size, whole.box, whole.time, whole.count),
        (same.tokens, same.size, same.box, same.time, same.count),
        strict=True,
    ):
        np.testing.assert_array_equal(before, after)
    pairs = np.repeat(tokens[:, ::2], 2, axis=1) / 3
    grouping = group_by(jnp.broadcast_to(jnp.arange(N, dtype=jnp.int32) // 2 * 2, (2, N)))
    merged = merge(token_set(jnp.asarray(pairs), BOXES), grouping, slots=N // 2)
    np.testing.assert_array_equal(unmerge(merged, grouping), pairs)


def test_one_grouping_does_what_two_do(tokens, leaders):
    weight = np.random.default_rng(4).uniform(0, 2, (2, N)).astype(np.float32)
    weight[weight < 0.5] = 0
    weight[:, :4] = 1  # none may leave out all of its members
    first = group_by(jnp.asarray(leaders), jnp.asarray(weight))
    second = group_by(jnp.asarray([[0, 0, 2, 3, -1, -1], [0, -1, -1, -1, -1, -1]]))
    whole = token_set(jnp.asarray(tokens), BOXES)
    by_two = merge(merge(whole, first, slots=6), second, slots=4)
    by_one = merge(whole, compose(first, second), slots=4)
    np.testing.assert_allclose(by_one.tokens, by_two.tokens, atol=1e-5)
    np.testing.assert_allclose(by_one.size, by_two.size)
    np.testing.assert_array_equal(by_one.box, by_two.box)


def test_a_grouping_of_other_tokens_is_refused(tokens):
    whole = token_set(jnp.asarray(tokens), BOXES)
    alone = group_by(jnp.broadcast_to(jnp.arange(N, dtype=jnp.int32), (2, N)))
    with pytest.raises(ConfigError, match="12 groups, which need more than 5"):
        merge(whole, alone, slots=5)
    with pytest.raises(ConfigError, match=r"grouping is of \[2, 11\] tokens, got \[2, 12\]"):
        merge(whole, dataclasses.replace(alone, slot=alone.slot[:, 1:]), slots=N)
    with pytest.raises(ConfigError, match=r"boxes must be \[12, 4\]"):
        token_set(jnp.asarray(tokens), BOXES[1:])


def test_pooling_is_the_mean_of_squares(tokens):
    grouping = baselines.pool(GRID, 2, batch=2)
    merged = merge(token_set(jnp.asarray(tokens), BOXES), grouping, slots=4)
    image = tokens.reshape(2, *GRID, WIDTH)
    np.testing.assert_allclose(merged.tokens[:, 0], image[:, :2, :2].mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(merged.tokens[:, 3], image[:, 2:, 2:].mean((1, 2)), atol=1e-6)
    assert merged.box[0].tolist() == [
        [0, 0, 16, 16],
        [16, 0, 32, 16],
        [0, 16, 16, 24],
        [16, 16, 32, 24],
    ]


@pytest.mark.parametrize("how", ["random", "strided"])
def test_kept_tokens_stay_and_others_get_the_nearest(tokens, how):
    metric = jnp.asarray(tokens)
    grouping = (
        baselines.keep_random(jax.random.key(0), metric, count=4)
        if how == "random"
        else baselines.keep_strided(metric, count=4)
    )
    merged = merge(token_set(metric, BOXES), grouping, slots=4)
    kept = np.asarray(grouping.weight) == 1
    assert kept.sum(1).tolist() == [4, 4]
    back = np.asarray(unmerge(merged, grouping))
    for stream in range(2):
        own = tokens[stream, kept[stream]]
        np.testing.assert_array_equal(back[stream, kept[stream]], own)
        distance = np.square(tokens[stream, :, None] - own[None]).sum(-1)
        np.testing.assert_array_equal(back[stream], own[distance.argmin(1)])
    assert merged.size.sum(1).tolist() == [N, N]


def test_frames_that_resemble_the_one_before_become_one():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 1, N, WIDTH)).astype(np.float32)
    clip = np.stack([a, 1.01 * a, b, b], 1)
    held, begins = baselines.merge_frames(jnp.asarray(clip), threshold=0.9)
    assert begins.tolist() == [[True, False, True, False]]
    np.testing.assert_array_equal(held[:, 0], held[:, 1])
    np.testing.assert_allclose(held[:, 0], 1.005 * a, rtol=1e-5)
    np.testing.assert_allclose(held[:, 2], b, rtol=1e-6)


def test_whitened_error_of_the_mean_is_one(tokens):
    rows = tokens * [1, 10, 100, 0, 1e-9] + [0, 5, 1000, 2, 3]
    scale = fit_scale(rows)
    assert scale.live.tolist() == [True, True, True, False, False]
    white = np.asarray(whiten(jnp.asarray(rows, jnp.float32), scale)).reshape(-1, WIDTH)
    np.testing.assert_allclose(white.std(0), [1, 1, 1, 0, 0], atol=1e-3)
    x = jnp.asarray(rows, jnp.float32)
    assert np.all(whitened_error(x, x, scale) == 0)
    mean = jnp.broadcast_to(x.mean(1, keepdims=True), x.shape)
    np.testing.assert_allclose(whitened_error(x, mean, scale), 1, rtol=1e-4)
    far = x.at[..., 0].add(2 * scale.std[0])
    np.testing.assert_allclose(squared_distance(x, far, scale), 4 / 3, rtol=1e-3)


def test_what_no_scale_can_be_fitted_to(tokens):
    with pytest.raises(ConfigError, match="all tokens are the same"):
        fit_scale(np.ones((3, 2)))
    with pytest.raises(ConfigError, match="two or more finite tokens"):
        fit_scale(np.array([[1.0, np.nan], [2, 3]]))
    with pytest.raises(ConfigError, match="tokens 5 wide, got tokens 4 wide"):
        whiten(jnp.asarray(tokens[..., :4]), fit_scale(tokens))
