"""What becomes of every tensor of a checkpoint, decided from names, shapes and config files alone.

Every tensor goes to the tower, to the language model or to the list of the ignored; what is left,
what is missing and what contradicts a config file is reported together.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from diffvis_jax.checkpoints.check_settings import check_settings, of_another_family
from diffvis_jax.checkpoints.format import raise_if
from diffvis_jax.checkpoints.formats import foreign
from diffvis_jax.checkpoints.formats.tensors import Shape, Tensor
from diffvis_jax.checkpoints.keys import clip as clip_keys
from diffvis_jax.checkpoints.keys import fastvithd as fastvithd_keys
from diffvis_jax.checkpoints.keys import language as language_keys
from diffvis_jax.checkpoints.keys import qwen2_5_vl as qwen_keys
from diffvis_jax.checkpoints.keys.rules import Rule, check, unknown
from diffvis_jax.checkpoints.source_config import (
    Findings,
    SourceConfig,
    clip_heads,
    complete_clip,
    complete_fastvithd,
    complete_language,
    complete_qwen_language,
    complete_qwen_vision,
    fastvithd_size,
    language_heads,
    qwen_vision_settings,
)
from diffvis_jax.errors import CheckpointError, ConfigError
from diffvis_jax.language.config import DecoderConfig
from diffvis_jax.towers.clip import CLIPConfig
from diffvis_jax.towers.fastvithd import FastViTHDConfig
from diffvis_jax.towers.qwen2_5_vl import Qwen25VisionConfig

# Of those whose key module serves one kind of tower.
_KINDS = {fastvithd_keys: "fastvithd", qwen_keys: "qwen2_5_vl"}
_SHORTENED = (1152, 26)  # width and blocks; SigLIP's so400m has 27
# What wrappers put into the names of what they wrap: torch.compile, FSDP, activation checkpointing.
_WRAPPED = re.compile(r"\b(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")

# Names of tensors that are left out on purpose, and why. First match counts.
_IGNORED = tuple(
    (re.compile(pattern), reason)
    for pattern, reason in (
        (r"(.*\.)?num_batches_tracked", "a training counter of BatchNorm"),
        (r".*rotary_(pos_)?emb\.inv_freq", "computed from the theta of the rotary embedding"),
        (r"(.*\.)?position_ids", "the numbers 0, 1, 2, ..., no weights"),
        (r"(.*\.)?(input_resolution|context_length|vocab_size)", "a number, no weights"),
        (r"(.*\.)?logit_(scale|bias)", "of the contrastive loss, beyond the tower"),
        (r"(.*\.)?(text_model|text_projection|text)(\..*)?", "text tower"),
        (
            r"(token_embedding|ln_final|transformer\.resblocks)\..*|positional_embedding",
            "text tower",
        ),
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
      ignored, notes: see `Findings`.
    """

    config: Any
    language_config: DecoderConfig | None
    rules: dict[str, list[Rule]]
    tensors: dict[str, dict[str, Tensor]]
    ignored: dict[str, str]
    notes: list[str]


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
    if what := foreign.tensors(tensors):
        raise CheckpointError(f"the checkpoint {what}")
    shared, named = _strip_names(tensors)
    keys, prefix = _find_tower(named, source)
    parts: dict[str, dict[str, Tensor]] = {"vision": {}, "language": {}}
    found = Findings()
    for name, tensor in named.items():
        inner = name.removeprefix(prefix) if name.startswith(prefix) else None
        key = _vision_name(keys, name, inner)
        if key is not None and not name.endswith(("num_batches_tracked", "position_ids")):
            _assign(parts["vision"], key, tensor, found)
        elif (reason := _ignored_reason(name, inner)) is not None:
            found.ignored[tensor.name] = reason
        elif (key := language_keys.canonical(name)) is not None:
            if vision_only:
                found.ignored[tensor.name] = "language side (--vision-only)"
            else:
                _assign(parts["language"], key, tensor, found)
        else:
            found.problems.append(unknown(tensor))
    if parts["language"] and not any(k.startswith("layers.") for k in parts["language"]):
        # What LLaVA saves while only the projector is trained, the embedding with it.
        for key, tensor in parts["language"].items():
            if key.startswith(("projector.", "embed_tokens.", "lm_head.", "image_newline")):
                found.ignored[tensor.name] = "projector without a language model"
            else:
                found.problems.append(unknown(tensor))
        parts["language"] = {}

    rules: dict[str, list[Rule]] = {"vision": [], "language": []}
    config = language_config = None
    vision, language = parts["vision"], parts["language"]
    try:
        config = _vision_config(keys, _shapes(vision), source, size, activation, found)
        rules["vision"] = keys.rules(config, vision)
        spelled = _spelling(shared + prefix, vision, keys)
        found.problems += check(rules["vision"], vision, spelled)
        config = dataclasses.replace(config, dtype=dtype)
        kind = _KINDS.get(keys) or ("clip" if config.class_token else "siglip")
        check_settings(source, kind, getattr(config, "layers", 0), found, language=bool(language))
    except (CheckpointError, ConfigError) as error:
        found.problems.append(str(error))
    try:
        if language and config is not None:
            language_config = _language_config(language, config, source, found)
            rules["language"] = language_keys.rules(language_config)
            found.problems += check(rules["language"], language)
            language_config = dataclasses.replace(language_config, dtype=dtype)
    except (CheckpointError, ConfigError) as error:
        found.problems.append(str(error))
    count = len(found.problems)
    raise_if(found.problems, f"the checkpoint cannot be converted ({count} problems)")
    return Plan(config, language_config, rules, parts, found.ignored, found.notes)


def _strip_names(tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Takes off the tensors' names what wrappers put there, and what all of them begin with.

    Returns:
      What they begin with, such as "module.", and the tensors by what is left of their names.
    """
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        bare = _WRAPPED.sub("", name)
        if bare in named:
            raise CheckpointError(f"{name} and {named[bare].name} are the same tensor twice")
        named[bare] = tensor
    if len(named) < 2:
        return "", named
    # What the first and the last of them in order share, all of them share.
    first, last = (choose(named).split(".")[:-1] for choose in (min, max))
    parts = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    shared = "".join(f"{part}." for part, _ in parts)
    return shared, {name.removeprefix(shared): tensor for name, tensor in named.items()}


def _find_tower(tensors: Mapping[str, Tensor], source: SourceConfig) -> tuple[Any, str]:
    """The tower's key module, and what stands before its names."""
    found = [
        (keys, name.removesuffix(anchor))
        for keys in (fastvithd_keys, clip_keys, qwen_keys)
        for anchor in keys.ANCHORS
        for name in tensors
        if (name == anchor or name.endswith(f".{anchor}"))
        # ResNets have a `conv1` too.
        and (anchor != "conv1.weight" or name.replace("conv1.weight", "class_embedding") in tensors)
        # Most vision transformers name their patch embedding as Qwen2.5-VL does.
        and (keys is not qwen_keys or _is_qwen(tensors, name.removesuffix(anchor)))
    ]
    if len(found) == 1:
        return found[0]
    if found:
        prefixes = sorted(prefix or "(none)" for _, prefix in found)
        raise CheckpointError(f"several vision towers, with the prefixes {', '.join(prefixes)}")
    if what := of_another_family(source):
        kind = source.config["model_type"]
        raise CheckpointError(
            f"config.json: model_type is {kind!r}, which means {what}: not supported"
        )
    if source.tower_name:
        raise CheckpointError(
            "no vision tower in it: config.json names "
            f"{source.tower_name!r}; tell where that is with --vision-tower, or convert it alone"
        )
    names = sorted(tensor.name for tensor in tensors.values())
    raise CheckpointError(
        "no vision tower in it: no names of FastViTHD, CLIP or Qwen2.5-VL; its tensors are "
        f"{', '.join(names[:5])}, ..."
    )


def _is_qwen(tensors: Mapping[str, Tensor], prefix: str) -> bool:
    return any(
        name.startswith(prefix) and qwen_keys.GATE.fullmatch(name.removeprefix(prefix))
        for name in tensors
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


def _assign(part: dict[str, Tensor], key: str, tensor: Tensor, found: Findings) -> None:
    if key in part:
        found.problems.append(f"{tensor.name} and {part[key].name} are the same tensor twice")
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
    found: Findings,
) -> Any:
    if keys is fastvithd_keys:
        told = fastvithd_size(source) if size is None else size
        config = fastvithd_keys.infer_config(shapes, FastViTHDConfig.size if told is None else told)
        config = complete_fastvithd(config, source, found)
        if told is None:
            found.notes.append(
                f"size of the input assumed, as no file tells: {config.size} px; --size changes it"
            )
        if activation is not None:
            found.problems.append("--activation is for CLIP towers; FastViTHD's is always gelu")
        return config
    if keys is qwen_keys:
        if size is not None:
            found.problems.append(
                "--size is for FastViTHD; frames of Qwen2.5-VL have the sizes of their images"
            )
        if activation is not None:
            found.problems.append("--activation is for CLIP towers; Qwen2.5-VL's is always silu")
        config = qwen_keys.infer_config(shapes, **qwen_vision_settings(source, found))
        return complete_qwen_vision(config, source, found)
    heads = clip_heads(source)
    config = clip_keys.infer_config(shapes, heads)
    config = complete_clip(config, source, activation, found)
    if heads is None:
        found.notes.append(
            f"number of heads assumed, as no file tells: {config.heads}; a config.json with "
            "num_attention_heads beside the weights changes it"
        )
    if size is not None and size != config.size:
        found.problems.append(f"--size {size}: the positions of this tower fix it to {config.size}")
    return config


def _language_config(
    part: dict[str, Tensor], vision: Any, source: SourceConfig, found: Findings
) -> DecoderConfig:
    head, embedding = part.get("lm_head.weight"), part.get("embed_tokens.weight")
    has_head = head is not None
    # Files of tied models carry the matrix twice, and configs may be wrong about it.
    if head is not None and embedding is not None and _same(head, embedding):
        del part["lm_head.weight"]
        found.ignored[head.name] = f"the same numbers as {embedding.name}"
    if not getattr(vision, "pinpoints", ()) and (newline := part.pop("image_newline", None)):
        found.ignored[newline.name] = "separator of tiled images, which its files do not ask for"
    width = getattr(vision, "token_width", None) or vision.width
    config = language_keys.infer_config(_shapes(part), language_heads(source), width)
    config = complete_language(config, source, has_head, found)
    if isinstance(vision, Qwen25VisionConfig):
        if not config.mrope_section:
            found.problems.append("config.json: mrope_section is missing, which no weight tells")
        config = complete_qwen_language(config, source)
    if isinstance(vision, CLIPConfig) and (vision.width, vision.layers) == _SHORTENED:
        found.problems.append(
            "the tower is SigLIP's so400m without its last block, as LLaVA-NeXT saves it to read "
            "the last that is there: not supported; --vision-only leaves the language model out"
        )
    return config


def _same(one: Tensor, other: Tensor) -> bool:
    if (one.shape, one.dtype) != (other.shape, other.dtype) or one.dtype is None:
        return False
    return np.array_equal(one.load().view(np.uint8), other.load().view(np.uint8))
