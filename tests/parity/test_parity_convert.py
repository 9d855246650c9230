"""The converter against live PyTorch models. Needs the extra `parity`."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers

from diffvis_jax.checkpoints import store
from diffvis_jax.checkpoints.architectures import expected_shapes
from diffvis_jax.checkpoints.convert import convert
from diffvis_jax.checkpoints.formats.open import open_checkpoint
from diffvis_jax.checkpoints.formats.tensors import Tensor
from diffvis_jax.checkpoints.torch_reference import (
    fastvithd_torch,
    pixels_to_torch,
    source_state,
    torch_tower,
)
from diffvis_jax.checkpoints.verify import verify_tower
from diffvis_jax.core.step import encode
from diffvis_jax.errors import CheckpointError
from diffvis_jax.towers.clip import CLIPConfig
from diffvis_jax.towers.fastvithd import FastViTHDConfig
from diffvis_jax.towers.qwen2_5_vl import Qwen25VisionConfig

pytestmark = pytest.mark.parity

SMALL = FastViTHDConfig(
    depths=(1, 2, 1, 1, 1),
    widths=(8, 16, 32, 64, 64),
    token_width=128,
    squeeze_width=8,
    size=192,
)
CLIP = CLIPConfig(width=32, layers=3, heads=4, mlp_width=48, patch=8, size=32)
TOLERANCE = 5e-6  # of the largest value


def quiet(*_) -> None:
    pass


def frames(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)


def difference(params, config, expected: torch.Tensor) -> float:
    tokens = jax.jit(lambda p, x: encode(p, x, config=config))(params, frames(config.size))
    reference = expected.numpy()
    assert tokens.shape == reference.shape
    return float(np.abs(tokens - reference).max() / np.abs(reference).max())


def randomise(module: torch.nn.Module, seed: int = 0) -> None:
    """Weights of unit gain, and BatchNorm statistics that are not the identity."""
    generator = torch.Generator().manual_seed(seed)

    def normal(x):
        return torch.randn(x.shape, generator=generator)

    with torch.no_grad():
        for name, x in module.named_parameters():
            if x.ndim > 1 and "gamma" not in name:
                x.copy_(normal(x) * x[0].numel() ** -0.5)
            elif name.endswith("bias"):
                x.copy_(0.2 * normal(x))
            else:
                x.copy_(0.3 + 0.1 * normal(x).abs())
        for name, x in module.named_buffers():
            if name.endswith("running_mean"):
                x.copy_(0.2 * normal(x))
            if name.endswith("running_var"):
                x.copy_(0.5 + normal(x).abs())


@pytest.fixture(scope="module", params=["training form", "fused by timm"])
def fastvit(request):
    import timm
    from timm.models.fastvit import RepConditionalPosEnc
    from timm.utils.model import reparameterize_model

    model = timm.create_model(
        "fastvit_mci3",
        layers=SMALL.depths,
        embed_dims=SMALL.widths,
        pos_embs=(None, None, None, RepConditionalPosEnc, RepConditionalPosEnc),
        num_classes=3,
    ).eval()
    randomise(model)
    return model if request.param == "training form" else reparameterize_model(model)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_timm_fastvit(fastvit, tmp_path, suffix):
    state = {k: v.contiguous() for k, v in fastvit.state_dict().items()}
    file = tmp_path / f"model.{suffix}"
    if suffix == "bin":
        torch.save(state, file)
    else:
        safetensors.torch.save_file(state, file)
    directory = convert(str(file), tmp_path / "out", size=SMALL.size, verify=True, say=quiet)
    config, params = store.load_vision(directory)
    assert config == SMALL
    with torch.inference_mode():
        tokens = fastvit.forward_features(pixels_to_torch(frames(config.size), config))
    assert difference(params, config, tokens.flatten(2).transpose(1, 2)) < TOLERANCE


def random_params(config) -> dict:
    rng = np.random.default_rng(0)
    leaves = {}
    for path, shape in expected_shapes(config).items():
        fan_in = int(np.prod(shape[:-1])) if path.endswith("kernel") else 25
        leaves[path] = (rng.standard_normal(shape) * fan_in**-0.5).astype(np.float32)
    return store.unflatten(leaves)


@pytest.mark.parametrize("size", [192, 200])
def test_our_fastvithd_parameters_in_timm(size):
    config = dataclasses.replace(SMALL, size=size)
    params = random_params(config)
    tokens = torch_tower(config, params)(pixels_to_torch(frames(size), config))
    assert difference(params, config, tokens) < TOLERANCE


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("layout", ["vision", "projection", "model", "bin"])
def test_transformers_clip(tmp_path, layout, activation):
    settings = {
        "hidden_size": CLIP.width,
        "intermediate_size": CLIP.mlp_width,
        "num_hidden_layers": CLIP.layers,
        "num_attention_heads": CLIP.heads,
        "patch_size": CLIP.patch,
        "image_size": CLIP.size,
        "hidden_act": activation,
        "projection_dim": 16,
    }
    vision_config = transformers.CLIPVisionConfig(**settings)
    if layout == "model":
        text = transformers.CLIPTextConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            vocab_size=50, projection_dim=16,
        )  # fmt: skip
        model = transformers.CLIPModel(
            transformers.CLIPConfig(
                text_config=text.to_dict(),
                vision_config=vision_config.to_dict(),
                projection_dim=16,
            )
        )
        tower = model.vision_model
    elif layout == "projection":
        model = transformers.CLIPVisionModelWithProjection(vision_config)
        tower = model.vision_model
    else:
        model = tower = transformers.CLIPVisionModel(vision_config)
    model.eval()
    randomise(model)
    source = tmp_path / "source"
    model.save_pretrained(source)
    if layout == "bin":
        (source / "model.safetensors").unlink()
        torch.save(model.state_dict(), source / "pytorch_model.bin")
    directory = convert(str(source), tmp_path / "out", verify=True, say=quiet)
    config, params = store.load_vision(directory)
    assert config.activation == activation
    assert config.projection_width == (16 if layout in ("projection", "model") else 0)
    with torch.inference_mode():
        pixels = pixels_to_torch(frames(config.size), config)
        states = tower(pixel_values=pixels, output_hidden_states=True).hidden_states
    assert difference(params, config, states[-2][:, 1:]) < TOLERANCE


@pytest.mark.parametrize("class_token", [True, False])
def test_verify_covers_the_end_of_a_clip(class_token):
    config = dataclasses.replace(
        CLIP, class_token=class_token, patch_bias=not class_token, projection_width=8
    )
    params, lines = random_params(config), []
    state = source_state(config, params)
    tensors = {k: Tensor(k, v.shape, v.dtype, "file", lambda v=v: v) for k, v in state.items()}
    assert verify_tower(config, params, tensors, lines.append, language=True) < TOLERANCE
    end = "pooled" if class_token else "last_hidden_state"
    compared, others = lines[-1].split("; not compared: ")
    assert compared == f"compared: tokens and {end}"
    assert {"activation", "number of heads", "projection", "language model"} <= set(
        others.split(", ")
    )
    params["block_2"]["mlp"]["fc2"]["bias"][0] += 0.5  # of the last layer, beyond the tokens
    with pytest.raises(CheckpointError, match=f"{end}: differs from PyTorch"):
        verify_tower(config, params, tensors, quiet)


def test_our_clip_parameters_in_transformers():
    params = random_params(CLIP)
    tokens = torch_tower(CLIP, params)(pixels_to_torch(frames(CLIP.size), CLIP))
    assert difference(params, CLIP, tokens) < TOLERANCE


QWEN = Qwen25VisionConfig(
    width=40, depth=5, heads=2, mlp_width=36, full_blocks=(1, 4), window=56, token_width=24,
    size=(140, 196),
)  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"full_blocks": (0, 3), "window": 112},
        {"width": 48, "full_blocks": (2,), "size": (224, 112)},
        {"full_blocks": (), "depth": 2},
    ],
)
def test_our_qwen_parameters_in_transformers(changes):
    config = dataclasses.replace(QWEN, **changes)
    params = random_params(config)
    pixels = np.random.default_rng(1).integers(0, 256, (2, *config.size, 3), np.uint8)
    expected = torch_tower(config, params)(pixels_to_torch(pixels, config)).numpy()
    tokens = jax.jit(lambda p, x: encode(p, x, config=config))(params, pixels)
    assert tokens.shape == expected.shape
    assert np.abs(tokens - expected).max() / np.abs(expected).max() < TOLERANCE


@pytest.mark.parametrize("prefix", ["visual.", "model.visual."])
def test_verify_a_qwen_tower(tmp_path, prefix):
    state = source_state(QWEN, random_params(QWEN))
    source = tmp_path / "source"
    source.mkdir()
    tensors = {prefix + name: torch.from_numpy(x) for name, x in state.items()}
    safetensors.torch.save_file(tensors, source / "model.safetensors")
    vision = {"num_heads": 2, "fullatt_block_indexes": [1, 4], "window_size": 56}
    (source / "config.json").write_text(json.dumps({"vision_config": vision}))
    lines = []
    out = convert(str(source), tmp_path / "out", verify=True, say=lines.append)
    assert any("tokens against PyTorch, 84 x 140 px" in line for line in lines)
    config, params = store.load_vision(out)
    assert dataclasses.replace(config, size=QWEN.size) == QWEN
    state["merger.mlp.2.bias"] += 0.5
    tensors = {k: Tensor(k, v.shape, v.dtype, "file", lambda v=v: v) for k, v in state.items()}
    with pytest.raises(CheckpointError, match="tokens: differs from PyTorch"):
        verify_tower(config, params, tensors, quiet)


@pytest.mark.parametrize("legacy", [False, True])
def test_everything_torch_saves_is_read(tmp_path, legacy):
    base = torch.arange(24, dtype=torch.float32)
    state = {
        "contiguous": base.reshape(4, 6),
        "transposed": base.reshape(4, 6).T,
        "slice": base.reshape(4, 6)[1:3, ::2],
        "expanded": base[:3, None].expand(3, 5),
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "empty": torch.zeros(0, 4),
        "half": base.half(),
        "bfloat16": base.bfloat16(),
        "int64": base.long(),
        "bool": base > 4,
    }
    file = tmp_path / "model.pt"
    torch.save({"state_dict": state, "step": 7}, file, _use_new_zipfile_serialization=not legacy)
    found = {k: t.load() for k, t in open_checkpoint(file).tensors.items()}
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].shape == tuple(tensor.shape)
        np.testing.assert_array_equal(
            found[name].astype(np.float64), tensor.to(torch.float64).numpy()
        )


def test_tensors_beside_a_state_dict_are_listed_as_ignored(tmp_path):
    state = {k: torch.from_numpy(v) for k, v in source_state(CLIP, random_params(CLIP)).items()}
    file = tmp_path / "model.pt"
    torch.save({"best_acc1": torch.tensor(0.7), "state_dict": state}, file)
    manifest = store.read_manifest(convert(str(file), tmp_path / "out", say=quiet))
    assert manifest["ignored"] == {"best_acc1": "beside the state dict 'state_dict'"}


def test_a_whole_pickled_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear.*refused"):
        open_checkpoint(tmp_path / "model.pt")


def test_verify_notices_a_wrong_tower(tmp_path):
    params = random_params(SMALL)
    params["stage_1"]["block_0"]["ffn"]["fc2"]["bias"] += 0.5
    state = source_state(SMALL, random_params(SMALL))
    tensors = {k: Tensor(k, v.shape, v.dtype, "file", lambda v=v: v) for k, v in state.items()}
    with pytest.raises(CheckpointError, match="differs from PyTorch"):
        verify_tower(SMALL, params, tensors, quiet)
    with pytest.raises(CheckpointError, match="other names"):
        fastvithd_torch(SMALL, {**state, "extra": state["stem.0.reparam_conv.bias"]})
