"""Writes the decoder of a weight directory as a Hugging Face `Qwen2ForCausalLM`: for engines that
read tokens, or embeddings, and have no FastVLM."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from diffvis_jax.checkpoints.format import resolve
from diffvis_jax.checkpoints.formats.tensors import DTYPES, count
from diffvis_jax.checkpoints.keys import language as keys
from diffvis_jax.checkpoints.store import open_tree
from diffvis_jax.errors import CheckpointError
from diffvis_jax.language.config import DecoderConfig

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
_TOKENIZER += ("added_tokens.json", "special_tokens_map.json")
# As `language/prompt.py` writes it; the parts of a message come joined by newlines.
_TEMPLATE = """\
{%- if messages[0]['role'] != 'system' %}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def export_language(source: str | Path, directory: str | Path) -> Path:
    """Writes config, weights, tokenizer and chat template; the projector stays behind.

    Args:
      source: a weight directory with a Qwen2 decoder that is not quantised.
      directory: must not exist yet.

    Raises:
      CheckpointError: it exists, or the source has no such decoder.
    """
    target = resolve(directory)
    if target.exists():
        raise CheckpointError(f"{target} exists already: name another directory")
    opened = open_tree(source, "language")
    config: DecoderConfig = opened.config
    if opened.stored.kind or not config.qkv_bias or config.mrope_section:
        raise CheckpointError(
            f"{opened.directory} holds no plain Qwen2 decoder in floats (it is quantised, Llama's "
            "or Qwen2.5-VL's), which is what can be exported"
        )
    names = {}  # path of a leaf -> the released name
    for rule in keys.rules(config):
        for name, path in zip(rule.sources, rule.targets, strict=True):  # each is moved as it is
            if not path.startswith("projector/"):
                names[path] = name if name.startswith("lm_head") else f"model.{name}"
    codes = {dtype.name: code for code, dtype in DTYPES.items()}
    header, offsets, end = {}, {}, 0
    for path, name in names.items():
        entry = opened.tensors[path]
        size = count(entry["shape"]) * DTYPES[codes[entry["dtype"]]].itemsize
        span = {"shape": entry["shape"], "data_offsets": [end, end + size]}
        header[name] = {"dtype": codes[entry["dtype"]], **span}
        offsets[path], end = end, end + size
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)

    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with (partial / "model.safetensors").open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            start = file.tell()
            for path, leaf in opened.leaves():  # a part of the directory at a time
                if path in offsets:
                    file.seek(start + offsets[path])
                    file.write(np.ascontiguousarray(leaf).tobytes())
        (partial / "config.json").write_text(json.dumps(_fields(config), indent=1) + "\n")
        (partial / "chat_template.jinja").write_text(_TEMPLATE)
        for name in _TOKENIZER:
            if (opened.directory / name).is_file():
                shutil.copyfile(opened.directory / name, partial / name)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _fields(config: DecoderConfig) -> dict[str, Any]:
    """What transformers' `Qwen2Config` calls it."""
    return {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": config.max_length,
        "tie_word_embeddings": config.tied,
        "use_sliding_window": False,
        "bos_token_id": config.bos_id,
        "eos_token_id": list(config.eos_ids),
        "pad_token_id": config.pad_id,
        "torch_dtype": config.dtype,
    }
