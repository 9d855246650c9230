"""FastViTHD against PyTorch's activations (tests/data), and its declared costs."""

import dataclasses

import jax
import numpy as np
import pytest
from checkpoint_files import DATA
from tiny import FASTVITHD, deviation

import diffvis_jax as dv
from diffvis_jax.checkpoints import store
from diffvis_jax.checkpoints.convert import convert
from diffvis_jax.core.step import jit_encode
from diffvis_jax.towers import build
from diffvis_jax.towers.init import cast_params

# What Apple's module calls the output of ours.
STAGES = {
    "stem": "stem2",
    "stage_0/block_0": "network0",
    "stage_1/downsample": "network1",
    "stage_1/block_1": "network2",
    "stage_2/downsample": "network3",
    "stage_2/block_1": "network4",
    "stage_3/downsample": "network5",
    "stage_3/position": "network6",
    "stage_3/block_0/ffn": "network7",
    "stage_4/downsample": "network8",
    "stage_4/position": "network9",
    "stage_4/block_0/ffn": "network10",
    "head/conv": "conv_exp_preSE",
}


@pytest.fixture(scope="module")
def activations(tmp_path_factory):
    """Ours and PyTorch's."""
    source = str(DATA / "fastvithd_tiny.safetensors")
    out = tmp_path_factory.mktemp("fastvithd") / "tiny"
    config, params = store.load_vision(convert(source, out, size=256, say=lambda *_: None))
    golden = np.load(DATA / "fastvithd_tiny_stages.npz")
    ours = jit_encode(params, golden["image_u8"][None], config=config, output="intermediates")
    return ours, golden


# Where a tower goes astray; whether it does, test_convert.py says of its tokens.
@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_stage_equals_pytorchs(activations, name):
    ours, golden = activations
    expected = golden[STAGES[name]].transpose(0, 2, 3, 1)
    assert deviation(ours[name], expected) < 2e-5


@pytest.mark.slow
def test_tokens_equal_pytorchs(activations):
    ours, golden = activations
    assert deviation(ours["tokens"], golden["tokens"]) < 2e-5


@pytest.mark.parametrize(("size", "billions"), [(1024, 243.35), (512, 59.56), (256, 14.81)])
def test_macs_of_the_released_tower(size, billions):
    """Measured on the PyTorch module with hooks (docs/lab)."""
    assert build(dv.FastViTHDConfig(size=size)).macs / 1e9 == pytest.approx(billions, abs=0.006)


def test_macs_by_stage():
    """The same measurement, by stage; the two layers between stages counted with the later."""
    expected = {
        "stem": 1.340,
        "stage_0": 10.394,
        "stage_1": 0.758 + 60.172,
        "stage_2": 0.681 + 118.154,
        "stage_3": 0.642 + 0.039 + 35.588,
        "stage_4": 0.623 + 0.019 + 14.937,
    }
    tower = build(dv.FastViTHDConfig())
    found = dict.fromkeys(expected, 0.0)
    for layer in tower.layers:
        if layer.path[0] in found:
            found[layer.path[0]] += (layer.macs + layer.kv_macs) * tower.cells / 1e9
    assert found == pytest.approx(expected, abs=0.002)


def test_shape_of_the_released_tower():
    config = dv.FastViTHDConfig()
    tower = build(config)
    assert (tower.tokens, tower.token_width, tower.patch, tower.grid) == (256, 3072, 64, (16, 16))
    cache = jax.eval_shape(lambda: dv.init_cache(config))
    assert cache.tokens.shape == (1, 256, 3072)
    assert jax.eval_shape(lambda c: c.reference, cache).shape == (1, 1024, 1024, 3)


@pytest.mark.parametrize(("size", "grid"), [(1, 1), (64, 1), (65, 2), (200, 4), (1000, 16)])
def test_token_grid_is_rounded_up(size, grid):
    tower = build(dv.FastViTHDConfig(size=size))
    assert (tower.grid, tower.tokens) == ((grid, grid), grid * grid)


@pytest.mark.slow
def test_a_cell_reaches_as_far_as_its_kernel(fastvithd):
    """One changed pixel: which positions of each map move, by the full encode."""
    frame = fastvithd.frames(batch=1)[0]
    other = frame.copy()
    other[128, 128] ^= 255
    before, after = fastvithd.maps(frame), fastvithd.maps(other)
    reach = {}
    for name in ("stem", "stage_0/block_0", "stage_1/downsample"):
        moved = np.argwhere((before[name] != after[name]).any((0, -1)))
        reach[name] = moved.min(0).tolist(), moved.max(0).tolist()
    # Stem: two 3x3 of stride 2 put pixel 128 into positions 32 (and 32 +- the second's reach);
    # a RepMixer block adds 4 on each side, the 7x7 of stride 2 halves and adds 3 before, 2 after.
    (low, _), (high, _) = reach["stem"]
    block = [low - 4, low - 4], [high + 4, high + 4]
    assert reach["stage_0/block_0"] == block
    first, last = -(-(low - 4 - 3) // 2), (high + 4 + 3) // 2
    assert reach["stage_1/downsample"] == ([first, first], [last, last])


@pytest.mark.slow
def test_bfloat16_is_near(fastvithd):
    frames = fastvithd.frames(batch=1)
    config = dataclasses.replace(FASTVITHD, dtype="bfloat16")
    tokens = jit_encode(cast_params(fastvithd.params, "bfloat16"), frames, config=config)
    expected = fastvithd.full(frames)
    assert 1e-4 < deviation(tokens, expected) < 5e-2
