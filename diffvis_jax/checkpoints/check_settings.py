"""Applies the table of settings (`settings.py`) to the files of a checkpoint."""

from collections.abc import Mapping
from typing import Any

from diffvis_jax.checkpoints import fields, settings
from diffvis_jax.checkpoints.fields import shown
from diffvis_jax.checkpoints.settings import Ignored, Not, Only, Read, Rule, Table
from diffvis_jax.checkpoints.source_config import Findings, SourceConfig

_LEFT_OUT = "of the language model, which is left out"


def check_settings(
    source: SourceConfig, kind: str, layers: int, found: Findings, *, language: bool
) -> None:
    """Looks every field of every file up, and adds what the table says of it.

    Args:
      kind: of the tower: "fastvithd", "clip", "siglip" or "qwen2_5_vl".
      layers: blocks of a CLIP or SigLIP tower.
      language: whether a language model is converted. Without it, what concerns it is ignored,
        whatever it says.
    """
    unknown: dict[str, list[str]] = {}
    other = fields.section(source.processor, "image_processor")
    for name in sorted(source.preprocessor.keys() & other.keys()):
        mine = source.preprocessor[name]
        if isinstance(settings.PREPROCESSOR.get(name), Read) and mine != other[name]:
            found.problems.append(
                f"preprocessor_config.json: {name} is {shown(mine)}, processor_config.json says "
                f"{shown(other[name])}"
            )
    flat = source.vision is source.config
    alone, inside, images = settings.VISION_ALONE, settings.VISION, settings.PREPROCESSOR
    decoder = settings.MISTRAL if source.decoder == "mistral" else settings.LANGUAGE
    tokenizer = settings.TOKENIZER if source.decoder == "qwen2" else settings.SENTENCEPIECE
    generation = settings.GENERATION
    if kind == "qwen2_5_vl":
        alone = inside = settings.QWEN_VISION
        decoder, generation = settings.QWEN_LANGUAGE, settings.QWEN_GENERATION
        images = settings.QWEN_PREPROCESSOR
    if source.tiled and kind == "clip":
        images = settings.TILED_PREPROCESSOR
    tower: Table = alone if flat else {"vision_config": inside}
    model: dict[str, Rule | Table] = dict(settings.WRAPPER)
    if source.text is source.config:
        model |= decoder
    elif source.text and language:
        above = Ignored("text_config tells")
        model = dict.fromkeys(decoder, above) | model | {"text_config": decoder}
    else:
        model["text_config"] = Ignored(_LEFT_OUT)
    model |= settings.FEATURES[kind]
    if source.tiled and kind == "clip":
        model |= settings.TILED
    elif source.tiled and language:
        found.problems.append(f"config.json: {settings.TILES_NEED_CLIP}")
    config = source.config
    of_tower = {name: value for name, value in config.items() if name in tower}
    rest = {name: value for name, value in config.items() if name not in tower}
    for name in settings.LAYER:
        # Counted from the end, as -2 is; transformers counts the embedding as layer 0.
        if type(layer := rest.get(name)) is int and layer >= 0:
            rest[name] = layer - layers - 1
    processor = {"image_processor": images, **settings.PROCESSOR}
    for file, document, table, of_language in (
        ("config.json", of_tower, tower, False),
        ("config.json", rest, model, True),
        ("preprocessor_config.json", source.preprocessor, images, False),
        ("processor_config.json", source.processor, processor, False),
        ("open_clip_config.json", source.open_clip, settings.OPEN_CLIP, False),
        ("generation_config.json", source.generation, generation, True),
        ("tokenizer_config.json", source.tokenizer, tokenizer, True),
    ):
        hint = "; --vision-only leaves the language model out" if of_language else ""
        hint = hint if language or not of_language else None
        unknown.setdefault(file, []).extend(_look_up(found, file, document, table, hint))
    found.notes += [
        f"{file}: not known here, and without effect: {', '.join(names)}"
        for file, names in unknown.items()
        if names
    ]


def of_another_family(source: SourceConfig) -> str | None:
    """What a checkpoint is whose tower is not known, where its `model_type` tells."""
    kinds = settings.WRAPPER["model_type"]
    value = source.config.get("model_type")
    return kinds.values.get(value) if isinstance(kinds, Not) and isinstance(value, str) else None


def _look_up(
    found: Findings,
    file: str,
    document: Mapping[str, Any],
    table: Table,
    hint: str | None,
    prefix: str = "",
) -> list[str]:
    """Adds what the table says of an object -> the fields that it does not have.

    Args:
      file, prefix: of the fields, for messages.
      hint: what stands behind a problem; None: nothing is one.
    """
    unknown = []
    for name, value in document.items():
        if value is None or (isinstance(value, list | dict | str) and not value):
            continue
        rule, path = table.get(name), f"{prefix}{name}"
        if isinstance(rule, Mapping) and isinstance(value, dict):
            unknown += _look_up(found, file, value, rule, hint, f"{path}.")
        elif isinstance(rule, Ignored):
            found.ignored[f"{file}: {path}"] = rule.reason
        elif isinstance(rule, Only | Not):
            if not (meaning := _refused(rule, value)):
                if isinstance(rule, Not) and hint is not None and value not in rule.known:
                    like = rule.known[0]
                    found.notes.append(f"{file}: {path} is {shown(value)}: taken for {like!r}")
                continue
            if hint is None:
                found.ignored[f"{file}: {path}"] = _LEFT_OUT
            elif isinstance(rule, Only) and rule.instead:
                found.notes.append(f"{file}: {path} is {shown(value)}, {meaning}; {rule.instead}")
            else:
                found.problems.append(f"{file}: {path} is {shown(value)}, {meaning}{hint}")
        elif not isinstance(rule, Read):
            unknown.append(path)
    return unknown


def _refused(rule: Only | Not, value: Any) -> str | None:
    """What a value asks for that is not supported; None if it is."""
    values = value if isinstance(value, list) else [value]
    if isinstance(rule, Not):
        found = [rule.values[item] for item in values if item in list(rule.values)]
        return f"which means {found[0]}: not supported" if found else None
    allowed = rule.values or (False, 0)
    # True is 1 for Python.
    if all(any(x == y and (x is True) == (y is True) for y in allowed) for x in values):
        return None
    only = f", only {' or '.join(map(repr, rule.values))}" if rule.values else ""
    return f"which means {rule.meaning}: not supported{only}"
