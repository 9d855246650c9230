"""Checkpoints of other makes are named by what they hold; wrappers' parts of names come off."""

import argparse
import collections
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import APPLE, DATA, fastvlm, stored, write_directory, write_safetensors
from test_checkpoint_reading import Rebuild, tensor_file
from test_settings import headers

from diffvis_jax.checkpoints.conversion_plan import Plan, make_plan
from diffvis_jax.checkpoints.formats.open import open_checkpoint
from diffvis_jax.checkpoints.source_config import SourceConfig, read_source_config
from diffvis_jax.errors import CheckpointError

SMALL = {"a.weight": np.zeros((2, 3), np.float32), "b.weight": np.zeros((3, 2), np.float32)}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0f\nsize 1234\n"
TEXT = json.loads((DATA / "vlm_tiny_config.json").read_text())


def opened(path: Path) -> str:
    with pytest.raises(CheckpointError) as raised:
        open_checkpoint(path)
    return str(raised.value)


# ---- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.pt"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (POINTER, "is a Git LFS pointer, not the file: run `git lfs pull` there"),
        (b"/annex/objects/SHA256E-s1--0f\n", "git annex get"),
        (b"<!DOCTYPE html><html>", "is a web page, not the file"),
        (b"\n<html>", "is a web page, not the file"),
        (b"<?xml version='1.0'?><Error>", "is an answer of a server"),
        (b"GGUF\3\0\0\0\0\0\0\0", "llama.cpp's GGUF"),
        (b"\x89HDF\r\n\x1a\n", "as Keras writes it"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "packed with gzip"),
        (b"", "is empty"),
    ],
)
def test_files_that_are_no_weights(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    assert expected in opened(tmp_path / name)
    assert expected in opened(tmp_path)


def test_a_header_whose_length_looks_like_another_format(tmp_path):
    """35615 bytes, written as 1f 8b: how gzip begins."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    header += b" " * (0x8B1F - len(header))
    file = tmp_path / "m.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    assert set(open_checkpoint(file).tensors) == {"a"}


def test_a_link_to_nowhere(tmp_path):
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blobs" / "0f")
    assert "model.safetensors is a link to a file that is not there" in opened(tmp_path)


def test_all_pointers_among_the_shards_are_named(tmp_path):
    source = write_directory(tmp_path / "source", SMALL, shards=2, index=True)
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        (source / name).write_bytes(POINTER)
    message = opened(source)
    assert message.count("is a Git LFS pointer") == 2
    (source / "model.safetensors.index.json").write_bytes(POINTER)
    assert "model.safetensors.index.json: is a Git LFS pointer" in opened(source)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model-q4.gguf", "llama.cpp's GGUF"),
        ("model.onnx", "is an ONNX model"),
        ("openvino_model.bin", "is an OpenVINO model"),
        ("fastvithd.mlpackage", "is a Core ML model"),
        ("flax_model.msgpack", "holds Flax weights"),
        ("tf_model.h5", "is a TensorFlow model"),
        ("model.ckpt.index", "is a TensorFlow model"),
        ("params.npz", "holds NumPy arrays"),
        ("__0_0.distcp", "dcp_to_torch_save"),
        ("zero_to_fp32.py", "with its zero_to_fp32.py"),
        ("adapter_model.bin", "merge the two first"),
        ("model.zip", "is an archive: unpack it first"),
    ],
)
def test_files_of_other_makes(tmp_path, name, expected):
    (tmp_path / name).write_bytes(b"?" * 20)
    assert expected in opened(tmp_path)
    assert expected in opened(tmp_path / name)
    assert name in opened(tmp_path)


@pytest.mark.parametrize("shards", [1, 2])
def test_companions_of_macos_are_no_weights(tmp_path, shards):
    source = write_directory(tmp_path / "source", SMALL, shards=shards, index=shards > 1)
    for file in list(source.iterdir()):
        (source / f"._{file.name}").write_bytes(b"\0\5\x16\7")
    (source / "._adapter_model.bin").write_bytes(b"\0\5\x16\7")
    assert set(open_checkpoint(source).tensors) == set(SMALL)


def test_an_adapter_beside_its_base_model(tmp_path):
    source = write_directory(tmp_path / "source", SMALL)
    (source / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert open_checkpoint(source)  # a trace of training, no adapter
    write_safetensors(source / "adapter_model.safetensors", SMALL)
    assert "adapter_model.safetensors holds an adapter" in opened(source)
    assert open_checkpoint(source / "model.safetensors")  # named by itself


def test_mlx_weights(tmp_path):
    header = json.dumps({"__metadata__": {"format": "mlx"}}).encode()
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    assert "holds MLX weights" in opened(tmp_path)


# ---- names of tensors -------------------------------------------------------------------------


def refused(names: list[str], shape: tuple[int, ...] = (2, 2)) -> str:
    arrays = dict.fromkeys(names, np.ones(shape, np.float32))
    with pytest.raises(CheckpointError) as raised:
        make_plan(headers(fastvlm() | arrays), SourceConfig(TEXT))
    return str(raised.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "holds an adapter"),
        ("model.layers.0.self_attn.q_proj.lora_B.default.weight", "holds an adapter"),
        ("model.layers.0.self_attn.q_proj.base_layer.weight", "holds an adapter"),
        ("model.layers.0.mlp.up_proj.lora_magnitude_vector", "holds an adapter"),
        ("model.layers.0.mlp.up_proj.ia3_l", "holds an adapter"),
        ("prompt_embeddings", "holds an adapter"),
        ("model.layers.0.mlp.up_proj.qweight", "GPTQ or AWQ"),
        ("model.layers.0.mlp.up_proj.SCB", "bitsandbytes"),
        ("model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4", "bitsandbytes"),
        ("model.layers.0.mlp.up_proj.scales", "is quantised"),
        ("model.layers.0.mlp.up_proj.weight_scale_inv", "is quantised"),
        ("model.layers.0._fsdp_wrapped_module._flat_param", "FSDP"),
        ("vision_model/encoder/layers_0/kernel:0", "TensorFlow"),
        ("vision_model.embeddings.patch_embedding.kernel", "Flax"),
    ],
)
def test_tensors_of_other_makes(name, expected):
    message = refused([name])
    assert message.startswith("the checkpoint ")
    assert expected in message
    assert message.endswith(f"({name})")


def test_tensors_without_content():
    message = refused(["model.layers.0.mlp.up_proj.weight"], shape=(0,))
    assert "DeepSpeed's ZeRO-3" in message
    assert "zero_to_fp32.py" in message


def tower_of(plan: Plan) -> set[str]:
    return set(plan.tensors["vision"])


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "a.b."])
def test_what_all_names_begin_with_comes_off(prefix):
    clip = stored("openai_clip.safetensors")
    expected = make_plan(headers(clip), SourceConfig())
    found = make_plan(headers({f"{prefix}{name}": x for name, x in clip.items()}), SourceConfig())
    assert found.config == expected.config
    assert tower_of(found) == tower_of(expected)
    # What is left out keeps the name that it has in the file.
    assert found.ignored == {f"{prefix}{name}": why for name, why in expected.ignored.items()}

    whole = fastvlm()
    expected = make_plan(headers(whole), SourceConfig(TEXT))
    found = make_plan(headers({f"{prefix}{n}": x for n, x in whole.items()}), SourceConfig(TEXT))
    assert found.config == expected.config
    assert found.language_config == expected.language_config


def test_a_tied_model_all_of_whose_names_begin_alike():
    tied = {name: x for name, x in fastvlm().items() if name != "lm_head.weight"}
    assert all(name.startswith("model.") for name in tied)
    plan = make_plan(headers(tied), SourceConfig(TEXT | {"tie_word_embeddings": True}))
    assert plan.language_config is not None
    assert plan.language_config.tied


def test_wrappers_within_names():
    tensors = {
        name.replace("vision_tower.vision_tower.", "vision_tower._orig_mod.vision_tower.").replace(
            "model.layers.", "model._fsdp_wrapped_module.layers."
        ): x
        for name, x in fastvlm().items()
    }
    assert make_plan(headers(tensors), SourceConfig(TEXT)).language_config is not None
    name = "model.norm.weight"
    with pytest.raises(CheckpointError, match="are the same tensor twice"):
        make_plan(headers(tensors | {f"_orig_mod.{name}": tensors[name]}), SourceConfig(TEXT))


def test_missing_tensors_are_spelled_as_the_file_spells_names():
    tensors = {f"module.{n}": x for n, x in fastvlm().items() if "patch_embed.1" not in n}
    with pytest.raises(CheckpointError, match=rf"missing: module\.{APPLE}patch_embed\.1"):
        make_plan(headers(tensors), SourceConfig(TEXT))


def test_a_norm_without_a_decoder_is_unknown():
    tower = stored("fastvithd_tiny.safetensors")
    projector = {"model.mm_projector.0.weight": np.ones((2, 512), np.float32)}
    plan = make_plan(headers(tower | projector), SourceConfig())
    assert plan.ignored["model.mm_projector.0.weight"] == "projector without a language model"
    extra = {"model.norm.weight": np.ones(2, np.float32)}
    with pytest.raises(CheckpointError, match=r"unknown: model\.norm\.weight"):
        make_plan(headers(tower | projector | extra), SourceConfig())


def test_block_numbers_beyond_the_number_of_tensors():
    for name in (
        "model.layers.999999999.mlp.up_proj.weight",
        f"{APPLE}network.4.99999999999.convffn.fc1.bias",
    ):
        assert "block 999999999 of only" in refused([name])
    clip = stored("clip_tiny.safetensors")
    clip["encoder.layers.777777777.layer_norm1.bias"] = np.zeros(64, np.float32)
    with pytest.raises(CheckpointError, match="block 777777777 of only"):
        make_plan(headers(clip), SourceConfig())


# ---- what lies around a state dict ------------------------------------------------------------


def test_a_training_run_of_open_clip_or_timm(tmp_path):
    one = Rebuild("0", 12, 0, (12,), (1,))
    document = {
        "epoch": 3, "name": "run", "args": argparse.Namespace(lr=0.1),
        "optimizer": {"state": {0: {"exp_avg": one}}, "param_groups": []},
        "state_dict": {"module.w": one}, "scaler": {"scale": 2.0},
    }  # fmt: skip
    found = open_checkpoint(tensor_file(tmp_path / "epoch_3.pt", document, {"0": bytes(48)}))
    assert set(found.tensors) == {"module.w"}
    assert found.ignored == {"optimizer": "beside the state dict 'state_dict'"}


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "module"])
def test_a_lightning_checkpoint(tmp_path, key):
    one = Rebuild("0", 12, 0, (12,), (1,))
    document = {key: collections.OrderedDict(w=one), "hyper_parameters": {"lr": 0.1}}
    found = open_checkpoint(tensor_file(tmp_path / "last.ckpt", document, {"0": bytes(48)}))
    assert set(found.tensors) == {"w"}


def test_dicts_within_dicts_without_an_end(tmp_path):
    one = Rebuild("0", 12, 0, (12,), (1,))
    laughs: dict = {}
    for _ in range(100):  # 2 ** 100 paths through it
        laughs = {"a": laughs, "b": laughs}
    circle: dict = {}
    circle["self"] = circle
    document = {"state_dict": {"w": one}, "laughs": laughs, "circle": circle}
    found = open_checkpoint(tensor_file(tmp_path / "m.pt", document, {"0": bytes(48)}))
    assert set(found.tensors) == {"w"}
    assert not found.ignored


# ---- JSON -------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_json_in_any_of_unicodes_encodings(tmp_path, encoding):
    for name in (
        "config", "preprocessor_config", "generation_config", "open_clip_config",
        "processor_config", "tokenizer_config",
    ):  # fmt: skip
        (tmp_path / f"{name}.json").write_text('{"name": "größer"}', encoding=encoding)
    source = read_source_config(tmp_path)
    assert all(value == {"name": "größer"} for value in vars(source).values())
    shards = write_directory(tmp_path / "source", SMALL, shards=2, index=True)
    index = shards / "model.safetensors.index.json"
    index.write_text(index.read_text(), encoding=encoding)
    assert set(open_checkpoint(shards).tensors) == set(SMALL)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"a": 1, "a": 2}', "twice, with two values"),
        (b'{"a": [{"b": 1, "b": null}]}', "twice, with two values"),
        (b'{"a": ' + b"[" * 200_000, "cannot be read as JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "cannot be read as JSON"),
        (b'{"a": "\xff"}', "cannot be read as JSON"),
        (b"{'a': 1}", "cannot be read as JSON"),
        (b"3", "not a JSON object"),
        (POINTER, "is a Git LFS pointer"),
        (b"", "is empty"),
    ],
)
def test_json_that_is_none(tmp_path, content, expected):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"config\.json: .*{expected}"):
        read_source_config(tmp_path)


def test_json_with_what_numbers_cannot_be(tmp_path):
    (tmp_path / "config.json").write_text('{"x": NaN, "y": [Infinity], "z": 1, "z": 1}')
    source = read_source_config(tmp_path)
    assert source.config["z"] == 1
    for value in ("NaN", "-Infinity", "1e400", "9" * 400):
        config = json.loads(f'{{"layer_norm_eps": {value}, "num_attention_heads": 4}}')
        with pytest.raises(CheckpointError, match=r"layer_norm_eps must be a number"):
            make_plan(headers(stored("clip_tiny.safetensors")), SourceConfig(config))


def test_a_tensor_twice_in_a_header(tmp_path):
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
    header += b'"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}'
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    assert "twice, with two values" in opened(tmp_path)
