"""Checkpoints for the converter's tests: stored tensors, and writers for every kind of file."""

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np

from diffvis_jax.checkpoints import store
from diffvis_jax.checkpoints.formats.open import open_checkpoint

DATA = Path(__file__).parent / "data"
APPLE = "model.vision_tower.vision_tower.model."
LLAVA_CLIP = "model.vision_tower.vision_tower.vision_model."

Arrays = dict[str, np.ndarray]

_CODES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64"}


def same(one, other) -> bool:
    """Whether two trees of parameters hold the same numbers in the same dtypes."""
    one, other = store.flatten(one), store.flatten(other)
    return one.keys() == other.keys() and all(
        one[k].dtype == other[k].dtype and np.array_equal(one[k], other[k]) for k in one
    )


def stored(name: str) -> Arrays:
    """The tensors of one file in tests/data."""
    return {k: t.load() for k, t in open_checkpoint(DATA / name).tensors.items()}


def fastvlm() -> Arrays:
    """A tiny FastVLM in the released naming."""
    return stored("fastvithd_tiny.safetensors") | stored("vlm_tiny_language.safetensors")


def hf_fastvlm() -> Arrays:
    """The same numbers as transformers' FastVlmForConditionalGeneration names them."""
    tensors, names = fastvlm(), json.loads((DATA / "vlm_tiny_hf_names.json").read_text())
    return {ours: tensors[theirs] for ours, theirs in names.items()}


def qwen_vl() -> Arrays:
    """A tiny Qwen2.5-VL in the naming of the releases."""
    return stored("qwen2_5_vl_tiny.safetensors")


def hf_qwen_vl() -> Arrays:
    """The same numbers as transformers names them in memory."""
    names = json.loads((DATA / "qwen2_5_vl_tiny_names.json").read_text())
    return {names[name]: x for name, x in qwen_vl().items()}


def nested_qwen_vl_config() -> dict:
    """Its config.json in the other spelling: everything of the language model in one object."""
    flat = json.loads((DATA / "qwen2_5_vl_tiny_config.json").read_text())
    outside = ("model_type", "architectures", "vision_config", "tie_word_embeddings")
    tokens = [name for name in flat if name.endswith("_token_id") and name[:2] in ("im", "vi")]
    document = {name: flat.pop(name) for name in (*outside, *tokens)}
    rope = flat.pop("rope_scaling") | {"rope_type": "default", "rope_theta": flat.pop("rope_theta")}
    vision = document["vision_config"]
    vision["in_channels"] = vision.pop("in_chans")
    vision["patch_size"] = vision.pop("spatial_patch_size")
    text = flat | {"model_type": "qwen2_5_vl_text", "rope_parameters": rope}
    return document | {"text_config": text}


def clip_model() -> Arrays:
    """The tiny CLIP as a CLIPModel: with projection and some of its text tower."""
    tower = {f"vision_model.{k}": v for k, v in stored("clip_tiny.safetensors").items()}
    rest = {
        "vision_model.embeddings.position_ids": np.arange(17, dtype=np.int64)[None],
        "visual_projection.weight": np.linspace(-1, 1, 32 * 64, dtype=np.float32).reshape(32, 64),
        "text_model.embeddings.position_ids": np.arange(7, dtype=np.int64)[None],
        "text_model.embeddings.token_embedding.weight": np.ones((9, 8), np.float32),
        "text_model.encoder.layers.0.self_attn.q_proj.weight": np.ones((8, 8), np.float32),
        "text_projection.weight": np.ones((32, 8), np.float32),
        "logit_scale": np.array(2.6, np.float32),
    }
    return tower | rest


def openai(clip: Arrays) -> Arrays:
    """A tower in Hugging Face's naming -> OpenAI's, with packed query, key and value."""
    named = {
        "visual.class_embedding": clip["embeddings.class_embedding"],
        "visual.conv1.weight": clip["embeddings.patch_embedding.weight"],
        "visual.positional_embedding": clip["embeddings.position_embedding.weight"],
    }
    for kind in ("weight", "bias"):
        named[f"visual.ln_pre.{kind}"] = clip[f"pre_layrnorm.{kind}"]
        named[f"visual.ln_post.{kind}"] = clip[f"post_layernorm.{kind}"]
        for i in range(4):
            theirs, ours = f"visual.transformer.resblocks.{i}", f"encoder.layers.{i}"
            named[f"{theirs}.attn.in_proj_{kind}"] = np.concatenate(
                [clip[f"{ours}.self_attn.{letter}_proj.{kind}"] for letter in "qkv"]
            )
            for one, other in (
                ("attn.out_proj", "self_attn.out_proj"),
                ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"),
                ("mlp.c_fc", "mlp.fc1"),
                ("mlp.c_proj", "mlp.fc2"),
            ):
                named[f"{theirs}.{one}.{kind}"] = clip[f"{ours}.{other}.{kind}"]
    return named


def write_safetensors(path: Path, tensors: Arrays) -> Path:
    """Writes the format itself: length, JSON, raw data."""
    header, blobs, offset = {}, [], 0
    for name, array in tensors.items():
        blob = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": _CODES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + len(blob)],
        }
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))
    return path


def write_directory(
    path: Path,
    tensors: Arrays,
    config: dict | str | None = None,
    *,
    shards: int = 1,
    index: bool = False,
) -> Path:
    """A checkpoint directory; `config` is a document, or the name of one in tests/data."""
    path.mkdir(parents=True)
    if isinstance(config, str):
        config = json.loads((DATA / config).read_text())
    if config is not None:
        (path / "config.json").write_text(json.dumps(config))
    if shards == 1:
        write_safetensors(path / "model.safetensors", tensors)
        return path
    weight_map = {}
    names = list(tensors)
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[i::shards]}
        write_safetensors(path / file, part)
        weight_map |= dict.fromkeys(part, file)
    if index:
        document = {"metadata": {}, "weight_map": weight_map}
        (path / "model.safetensors.index.json").write_text(json.dumps(document))
    return path


def write_pickle_zip(path: Path, document: object, files: dict[str, bytes] | None = None) -> Path:
    """The container of `torch.save`, around any pickle."""
    data = io.BytesIO()
    pickle.Pickler(data, protocol=2).dump(document)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", data.getvalue())
        for name, content in (files or {}).items():
            archive.writestr(f"archive/{name}", content)
    return path
