"""The towers, layer by layer and step by step, against live PyTorch models.

What comes out of whole towers, and of the converter, is in test_parity_convert.py.
"""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
import torch
import transformers
from tiny import CLIP, deviation, random_params

import diffvis_jax as dv
from diffvis_jax.checkpoints import store
from diffvis_jax.checkpoints.convert import convert
from diffvis_jax.checkpoints.torch_reference import pixels_to_torch, torch_tower
from diffvis_jax.core.step import jit_encode
from diffvis_jax.towers import clip
from diffvis_jax.towers.forward import hidden_states
from diffvis_jax.towers.init import cast_params

pytestmark = pytest.mark.parity

# timm has heads of 32 channels.
FASTVITHD, ODD = (dataclasses.replace(x, head_width=32) for x in (tiny.FASTVITHD, tiny.ODD))
TOLERANCE = 1e-5  # of the largest value


def frames(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (1, size, size, 3), np.uint8)


# Modules of timm's `fastvit` -> our layer.
LAYERS = {
    "stem": "stem",
    "stages.0.blocks.0": "stage_0/block_0",
    "stages.1.downsample": "stage_1/downsample",
    "stages.2.blocks.0": "stage_2/block_0",
    "stages.3.pos_emb": "stage_3/position",
    "stages.3.blocks.0": "stage_3/block_0/ffn",
    "stages.4.downsample": "stage_4/downsample",
    "stages.4.blocks.0": "stage_4/block_0/ffn",
}


@pytest.mark.parametrize("config", [FASTVITHD, ODD], ids=["256", "200, normalised"])
def test_every_stage_of_timms_fastvit(config):
    params, pixels = random_params(config), frames(config.size)
    network = torch_tower(config, params)
    seen = {}
    for name, module in network.named_modules():
        for theirs, ours in LAYERS.items():
            if name == theirs or name.endswith(f".{theirs}"):
                module.register_forward_hook(
                    lambda _, __, output, ours=ours: seen.__setitem__(ours, output)
                )
    with torch.inference_mode():
        tokens = network(pixels_to_torch(pixels, config))
    assert seen.keys() == set(LAYERS.values())
    found = jit_encode(params, pixels, config=config, output="intermediates")
    for name, expected in seen.items():
        expected = expected.permute(0, 2, 3, 1).numpy()
        assert deviation(found[name], expected) < TOLERANCE, name
    assert deviation(found["tokens"], tokens.numpy()) < TOLERANCE


@pytest.mark.parametrize("config", [ODD, CLIP], ids=["fastvithd", "clip"])
def test_differential_steps_equal_pytorch(config):
    """An episode of exact steps, every frame encoded in full by PyTorch; then a partial one that
    settles."""
    params, pixels = random_params(config), frames(config.size)
    network = torch_tower(config, params)

    def full(pixels):
        with torch.inference_mode():
            return network(pixels_to_torch(pixels, config)).numpy()

    step, cache = dv.make_step(config), dv.init_cache(config)
    for t in range(4):
        pixels = pixels.copy()
        pixels[:, 9 * t : 9 * t + 4, 5 * t :: 3] ^= 77
        tokens, cache, report = step(params, cache, pixels, dv.Policy.exact())
        assert deviation(tokens, full(pixels)) < TOLERANCE
    pixels[:, :5, :5] ^= 77
    _, cache, report = step(params, cache, pixels, dv.Policy(margin=0))
    assert dv.describe(report)[0]["path"] == "partial"
    while dv.describe(report)[0]["pending"]:
        tokens, cache, report = step(params, cache, pixels, dv.Policy(margin=0, settle=0.5))
    assert deviation(tokens, full(pixels)) < TOLERANCE


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, x in model.named_parameters():
            noise = torch.randn(x.shape, generator=generator)
            x.copy_(noise * x[0].numel() ** -0.5 if x.ndim > 1 else 0.1 * noise)
            if x.ndim == 1 and "norm" in name and name.endswith("weight"):
                x.add_(1)
    return model.eval()


def settings(**changes):
    return {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
        "num_attention_heads": 4, "patch_size": 8, "image_size": 32, **changes,
    }  # fmt: skip


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_every_output_of_transformers_clip(tmp_path, activation):
    model = randomised(
        transformers.CLIPVisionModelWithProjection(
            transformers.CLIPVisionConfig(**settings(hidden_act=activation, projection_dim=16))
        )
    )
    model.save_pretrained(tmp_path / "source")
    out = convert(str(tmp_path / "source"), tmp_path / "out", say=lambda *_: None)
    config, params = store.load_vision(out)
    pixels = frames(config.size)
    with torch.inference_mode():
        expected = model(pixel_values=pixels_to_torch(pixels, config), output_hidden_states=True)
    compare_states(params, config, pixels, expected.hidden_states)
    found = clip.outputs(params, pixels, config)
    assert deviation(found["embedding"], expected.image_embeds.numpy()) < TOLERANCE
    assert deviation(found["last_hidden_state"], expected.last_hidden_state.numpy()) < TOLERANCE


def test_every_output_of_transformers_siglip(tmp_path):
    model = randomised(
        transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**settings()))
    )
    model.save_pretrained(tmp_path / "source")
    out = convert(str(tmp_path / "source"), tmp_path / "out", say=lambda *_: None)
    config, params = store.load_vision(out)
    assert not config.class_token
    pixels = frames(config.size)
    with torch.inference_mode():
        expected = model(pixel_values=pixels_to_torch(pixels, config), output_hidden_states=True)
    compare_states(params, config, pixels, expected.hidden_states)
    found = clip.outputs(params, pixels, config)
    assert deviation(found["last_hidden_state"], expected.last_hidden_state.numpy()) < TOLERANCE


def compare_states(params, config, pixels, expected) -> None:
    every_block = clip.stack(config, config.layers)
    states = hidden_states(params, every_block, pixels, clip.tower(config))
    assert len(states) == len(expected) == config.layers + 1
    for ours, theirs in zip(states, expected, strict=True):
        assert deviation(ours, theirs.numpy()) < TOLERANCE


def test_bfloat16_is_as_near_as_pytorchs():
    """Our bfloat16 tower is no further from float32 than PyTorch's own."""
    config = dataclasses.replace(FASTVITHD, dtype="bfloat16")
    params, pixels = random_params(FASTVITHD), frames(FASTVITHD.size)
    network = torch_tower(FASTVITHD, params)
    images = pixels_to_torch(pixels, FASTVITHD)
    with torch.inference_mode():
        exact = network(images).numpy()
        theirs = network.bfloat16()(images.bfloat16()).float().numpy()
    ours = jax.device_get(jit_encode(cast_params(params, "bfloat16"), pixels, config=config))
    assert deviation(ours, exact) < 1.5 * deviation(theirs, exact)
