"""Qwen2.5-VL's tower: what stays inside a window, and what the released one costs."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny import QWEN, deviation

import diffvis_jax as dv
from diffvis_jax.core.step import jit_encode
from diffvis_jax.towers import build
from diffvis_jax.towers.init import cast_params


def moved(kit, frame, other) -> dict[str, np.ndarray]:
    """Which positions of each map differ between two frames; bool `[H, W]` by name."""
    before, after = kit.maps(frame), kit.maps(other)
    return {name: (x != after[name])[0].any(-1) for name, x in before.items() if x.ndim == 4}


@pytest.mark.parametrize("window", [(0, 0), (1, 2), (3, 1), (2, 4), (3, 4)])
def test_a_change_fills_its_window_until_a_full_block(qwen, window):
    frame = qwen.frames(batch=1)
    other = frame.copy()
    row, column = (n * QWEN.window for n in window)
    other[0, row + 1, column + 2] ^= 255  # one pixel
    differs = moved(qwen, frame[0], other[0])
    expected = np.zeros(QWEN.grid, bool)
    row, column = (n * QWEN.cell for n in window)
    expected[row : row + QWEN.cell, column : column + QWEN.cell] = True
    np.testing.assert_array_equal(differs["run_0"], expected)
    assert differs["full_1"].all()


def test_where_a_window_lies_does_not_matter(qwen):
    frame = qwen.frames(batch=1)[0]
    shifted = np.roll(frame, QWEN.window, axis=1)
    before, after = (qwen.maps(x)["run_0"][0] for x in (frame, shifted))
    # Three windows of each row of them: what was rolled in, and the partial ones, are others.
    assert deviation(after[:12, 4:16], before[:12, :12]) < 1e-6


def test_an_exact_step_equals_the_full_encode(qwen):
    frames = qwen.frames(batch=1)
    _, cache, _ = qwen.serve(qwen.params, dv.init_cache(QWEN), frames, dv.Policy.exact())
    for window in ((0, 0), (3, 4), (1, 4), (3, 0)):
        frames = qwen.change_patch(frames, *window)
        tokens, cache, report = qwen.serve(qwen.params, cache, frames, dv.Policy.exact())
        assert qwen.error(tokens, frames) < 2e-5
        # The first run is done for one window of twenty.
        assert np.asarray(report.stage_recomputed)[0, 0].sum() == pytest.approx(1)
    tokens, cache, report = qwen.serve(qwen.params, cache, frames, dv.Policy.exact())
    assert dv.describe(report)[0]["path"] == "reuse"


def test_the_released_tower():
    config = dv.Qwen25VisionConfig()
    tower = build(config)
    assert (tower.grid, tower.token_grid, tower.stages) == ((9, 16), (36, 64), 5)
    assert tower.names == (
        *("run_0", "full_7", "run_8", "full_15", "run_16", "full_23", "run_24", "full_31"),
        "merger",
    )
    # Counted by hand for 1792 x 1008 pixels, of which all windows are whole.
    assert tower.macs / 1e9 == pytest.approx(6809, abs=0.5)
    # That of the model has a second kernel for the frame that is the same twice.
    count = sum(int(np.prod(shape)) for shape in tower.shapes().values())
    assert count == 668_684_288 - 588 * 1280
    cache = jax.eval_shape(lambda: dv.init_cache(config, size=(728, 1316)))
    assert cache.tokens.shape == (1, 1222, 2048)
    assert jax.eval_shape(lambda c: c.reference, cache).shape == (1, 728, 1316, 3)
    assert jax.eval_shape(lambda c: c.map(0), cache).shape == (1, 52, 94, 1280)


def test_blocks_are_full_or_in_runs():
    config = dataclasses.replace(QWEN, depth=5, full_blocks=(0, 1, 3))
    tower = build(config)
    assert tower.names == ("run_0", "full_0", "full_1", "run_2", "full_3", "run_4", "merger")
    assert [layer.stage for layer in tower.layers] == [0, 1, 2, 2, 3, 3, 3]


def test_bfloat16_is_near(qwen):
    frames = qwen.frames(batch=1)
    config = dataclasses.replace(QWEN, dtype="bfloat16")
    params = cast_params(qwen.params, "bfloat16")
    assert params["run_0"]["embed"]["filters"].dtype == np.float32
    tokens = jit_encode(params, frames, config=config)
    assert 1e-4 < deviation(tokens, qwen.full(frames)) < 5e-2


def test_random_parameters_have_the_shapes_of_the_tower():
    params = dv.init_params(QWEN)
    tokens = dv.encode(params, np.full((1, *QWEN.size, 3), 90, np.uint8), config=QWEN)
    assert np.isfinite(tokens).all()
    assert tokens.shape == (1, 63, 24)
