"""Matching down to a budget: by what a merger costs, and stable from frame to frame."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffvis_jax.compress import baselines
from diffvis_jax.compress.matching import attentive, soft_matching, violated
from diffvis_jax.compress.token_set import merge, token_boxes, token_set, unmerge
from diffvis_jax.errors import ConfigError

N, WIDTH = 24, 4
match = jax.jit(soft_matching)


def members(grouping, stream=0):
    slot = np.asarray(grouping.slot[stream])
    return {tuple(np.flatnonzero(slot == g)) for g in range(int(grouping.count[stream]))}


@pytest.fixture
def tokens():
    """Six clusters of four, and noise that no merger may follow."""
    rng = np.random.default_rng(0)
    centre = 10 * rng.normal(size=(6, WIDTH))
    which = rng.permutation(np.repeat(np.arange(6), 4))
    own = centre[which] + 0.01 * rng.normal(size=(N, WIDTH))
    return np.stack([own, rng.normal(size=(N, WIDTH))]).astype(np.float32), which


def test_clusters_are_kept_apart(tokens):
    x, which = tokens
    grouping = match(jnp.asarray(x), target=12)
    assert grouping.count.tolist() == [12, 12]
    assert all(len({which[i] for i in group}) == 1 for group in members(grouping))


@pytest.mark.parametrize("target", [1, 5, 23, 24])
def test_the_target_is_met(tokens, target):
    grouping = match(jnp.asarray(tokens[0]), target=target)
    assert grouping.count.tolist() == [target, target]
    apart = match(jnp.asarray(tokens[0]), target=jnp.asarray([target, 3]))
    assert apart.count.tolist() == [target, 3]
    np.testing.assert_array_equal(apart.slot[0], grouping.slot[0])


def test_it_loses_less_than_chance(tokens):
    x = jnp.asarray(tokens[0])
    whole = token_set(x, token_boxes((4, 6), 8))

    def lost(grouping):
        back = unmerge(merge(whole, grouping, slots=8), grouping)
        return np.square(back - x).sum((1, 2))

    key = jax.random.key(0)
    assert (lost(match(x, target=8)) < lost(baselines.keep_random(key, x, count=8))).all()


def test_one_round_by_hand():
    """0 and 1, 2 and 3 look at each other; of the two pairs that of the lesser cost becomes one,
    and size makes a pair dear."""
    x = jnp.asarray([[[0.0], [1.0], [5.0], [5.5]]])
    assert members(match(x, target=3)) == {(0,), (1,), (2, 3)}
    size = jnp.asarray([[1.0, 1, 9, 9]])
    assert members(match(x, target=3, size=size)) == {(0, 1), (2,), (3,)}


def test_protected_tokens_are_merged_last(tokens):
    x = jnp.asarray(tokens[0])
    protected = jnp.asarray(np.arange(N)[None] % 6 == 0).repeat(2, 0)
    grouping = match(x, target=6, protected=protected)
    assert violated(grouping, protected).tolist() == [0, 0]
    fewer = match(x, target=2, protected=protected)
    assert fewer.count.tolist() == [2, 2]
    assert (violated(fewer, protected) > 0).all()


def test_groups_whose_members_did_not_move_stay(tokens):
    x = tokens[0].copy()
    before = match(jnp.asarray(x), target=8)
    moved = np.zeros((2, N), bool)
    moved[:, 5] = True
    x[:, 5] += 3
    after = match(jnp.asarray(x), target=8, previous=before, moved=jnp.asarray(moved))
    assert after.count.tolist() == [8, 8]
    for stream in range(2):
        untouched = {group for group in members(before, stream) if 5 not in group}
        assert untouched <= members(after, stream)
    idle = match(jnp.asarray(x), target=8, previous=before, moved=jnp.zeros((2, N), bool))
    np.testing.assert_array_equal(idle.slot, before.slot)


def test_tokens_that_are_no_numbers_do_not_stop_it(tokens):
    x = tokens[0].copy()
    x[0, 3] = np.nan
    assert match(jnp.asarray(x), target=4).count.tolist() == [4, 4]


def test_the_highest_scores_stay(tokens):
    scores = jnp.asarray(np.random.default_rng(1).uniform(size=(2, N)), jnp.float32)
    whole = token_set(jnp.asarray(tokens[0]), token_boxes((4, 6), 8))
    grouping = attentive(scores, keep=5)
    merged = merge(whole, grouping, slots=6)
    for stream in range(2):
        order = np.argsort(-np.asarray(scores[stream]))
        groups = members(grouping, stream)
        assert {(int(i),) for i in order[:5]} < groups
        rest = np.sort(order[5:])
        assert tuple(rest) in groups
        share = np.asarray(scores[stream])[rest, None]
        mean = (share * tokens[0][stream, rest]).sum(0) / share.sum()
        slot = int(grouping.slot[stream, rest[0]])
        np.testing.assert_allclose(merged.tokens[stream, slot], mean, rtol=1e-4, atol=1e-5)
    dropped = attentive(scores, keep=5, fuse=False)
    assert dropped.count.tolist() == [5, 5]
    assert (np.asarray(dropped.slot) < 0).sum(1).tolist() == [N - 5] * 2


def test_budgets_that_are_none(tokens):
    x = jnp.asarray(tokens[0])
    for target in (0, N + 1, 2.5):
        with pytest.raises(ConfigError, match="target must be a whole number in 1-24"):
            soft_matching(x, target=target)
    with pytest.raises(ConfigError, match="keep must be a whole number in 1-24, got 25"):
        attentive(x[..., 0], keep=25)
    with pytest.raises(ConfigError, match="previous and moved go together"):
        soft_matching(x, target=3, moved=jnp.zeros((2, N), bool))
    with pytest.raises(ConfigError, match=r"a metric must be \[2, 24, C\]"):
        baselines.keep(jnp.ones((2, N), bool), x[:, 1:])
