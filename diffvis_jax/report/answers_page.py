"""What a model answered about one screen after another, as a page to step through."""

import dataclasses
import html
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffvis_jax.agent.answering import Answer
from diffvis_jax.agent.attention_map import relative_heat, seen_patches
from diffvis_jax.images.geometry import placement
from diffvis_jax.measure.answer_pairs import Pair
from diffvis_jax.report.patches import patch_boxes
from diffvis_jax.report.pictures import Picture
from diffvis_jax.report.player_page import (
    RECOMPUTED,
    Chart,
    Layer,
    Map,
    Mark,
    Run,
    Screen,
    Step,
    axis,
    map_values,
    patches_on,
    write_player_page,
)
from diffvis_jax.report.text import decimal, milliseconds, percent, speed_text, times
from diffvis_jax.towers import VisionConfig, build

LAYERS = (
    Layer("candidates to click", "candidate", shown=True),
    Layer("where its commands point", "click", shown=True),
)
_STEPS = (("encode", "encode_ms"), ("prefill", "prefill_ms"), ("first token", "first_token_ms"))
_KINDS = ("encode", "prefill", "first")
_NOTES = (
    (
        "First token",
        "encode, prefill and first token are what one waits for; before the first of them nothing "
        "of the answer is there. Of a frame that waited for a compilation the times are not "
        "typical; charts may cut them off.",
    ),
    ("Prompt tokens read", "of the whole prompt, image included; the others were kept."),
)
_PAIR_NOTE = (
    "In full",
    "the same question answered once more, without reusing anything, in the same process and in "
    "turns. A mark in the table tells answers that differ. Missed change is the share of the true "
    "change of the image tokens that did not arrive, at the tokens whose pixels changed, or over "
    "all.",
)


@dataclasses.dataclass(frozen=True)
class Look:
    """A frame, and what was made of it. gh x gw patches, th x tw image tokens.

    Attributes:
      label: which frame it is.
      picture: the screenshot.
      encoded: what the tower did, see `Answer.encoded`.
      encode_ms: its wall time.
      changed: bool `[gh, gw]`; None where nobody compared.
      recomputed: float32 `[gh, gw]`, shares of each patch's work; None likewise.
      found: the answer, both answers, or None where nothing was asked.
      compile_s: seconds of all this in which XLA compiled.
      attention: real `[th, tw]`, what the prompt's last position attends to; None unless asked for.
      error: of the worst token, where it was measured.
      lines: what else there is to say.
      marks: for each of `LAYERS`.
    """

    label: str
    picture: Picture
    encoded: dict[str, Any]
    encode_ms: float
    changed: np.ndarray | None = None
    recomputed: np.ndarray | None = None
    found: Answer | Pair | None = None
    compile_s: float = 0.0
    attention: np.ndarray | None = None
    error: float | None = None
    lines: Sequence[str] = ()
    marks: Sequence[Sequence[Mark]] = ()

    @property
    def pair(self) -> Pair | None:
        return self.found if isinstance(self.found, Pair) else None

    @property
    def answer(self) -> Answer | None:
        return self.found.differential if isinstance(self.found, Pair) else self.found


def write_answers_page(
    target: str | os.PathLike[str],
    looks: Sequence[Look],
    config: VisionConfig,
    *,
    question: str | None,
    prompt: str | None = None,
    title: str,
    tiles: Sequence[tuple[str, str]],
    facts: Sequence[tuple[str, str]] = (),
) -> Path:
    """Writes the page.

    Args:
      target: the HTML file.
      looks: at least one.
      config: of the tower: where its patches lie on the screenshots.
      question: that was asked; None = none was.
      prompt: what the model was told in fact, if that is more.
      title: of the pictures.
      tiles: totals, and what they are.
      facts: names and values, shown under the title (model, machine).

    Returns:
      The path.
    """
    lead = ""
    if question is not None:
        lead = f'<p class="question">{html.escape(question)}</p>'
        if prompt not in (None, question):
            whole = html.escape(prompt)
            lead += f"<details><summary>The whole prompt</summary><pre>{whole}</pre></details>"
    columns, rows = _table(looks)
    maps = [Map("recomputed share of each patch")]
    if any(look.attention is not None for look in looks):
        maps.append(Map("where the model looks", grid=1))
    if all(look.recomputed is None for look in looks):
        maps = maps[1:]
    steps = [_step(look, cells, config, len(maps)) for look, cells in zip(looks, rows, strict=True)]
    paired = any(look.pair for look in looks)
    return write_player_page(
        target,
        [Screen(look.label, look.picture, _grids(look, config)) for look in looks],
        [Run("", "", tiles, _charts(looks), steps)],
        columns=columns,
        maps=maps,
        layers=LAYERS,
        start=_start(looks),
        heading="A watched screen" if question is None else "What the model answered",
        title=title,
        lead=lead,
        facts=facts,
        notes=[RECOMPUTED, *(_NOTES if question else ()), *([_PAIR_NOTE] if paired else [])],
    )


def _start(looks: Sequence[Look]) -> int:
    """The frame to open the page at: the first whose answers differ, or in which little changed."""
    for index, look in enumerate(looks):
        if look.pair and not look.pair.same_text:
            return index
    partial = [i for i, look in enumerate(looks) if _share(look.changed) and not look.compile_s]
    return partial[0] if partial else 0


def _share(changed: np.ndarray | None) -> float:
    """Of the patches that changed; those of a frame without a predecessor did not."""
    return 0.0 if changed is None else float(changed.mean())


def _grids(look: Look, config: VisionConfig) -> list[dict[str, float]]:
    """Of the patches, and of the image tokens; empty where nothing refers to it."""
    size, grids = look.picture.size, []
    grids.append({} if look.changed is None else patches_on(size, config, look.changed.shape[1]))
    if look.attention is not None:
        columns = look.attention.shape[1]
        grids.append(patches_on(size, config, columns, patch=build(config).token))
    return grids


def _step(look: Look, cells: Sequence[str], config: VisionConfig, maps: int) -> Step:
    pair, answer = look.pair, look.answer
    values = [] if look.recomputed is None else [map_values(look.recomputed)]
    if look.attention is not None:
        size = look.picture.size
        where, token = placement(*size, config), build(config).token
        seen = seen_patches(patch_boxes(size, look.attention.shape, where, token))
        values.append(map_values(relative_heat(look.attention, seen)))
    facts = [(name, value(look)) for name, value in _FACTS]
    return Step(
        kind=look.encoded["path"],
        path=_path(look),
        facts=[fact for fact in facts if fact[1] != "-"],
        bars=_bars(look),
        verdict=_verdict(look),
        cells=cells,
        changed=[] if look.changed is None else np.flatnonzero(look.changed).tolist(),
        maps=values[:maps],
        marks=look.marks,
        answer=(answer.text or "(an empty answer)") if answer else None,
        other=None if pair is None or pair.same_text else pair.full.text or "(an empty answer)",
        lines=look.lines,
    )


def _verdict(look: Look) -> str:
    """One frame in a sentence."""
    pair, answer = look.pair, look.answer
    if answer is None:
        return ""
    waited = answer.time_to_first_token_ms
    said = "" if waited is None else f"First token after {milliseconds(waited)}"
    if pair is None:
        return said
    if speed_up := _speed_up(pair):
        said = f"First token: {speed_text(speed_up, 'in full')}"
    same = "the same answer" if pair.same_text else "another answer"
    return f"{said}; {same}" if said else same


def _speed_up(pair: Pair) -> float | None:
    """To the first token; None for beam search, or where something was compiled."""
    full, ours = (one.time_to_first_token_ms for one in (pair.full, pair.differential))
    return full / ours if full and ours and not pair.compile_s else None


def _bars(look: Look) -> list[tuple[str, float, str, str]]:
    if look.answer is None:
        return [("encode", look.encode_ms, milliseconds(look.encode_ms), "encode")]
    bars = []
    for (name, field), kind in zip(_STEPS, _KINDS, strict=True):
        for one, said, colour in (
            (look.answer, name, kind),
            (look.pair and look.pair.full, "in full", "full"),
        ):
            if one and (ms := getattr(one, field)) is not None:
                bars.append((said, ms, milliseconds(ms), colour))
    return bars


def _of_answer(value: Callable[[Answer], str]) -> Callable[[Look], str]:
    return lambda look: value(look.answer) if look.answer else "-"


def _of_pair(value: Callable[[Pair], str]) -> Callable[[Look], str]:
    return lambda look: value(look.pair) if look.pair else "-"


def _path(look: Look) -> str:
    """What the tower did, in a word."""
    settling = look.encoded["path"] == "partial" and not look.encoded["changed_patches"]
    return "settling" if settling else look.encoded["path"]


def _patches_changed(look: Look) -> str:
    changed = look.encoded["changed_patches"]
    return "-" if changed is None else f"{changed}/{look.encoded['total_patches']}"


def _further(answer: Answer) -> str:
    count = len(answer.ids) - 1
    return "-" if answer.token_ms is None else f"{count} at {milliseconds(answer.token_ms)}"


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]} .."


# What a look says, as text, "-" where it says nothing. Beside the screen:
_FACTS: tuple[tuple[str, Callable[[Look], str]], ...] = (
    ("patches changed", _patches_changed),
    ("recomputed", lambda look: percent(look.encoded["recomputed"])),
    ("still pending", lambda look: percent(look.encoded["pending"])),
    ("true error", lambda look: decimal(look.error, ".1e")),
    (
        "prompt tokens read",
        _of_answer(lambda answer: f"{answer.prefilled['prefilled']}/{answer.prefilled['total']}"),
    ),
    ("further tokens", _of_answer(_further)),
    ("missed", _of_pair(lambda pair: percent(pair.missed_changed))),
    ("missed over all", _of_pair(lambda pair: percent(pair.missed_all))),
    ("logits off by", _of_pair(lambda pair: decimal(pair.logits_error, ".1e"))),
    ("compiling", lambda look: f"{look.compile_s:.1f} s" if look.compile_s else "-"),
)
# And in the table; whether it is text.
_COLUMNS: tuple[tuple[str, bool, Callable[[Look], str]], ...] = (
    ("frame", True, lambda look: look.label),
    ("path", True, _path),
    *((name, False, value) for name, value in _FACTS[:4]),
    ("encode", False, lambda look: milliseconds(look.encode_ms)),
    ("prefill", False, _of_answer(lambda answer: milliseconds(answer.prefill_ms))),
    ("prompt tokens read", False, dict(_FACTS)["prompt tokens read"]),
    ("to first token", False, _of_answer(lambda one: milliseconds(one.time_to_first_token_ms))),
    ("in full", False, _of_pair(lambda pair: milliseconds(pair.full.time_to_first_token_ms))),
    ("speed-up", False, _of_pair(lambda pair: times(_speed_up(pair)))),
    ("missed", False, dict(_FACTS)["missed"]),
    ("same answer", True, _of_pair(lambda pair: "yes" if pair.same_text else "no")),
    ("compiling", False, dict(_FACTS)["compiling"]),
    ("answer", True, _of_answer(lambda answer: _shortened(answer.text) or "-")),
)


def _table(looks: Sequence[Look]) -> tuple[list[tuple[str, bool]], list[list[str]]]:
    """Heads and rows; columns in which nothing is said are left out."""
    heads, columns = [("#", False)], [[f"{index}" for index in range(len(looks))]]
    for name, text, value in _COLUMNS:
        cells = [value(look) for look in looks]
        if set(cells) != {"-"}:
            heads.append((name, text))
            columns.append(cells)
    return heads, [list(row) for row in zip(*columns, strict=True)]


def _charts(looks: Sequence[Look]) -> list[Chart]:
    answered = any(look.answer for look in looks)
    pairs = [look.pair for look in looks]
    # What waited for a compilation would leave nothing to see of the others.
    typical = [look for look in looks if not look.compile_s] or looks
    in_full = [pair and pair.full.time_to_first_token_ms for pair in pairs]
    stacks = [[(ms, kind) for _, ms, _, kind in _bars(look) if kind != "full"] for look in looks]
    waited = [sum(ms for _, ms, _, kind in _bars(look) if kind != "full") for look in typical] + [
        look.pair.full.time_to_first_token_ms or 0 for look in typical if look.pair
    ]
    legend = list(zip(_KINDS, (name for name, _ in _STEPS), strict=True))
    prompts = [look.answer.prefilled if look.answer else None for look in looks]
    charts = [
        Chart(
            "Time to the first token" if answered else "Time of each encode",
            [
                *(legend if answered else ()),
                *([("in-full", "all of it, in full")] if any(pairs) else []),
            ],
            **axis(waited, milliseconds),
            bars=stacks,
            dots=[[(ms, "in-full")] if ms else [] for ms in in_full],
        ),
        Chart(
            "Done anew",
            [
                ("dot", "of the encode"),
                *([("ring", "of the prompt's tokens")] if answered else []),
            ],
            **axis([1.0], percent),
            dots=[
                [
                    *([(prompt["prefilled"] / prompt["total"], "ring")] if prompt else []),
                    (look.encoded["recomputed"], "dot"),
                ]
                for look, prompt in zip(looks, prompts, strict=True)
            ],
        ),
    ]
    missed = [(p.missed_all, p.missed_changed) if p else (None, None) for p in pairs]
    charts.append(
        Chart(
            "Missed change of each frame",
            [("dot", "at changed tokens"), ("ring", "over all tokens")],
            **axis((value for both in missed for value in both), percent, least=0.1),
            dots=[
                [
                    (value, kind)
                    for value, kind in zip(both, ("ring", "dot"), strict=True)
                    if value is not None
                ]
                for both in missed
            ],
        )
    )
    return charts
