"""What the JSON files beside the weights say: read, compared with the weights, put into configs.

The weights decide the architecture; the files add what shapes cannot tell (number of heads,
activation, epsilons, preprocessing) and are checked where both speak. What is done about each
field: `settings.py`.
"""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

from diffvis_jax.checkpoints import fields
from diffvis_jax.checkpoints.decoders import DECODERS, family_name
from diffvis_jax.checkpoints.fields import Json
from diffvis_jax.checkpoints.format import read_json
from diffvis_jax.errors import CheckpointError
from diffvis_jax.language.config import DecoderConfig
from diffvis_jax.towers.clip import CLIPConfig
from diffvis_jax.towers.fastvithd import FastViTHDConfig
from diffvis_jax.towers.qwen2_5_vl import Qwen25VisionConfig

_OPEN_CLIP = "open_clip_config.json"
_PREPROCESSOR = "preprocessor_config.json"
_FILES = {
    "config": "config.json",
    "preprocessor": _PREPROCESSOR,
    "generation": "generation_config.json",
    "open_clip": _OPEN_CLIP,
    "processor": "processor_config.json",
    "tokenizer": "tokenizer_config.json",
}
_OPEN_CLIP_MODES = {"shortest": "crop", "longest": "pad", "squash": "squash"}


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """The JSON files of a checkpoint, see `_FILES`; those that are not there are empty."""

    config: Json = dataclasses.field(default_factory=dict)
    preprocessor: Json = dataclasses.field(default_factory=dict)
    generation: Json = dataclasses.field(default_factory=dict)
    open_clip: Json = dataclasses.field(default_factory=dict)
    processor: Json = dataclasses.field(default_factory=dict)
    tokenizer: Json = dataclasses.field(default_factory=dict)

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
    def decoder(self) -> str:
        """The family of the language model, one of `decoders.DECODERS`."""
        return family_name(self.config, self.text)

    @property
    def images(self) -> Json:
        """How images are prepared; transformers writes it into either of two files."""
        return self.preprocessor or fields.section(self.processor, "image_processor")

    @property
    def tiled(self) -> bool:
        """Whether images are cut into tiles (AnyRes)."""
        return (
            self.config.get("model_type") == "llava_next"
            or self.config.get("image_aspect_ratio") == "anyres"
        )

    @property
    def tower_name(self) -> str:
        """LLaVA's name of the tower, such as "mobileclip_l_1024"."""
        return fields.text(self.config, "mm_vision_tower") or ""

    def with_tower(self, tower: "SourceConfig") -> "SourceConfig":
        """These files, and what another checkpoint's say of the tower, which these do not."""
        return dataclasses.replace(
            self,
            config=self.config | {"vision_config": tower.vision},
            preprocessor=self.preprocessor or tower.preprocessor,
            open_clip=self.open_clip or tower.open_clip,
        )


def read_source_config(directory: Path) -> SourceConfig:
    """Reads the JSON files of a checkpoint's directory.

    Raises:
      CheckpointError: one is not a JSON object.
    """
    files = {part: directory / name for part, name in _FILES.items()}
    return SourceConfig(**{part: read_json(f) for part, f in files.items() if f.is_file()})


@dataclasses.dataclass
class Findings:
    """What is found out about a checkpoint before anything of it is read.

    Attributes:
      problems: what contradicts or is not supported, a sentence each.
      ignored: full names of the tensors left out, and "FILE: FIELD" of the settings without
        effect, with the reasons.
      notes: what the user should know, a sentence each.
    """

    problems: list[str] = dataclasses.field(default_factory=list)
    ignored: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    def compare(self, document: Json, file: str = "config.json", **ours: int) -> None:
        """Adds fields of a config file that say something else than the weights."""
        for name, value in ours.items():
            if (theirs := document.get(name)) is not None and theirs != value:
                self.problems.append(
                    f"{file}: {name} is {fields.shown(theirs)}, the weights say {value}"
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
    family = DECODERS[source.decoder]
    heads = fields.whole(source.text, "num_attention_heads") or family.heads
    if heads is None:
        return None
    if "num_key_value_heads" in source.text:  # null: as many as heads
        return heads, fields.whole(source.text, "num_key_value_heads") or heads
    return heads, family.kv_heads or heads


def fastvithd_size(source: SourceConfig) -> int | None:
    """Side of the input in pixels, where a file tells: the tower itself takes any."""
    if size := fields.side(_open_clip_vision(source), "image_size", _OPEN_CLIP):
        return size
    if match := re.fullmatch(r".*mobileclip.*_(\d{1,5})", source.tower_name):
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
    config: FastViTHDConfig, source: SourceConfig, found: Findings
) -> FastViTHDConfig:
    """Adds the preprocessing; contradictions between files and weights are added to `found`."""
    found.compare(source.config, mm_hidden_size=config.token_width)
    vision = fields.section(source.config, "vision_config")
    found.compare(vision, hidden_size=config.token_width)
    whole = FastViTHDConfig()
    sizes = (config.depths, config.widths)
    if _names_the_released_tower(source) and sizes != (whole.depths, whole.widths):
        # No contradiction: reduced towers for tests go by that name too.
        found.notes.append(
            f"config.json names FastVLM's tower, which has depths {whole.depths} and widths "
            f"{whole.widths}; these weights have {config.depths} and {config.widths}: if they "
            "should be the whole tower, some of it was lost"
        )
    mean, std = _normalisation(source, config.mean, config.std)
    mode = _resize_mode(source)
    if mode is None:
        mode = config.resize_mode
        found.notes.append(f"how images are made square is assumed, as no file tells: {mode!r}")
    color = _pad_color(source, mean)
    return dataclasses.replace(config, mean=mean, std=std, resize_mode=mode, pad_color=color)


def complete_clip(
    config: CLIPConfig, source: SourceConfig, activation: str | None, found: Findings
) -> CLIPConfig:
    """Adds activation, epsilon and preprocessing; contradictions are added to `found`."""
    vision, open_clip = source.vision, _open_clip_vision(source)
    width, layers, patch = config.width, config.layers, config.patch
    found.compare(
        vision,
        hidden_size=width,
        num_hidden_layers=layers,
        intermediate_size=config.mlp_width,
        patch_size=patch,
    )
    found.compare(open_clip, width=width, layers=layers, patch_size=patch)
    if not vision:
        found.compare(source.config, mm_hidden_size=width)
    size = (
        fields.side(vision, "image_size")
        or fields.side(open_clip, "image_size", _OPEN_CLIP)
        or config.size
    )
    if size // config.patch != config.grid:
        found.problems.append(
            f"image_size is {size}, but the positions are a grid of {config.grid} x {config.grid} "
            f"patches of {config.patch} pixels"
        )
        size = config.size
    prepared = _preprocessor_size(source)
    if prepared not in (None, size):
        found.problems.append(
            f"{_PREPROCESSOR}: images of {prepared} pixels, the tower's have {size}"
        )
    if activation is None:
        activation = fields.text(vision, "hidden_act")
    if activation is None and source.open_clip:
        quick = fields.flag(fields.section(source.open_clip, "model_cfg"), "quick_gelu", _OPEN_CLIP)
        tanh = fields.section(open_clip, "act_kwargs").get("approximate") == "tanh"
        activation = "quick_gelu" if quick else "gelu_pytorch_tanh" if tanh else "gelu"
    if activation is None:
        activation = config.activation
        found.notes.append(
            f"activation assumed, as no file tells: {activation}; --activation changes it "
            "(OpenAI's weights need quick_gelu, LAION's gelu)"
        )
    mean, std = _normalisation(source, config.mean, config.std)
    return dataclasses.replace(
        config,
        size=size,
        activation=activation,
        norm_epsilon=fields.positive(vision, "layer_norm_eps")
        or fields.positive(fields.section(open_clip, "norm_kwargs"), "eps", _OPEN_CLIP)
        or config.norm_epsilon,
        mean=mean,
        std=std,
        pad_color=_pad_color(source, mean),
        resize_mode=_resize_mode(source) or config.resize_mode,
        pinpoints=_pinpoints(source, found) if source.tiled else (),
    )


def _pinpoints(source: SourceConfig, found: Findings) -> tuple[tuple[int, int], ...]:
    """The canvases (height, width) of tiled images."""
    name = "image_grid_pinpoints"
    told = fields.pairs(source.config, name)
    prepared = fields.pairs(source.images, name, _PREPROCESSOR)
    if source.config.get("model_type") != "llava_next":
        if told is None:
            found.problems.append(f"config.json: {name} is missing, which no weight tells")
        return tuple((height, width) for width, height in told or ())  # LLaVA's files: width first
    if None not in (told, prepared) and told != prepared:
        found.problems.append(f"{_PREPROCESSOR}: {name} is another than in config.json")
    return told or prepared or ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


def qwen_vision_settings(source: SourceConfig, found: Findings) -> dict[str, Any]:
    """What shapes cannot tell of a Qwen2.5-VL tower. Files leave out what is the default."""
    told = {
        "heads": fields.whole(source.vision, "num_heads"),
        "full_blocks": fields.indices(source.vision, "fullatt_block_indexes"),
        "window": fields.whole(source.vision, "window_size"),
    }
    defaults = {name: getattr(Qwen25VisionConfig, name) for name in told}
    assumed = {name: defaults[name] for name, value in told.items() if value is None}
    if assumed:
        values = ", ".join(f"{name} {value}" for name, value in assumed.items())
        found.notes.append(f"assumed of the vision tower, as no file tells: {values}")
    return {name: defaults[name] if value is None else value for name, value in told.items()}


def complete_qwen_vision(
    config: Qwen25VisionConfig, source: SourceConfig, found: Findings
) -> Qwen25VisionConfig:
    """Adds the preprocessing; contradictions between files and weights are added to `found`."""
    vision, images = source.vision, source.images
    found.compare(
        vision,
        depth=config.depth,
        hidden_size=config.width,
        intermediate_size=config.mlp_width,
        out_hidden_size=config.token_width,
        patch_size=config.patch,
        spatial_patch_size=config.patch,
        spatial_merge_size=config.merge,
    )
    found.compare(images, _PREPROCESSOR, patch_size=config.patch, merge_size=config.merge)
    sizes = fields.section(images, "size")  # whose "edges" are numbers of pixels
    bounds: dict[str, int] = {}
    for name, edge in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
        bound = fields.whole(images, name, _PREPROCESSOR) or fields.whole(
            sizes, edge, _PREPROCESSOR
        )
        if bound is None:
            bound = getattr(config, name)
            found.notes.append(f"{name} of an image assumed, as no file tells: {bound}")
        bounds[name] = bound
    mean, std = _normalisation(source, config.mean, config.std)
    return dataclasses.replace(config, mean=mean, std=std, **bounds)


def complete_language(
    config: DecoderConfig, source: SourceConfig, has_head: bool, found: Findings
) -> DecoderConfig:
    """Adds what shapes cannot tell; contradictions are added to `found`."""
    text = source.text
    found.compare(
        text,
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        intermediate_size=config.mlp_width,
        head_dim=config.head_width,
    )
    rows = text.get("vocab_size")
    if rows is not None and rows != config.vocabulary:
        # Harmless: tools that add tokens forget the config. The matrix decides.
        found.notes.append(
            f"config.json: vocab_size is {fields.shown(rows)}, the embedding has "
            f"{config.vocabulary} rows"
        )
    rope = fields.section(text, "rope_parameters") or fields.section(text, "rope_scaling")
    tied = fields.flag(text, "tie_word_embeddings")
    if tied is None:
        tied = fields.flag(source.config, "tie_word_embeddings")
    if text and tied is None:
        tied = False  # the default of the model's own config class
    if not has_head and tied is False:
        found.problems.append(
            "missing: lm_head.weight (config.json does not tie it to the embedding)"
        )
    if tied and not config.tied:
        found.notes.append(
            "config.json: tie_word_embeddings is true, but lm_head.weight differs from the "
            "embedding: it is used"
        )
    if not text:
        return config
    # What the file leaves out has the default of the model's config class.
    family = DECODERS[source.decoder]
    conversation = family.conversation
    if family.vocabulary is not None and config.vocabulary > family.vocabulary:
        # Llama 3 and Yi have Llama's tensors, and are talked to otherwise.
        conversation = ""
        found.notes.append(
            f"template of prompts not known: {source.decoder}'s is {family.conversation}, but not "
            f"with a vocabulary of {config.vocabulary}; one must be named with every prompt"
        )
    elif source.decoder != "qwen2":
        found.notes.append(f"template of prompts assumed, as no file tells: {conversation}")
    bos = family.bos_id if "bos_token_id" not in text else fields.token(text, "bos_token_id")
    theta, inner = (fields.positive(part, "rope_theta") for part in (text, rope))
    if None not in (theta, inner) and theta != inner:
        found.problems.append(f"config.json: rope_theta is {theta:g}, and {inner:g} for its kind")
    eos = fields.ids(source.generation, "eos_token_id", "generation_config.json")
    eos += fields.ids(text, "eos_token_id")
    image = fields.token(source.config, "image_token_index")
    return dataclasses.replace(
        config,
        rope_theta=theta or inner or 10000.0,
        mrope_section=fields.indices(rope, "mrope_section") or (),
        norm_epsilon=fields.positive(text, "rms_norm_eps") or 1e-6,
        max_length=_context(source, family.context, found),
        bos_id=bos,
        pad_id=fields.token(text, "pad_token_id"),
        eos_ids=tuple(dict.fromkeys(eos)) or family.eos_ids or config.eos_ids,
        conversation=conversation,
        image_token_id=fields.token(source.config, "image_token_id") if image is None else image,
    )


def complete_qwen_language(config: DecoderConfig, source: SourceConfig) -> DecoderConfig:
    """Adds how a Qwen2.5-VL is talked to. (FastVLM's own script puts its file's penalty aside.)"""
    penalty = fields.positive(source.generation, "repetition_penalty", "generation_config.json")
    return dataclasses.replace(
        config,
        conversation="qwen_2_5_vl",
        repetition_penalty=penalty or config.repetition_penalty,
        video_token_id=fields.token(source.config, "video_token_id"),
    )


def _names_the_released_tower(source: SourceConfig) -> bool:
    """Whether config.json names the tower of the released FastVLMs, by Apple's or timm's name."""
    architecture = fields.text(source.vision, "architecture") or ""
    return "mobileclip_l" in source.tower_name or architecture.startswith("fastvit_mci3")


def _open_clip_vision(source: SourceConfig) -> Json:
    return fields.section(source.open_clip, "model_cfg", "vision_cfg")


def _context(source: SourceConfig, assumed: int, found: Findings) -> int:
    """Longest sequence: the smallest of the lengths that files tell, and at most what a sliding
    window reaches: within it, the window is without effect.

    Tokenizers that know no longest text say 1e30.
    """
    told = [
        fields.positive(document, name, file)
        for document, name, file in (
            (source.config, "tokenizer_model_max_length", "config.json"),
            (source.tokenizer, "model_max_length", "tokenizer_config.json"),
            (source.text, "max_position_embeddings", "config.json"),
        )
    ]
    known = [int(length) for length in told if length is not None and length < 1e9]
    context = min(known, default=assumed)
    window = DECODERS[source.decoder].window
    if window is not None and "sliding_window" in source.text:  # null: there is none
        window = fields.whole(source.text, "sliding_window")
    if window is None or context <= window:
        return context
    found.notes.append(
        f"attention in a sliding window of {window} positions: not supported, so that prompt and "
        f"answer may have no more than these, of {context}"
    )
    return window


def _preprocessor_size(source: SourceConfig) -> int | None:
    """Side of the square that images become, in pixels."""
    images = source.images
    crop, size = (fields.side(images, name, _PREPROCESSOR) for name in ("crop_size", "size"))
    cut = fields.flag(images, "do_center_crop", _PREPROCESSOR)
    if cut and None not in (crop, size) and crop != size:
        raise CheckpointError(
            f"{_PREPROCESSOR}: images are resized to {size} pixels and cut to {crop}; the two must "
            "be the same"
        )
    return crop or size


def _normalisation(source: SourceConfig, mean: Any, std: Any) -> tuple[Any, Any]:
    images = source.images
    if fields.flag(images, "do_normalize", _PREPROCESSOR) is False:
        return _scaled(images, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    for section, prefix, file in (
        (images, "image_", _PREPROCESSOR),
        (fields.section(source.open_clip, "preprocess_cfg"), "", _OPEN_CLIP),
        (fields.section(source.config, "pretrained_cfg"), "", "config.json"),
    ):
        found = [fields.colors(section, prefix + name, file) for name in ("mean", "std")]
        if None not in found:
            mean, std = found
            if min(std) <= 0:
                raise CheckpointError(f"{file}: {prefix}std must be above 0, got {std}")
            break
        if found != [None, None]:
            raise CheckpointError(f"{file}: {prefix}mean and {prefix}std belong together")
    return _scaled(images, mean, std)


def _scaled(images: Json, mean: Any, std: Any) -> tuple[Any, Any]:
    """Mean and deviation of pixels that are divided by 255, for a checkpoint that may want them
    multiplied by another factor."""
    rescale = fields.positive(images, "rescale_factor", _PREPROCESSOR)
    if fields.flag(images, "do_rescale", _PREPROCESSOR) is False:
        rescale = 1.0
    if rescale is None or abs(255 * rescale - 1) < 1e-6:  # 1 / 255 may have few digits
        return mean, std
    if not 1e-6 < rescale < 1e6:
        raise CheckpointError(f"{_PREPROCESSOR}: rescale_factor cannot be {rescale}")
    factor = 255 * rescale
    return tuple(x / factor for x in mean), tuple(x / factor for x in std)


def _resize_mode(source: SourceConfig) -> str | None:
    """How an image is made square, where a file tells."""
    if source.tiled:
        return "squash"  # the overview
    if "image_aspect_ratio" in source.config:
        # LLaVA: "pad", or the processor directly. Tiled images ("anyres") are padded.
        aspect = source.config["image_aspect_ratio"]
        return "pad" if aspect == "pad" or "anyres" in fields.shown(aspect) else "crop"
    mode = fields.section(source.open_clip, "preprocess_cfg").get("resize_mode")
    if mode is not None:
        if mode not in list(_OPEN_CLIP_MODES):  # a list: what JSON brings may have no hash
            raise CheckpointError(
                f"{_OPEN_CLIP}: resize_mode must be one of {', '.join(_OPEN_CLIP_MODES)}, "
                f"got {fields.shown(mode)}"
            )
        return _OPEN_CLIP_MODES[mode]
    images = source.images
    if fields.flag(images, "do_pad", _PREPROCESSOR):
        return "pad"
    if fields.flag(images, "do_center_crop", _PREPROCESSOR):
        return "crop"
    if "height" in fields.section(images, "size"):
        return "squash"
    # OpenCLIP's default is "shortest".
    return "crop" if source.open_clip else None


def _pad_color(source: SourceConfig, mean: tuple[float, float, float]) -> tuple[int, int, int]:
    preprocess = fields.section(source.open_clip, "preprocess_cfg")
    if preprocess.get("resize_mode") == "longest":
        grey = fields.number(preprocess, "fill_color", _OPEN_CLIP) or 0
        if not 0 <= grey <= 255:
            raise CheckpointError(f"{_OPEN_CLIP}: fill_color must be in 0-255, got {grey}")
        return int(grey), int(grey), int(grey)
    # LLaVA pads with the colour that normalises to zero, truncated.
    red, green, blue = (min(max(int(255 * x), 0), 255) for x in mean)
    return red, green, blue
