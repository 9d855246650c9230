"""What the JSON files beside the weights say: read, compared with the weights, put into configs.

The weights decide the architecture; the files add what shapes cannot tell (number of heads,
activation, epsilons, preprocessing) and are checked where both speak.
"""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

from diffvis_jax.checkpoints import fields
from diffvis_jax.checkpoints.fields import Json
from diffvis_jax.errors import CheckpointError
from diffvis_jax.language.config import QwenConfig
from diffvis_jax.towers.clip import CLIPConfig
from diffvis_jax.towers.fastvithd import FastViTHDConfig

_OPEN_CLIP = "open_clip_config.json"
_PREPROCESSOR = "preprocessor_config.json"
_OPEN_CLIP_MODES = {"shortest": "crop", "longest": "pad", "squash": "squash"}


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """The JSON files of a checkpoint; those that are not there are empty.

    Attributes:
      config: `config.json`.
      preprocessor: `preprocessor_config.json`.
      generation: `generation_config.json`.
      open_clip: `open_clip_config.json`.
    """

    config: Json
    preprocessor: Json
    generation: Json
    open_clip: Json

    @property
    def vision(self) -> Json:
        """The part about the tower; empty in LLaVA's flat files, which do not describe it."""
        if isinstance(section := self.config.get("vision_config"), dict):
            return section
        return {} if "vocab_size" in self.config else self.config

    @property
    def text(self) -> Json:
        """The part about the language model."""
        if isinstance(section := self.config.get("text_config"), dict):
            return section
        return self.config if "vocab_size" in self.config else {}

    @property
    def tower_name(self) -> str:
        """LLaVA's name of the tower, such as "mobileclip_l_1024"."""
        return str(self.config.get("mm_vision_tower") or "")


def read_source_config(directory: Path) -> SourceConfig:
    """Reads the JSON files of a checkpoint's directory.

    Raises:
      CheckpointError: one is not a JSON object.
    """

    def read(name: str) -> Json:
        file = directory / name
        if not file.is_file():
            return {}
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{name}: not JSON ({error})") from None
        if not isinstance(document, dict):
            raise CheckpointError(f"{name}: not a JSON object")
        return document

    config = read("config.json")
    if config.get("quantization_config"):
        raise CheckpointError("config.json: quantised checkpoints are not supported")
    return SourceConfig(
        config=config,
        preprocessor=read(_PREPROCESSOR),
        generation=read("generation_config.json"),
        open_clip=read(_OPEN_CLIP),
    )


def clip_heads(source: SourceConfig) -> int | None:
    """Number of attention heads, where a file tells."""
    if heads := fields.whole(source.vision, "num_attention_heads"):
        return heads
    vision = _open_clip_vision(source)
    width = fields.whole(vision, "width", _OPEN_CLIP)
    # OpenCLIP's files leave out what is its default.
    head_width = fields.whole(vision, "head_width", _OPEN_CLIP) or 64
    return width // head_width if width else None


def language_heads(source: SourceConfig) -> tuple[int, int] | None:
    """(heads, key-value heads), where a file tells."""
    heads = fields.whole(source.text, "num_attention_heads")
    if heads is None:
        return None
    return heads, fields.whole(source.text, "num_key_value_heads") or heads


def fastvithd_size(source: SourceConfig) -> int | None:
    """Side of the input in pixels, where a file tells: the tower itself takes any."""
    if size := fields.side(_open_clip_vision(source), "image_size", _OPEN_CLIP):
        return size
    if match := re.fullmatch(r".*mobileclip.*_(\d+)", source.tower_name):
        return int(match[1])
    if size := _preprocessor_size(source):
        return size
    if size := fields.side(fields.section(source.config, "pretrained_cfg"), "input_size"):
        return size
    tokens = fields.whole(source.config, "image_seq_length")
    # 576 is a default of transformers' code that is wrong for this tower.
    if tokens and tokens != 576 and math.isqrt(tokens) ** 2 == tokens:
        return 64 * math.isqrt(tokens)
    return None


def complete_fastvithd(
    config: FastViTHDConfig, source: SourceConfig
) -> tuple[FastViTHDConfig, list[str], list[str]]:
    """Adds the preprocessing -> (config, contradictions between files and weights, notes)."""
    problems: list[str] = []
    notes: list[str] = []
    for name, section in (
        ("mm_hidden_size", source.config),
        ("hidden_size", fields.section(source.config, "vision_config")),
    ):
        _compare(problems, name, section.get(name), config.token_width)
    whole = FastViTHDConfig()
    found = (config.depths, config.widths)
    if _names_the_released_tower(source) and found != (whole.depths, whole.widths):
        # No contradiction: reduced towers for tests go by that name too.
        notes.append(
            f"config.json names FastVLM's tower, which has depths {whole.depths} and widths "
            f"{whole.widths}; these weights have {config.depths} and {config.widths}: if they "
            "should be the whole tower, some of it was lost"
        )
    mean, std = _normalisation(source, config.mean, config.std)
    mode = _resize_mode(source)
    if mode is None:
        mode = config.resize_mode
        notes.append(f"how images are made square is assumed, as no file tells: {mode!r}")
    color = _pad_color(source, mean)
    return (
        dataclasses.replace(config, mean=mean, std=std, resize_mode=mode, pad_color=color),
        problems,
        notes,
    )


def complete_clip(
    config: CLIPConfig, source: SourceConfig, activation: str | None
) -> tuple[CLIPConfig, list[str], list[str]]:
    """Adds activation, epsilon and preprocessing -> (config, contradictions, notes)."""
    problems: list[str] = []
    notes: list[str] = []
    vision, open_clip = source.vision, _open_clip_vision(source)
    for name, ours in (
        ("hidden_size", config.width),
        ("num_hidden_layers", config.layers),
        ("intermediate_size", config.mlp_width),
        ("patch_size", config.patch),
    ):
        _compare(problems, name, vision.get(name), ours)
    for name, ours in (
        ("width", config.width),
        ("layers", config.layers),
        ("patch_size", config.patch),
    ):
        _compare(problems, name, open_clip.get(name), ours)
    if not vision:
        _compare(problems, "mm_hidden_size", source.config.get("mm_hidden_size"), config.width)
    size = (
        fields.side(vision, "image_size")
        or fields.side(open_clip, "image_size", _OPEN_CLIP)
        or config.size
    )
    if size // config.patch != config.grid:
        problems.append(
            f"image_size is {size}, but the positions are a grid of {config.grid} x {config.grid} "
            f"patches of {config.patch} pixels"
        )
        size = config.size
    if activation is None:
        activation = vision.get("hidden_act")
    if activation is None and source.open_clip:
        quick = fields.section(source.open_clip, "model_cfg").get("quick_gelu")
        activation = "quick_gelu" if quick else "gelu"
    if activation is None:
        activation = config.activation
        notes.append(
            f"activation assumed, as no file tells: {activation}; --activation changes it "
            "(OpenAI's weights need quick_gelu, LAION's gelu)"
        )
    mean, std = _normalisation(source, config.mean, config.std)
    config = dataclasses.replace(
        config,
        size=size,
        activation=activation,
        norm_epsilon=fields.number(vision, "layer_norm_eps") or config.norm_epsilon,
        mean=mean,
        std=std,
        pad_color=_pad_color(source, mean),
        resize_mode=_resize_mode(source) or config.resize_mode,
    )
    return config, problems, notes


def complete_language(
    config: QwenConfig, source: SourceConfig, has_head: bool
) -> tuple[QwenConfig, list[str], list[str]]:
    """Adds what shapes cannot tell -> (config, contradictions, notes)."""
    text, problems, notes = source.text, [], []
    for name, ours in (
        ("hidden_size", config.width),
        ("num_hidden_layers", config.layers),
        ("intermediate_size", config.mlp_width),
        ("head_dim", config.head_width),
    ):
        _compare(problems, name, text.get(name), ours)
    rows = text.get("vocab_size")
    if rows is not None and rows != config.vocabulary:
        # Harmless: tools that add tokens forget the config. The matrix decides.
        notes.append(
            f"config.json: vocab_size is {rows}, the embedding has {config.vocabulary} rows"
        )
    if text.get("hidden_act", "silu") != "silu":
        problems.append(
            f"config.json: hidden_act is {text['hidden_act']!r}, only silu is supported"
        )
    if text.get("use_sliding_window"):
        problems.append("config.json: use_sliding_window is not supported")
    rope = fields.section(text, "rope_parameters") or fields.section(text, "rope_scaling")
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        problems.append(f"config.json: rotary embedding of type {rope} is not supported")
    tied = text.get("tie_word_embeddings", source.config.get("tie_word_embeddings"))
    if text and tied is None:
        tied = False  # the default of the model's own config class
    if not has_head and tied is False:
        problems.append("missing: lm_head.weight (config.json does not tie it to the embedding)")
    if tied and not config.tied:
        notes.append(
            "config.json: tie_word_embeddings is true, but lm_head.weight differs from the "
            "embedding: it is used"
        )
    if text:
        # What the file leaves out has the default of the model's config class.
        theta = fields.number(text, "rope_theta") or fields.number(rope, "rope_theta") or 10000.0
        config = dataclasses.replace(
            config,
            rope_theta=theta,
            norm_epsilon=fields.number(text, "rms_norm_eps") or 1e-6,
            max_length=_first_int(
                source.config.get("tokenizer_model_max_length"),
                text.get("max_position_embeddings"),
                config.max_length,
            ),
            bos_id=text.get("bos_token_id"),
            pad_id=text.get("pad_token_id"),
            eos_ids=_ids(source.generation.get("eos_token_id"), text.get("eos_token_id"))
            or config.eos_ids,
            image_token_id=source.config.get("image_token_index")
            or source.config.get("image_token_id"),
        )
    return config, problems, notes


def _compare(problems: list[str], name: str, theirs: Any, ours: int) -> None:
    if theirs is not None and theirs != ours:
        problems.append(f"config.json: {name} is {theirs}, the weights say {ours}")


def _names_the_released_tower(source: SourceConfig) -> bool:
    """Whether config.json names the tower of the released FastVLMs, by Apple's or timm's name."""
    architecture = str(source.vision.get("architecture") or "")
    return "mobileclip_l" in source.tower_name or architecture.startswith("fastvit_mci3")


def _open_clip_vision(source: SourceConfig) -> Json:
    return fields.section(source.open_clip, "model_cfg", "vision_cfg")


def _preprocessor_size(source: SourceConfig) -> int | None:
    for name in ("crop_size", "size"):
        if size := fields.side(source.preprocessor, name, _PREPROCESSOR):
            return size
    return None


def _normalisation(source: SourceConfig, mean: Any, std: Any) -> tuple[Any, Any]:
    if source.preprocessor.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    for section, prefix, file in (
        (source.preprocessor, "image_", _PREPROCESSOR),
        (fields.section(source.open_clip, "preprocess_cfg"), "", _OPEN_CLIP),
        (fields.section(source.config, "pretrained_cfg"), "", "config.json"),
    ):
        found = [fields.colors(section, prefix + name, file) for name in ("mean", "std")]
        if None not in found:
            return tuple(found)  # type: ignore[return-value]
    return mean, std


def _resize_mode(source: SourceConfig) -> str | None:
    """How an image is made square, where a file tells."""
    if "image_aspect_ratio" in source.config:
        # LLaVA: "pad", or the processor directly. Tiled images ("anyres") are padded.
        aspect = source.config["image_aspect_ratio"]
        return "pad" if aspect == "pad" or "anyres" in str(aspect) else "crop"
    mode = fields.section(source.open_clip, "preprocess_cfg").get("resize_mode")
    if mode is not None:
        if mode not in list(_OPEN_CLIP_MODES):  # a list: what JSON brings may have no hash
            raise CheckpointError(
                f"{_OPEN_CLIP}: resize_mode must be one of {', '.join(_OPEN_CLIP_MODES)}, "
                f"got {mode!r}"
            )
        return _OPEN_CLIP_MODES[mode]
    if source.preprocessor.get("do_pad"):
        return "pad"
    if source.preprocessor.get("do_center_crop"):
        return "crop"
    if "height" in fields.section(source.preprocessor, "size"):
        return "squash"
    # OpenCLIP's default is "shortest".
    return "crop" if source.open_clip else None


def _pad_color(source: SourceConfig, mean: tuple[float, float, float]) -> tuple[int, int, int]:
    preprocess = fields.section(source.open_clip, "preprocess_cfg")
    if preprocess.get("resize_mode") == "longest":
        grey = int(fields.number(preprocess, "fill_color", _OPEN_CLIP) or 0)
        return grey, grey, grey
    # LLaVA pads with the colour that normalises to zero, truncated.
    red, green, blue = (int(255 * x) for x in mean)
    return red, green, blue


def _first_int(*values: Any) -> int:
    return next(value for value in values if isinstance(value, int))


def _ids(*values: Any) -> tuple[int, ...]:
    """All ids, each once, in order; a value is None, an id, or a list of ids."""
    found: dict[int, None] = {}
    for value in values:
        for token in value if isinstance(value, list) else [value]:
            if isinstance(token, int):
                found[token] = None
    return tuple(found)
