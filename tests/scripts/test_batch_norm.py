"""Batch norm in training, and its folding into the fused tower."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny import FASTVITHD, random_params

import diffvis_jax as dv
from diffvis_jax.core.step import jit_encode

CONFIG = dataclasses.replace(FASTVITHD, size=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def batch_norm(training):
    return training("batch_norm")


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def trained(batch_norm, frames):
    """Parameters, what batch norm makes of the frames, and the statistics it saw."""
    params = random_params(CONFIG)

    @jax.jit
    def encode(params, frames):
        with batch_norm.normalised(CONFIG) as seen:
            tokens = dv.encode(params, frames, config=CONFIG)
        return tokens, list(seen)

    return params, *encode(params, frames)


@pytest.mark.slow
def test_folded_tower_is_the_normalised_one(batch_norm, frames, trained):
    params, tokens, seen = trained
    folded = batch_norm.fold(params, CONFIG, [seen])
    fused = np.asarray(jit_encode(folded, frames, config=CONFIG))
    np.testing.assert_allclose(fused, tokens, atol=2e-4 * float(np.abs(tokens).max()))
    plain = np.asarray(jit_encode(params, frames, config=CONFIG))
    assert np.abs(plain - tokens).max() > 0.1 * np.abs(tokens).max()


def test_statistics_belong_to_the_convolutions_named(batch_norm, trained):
    params, _, seen = trained
    paths = batch_norm.normalised_paths(CONFIG)
    assert len(paths) == len(seen) == 3 + 2 * 4 + sum(CONFIG.depths)
    for path, (mean, square) in zip(paths, seen, strict=True):
        conv = params
        for name in path:
            conv = conv[name]
        assert mean.shape == square.shape == conv["bias"].shape
        assert (square >= 0).all()


def test_batches_count_together(batch_norm, trained):
    params, _, seen = trained
    other = [(mean + 1, square + 2) for mean, square in seen]
    middle = [(mean + 0.5, square + 1) for mean, square in seen]
    one = batch_norm.fold(params, CONFIG, [middle])
    two = batch_norm.fold(params, CONFIG, [seen, other])
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_nothing_is_normalised_outside(batch_norm):
    from diffvis_jax.towers import fastvithd

    before = fastvithd.gelu, fastvithd.feed_forward
    with batch_norm.normalised(CONFIG):
        assert fastvithd.gelu is not before[0]
    assert (fastvithd.gelu, fastvithd.feed_forward) == before
