#!/usr/bin/env python3
"""Writes a FastVLM, Qwen2.5-VL or LLaVA with random weights, in the layout of its release.

For exercising conversion, memory and speed where the released weights are not at hand: same names,
shapes and dtype (bfloat16), a tokenizer of the same size, text without meaning.
`python scripts/benchmarks/make_random_checkpoint.py DIR`, then `diffvis convert DIR weights/NAME`;
`--arch` for another one.
"""

import argparse
import dataclasses
import itertools
import json
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from random_llava import LLAVAS, llava_fields, sentencepiece_files, tower_tensors

from diffvis_jax.checkpoints.formats.tensors import Shape
from diffvis_jax.checkpoints.keys import fastvithd as fastvithd_keys
from diffvis_jax.checkpoints.keys import language as language_keys
from diffvis_jax.checkpoints.keys import qwen2_5_vl as qwen_keys
from diffvis_jax.cli.command_line import run_script, whole
from diffvis_jax.language.config import DecoderConfig
from diffvis_jax.towers import VisionConfig
from diffvis_jax.towers.clip import CLIPConfig
from diffvis_jax.towers.fastvithd import FastViTHDConfig
from diffvis_jax.towers.qwen2_5_vl import Qwen25VisionConfig
from diffvis_jax.utils.progress import Progress

TOWER = FastViTHDConfig()
# Widths of Qwen2; the rows of the embedding are those on disk.
SIZES: dict[str, tuple[FastViTHDConfig, DecoderConfig]] = {
    "0.5b": (TOWER, DecoderConfig()),
    "1.5b": (
        TOWER,
        DecoderConfig(width=1536, layers=28, heads=12, head_width=128, mlp_width=8960),
    ),
    "7b": (
        TOWER,
        DecoderConfig(
            vocabulary=152064, width=3584, layers=28, heads=28, kv_heads=4, head_width=128,
            mlp_width=18944, tied=False,
        ),
    ),
    "small": (
        FastViTHDConfig(
            depths=(1, 1, 2, 1, 1), widths=(16, 32, 64, 128, 256), token_width=512,
            squeeze_width=32, size=256,
        ),
        DecoderConfig(
            vocabulary=2048, width=64, layers=3, heads=4, kv_heads=2, head_width=16, mlp_width=160,
            projector_input=512,
        ),
    ),
}  # fmt: skip


def _without_projector(**sizes) -> DecoderConfig:
    return DecoderConfig(projector_layers=0, projector_input=sizes["width"], **sizes)


# Full is the 3B model; reduced has a tower of full depth, in which a change spreads as far.
SCALES: dict[str, tuple[Qwen25VisionConfig, DecoderConfig]] = {
    "tiny": (
        Qwen25VisionConfig(
            width=80, depth=6, heads=4, mlp_width=108, full_blocks=(2, 5), token_width=64
        ),
        _without_projector(
            vocabulary=2048, width=64, layers=3, heads=4, kv_heads=2, head_width=16, mlp_width=144,
            mrope_section=(2, 3, 3),
        ),
    ),
    "reduced": (
        Qwen25VisionConfig(width=320, heads=4, mlp_width=856, token_width=512),
        _without_projector(
            width=512, layers=12, heads=8, kv_heads=2, mlp_width=2752, mrope_section=(8, 12, 12)
        ),
    ),
    "full": (
        Qwen25VisionConfig(),
        _without_projector(
            width=2048, layers=36, heads=16, head_width=128, mlp_width=11008,
            mrope_section=(16, 24, 24),
        ),
    ),
}  # fmt: skip

_APPLE = "model.vision_tower.vision_tower.model."
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_QWEN_SPECIAL = (
    *_SPECIAL,
    *(f"<|{name}_{end}|>" for name in ("object_ref", "box", "quad", "vision")
      for end in ("start", "end")),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)  # fmt: skip
_TOKENS = 151643  # of the tokenizer without the special ones; the embeddings have more rows
_ROWS_AT_ONCE = 1 << 22  # numbers drawn before they are written


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor to be written."""

    name: str
    shape: Shape

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


def entries(tower: VisionConfig, language: DecoderConfig) -> list[Entry]:
    """Every tensor of such a checkpoint, under its released name."""
    found = []
    if isinstance(tower, Qwen25VisionConfig):
        for rule in qwen_keys.rules(tower):
            found += [Entry(f"visual.{k}", s) for k, s in rule.sources.items()]
    elif isinstance(tower, CLIPConfig):
        found += [Entry(*each) for each in tower_tensors(tower)]
    else:
        for rule in fastvithd_keys.rules(tower):
            found += [Entry(_APPLE + fastvithd_keys.apple(k), s) for k, s in rule.sources.items()]
    for rule in language_keys.rules(language):
        found += [Entry(_released(k), s) for k, s in rule.sources.items()]
    if language.tied and language.projector_layers:  # FastVLM's files have it all the same
        found.append(Entry("lm_head.weight", (language.vocabulary, language.width)))
    return found


def _released(canonical: str) -> str:
    if canonical.startswith("projector."):
        _, number, kind = canonical.split(".")
        return f"model.mm_projector.{2 * int(number)}.{kind}"
    return canonical if canonical == "lm_head.weight" else f"model.{canonical}"


def values(entry: Entry, seed: int) -> Iterator[np.ndarray]:
    """The tensor's numbers, float32, a few million at a time; scaled so that layers keep theirs."""
    # The head of a tied model is its embedding: the same name draws the same numbers.
    name = entry.name.replace("lm_head", "model.embed_tokens")
    rng = np.random.default_rng([seed, *name.encode()])
    mean, scale = _distribution(entry)
    for start in range(0, entry.size, _ROWS_AT_ONCE):
        count = min(_ROWS_AT_ONCE, entry.size - start)
        chunk = rng.standard_normal(count, np.float32) * np.float32(scale) + np.float32(mean)
        if entry.name.endswith("running_var"):
            chunk = np.abs(chunk)
        if "token_mixer.reparam_conv.weight" in name or _is_position(name):
            # The residual of these is folded into the kernel's middle.
            side = entry.shape[-1]
            middle = (np.arange(start, start + count) % side**2) == side**2 // 2
            chunk += middle
        yield chunk


def _is_position(name: str) -> bool:
    return any(f"network.{i}.reparam_conv.weight" in name for i in (6, 9))


def _distribution(entry: Entry) -> tuple[float, float]:
    """Mean and standard deviation."""
    name, shape = entry.name, entry.shape
    if "layer_scale" in name:
        return 0.3, 0.05
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
        return 1.0, 0.1
    if len(shape) == 1:
        return 0.0, 0.05
    if "embed_tokens" in name or "lm_head" in name:
        return 0.0, shape[1] ** -0.5
    fan_in = int(np.prod(shape[1:]))
    small = ("token_mixer.reparam_conv", "o_proj", "down_proj", "attn.proj")
    gain = 0.2 if any(part in name for part in small) or _is_position(name) else 1.0
    return 0.0, gain * fan_in**-0.5


def write_safetensors(path: Path, table: list[Entry], seed: int) -> None:
    """Streams the file: no tensor is ever whole in memory. It appears when it is complete."""
    header, offset = {}, 0
    for entry in table:
        end = offset + 2 * entry.size
        header[entry.name] = {
            "dtype": "BF16",
            "shape": list(entry.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header).encode()
    temporary = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with temporary.open("wb") as file, Progress(len(table), "writing") as progress:
            file.write(struct.pack("<Q", len(text)) + text)
            for entry in table:
                for chunk in values(entry, seed):
                    file.write(chunk.astype(ml_dtypes.bfloat16).tobytes())
                progress(entry.name)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def tokenizer_files(tokens: int, special: tuple[str, ...] = _SPECIAL) -> dict[str, str]:
    """A byte-level BPE of that many tokens and the special ones after them, as Qwen2's files.

    Its merges spell pairs, triples and quadruples of letters, and of a space and letters.
    """
    letters = "".join(map(chr, range(ord("a"), ord("z") + 1)))
    byte_letters = _byte_letters()
    space = byte_letters[ord(" ")]
    vocabulary = {letter: i for i, letter in enumerate(byte_letters)}
    merges: list[str] = []
    starts = [space, *letters]
    pairs = [(a, b) for a in starts for b in letters]
    triples = (("".join(pair), c) for pair in pairs for c in letters)
    quadruples = (
        (a + b, c + d) for (a, b), (c, d) in itertools.product(pairs, pairs) if c != space
    )
    for left, right in itertools.chain(pairs, triples, quadruples):
        if len(vocabulary) == tokens:
            break
        vocabulary[left + right] = len(vocabulary)
        merges.append(f"{left} {right}")
    added = {text: len(vocabulary) + i for i, text in enumerate(special)}
    decoder = {str(i): {"content": text, "special": True} for text, i in added.items()}
    config = {
        "added_tokens_decoder": decoder,
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": _SPECIAL[2],
        "pad_token": _SPECIAL[0],
        "model_max_length": 8192 if special is _SPECIAL else 131072,
    }
    return {
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False),
        "merges.txt": "\n".join(["#version: 0.2", *merges]) + "\n",
        "added_tokens.json": json.dumps(added),
        "tokenizer_config.json": json.dumps(config, indent=1),
    }


def _byte_letters() -> list[str]:
    """How byte-level BPE writes bytes (openai/gpt-2 `encoder.py`), those that print first."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printed]
    letters = {b: chr(b) for b in printed} | {b: chr(256 + i) for i, b in enumerate(rest)}
    return [letters[b] for b in range(256)]


def config_files(tower: VisionConfig, language: DecoderConfig, first: int) -> dict[str, str]:
    """The files beside the weights; `first` is the id of the first special token."""
    config = {
        "hidden_size": language.width,
        "intermediate_size": language.mlp_width,
        "num_hidden_layers": language.layers,
        "num_attention_heads": language.heads,
        "num_key_value_heads": language.kv_heads,
        "hidden_act": "silu",
        "rms_norm_eps": language.norm_epsilon,
        "rope_theta": language.rope_theta,
        "vocab_size": language.vocabulary,
        "tie_word_embeddings": language.tied,
        "use_sliding_window": False,
        "bos_token_id": first,
        "eos_token_id": first + 2,
        "torch_dtype": "bfloat16",
    }
    generation = {"eos_token_id": [first + 2, first], "pad_token_id": first}
    files: dict[str, dict[str, Any]] = {}
    if isinstance(tower, Qwen25VisionConfig):
        config |= _qwen_fields(tower, language, first)
        generation |= {"do_sample": True, "temperature": 1e-6, "repetition_penalty": 1.05}
        files["preprocessor_config.json"] = {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2_5_VLProcessor",
            "min_pixels": tower.min_pixels,
            "max_pixels": tower.max_pixels,
            "patch_size": tower.patch,
            "temporal_patch_size": 2,
            "merge_size": tower.merge,
            "image_mean": tower.mean,
            "image_std": tower.std,
        }
    elif isinstance(tower, CLIPConfig):
        config |= llava_fields(tower, language)
        generation = {"eos_token_id": 2, "pad_token_id": 0}
    else:
        config |= _fastvlm_fields(tower, language)
    files |= {"config.json": config, "generation_config.json": generation}
    return {name: json.dumps(document, indent=1) for name, document in files.items()}


def _fastvlm_fields(tower: FastViTHDConfig, language: DecoderConfig) -> dict[str, Any]:
    return {
        "model_type": "llava_qwen2",
        "architectures": ["LlavaQwen2ForCausalLM"],
        "max_position_embeddings": 32768,
        "mm_hidden_size": tower.token_width,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_tower": f"mobileclip_l_{tower.size}",
        "mm_patch_merge_type": "flat",
        "image_aspect_ratio": "pad",
        "tokenizer_model_max_length": language.max_length,
        "tokenizer_padding_side": "right",
    }


def _qwen_fields(tower: Qwen25VisionConfig, language: DecoderConfig, first: int) -> dict[str, Any]:
    def token(text: str) -> int:
        return first + _QWEN_SPECIAL.index(text)

    return {
        "model_type": "qwen2_5_vl",
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "max_position_embeddings": 128000,
        "sliding_window": 32768,
        "max_window_layers": 70,
        "rope_scaling": {"type": "mrope", "mrope_section": language.mrope_section},
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"),
        "vision_token_id": token("<|vision_pad|>"),
        "image_token_id": token("<|image_pad|>"),
        "video_token_id": token("<|video_pad|>"),
        "vision_config": {
            "depth": tower.depth,
            "hidden_act": "silu",
            "hidden_size": tower.width,
            "intermediate_size": tower.mlp_width,
            "num_heads": tower.heads,
            "in_chans": 3,
            "out_hidden_size": tower.token_width,
            "patch_size": tower.patch,
            "spatial_merge_size": tower.merge,
            "spatial_patch_size": tower.patch,
            "window_size": tower.window,
            "fullatt_block_indexes": tower.full_blocks,
            "tokens_per_second": 2,
            "temporal_patch_size": 2,
        },
    }


def make(
    directory: Path, size: str, seed: int, arch: str = "fastvlm", layers: int | None = None
) -> Path:
    """Writes the checkpoint; `size` is one of `SIZES`, or for other architectures of `SCALES`;
    `layers` of the decoder, None = as many as the size has.

    Raises:
      ValueError: the directory is there and not empty.
    """
    if directory.exists() and any(directory.iterdir()):
        raise ValueError(f"{directory} is not empty")
    sizes = {"fastvlm": SIZES, "qwen2_5_vl": SCALES, **LLAVAS}[arch]
    if size not in sizes:
        raise ValueError(f"{arch} has the sizes {', '.join(sizes)}, not {size}")
    tower, language = sizes[size]
    language = dataclasses.replace(language, layers=layers or language.layers)
    if arch in LLAVAS:
        tokens, files = 0, sentencepiece_files(language.vocabulary)
    else:
        tokens = 700 if language.vocabulary == 2048 else _TOKENS
        files = tokenizer_files(tokens, _SPECIAL if arch == "fastvlm" else _QWEN_SPECIAL)
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in (files | config_files(tower, language, tokens)).items():
        (directory / name).write_text(text, encoding="utf-8")
    table = entries(tower, language)
    write_safetensors(directory / "model.safetensors", table, seed)
    count = sum(entry.size for entry in table)
    print(f"wrote {directory}: {len(table)} tensors, {2 * count / 1e6:.0f} MB")
    return directory


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", type=Path, metavar="DIR", help="where to; must be empty")
    parser.add_argument("--arch", choices=("fastvlm", "qwen2_5_vl", *LLAVAS), default="fastvlm")
    parser.add_argument("--size", choices=SIZES, help="of a FastVLM (0.5b)")
    parser.add_argument(
        "--scale", choices=SCALES, help="of another one; full is 3B, of a LLaVA 7B (tiny)"
    )
    parser.add_argument(
        "--layers",
        type=whole(1, 1000, "a number of layers >= 1"),
        help="of the decoder, to make a large model fit (as its size has)",
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)

    def run() -> int:
        fast = args.arch == "fastvlm"
        if (args.scale if fast else args.size) is not None:
            raise ValueError("--size is of --arch fastvlm, --scale of the others")
        size = args.size or "0.5b" if fast else args.scale or "tiny"
        make(args.directory, size, args.seed, args.arch, args.layers)
        return 0

    return run_script(run)


if __name__ == "__main__":
    sys.exit(main())
