"""Qwen2.5-VL's tower against PyTorch's activations (tests/data); windows; what it costs."""

import dataclasses
import itertools
import shutil

import jax
import numpy as np
import pytest
from checkpoint_files import DATA, hf_qwen_vl, nested_qwen_vl_config, qwen_vl, write_directory
from tiny import QWEN, deviation, random_params

import diffvis_jax as dv
from diffvis_jax.checkpoints import store
from diffvis_jax.checkpoints.convert import convert
from diffvis_jax.core.step import jit_encode
from diffvis_jax.errors import ConfigError
from diffvis_jax.towers import build, conv_stem, qwen2_5_vl
from diffvis_jax.towers.init import cast_params

LAYOUTS = {
    "released": (qwen_vl, "qwen2_5_vl_tiny_config.json"),
    "in memory": (hf_qwen_vl, nested_qwen_vl_config()),
}


@pytest.fixture(scope="module", params=LAYOUTS)
def converted(request, tmp_path_factory):
    """The tower of a tiny checkpoint, loaded."""
    tensors, config = LAYOUTS[request.param]
    base = tmp_path_factory.mktemp("qwen")
    source = write_directory(base / "source", tensors(), config)
    shutil.copy(DATA / "qwen2_5_vl_tiny_preprocessor.json", source / "preprocessor_config.json")
    return dv.load(convert(str(source), base / "out", vision_only=True, say=lambda *_: None))


# Whole windows alone, and partial ones among them.
@pytest.mark.parametrize("picture", [pytest.param("a", marks=pytest.mark.slow), "b"])
def test_every_stage_equals_pytorchs(converted, picture):
    golden = np.load(DATA / "qwen2_5_vl_tiny.npz")
    frame = dv.preprocess(golden[f"{picture}_image"], converted.config)
    found = jit_encode(converted.params, frame, config=converted.config, output="intermediates")
    assert set(found) == {"run_0", "full_2", "run_3", "full_5", "merger", "tokens"}
    last = {"run_0": "01", "full_2": "02", "run_3": "04", "full_5": "05"}
    stages = {name: f"{picture}_block_{number}" for name, number in last.items()}
    stages = {name: key for name, key in stages.items() if key in golden} | {
        "merger": f"{picture}_merged"
    }
    assert len(stages) == (2 if picture == "a" else 5)
    for name, key in stages.items():
        assert deviation(found[name], golden[key][None]) < 2e-5, name
    tokens = golden[f"{picture}_merged"].reshape(1, -1, 64)
    np.testing.assert_allclose(found["tokens"], tokens, atol=2e-5)


def test_patches_equal_pytorchs(converted):
    golden = np.load(DATA / "qwen2_5_vl_tiny.npz")
    own = converted.params["run_0"]["embed"]
    found = qwen2_5_vl.embed(converted.config, own, golden["b_resized"][None])
    np.testing.assert_allclose(found, golden["b_embed"][None], atol=2e-5)


def test_the_architecture_is_read(converted):
    assert converted.config == dv.Qwen25VisionConfig(
        width=80, depth=6, heads=4, mlp_width=108, full_blocks=(2, 5), token_width=64
    )
    assert not converted.has_language


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_bfloat16_is_near(qwen):
    frames = qwen.frames(batch=1)
    config = dataclasses.replace(QWEN, dtype="bfloat16")
    params = cast_params(qwen.params, "bfloat16")
    assert params["run_0"]["embed"]["filters"].dtype == np.float32
    tokens = jit_encode(params, frames, config=config)
    assert 1e-4 < deviation(tokens, qwen.full(frames)) < 5e-2


def test_random_parameters_have_the_shapes_of_the_tower():
    drawn = store.flatten(jax.eval_shape(lambda: dv.init_params(QWEN)))
    ours = store.flatten(random_params(QWEN))
    assert {k: x.shape for k, x in drawn.items()} == {k: x.shape for k, x in ours.items()}


@pytest.mark.slow
def test_random_parameters_give_tokens():
    params = dv.init_params(QWEN)
    tokens = np.asarray(jit_encode(params, np.full((1, *QWEN.size, 3), 90, np.uint8), config=QWEN))
    assert np.isfinite(tokens).all()
    assert tokens.shape == (1, 63, 24)


@pytest.mark.slow
def test_the_stem_convolves_each_window_by_itself():
    import scipy.signal  # a second to import

    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 8, 12, 3)).astype("float32")
    kernel = rng.standard_normal((3, 3, 3, 3)).astype("float32")
    bias = np.arange(3, dtype="float32")
    found = conv_stem._convolved(x, kernel, bias, cell=4)
    for row, column in itertools.product(range(0, 8, 4), range(0, 12, 4)):
        at = np.s_[:, row : row + 4, column : column + 4]
        for picture, output in itertools.product(range(2), range(3)):
            alone = sum(
                scipy.signal.correlate2d(x[at][picture, ..., i], kernel[..., i, output], "same")
                for i in range(3)
            )
            wanted = alone + bias[output]
            np.testing.assert_allclose(found[at][picture, ..., output], wanted, atol=1e-4)


@pytest.mark.slow
def test_a_change_fills_its_window_behind_a_stem(stem):
    frame = stem.frames(batch=1)
    other = frame.copy()
    other[0, 70, 40] ^= 255
    found = moved(stem, frame[0], other[0])
    assert set(found) == {"stem_0", "stem_1", "run_0", "full_1", "run_2", "full_3", "merger"}
    for name, side in {"stem_0": 4, "stem_1": 2, "run_0": 2}.items():
        rows, columns = np.nonzero(found[name])
        assert set(rows // side) == {2}, name
        assert set(columns // side) == {1}, name
    assert found["full_1"].all()


@pytest.mark.parametrize(("patch", "widths"), [(4, (8,)), (8, (8, 8))])
def test_a_patch_is_no_finer_than_its_stem(patch, widths):
    with pytest.raises(ConfigError, match="stem_widths need a patch of a multiple"):
        dv.Qwen25VisionConfig(patch=patch, window=16, stem_widths=widths, size=(64, 64))
