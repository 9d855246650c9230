"""CLIP and SigLIP towers against PyTorch's activations (tests/data), in every naming."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from checkpoint_files import DATA, openai, stored, write_directory
from tiny import CLIP, deviation, random_params

import diffvis_jax as dv
from diffvis_jax.checkpoints import store
from diffvis_jax.checkpoints.convert import convert
from diffvis_jax.core.step import jit_encode
from diffvis_jax.towers import build, clip
from diffvis_jax.towers.forward import hidden_states

OUTPUTS = ("patch", "cls_patch", "last_hidden_state", "pooled", "embedding")
CASES = {
    "quick_gelu": "clip_tiny",
    "gelu": "clip_tiny_gelu",
    "openai names": "clip_tiny",
    "siglip": "siglip_tiny",
}


@pytest.fixture(scope="module", params=CASES)
def converted(request, tmp_path_factory):
    """Config, parameters and PyTorch's activations."""
    name = CASES[request.param]
    tensors = stored(f"{name}.safetensors")
    vision = json.loads((DATA / f"{name}_config.json").read_text())
    if request.param == "openai names":
        tensors = openai(tensors)
    if request.param == "siglip":
        vision |= {"model_type": "siglip_vision_model"}
    base = tmp_path_factory.mktemp("clip")
    source = write_directory(base / "source", tensors, {"vision_config": vision})
    directory = convert(str(source), base / "out", say=lambda *_: None)
    return *store.load_vision(directory), np.load(DATA / f"{name}.npz")


@functools.partial(jax.jit, static_argnames="config")
def states_and_outputs(params, frames, config):
    every_block = clip.stack(config, config.layers)
    states = hidden_states(params, every_block, frames, build(config))
    return states, clip.outputs(params, frames, config)


def test_every_hidden_state_equals_pytorchs(converted):
    config, params, golden = converted
    states, _ = states_and_outputs(params, golden["image_u8"][None], config)
    assert len(states) == config.layers + 1
    for i, state in enumerate(states):
        assert deviation(state, golden[f"hidden{i}"]) < 2e-5, i


def test_outputs_equal_pytorchs(converted):
    config, params, golden = converted
    _, found = states_and_outputs(params, golden["image_u8"][None], config)
    penultimate = golden[f"hidden{config.layers - 1}"]
    assert deviation(found["cls_patch"], penultimate) < 2e-5
    assert deviation(found["patch"], penultimate[:, config.num_prefix_tokens :]) < 2e-5
    assert deviation(found["last_hidden_state"], golden["last_hidden_state"]) < 2e-5
    assert ("pooled" in found) == config.class_token  # SigLIP pools by attention: not in the tower
    if config.class_token:
        assert deviation(found["pooled"], golden["pooler_output"]) < 2e-5


def test_the_architecture_is_read(converted):
    config, _, golden = converted
    assert config.size == golden["image_u8"].shape[0]
    assert config.layers + 1 == sum(name.startswith("hidden") for name in golden)
    assert config.patch_bias == (not config.class_token)  # SigLIP
    assert config.length == golden["hidden0"].shape[1]


@pytest.mark.slow
def test_named_outputs(clip):
    frames = clip.frames(batch=1)
    found = {
        name: np.asarray(jit_encode(clip.params, frames, config=CLIP, output=name))
        for name in OUTPUTS
    }
    np.testing.assert_allclose(found["patch"], clip.full(frames), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["cls_patch"][:, 1:], found["patch"], rtol=1e-6)
    assert found["last_hidden_state"].shape == (1, 17, 32)
    projection = np.asarray(clip.params["projection"]["weight"])
    np.testing.assert_allclose(
        found["embedding"], found["pooled"] @ projection.T, rtol=1e-3, atol=1e-5
    )


def test_pixels_beyond_the_last_patch_are_not_seen(clip):
    frames = clip.frames(batch=1)
    other = frames.copy()
    other[:, 32:] = 0
    other[:, :, 32:] = 0
    np.testing.assert_array_equal(clip.full(frames), clip.full(other))
    _, cache, _ = clip.serve(clip.params, dv.init_cache(CLIP), frames)
    _, _, report = clip.serve(clip.params, cache, other)
    assert dv.describe(report)[0]["path"] == "reuse"


def test_patches_of_the_released_tower():
    config = dv.CLIPConfig()
    tower = build(config)
    assert (tower.patch, tower.grid, tower.tokens, tower.token_width) == (14, (24, 24), 576, 1024)
    # 23 blocks of 4 + 8 products D x D a patch, and two of L x D; the embedding.
    d, n = 1024, 577
    assert tower.macs == (n - 1) * (23 * (12 * d * d + 2 * n * d) + 3 * 14 * 14 * d)


def test_random_parameters_have_the_shapes_of_the_modules():
    drawn = store.flatten(jax.eval_shape(lambda: dv.init_params(CLIP, seed=1)))
    ours = store.flatten(random_params(CLIP))
    assert {k: x.shape for k, x in drawn.items()} == {k: x.shape for k, x in ours.items()}


def test_random_parameters_are_those_of_their_seed():
    square = dataclasses.replace(CLIP, mlp_width=32, projection_width=32)  # few shapes to compile
    one, again, other = (store.flatten(dv.init_params(square, seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(one[k], x) for k, x in again.items())
    assert not np.array_equal(one["embed/patch/weight"], other["embed/patch/weight"])
