"""Blocks that are computed together, so that a cache holds fewer maps."""

import dataclasses

import numpy as np
import pytest
from tiny import ODD, ROUNDING, Kit, edit, random_params

import diffvis_jax as dv
from diffvis_jax.core.step import jit_encode
from diffvis_jax.towers.base import FusedLayers

CONFIG = dataclasses.replace(ODD, depths=(2, 3, 1, 1, 1), blocks_per_map=(2, 2))
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def fused():
    return Kit(CONFIG)


def test_the_same_parameters_give_the_same_tokens(fused):
    plain = dataclasses.replace(CONFIG, blocks_per_map=())
    assert plain != CONFIG
    expected = jit_encode(random_params(plain), fused.frames(), config=plain)
    largest = np.abs(expected).max()
    np.testing.assert_allclose(fused.full(fused.frames()), expected, atol=ROUNDING * largest)


def test_fewer_maps_are_kept(fused):
    plain = Kit(dataclasses.replace(CONFIG, blocks_per_map=())).tower
    assert [n for n, layer in zip(plain.names, plain.layers, strict=True) if layer.stage < 2] == [
        *("stem", "stage_0/block_0", "stage_0/block_1"),
        *("stage_1/downsample", "stage_1/block_0", "stage_1/block_1", "stage_1/block_2"),
    ]
    stages = [layer.stage for layer in fused.tower.layers]
    assert (stages.count(0), stages.count(1)) == (2, 3)
    assert fused.tower.macs == plain.macs
    config = dataclasses.replace(CONFIG, blocks_per_map=())
    assert dv.init_cache(CONFIG).nbytes < dv.init_cache(config).nbytes


def test_an_exact_step_equals_the_full_encode(fused):
    frames, _, cache = fused.start()
    rng = np.random.default_rng(0)
    for kind in ("pixel", "rectangle", "scroll", "pixel", "everything"):
        seeds = rng.integers(0, 2**31, 2)
        frames = np.stack([edit(x, kind, s, x) for x, s in zip(frames, seeds, strict=True)])
        tokens, cache, _ = fused.step(fused.params, cache, frames, dv.Policy.exact())
        assert fused.error(tokens, frames) < ROUNDING


def test_the_repeated_work_is_counted(fused):
    """A lone cell of a pair needs the first block on a window that the second one reaches into."""
    pair = next(layer for layer in fused.tower.layers if isinstance(layer, FusedLayers))
    first, second = pair.parts
    side = pair.cell + second.before + second.after
    assert pair.window_macs == second.macs + first.macs * side**2 // pair.cell**2
    assert (pair.before, pair.after) == (8, 8)
    frames, _, cache = fused.start()
    policy = dv.Policy(margin=0, settle=0)
    _, _, report = fused.step(fused.params, cache, fused.change_patch(frames, 1, 1), policy)
    done = np.asarray(report.stage_recomputed)[0, :, 1 * fused.tower.grid[1] + 1]
    stage = [layer for layer in fused.tower.layers if layer.stage == 0]
    dense = sum(layer.macs for layer in stage)
    assert done[0] == pytest.approx(sum(layer.window_macs for layer in stage) / dense, rel=1e-5)


def test_settling_makes_up_for_what_was_left_out(fused):
    frames, _, cache = fused.start()
    frames = fused.change_patch(frames, 1, 1)
    policy = dv.Policy(margin=0, settle=1.0)
    tokens, cache, _ = fused.step(fused.params, cache, frames, policy)
    assert fused.error(tokens, frames) > ROUNDING
    tokens, cache, report = fused.step(fused.params, cache, frames, policy)
    assert fused.error(tokens, frames) < ROUNDING
    assert not np.asarray(report.pending).any()


@pytest.mark.parametrize("value", [(0,), (1, 1, 1, 2)])
def test_bad_values_are_refused(value):
    with pytest.raises(dv.ConfigError, match="blocks_per_map must be at most 3 numbers"):
        dataclasses.replace(CONFIG, blocks_per_map=value)
