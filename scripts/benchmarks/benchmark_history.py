#!/usr/bin/env python3
"""What it takes to read a prompt with a past: whole frames, or a history of what changed.

    python scripts/benchmarks/benchmark_history.py SESSION... --model fastvithd-screens

Each frame is shown with those before it in four ways, each with a prompt cache that keeps what it
exactly can: the last frames whole (they slide, so all of them move), all frames so far whole, and a
history in both of its layouts. The decoder has random weights in the widths of the 0.5B one: times,
no answers. Every prompt of a history is also read afresh, and the logits compared.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmark_tokens import Encoded, encoded
from views_language import random_language

import diffvis_jax as dv
from diffvis_jax.agent.prompt_tokens import LAYOUTS, CompressOptions, prompt_tokens
from diffvis_jax.cli.command_line import check_file, run_script, whole, write_json
from diffvis_jax.cli.frame_sizes import sized_for
from diffvis_jax.cli.models import add_model, find_model
from diffvis_jax.cli.named_policies import find_policy
from diffvis_jax.images.recording import read_recording
from diffvis_jax.language.generate import padded_length
from diffvis_jax.language.language_model import Language
from diffvis_jax.language.prompt_session import PromptSession
from diffvis_jax.metrics import tails
from diffvis_jax.report.table import machine_text, print_table, tower_text
from diffvis_jax.report.text import TAILS, decimal, milliseconds, tails_text, times
from diffvis_jax.towers import build
from diffvis_jax.utils.progress import Progress

BEFORE, AFTER = 12, 40  # ids of text in front of the images and behind them


def run() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sessions", type=Path, nargs="+", help="recorded sessions")
    parser.add_argument("--max-frames", type=int, default=20, help="of each session (20)")
    parser.add_argument(
        "--past", type=whole(1, 100, "frames, 1-100"), default=8, help="frames before each (8)"
    )
    parser.add_argument("--policy", default="faithful", help="of the encoder (%(default)s)")
    parser.add_argument("--budget", type=int, help="tokens of a history (four frames)")
    parser.add_argument("--decoder-layers", type=int, default=24, help="(24)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there, too")
    add_model(parser.add_argument)
    args = parser.parse_args()
    if args.json:
        check_file("--json", args.json)
    recordings = {path.name: read_recording(path).first(args.max_frames) for path in args.sessions}
    model = dv.load(find_model(args.model), dtype="float32")
    model = sized_for(model, [path for r in recordings.values() for path in r.paths])
    print(f"{tower_text(model)}; {machine_text()}; frames encoded by policy {args.policy}")
    steps: dict[str, list[dict[str, Any]]] = {}
    language = None
    with Progress(sum(len(r.paths) for r in recordings.values()), "reading") as progress:
        for name, recording in recordings.items():
            policy = find_policy(args.policy)
            session = encoded(model, list(recording.paths), policy, lambda name: None)
            if language is None:
                language = random_language(args.decoder_layers, session.step.shape[-1])
            race = Race(language, model, args.past, args.budget, len(recording.paths))
            for way, step in race.run(session, lambda name=name: progress(name)):
                steps.setdefault(way, []).append(step | {"session": name})
    rows = [summary(way, steps) for way in steps]
    print_table(table(rows, args.past))
    if args.json:
        write_json(args.json, {"rows": rows, "steps": steps})
    return 0


class Race:
    """The four ways, each with its session, over one recording."""

    def __init__(
        self, language: Language, model: dv.Model, past: int, budget: int | None, frames: int
    ):
        number = build(model.config).tokens
        self._past = past
        self._histories = {}
        for layout in LAYOUTS:
            options = CompressOptions("history", budget, layout)
            made = prompt_tokens(options, language, model.config)
            assert made is not None
            self._histories[f"history, {layout}"] = made, options.tokens(number)
        text = BEFORE + AFTER
        self._padded = {
            "whole frames, sliding": padded_length(text + (past + 1) * number),
            "whole frames, appended": padded_length(text + frames * number),
            **{way: padded_length(text + most) for way, (_, most) in self._histories.items()},
        }
        self._sessions = {way: PromptSession(language) for way in self._padded}
        self._fresh = PromptSession(language, differential=False)

    def run(self, session: Encoded, on_frame) -> Iterator[tuple[str, dict[str, Any]]]:
        for index, tokens in enumerate(session.step):
            shown, made = {}, {}
            for way, (history, _) in self._histories.items():
                start = time.perf_counter()
                shown[way] = [history.show(jnp.asarray(tokens)[None], session.changed[index]).image]
                made[way] = 1e3 * (time.perf_counter() - start)
            on_frame()
            if index < self._past:
                continue
            frames = [jnp.asarray(x) for x in session.step[: index + 1]]
            shown["whole frames, sliding"] = frames[-self._past - 1 :]
            shown["whole frames, appended"] = frames
            for way in self._padded:
                step = self._read(way, shown[way])
                if index > self._past:  # the first one compiles, and finds no cache
                    yield way, step | {"made_ms": made.get(way, 0.0)}

    def _read(self, way: str, images: list[Any]) -> dict[str, Any]:
        ids = [*range(2, 2 + BEFORE), *[-200] * len(images), *range(2, 2 + AFTER)]
        start = time.perf_counter()
        found = self._sessions[way].prefill(images, ids, padded=self._padded[way])
        jax.block_until_ready(found.logits)
        ms = 1e3 * (time.perf_counter() - start)
        step = {"ms": ms, "error": None, **found.report}
        if way.startswith("history"):
            other = self._fresh.prefill(images, ids, padded=self._padded[way])
            expected = np.asarray(other.logits)
            off = np.abs(np.asarray(found.logits) - expected).max() / np.abs(expected).max()
            step["error"] = float(off)
        return step


def summary(way: str, steps: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    own = steps[way]
    row: dict[str, Any] = {
        "way": way,
        **{key: tails([step[key] for step in own]) for key in ("total", "prefilled", "ms")},
        "made_ms": statistics.median(step["made_ms"] for step in own),
        "error": max((step["error"] for step in own if step["error"] is not None), default=None),
    }
    for other in ("sliding", "appended"):
        theirs = [step["ms"] for step in steps[f"whole frames, {other}"]]
        mine = [step["ms"] + step["made_ms"] for step in own]
        ratios = [a / b for a, b in zip(theirs, mine, strict=True)]
        row[other] = {
            "median": statistics.median(ratios),
            "p10": float(np.quantile(ratios, 0.1)),
            "totals": sum(theirs) / sum(mine),
        }
    return row


def table(rows: list[dict[str, Any]], past: int) -> list[list[str]]:
    """Rows of text, the first their heads."""
    head = [f"a frame and {past} before it", f"positions ({TAILS})", "read anew", "prefill"]
    head += ["sliding / this: median, 10 %, totals", "appended / this", "largest error of logits"]
    return [
        head,
        *(
            [
                row["way"],
                *(tails_text(row[key], lambda n: f"{n:.0f}") for key in ("total", "prefilled")),
                tails_text(row["ms"], milliseconds),
                *(
                    ", ".join(times(row[key][name]) for name in ("median", "p10", "totals"))
                    for key in ("sliding", "appended")
                ),
                decimal(row["error"], ".1e"),
            ]
            for row in rows
        ),
    ]


if __name__ == "__main__":
    sys.exit(run_script(run))
