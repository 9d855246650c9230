"""One vector, or one sequence, of several views: who is absent does not count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import CLIP, QWEN

import diffvis_jax as dv
from diffvis_jax.views import (
    aggregate,
    concatenate,
    init_view_attention,
    pool,
    shown_tokens,
    to_prefix,
)

HOWS = ("mean", "max", "attention")
PARAMS = init_view_attention(jax.random.key(0), 6, hidden=5)
PARAMS["score"] = jnp.asarray([1.0, -2.0, 0.5, 3.0, -1.0])  # as if it were trained


def features(seed: int = 0, views: int = 4):
    return np.random.default_rng(seed).standard_normal((3, views, 6)).astype(np.float32)


masks = st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=3, max_size=3)


@pytest.mark.parametrize("how", HOWS)
@given(mask=masks, seed=st.integers(0, 99))
def test_absent_views_count_as_if_they_were_not_there(how, mask, seed):
    """The weights are renormalised; what an absent view holds is not looked at."""
    x, present = features(seed), np.array(mask)
    spoilt = np.where(present[..., None], x, np.nan)
    found, valid = aggregate(spoilt, present, how, PARAMS)
    np.testing.assert_array_equal(valid, present.any(1))
    for a in range(3):
        if not present[a].any():
            assert not np.asarray(found[a]).any()  # zeros, and no NaN
            continue
        own = x[a : a + 1, present[a]]
        alone, _ = aggregate(own, np.ones(own.shape[:2], bool), how, PARAMS)
        np.testing.assert_allclose(found[a], alone[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", HOWS)
def test_the_order_of_views_does_not_matter(how):
    x, order = features(), np.array([2, 0, 3, 1])
    present = np.array([[True, True, False, True]] * 3)
    found, _ = aggregate(x, present, how, PARAMS)
    permuted, _ = aggregate(x[:, order], present[:, order], how, PARAMS)
    np.testing.assert_allclose(found, permuted, rtol=1e-6, atol=1e-6)


def test_what_each_way_is():
    x, there = features(), np.ones((3, 4), bool)
    np.testing.assert_allclose(aggregate(x, there)[0], x.mean(1), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(aggregate(x, there, "max")[0], x.max(1))
    hidden = np.tanh(x @ np.asarray(PARAMS["kernel"]) + np.asarray(PARAMS["bias"]))
    weights = np.exp(hidden @ np.asarray(PARAMS["score"]))
    weights /= weights.sum(1, keepdims=True)
    expected = (weights[..., None] * x).sum(1)
    found = aggregate(x, there, "attention", PARAMS)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    fresh = init_view_attention(jax.random.key(1), 6)
    np.testing.assert_allclose(
        aggregate(x, there, "attention", fresh)[0], x.mean(1), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("how", HOWS)
def test_gradients_are_finite_where_views_are_absent(how):
    x, present = features(), np.array([[True, False, True, True], [False] * 4, [True] * 4])

    def loss(x, params):
        return aggregate(x, present, how, params)[0].sum()

    for gradient in jax.tree.leaves(jax.jit(jax.grad(loss, (0, 1)))(x, PARAMS)):
        assert np.isfinite(gradient).all()


def test_padding_does_not_enter_a_mean():
    tokens = np.random.default_rng(0).standard_normal((2, 5, 6)).astype(np.float32)
    np.testing.assert_allclose(pool(tokens), tokens.mean(1), rtol=1e-5, atol=1e-6)
    mask = np.array([True, False, True, True, False])
    padded = np.where(mask[:, None], tokens, np.nan)
    np.testing.assert_allclose(pool(padded, mask), tokens[:, mask].mean(1), rtol=1e-5, atol=1e-6)
    each = np.stack([mask, np.zeros(5, bool)])
    found = pool(padded, each)
    np.testing.assert_allclose(found[0], tokens[0, mask].mean(0), rtol=1e-5, atol=1e-6)
    assert not np.asarray(found[1]).any()
    for wrong in (mask.astype(int), mask[:4], np.ones((5, 2), bool)):
        with pytest.raises(dv.FrameError, match="mask must be bool"):
            pool(tokens, wrong)


def test_tokens_of_the_padding_are_told(fastvithd):
    """A picture twice as wide as high fills the middle half of a padded square."""
    rows = shown_tokens(400, 200, fastvithd.config).reshape(4, 4)
    assert rows.tolist() == [[False] * 4, [True] * 4, [True] * 4, [False] * 4]
    rows = shown_tokens(400, 300, fastvithd.config).reshape(4, 4)  # half a token of padding
    assert rows.all()
    assert shown_tokens(400, 200, CLIP).all()
    assert shown_tokens(72, 56, QWEN).shape == (63,)


def test_sequences_of_all_views():
    tokens = np.random.default_rng(0).standard_normal((2, 3, 4, 6)).astype(np.float32)
    present = np.array([[True, False, True], [True, True, True]])
    sequence, valid = concatenate(np.where(present[..., None, None], tokens, np.nan), present)
    assert sequence.shape == (2, 12, 6)
    np.testing.assert_array_equal(sequence[1], tokens[1].reshape(12, 6))
    np.testing.assert_array_equal(sequence[0, :4], tokens[0, 0])
    assert not np.asarray(sequence[0, 4:8]).any()
    np.testing.assert_array_equal(valid, np.repeat(present, 4, 1))
    by_name = {"a": tokens[:, 0], "b": tokens[:, 1, :2], "c": tokens[:, 2]}  # of several sizes
    sequence, valid = to_prefix(by_name, present, order=["c", "a", "b"])
    assert sequence.shape == (2, 10, 6)
    np.testing.assert_array_equal(sequence[0, :8], np.concatenate([tokens[0, 2], tokens[0, 0]]))
    assert valid[0].tolist() == [True] * 8 + [False] * 2
    with pytest.raises(dv.FrameError, match="must name each of"):
        to_prefix(by_name, present, order=["a", "b"])


@pytest.mark.parametrize("present", [np.ones((3, 5), bool), np.ones((3, 4)), np.ones(4, bool)])
def test_masks_of_another_shape_are_refused(present):
    tokens = np.zeros((3, 4, 2, 6), np.float32)
    for call in (
        lambda: aggregate(features(), present),
        lambda: concatenate(tokens, present),
        lambda: to_prefix({str(v): tokens[:, v] for v in range(4)}, present),
    ):
        with pytest.raises(dv.FrameError, match=r"present must be bool \[3, 4\]"):
            call()


def test_bad_aggregates_are_refused():
    there = np.ones((3, 4), bool)
    with pytest.raises(dv.ConfigError, match="how must be one of"):
        aggregate(features(), there, "median")  # type: ignore[arg-type]
    with pytest.raises(dv.ConfigError, match="init_view_attention"):
        aggregate(features(), there, "attention")
    with pytest.raises(dv.ConfigError, match="6 channels"):
        aggregate(features(), there, "attention", init_view_attention(jax.random.key(0), 7))
    with pytest.raises(dv.FrameError, match=r"features must be \[A, V, D\]"):
        aggregate(features()[0], there)
    with pytest.raises(dv.FrameError, match=r"tokens must be \[A, V, N, D\]"):
        concatenate(features(), there)
