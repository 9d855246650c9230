"""Blocks that are computed together, so that a cache holds fewer maps."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import ODD, ROUNDING, Kit, edit, random_params

import diffvis_jax as dv
from diffvis_jax.core.plan import within_budget
from diffvis_jax.core.step import jit_encode
from diffvis_jax.towers.base import Joined

CONFIG = dataclasses.replace(ODD, depths=(2, 3, 1, 1, 1), blocks_per_map=(2, 2))


@pytest.fixture(scope="module")
def kit():
    return Kit(CONFIG)


def test_the_same_parameters_give_the_same_tokens(kit):
    plain = dataclasses.replace(CONFIG, blocks_per_map=())
    assert plain != CONFIG
    expected = jit_encode(random_params(plain), kit.frames(), config=plain)
    largest = np.abs(expected).max()
    np.testing.assert_allclose(kit.full(kit.frames()), expected, atol=ROUNDING * largest)


def test_fewer_maps_are_kept(kit):
    plain = Kit(dataclasses.replace(CONFIG, blocks_per_map=())).tower
    assert [layer.name for layer in plain.layers if layer.stage < 2] == [
        *("stem", "stage_0/block_0", "stage_0/block_1"),
        *("stage_1/downsample", "stage_1/block_0", "stage_1/block_1", "stage_1/block_2"),
    ]
    assert [layer.name for layer in kit.tower.layers if layer.stage < 2] == [
        *("stem", "stage_0/block_1", "stage_1/downsample", "stage_1/block_1", "stage_1/block_2")
    ]
    assert kit.tower.macs == plain.macs
    config = dataclasses.replace(CONFIG, blocks_per_map=())
    assert dv.init_cache(CONFIG).nbytes < dv.init_cache(config).nbytes


def test_an_exact_step_equals_the_full_encode(kit):
    frames, _, cache = kit.start()
    rng = np.random.default_rng(0)
    for kind in ("pixel", "rectangle", "scroll", "pixel", "everything"):
        seeds = rng.integers(0, 2**31, 2)
        frames = np.stack([edit(x, kind, s, x) for x, s in zip(frames, seeds, strict=True)])
        tokens, cache, _ = kit.step(kit.params, cache, frames, dv.Policy.exact())
        assert kit.error(tokens, frames) < ROUNDING


def test_the_repeated_work_is_counted(kit):
    """A lone cell of a pair needs the first block on a window that the second one reaches into."""
    pair = next(layer for layer in kit.tower.layers if isinstance(layer, Joined))
    first, second = pair.parts
    side = pair.cell + second.before + second.after
    assert pair.window_macs == second.macs + first.macs * side**2 // pair.cell**2
    assert (pair.before, pair.after, pair.halo) == (8, 8, 1)
    frames, _, cache = kit.start()
    policy = dv.Policy(margin=0, settle=0)
    _, _, report = kit.step(kit.params, cache, kit.change_patch(frames, 1, 1), policy)
    done = np.asarray(report.stage_recomputed)[0, :, 1 * kit.tower.columns + 1]
    stage = [layer for layer in kit.tower.layers if layer.stage == 0]
    dense = sum(layer.macs for layer in stage)
    assert done[0] == pytest.approx(sum(layer.window_macs for layer in stage) / dense, rel=1e-5)


def test_settling_makes_up_for_what_was_left_out(kit):
    frames, _, cache = kit.start()
    frames = kit.change_patch(frames, 1, 1)
    policy = dv.Policy(margin=0, settle=1.0)
    tokens, cache, _ = kit.step(kit.params, cache, frames, policy)
    assert kit.error(tokens, frames) > ROUNDING
    tokens, cache, report = kit.step(kit.params, cache, frames, policy)
    assert kit.error(tokens, frames) < ROUNDING
    assert not np.asarray(report.pending).any()


def test_repeated_work_is_owed_and_paid_for(kit):
    """A lone cell of a pair is paid for with the window that it needs, many as a dense pass."""
    frames, _, cache = kit.start()
    _, cache, report = kit.step(
        kit.params, cache, kit.change_patch(frames, 1, 1), dv.Policy(margin=0, settle=0)
    )
    owed = [
        min(
            float((np.asarray(cache.pending[0, index]) != 0).sum() * layer.window_macs),
            float(kit.tower.cells * layer.macs),
        )
        for index, layer in enumerate(kit.tower.layers)
    ]
    assert float(report.pending[0]) == pytest.approx(sum(owed) / kit.tower.macs, rel=1e-5)

    pair = next(layer for layer in kit.tower.layers if isinstance(layer, Joined))
    count, alone = kit.tower.cells, float(pair.window_macs)
    need, distance = jnp.ones((1, count), bool), jnp.arange(count)[None]
    for cells, chosen, cost in (
        (3, 3, 3 * alone),
        (1.5, 2, 1.5 * alone),
        (12, 12, count * pair.macs),
    ):
        found, left = within_budget(need, distance, jnp.array([cells * alone]), pair)
        assert int(found.sum()) == chosen
        assert float(left[0]) == pytest.approx(max(0, cells * alone - cost))


@pytest.mark.parametrize("value", [(0,), (1, 1, 1, 2)])
def test_bad_values_are_refused(value):
    with pytest.raises(dv.ConfigError, match="blocks_per_map must be at most 3 numbers"):
        dataclasses.replace(CONFIG, blocks_per_map=value)
