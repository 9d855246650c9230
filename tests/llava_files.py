"""Tiny LLaVA checkpoints with the weights of tests/data/llava_tiny.safetensors, in both layouts.

How those were made: tests/parity/llava_tiny.py.
"""

import re
from pathlib import Path

from checkpoint_files import Arrays, stored, write_directory

PINPOINTS = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]  # (height, width)
SIZES = {"wide": (30, 70), "high": (71, 33), "square": (90, 101), "row": (20, 96), "small": (9, 7)}
TOWER = "model.vision_tower.vision_tower."
_DECODER = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 48,
    "intermediate_size": 96,
    "max_position_embeddings": 1024,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-5,
    "sliding_window": None,
    "vocab_size": 120,
}
VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 1,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 32,
}
_FAMILY = {"1.5": "llama", "1.6": "mistral"}


def tensors(version: str) -> Arrays:
    """In the naming of LLaVA's own releases; "1.5" has no image_newline."""
    found = stored("llava_tiny.safetensors")
    return {k: x for k, x in found.items() if version == "1.6" or "newline" not in k}


def hf_name(name: str) -> str:
    """The same tensor's name in the releases of llava-hf."""
    if name.startswith(TOWER):
        return f"vision_tower.{name.removeprefix(TOWER)}"
    if match := re.fullmatch(r"model\.mm_projector\.(\d)\.(.+)", name):
        return f"multi_modal_projector.linear_{int(match[1]) // 2 + 1}.{match[2]}"
    return "image_newline" if name.endswith("image_newline") else f"language_model.{name}"


def config(version: str) -> dict:
    """config.json of LLaVA's own releases."""
    tiles = {
        "image_aspect_ratio": "anyres",
        # (width, height) in these files
        "image_grid_pinpoints": [pair[::-1] for pair in PINPOINTS],
        "mm_patch_merge_type": "spatial_unpad",
        "image_crop_resolution": 224,
        "image_split_resolution": 224,
    }
    return {
        **_DECODER,
        **({"image_aspect_ratio": "pad"} if version == "1.5" else tiles),
        "model_type": f"llava_{_FAMILY[version]}",
        "architectures": ["LlavaForCausalLM"],
        "mm_hidden_size": 32,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "tokenizer_model_max_length": 4096,
        "tokenizer_padding_side": "right",
        "torch_dtype": "float16",
        "use_mm_proj": True,
    }


def hf_config(version: str) -> dict:
    """config.json of llava-hf's; text_config leaves out what is the default."""
    more = {} if version == "1.5" else {"image_grid_pinpoints": PINPOINTS}
    return {
        **more,
        "model_type": "llava" if version == "1.5" else "llava_next",
        "architectures": ["LlavaForConditionalGeneration"],
        "ignore_index": -100,
        "image_token_index": 119,
        "image_seq_length": 16,
        "projector_hidden_act": "gelu",
        "text_config": {
            **{k: v for k, v in _DECODER.items() if k not in ("bos_token_id", "eos_token_id")},
            "model_type": _FAMILY[version],
        },
        "tie_word_embeddings": False,
        "vision_config": VISION,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }


def write(path: Path, version: str, layout: str = "released") -> Path:
    """A checkpoint directory of LLaVA "1.5" or "1.6", "released" or as "llava-hf" has it."""
    found = tensors(version)
    if layout == "released":
        return write_directory(path, found, config(version))
    return write_directory(path, {hf_name(k): x for k, x in found.items()}, hf_config(version))
