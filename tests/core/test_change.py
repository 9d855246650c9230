"""Comparing frames, and the geometry of marked patches, against loops in numpy."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import patch_distance

import diffvis_jax as dv
from diffvis_jax.core.change import changed_patches, distance_to, patch_difference, shifted

masks = st.builds(
    lambda seed, share: np.random.default_rng(seed).random((2, 5, 7)) < share,
    st.integers(0, 2**16),
    st.sampled_from([0.0, 0.05, 0.3, 1.0]),
)


difference_of = jax.jit(patch_difference, static_argnums=(2, 3))


@pytest.mark.parametrize("metric", ["max", "mean", "p99"])
@pytest.mark.parametrize(("shape", "p"), [((12, 12), 4), ((13, 10), 4), ((5, 9), 1), ((5, 7), 8)])
@given(seed=st.integers(0, 2**16))
def test_every_patch_is_compared(shape, p, metric, seed):
    a, b = np.random.default_rng(seed).integers(0, 256, (2, 2, *shape, 3), np.uint8)
    b = np.where(np.random.default_rng(seed).random(b.shape) < 0.02, b, a)
    found = difference_of(a, b, p, metric)
    np.testing.assert_allclose(found, patch_distance(a, b, p, metric), rtol=1e-6)


@pytest.mark.parametrize("metric", ["max", "mean", "p99"])
def test_edge_patches_count_their_own_pixels(metric):
    a = np.zeros((10, 10, 3), np.uint8)
    b = a.copy()
    b[8:, 8:] = 51  # the last patch has 2 x 2 pixels of its own: 0.2 throughout
    found = np.asarray(dv.compute_patch_diff(a, b, 8, 0.199, metric))
    assert found.tolist() == [[False, False], [False, True]]
    assert not np.asarray(dv.compute_patch_diff(a, b, 8, 0.201, metric)).any()


def test_extremes():
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    assert np.asarray(dv.compute_patch_diff(black, white, 2, 0.999)).all()
    assert np.asarray(dv.compute_patch_diff(white, black, 2, 0.999)).all()  # no wrap-around
    assert not np.asarray(dv.compute_patch_diff(black, white, 2, 1.0)).any()  # strictly more
    assert not np.asarray(dv.compute_patch_diff(black, black, 2, 0.0)).any()


def test_one_level_is_a_change_at_threshold_zero():
    a = np.full((64, 64, 3), 7, np.uint8)
    for value in (6, 8):
        b = a.copy()
        b[33, 62, 2] = value
        for metric in ("max", "mean"):  # "p99" is there not to see it
            found = dv.compute_patch_diff(a, b, 32, metric=metric)
            assert np.asarray(found).tolist() == [[False, False], [False, True]]


@pytest.mark.parametrize("metric", ["max", "mean", "p99"])
def test_a_threshold_of_whole_levels_is_the_same_under_jit(metric):
    """Patch k differs by k grey levels throughout: strictly more than the threshold is a change."""
    a = np.zeros((1, 14, 256 * 14, 3), np.uint8)
    b = a + np.repeat(np.arange(256, dtype=np.uint8), 14)[:, None]
    jitted = jax.jit(changed_patches, static_argnums=(2, 3))
    for levels in range(256):
        found = jitted(a, b, 14, metric, np.float32(levels / 255))
        assert np.flatnonzero(found).tolist() == list(range(levels + 1, 256))
        if levels % 51 == 3:
            eager = dv.compute_patch_diff(a[0], b[0], 14, levels / 255, metric)
            np.testing.assert_array_equal(found[0], eager)


@given(mask=masks)
def test_distance_is_chebyshev(mask):
    found = np.asarray(jax.jit(distance_to)(mask))
    for b, i, j in np.ndindex(found.shape):
        marked = np.argwhere(mask[b])
        if marked.size:
            assert found[b, i, j] == np.abs(marked - (i, j)).max(-1).min()
        else:
            assert found[b, i, j] > 7


@given(mask=masks)
def test_shifting_marks_what_lies_below_and_to_the_right(mask):
    found = np.asarray(jax.jit(shifted)(mask))
    for b, i, j in np.ndindex(found.shape):
        assert found[b, i, j] == mask[b, max(0, i - 1) : i + 1, max(0, j - 1) : j + 1].any()
