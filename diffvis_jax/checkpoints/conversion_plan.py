"""What becomes of every tensor of a checkpoint, decided from names, shapes and config files alone.

Every tensor goes to the tower, to the language model or to the list of the ignored; what is left,
what is missing and what contradicts a config file is reported together.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from diffvis_jax.checkpoints.formats.tensors import Shape, Tensor
from diffvis_jax.checkpoints.keys import clip as clip_keys
from diffvis_jax.checkpoints.keys import fastvithd as fastvithd_keys
from diffvis_jax.checkpoints.keys import qwen2 as language_keys
from diffvis_jax.checkpoints.keys.rules import Rule, check
from diffvis_jax.checkpoints.source_config import (
    SourceConfig,
    clip_heads,
    complete_clip,
    complete_fastvithd,
    complete_language,
    fastvithd_size,
    language_heads,
)
from diffvis_jax.errors import CheckpointError, ConfigError
from diffvis_jax.language.config import QwenConfig
from diffvis_jax.towers.fastvithd import FastViTHDConfig

# Full names of tensors that are left out on purpose, and why. First match counts.
_IGNORED = tuple(
    (re.compile(pattern), reason)
    for pattern, reason in (
        (r"(.*\.)?num_batches_tracked", "a training counter of BatchNorm"),
        (r".*rotary_emb\.inv_freq", "computed from rope_theta"),
        (r"(.*\.)?position_ids", "the numbers 0, 1, 2, ..., no weights"),
        (r"(.*\.)?(input_resolution|context_length|vocab_size)", "a number, no weights"),
        (r"(.*\.)?logit_(scale|bias)", "of the contrastive loss, beyond the tower"),
        (r"(.*\.)?(text_model|text_projection|text)(\..*)?", "text tower"),
        (
            r"(token_embedding|ln_final|transformer\.resblocks)\..*|positional_embedding",
            "text tower",
        ),
        (r"(.*\.)?image_newline", "separator of tiled images, which are not supported"),
    )
)
# Likewise, for names after the tower's prefix.
_IGNORED_IN_TOWER = (
    (re.compile(r"head\.(proj|fc\.(weight|bias))"), "head for pooled features; tokens come before"),
    (re.compile(r"head\.(probe|attention|layernorm|mlp).*"), "pooling head; tokens come before"),
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything decided from the headers; nothing has been read yet.

    Attributes:
      config: of the tower, with its final dtype.
      language_config: None when there is no language model.
      rules: "vision" and "language": the tables.
      tensors: likewise: the tensors by canonical name.
      ignored: full names of the tensors left out, with the reason.
      notes: what the user should know.
      prefix: what stands before the tower's names in the file.
    """

    config: Any
    language_config: QwenConfig | None
    rules: dict[str, list[Rule]]
    tensors: dict[str, dict[str, Tensor]]
    ignored: dict[str, str]
    notes: list[str]
    prefix: str


def make_plan(
    tensors: Mapping[str, Tensor],
    source: SourceConfig,
    *,
    dtype: str = "float32",
    size: int | None = None,
    activation: str | None = None,
    vision_only: bool = False,
) -> Plan:
    """Assigns every tensor and infers the architecture, from names and shapes alone.

    Raises:
      CheckpointError: no such plan; lists every reason found.
    """
    keys, prefix = _find_tower(tensors, source)
    parts: dict[str, dict[str, Tensor]] = {"vision": {}, "language": {}}
    ignored: dict[str, str] = {}
    problems: list[str] = []
    notes: list[str] = []
    for name, tensor in tensors.items():
        inner = name.removeprefix(prefix) if name.startswith(prefix) else None
        key = _vision_name(keys, name, inner)
        if key is not None and not name.endswith(("num_batches_tracked", "position_ids")):
            _assign(parts["vision"], key, tensor, problems)
        elif (reason := _ignored_reason(name, inner)) is not None:
            ignored[name] = reason
        elif (key := language_keys.canonical(name)) is not None:
            if vision_only:
                ignored[name] = "language side (--vision-only)"
            else:
                _assign(parts["language"], key, tensor, problems)
        else:
            problems.append(f"unknown: {name} {list(tensor.shape)}")
    if parts["language"] and not any(k.startswith("layers.") for k in parts["language"]):
        # Adapters that LLaVA saves while only the projector is trained.
        ignored |= {
            t.name: "projector without a language model" for t in parts["language"].values()
        }
        parts["language"] = {}

    rules: dict[str, list[Rule]] = {"vision": [], "language": []}
    config = language_config = None
    try:
        config, found, said = _vision_config(
            keys, _shapes(parts["vision"]), source, size, activation
        )
        problems += found
        notes += said
        rules["vision"] = keys.rules(config, parts["vision"])
        problems += check(
            rules["vision"], parts["vision"], _spelling(prefix, parts["vision"], keys)
        )
        config = dataclasses.replace(config, dtype=dtype)
    except (CheckpointError, ConfigError) as error:
        problems.append(str(error))
    try:
        if parts["language"] and config is not None:
            language_config, found, said = _language_config(
                parts["language"], config, source, ignored
            )
            problems += found
            notes += said
            rules["language"] = language_keys.rules(language_config)
            problems += check(rules["language"], parts["language"])
            language_config = dataclasses.replace(language_config, dtype=dtype)
    except (CheckpointError, ConfigError) as error:
        problems.append(str(error))
    if problems:
        raise CheckpointError(
            "\n  ".join(
                [f"the checkpoint cannot be converted ({len(problems)} problems)", *problems]
            )
        )
    return Plan(config, language_config, rules, parts, ignored, notes, prefix)


def _find_tower(tensors: Mapping[str, Tensor], source: SourceConfig) -> tuple[Any, str]:
    """The tower's key module, and what stands before its names."""
    found = [
        (keys, name.removesuffix(anchor))
        for keys in (fastvithd_keys, clip_keys)
        for anchor in keys.ANCHORS
        for name in tensors
        if (name == anchor or name.endswith(f".{anchor}"))
        # ResNets have a `conv1` too.
        and (anchor != "conv1.weight" or name.replace("conv1.weight", "class_embedding") in tensors)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        prefixes = sorted(prefix or "(none)" for _, prefix in found)
        raise CheckpointError(f"several vision towers, with the prefixes {', '.join(prefixes)}")
    if source.tower_name:
        raise CheckpointError(
            "no vision tower in it: config.json names "
            f"{source.tower_name!r}, convert that checkpoint instead"
        )
    raise CheckpointError(
        "no vision tower in it: neither FastViTHD nor CLIP names; its tensors are "
        f"{', '.join(sorted(tensors)[:5])}, ..."
    )


def _vision_name(keys: Any, name: str, inner: str | None) -> str | None:
    if inner is not None and (key := keys.canonical(inner)) is not None:
        return key
    # CLIPModel keeps the projection outside the tower.
    if keys is clip_keys and name.split(".")[-2:] == ["visual_projection", "weight"]:
        return "visual_projection.weight"
    return None


def _ignored_reason(name: str, inner: str | None) -> str | None:
    for pattern, reason in _IGNORED:
        if pattern.fullmatch(name):
            return reason
    for pattern, reason in _IGNORED_IN_TOWER if inner is not None else ():
        if pattern.fullmatch(inner):  # type: ignore[arg-type]
            return reason
    return None


def _assign(part: dict[str, Tensor], key: str, tensor: Tensor, problems: list[str]) -> None:
    if key in part:
        problems.append(f"{tensor.name} and {part[key].name} are the same tensor twice")
    part[key] = tensor


def _shapes(part: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {key: tensor.shape for key, tensor in part.items()}


def _spelling(prefix: str, part: Mapping[str, Tensor], keys: Any) -> Callable[[str], str]:
    """How this file would spell a canonical name; for messages."""
    in_apples_words = any("patch_embed." in tensor.name for tensor in part.values())
    if keys is fastvithd_keys and in_apples_words:
        return lambda key: prefix + fastvithd_keys.apple(key)
    return lambda key: prefix + key


def _vision_config(
    keys: Any,
    shapes: Mapping[str, Shape],
    source: SourceConfig,
    size: int | None,
    activation: str | None,
) -> tuple[Any, list[str], list[str]]:
    """-> (config, problems, notes)."""
    if keys is fastvithd_keys:
        told = fastvithd_size(source) if size is None else size
        config = fastvithd_keys.infer_config(shapes, FastViTHDConfig.size if told is None else told)
        config, problems, notes = complete_fastvithd(config, source)
        if told is None:
            notes.append(
                f"size of the input assumed, as no file tells: {config.size} px; --size changes it"
            )
        if activation is not None:
            problems.append("--activation is for CLIP towers; FastViTHD's is always gelu")
        return config, problems, notes
    heads = clip_heads(source)
    config = clip_keys.infer_config(shapes, heads)
    config, problems, notes = complete_clip(config, source, activation)
    if heads is None:
        notes.append(
            f"number of heads assumed, as no file tells: {config.heads}; a config.json with "
            "num_attention_heads beside the weights changes it"
        )
    if size is not None and size != config.size:
        problems.append(f"--size {size}: the positions of this tower fix it to {config.size}")
    return config, problems, notes


def _language_config(
    part: dict[str, Tensor], vision: Any, source: SourceConfig, ignored: dict[str, str]
) -> tuple[QwenConfig, list[str], list[str]]:
    head, embedding = part.get("lm_head.weight"), part.get("embed_tokens.weight")
    has_head = head is not None
    # Files of tied models carry the matrix twice, and configs may be wrong about it.
    if head is not None and embedding is not None and _same(head, embedding):
        del part["lm_head.weight"]
        ignored[head.name] = f"the same numbers as {embedding.name}"
    width = getattr(vision, "token_width", None) or vision.width
    config = language_keys.infer_config(_shapes(part), language_heads(source), width)
    return complete_language(config, source, has_head)


def _same(one: Tensor, other: Tensor) -> bool:
    if (one.shape, one.dtype) != (other.shape, other.dtype) or one.dtype is None:
        return False
    return np.array_equal(one.load().view(np.uint8), other.load().view(np.uint8))
