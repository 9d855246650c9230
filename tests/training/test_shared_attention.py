"""Attention that similar tokens share, against the training's own form of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shared_attention import encode_shared
from tiny import CLIP, STEM, deviation, random_params

from diffvis_jax.core.step import jit_encode
from diffvis_jax.errors import ConfigError
from diffvis_jax.towers import build

run = jax.jit(encode_shared, static_argnames=("config", "degree"))
PARAMS = random_params(STEM)


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(0).integers(0, 256, (2, *STEM.size, 3), np.uint8)


def test_degree_0_is_encode(frames):
    np.testing.assert_array_equal(
        run(PARAMS, frames, config=STEM, degree=0), jit_encode(PARAMS, frames, config=STEM)
    )


@pytest.mark.slow
@pytest.mark.parametrize("degree", [3, 16])
def test_empty_rows_in_training_are_as_if_they_were_not_there(training, frames, degree):
    """In training the degree is traced, and what was merged away stays as a row of size 0."""
    compact = run(PARAMS, frames, config=STEM, degree=degree)
    tokens_at = training("compensator").tokens_at
    traced = jax.jit(lambda x, d: tokens_at(PARAMS, x, build(STEM), 0, d))
    assert deviation(compact, traced(frames, jnp.int32(degree))) < 1e-5
    assert deviation(compact, jit_encode(PARAMS, frames, config=STEM)) > 1e-3


def test_bad_input(frames):
    for degree in (-1, 17, 2.5):
        with pytest.raises(ConfigError, match="degree"):
            encode_shared(PARAMS, frames, config=STEM, degree=degree)
    with pytest.raises(ConfigError, match="CLIPConfig"):
        encode_shared(PARAMS, frames[:, :36, :36], config=CLIP, degree=1)
