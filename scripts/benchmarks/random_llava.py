"""LLaVAs for `make_random_checkpoint.py`: sizes, names, config.json and a tokenizer.

In the layout of LLaVA's own releases, but with the tower inside, and with the tokenizer.json that
llava-hf's releases have.
"""

import itertools
import json
from typing import Any

from diffvis_jax.checkpoints.formats.tensors import Shape
from diffvis_jax.checkpoints.keys import clip as clip_keys
from diffvis_jax.language.config import DecoderConfig
from diffvis_jax.towers.clip import CLIPConfig

_TOWER = "model.vision_tower.vision_tower.vision_model."
_SPACE = "\u2581"


def _decoder(vocabulary: int, projector_input: int, **sizes) -> DecoderConfig:
    return DecoderConfig(
        vocabulary=vocabulary, projector_input=projector_input, qkv_bias=False, tied=False,
        rope_theta=10000.0, norm_epsilon=1e-5, **sizes,
    )  # fmt: skip


_TINY_TOWER = CLIPConfig(width=64, layers=4, heads=1, mlp_width=128, size=56)
_TINY = {"width": 64, "layers": 3, "heads": 4, "head_width": 16, "mlp_width": 144}
_LARGE = {"width": 4096, "layers": 32, "heads": 32, "head_width": 128}
# 1.5 has Vicuna, 1.6 Mistral; full is 7B.
LLAVAS: dict[str, dict[str, tuple[CLIPConfig, DecoderConfig]]] = {
    "llava_1_5": {
        "tiny": (_TINY_TOWER, _decoder(768, 64, kv_heads=4, **_TINY)),
        "full": (CLIPConfig(), _decoder(32000, 1024, kv_heads=32, mlp_width=11008, **_LARGE)),
    },
    "llava_1_6": {
        "tiny": (_TINY_TOWER, _decoder(768, 64, kv_heads=2, image_newline=True, **_TINY)),
        "full": (
            CLIPConfig(),
            _decoder(
                32000, 1024, kv_heads=8, mlp_width=14336, image_newline=True, **_LARGE
            ),
        ),
    },
}  # fmt: skip


def tower_tensors(tower: CLIPConfig) -> list[tuple[str, Shape]]:
    """Released name and shape of every tensor of a tower."""
    rules = clip_keys.rules(tower)
    return [(_TOWER + key, shape) for rule in rules for key, shape in rule.sources.items()]


def llava_fields(tower: CLIPConfig, language: DecoderConfig) -> dict[str, Any]:
    """What config.json says beside the decoder's sizes."""
    side, tiled = tower.size, language.image_newline
    canvases = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
    tiles = {
        "image_aspect_ratio": "anyres",
        "image_grid_pinpoints": [[side * across, side * down] for across, down in canvases],
        "mm_patch_merge_type": "spatial_unpad",
    }
    return {
        "model_type": "llava_mistral" if tiled else "llava_llama",
        "architectures": ["LlavaMistralForCausalLM" if tiled else "LlavaLlamaForCausalLM"],
        **(tiles if tiled else {"image_aspect_ratio": "pad"}),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "max_position_embeddings": 4096,
        "mm_hidden_size": tower.width,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "sliding_window": None,
        "tokenizer_model_max_length": 4096,
    }


def sentencepiece_files(tokens: int) -> dict[str, str]:
    """A tokenizer of Llama's kind, of at most that many tokens: bytes, letters, pairs of them."""
    letters = [chr(i) for i in range(33, 127)]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), _SPACE, *letters]
    small = [letter for letter in letters if letter.islower()]
    pairs = itertools.product([_SPACE, *small], small)
    merges = list(itertools.islice(pairs, tokens - len(pieces)))
    vocabulary = {piece: i for i, piece in enumerate([*pieces, *map("".join, merges)])}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    start = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    text, other = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    document = {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": piece, "special": True, **flags}
            for i, piece in enumerate(pieces[:3])
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": _SPACE},
                {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, text],
            "pair": [start, text, other],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "byte_fallback": True,
            "fuse_unk": True,
            "vocab": vocabulary,
            "merges": merges,
        },
    }
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False}
    return {
        "tokenizer.json": json.dumps(document),
        "tokenizer_config.json": json.dumps(config, indent=1),
    }
