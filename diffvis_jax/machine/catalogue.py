"""Models that this library runs, with what their makers, or we, measured of them.

A number has its benchmark, its source and its date; what is not known is not guessed.
"""

import dataclasses
from collections.abc import Mapping

from diffvis_jax.language.config import DecoderConfig
from diffvis_jax.towers import VisionConfig, with_size
from diffvis_jax.towers.clip import CLIPConfig
from diffvis_jax.towers.fastvithd import FastViTHDConfig
from diffvis_jax.towers.qwen2_5_vl import Qwen25VisionConfig


@dataclasses.dataclass(frozen=True)
class Score:
    """Of a model on a benchmark.

    Attributes:
      value: in percent.
      source: who published it.
      date: of the source.
    """

    value: float
    source: str
    date: str


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """A model.

    Attributes:
      name: as `--model` or `diffvis convert` takes it.
      vision: config of its tower, at the size of a frame of 1920 x 1080 px.
      decoder: config of its language model; None = it finds elements, and answers nothing.
      licence: of its weights.
      scores: by benchmark.
      bundled: whether the weights come with the library.
    """

    name: str
    vision: VisionConfig
    decoder: DecoderConfig | None
    licence: str
    scores: Mapping[str, Score]
    bundled: bool = False


def _fastvlm(text: float, document: float, chart: float) -> dict[str, Score]:
    source, date = "model card of apple/FastVLM", "2025-08"
    values = {"textvqa": text, "docvqa": document, "chartqa": chart}
    return {name: Score(value, source, date) for name, value in values.items()}


def _qwen(screenspot: float, document: float) -> dict[str, Score]:
    source, date = "model card of Qwen2.5-VL", "2025-01"
    return {
        "screenspot": Score(screenspot, source, date),
        "docvqa": Score(document, source, date),
    }


def _clicks(value: float, f1: float) -> dict[str, Score]:
    source, date = "docs/accuracy.md, 236 queries", "2026-11"
    return {"sample clicks": Score(value, source, date), "sample f1": Score(f1, source, date)}


_QWEN_DECODER = {"projector_layers": 0, "mrope_section": (16, 24, 24), "head_width": 128}
_SCREEN = (1092, 1932)  # of a screen of 1920 x 1080 px, nearly as it is
_LLAVA = {"qkv_bias": False, "tied": False, "projector_input": 1024, "head_width": 128}

CATALOGUE = (
    Entry(
        "fastvithd-screens",
        FastViTHDConfig(
            widths=(16, 32, 64, 128, 256), token_width=512, squeeze_width=64,
            mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
        ),
        None,
        "Apache-2.0",
        _clicks(79.7, 69.2),
        bundled=True,
    ),
    Entry(
        "screens-vit",
        Qwen25VisionConfig(
            width=256, depth=6, heads=8, mlp_width=640, full_blocks=(1, 3, 5), patch=32, merge=1,
            window=64, token_width=256, stem_widths=(64, 128), size=(576, 1024), min_pixels=65536,
            max_pixels=589824, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
        ),
        None,
        "Apache-2.0",
        _clicks(67.4, 60.2),
        bundled=True,
    ),
    Entry(
        "fastvlm-0.5b",
        FastViTHDConfig(),
        DecoderConfig(),
        "Apple AMLR (research)",
        _fastvlm(64.5, 82.5, 76.0),
    ),
    Entry(
        "fastvlm-1.5b",
        FastViTHDConfig(),
        DecoderConfig(width=1536, layers=28, heads=12, head_width=128, mlp_width=8960),
        "Apple AMLR (research)",
        _fastvlm(70.4, 88.3, 80.1),
    ),
    Entry(
        "fastvlm-7b",
        FastViTHDConfig(),
        DecoderConfig(
            vocabulary=152064, width=3584, layers=28, heads=28, kv_heads=4, head_width=128,
            mlp_width=18944, tied=False,
        ),
        "Apple AMLR (research)",
        _fastvlm(74.9, 93.2, 85.0),
    ),
    Entry(
        "qwen2.5-vl-3b",
        with_size(Qwen25VisionConfig(), _SCREEN),
        DecoderConfig(
            width=2048, layers=36, heads=16, mlp_width=11008, projector_input=2048, **_QWEN_DECODER
        ),
        "Qwen Research",
        _qwen(55.5, 93.9),
    ),
    Entry(
        "qwen2.5-vl-7b",
        with_size(Qwen25VisionConfig(token_width=3584), _SCREEN),
        DecoderConfig(
            vocabulary=152064, width=3584, layers=28, heads=28, kv_heads=4, mlp_width=18944,
            tied=False, projector_input=3584, **_QWEN_DECODER,
        ),
        "Apache-2.0",
        _qwen(84.7, 95.7),
    ),
    Entry(
        "llava-1.5-7b",
        CLIPConfig(),
        DecoderConfig(
            vocabulary=32000, width=4096, layers=32, heads=32, kv_heads=32, mlp_width=11008,
            **_LLAVA,
        ),
        "Llama 2",
        {},
    ),
)  # fmt: skip
