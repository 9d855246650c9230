"""What `diffvis runtime` shows of its runs: tables, JSON, and a page of timelines."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import diffvis_jax as dv
from diffvis_jax.report.plain_page import heading, paragraph, table, write_plain_page
from diffvis_jax.report.table import machine_text, tower_text
from diffvis_jax.report.text import percent
from diffvis_jax.report.timeline import KEY, timeline_svg
from diffvis_jax.runtime.statistics import Span, Tick

HEAD = (
    *("session", "encoder", "ticks kept", "age: p50 / p95 / max", "an encode: p50 / p95"),
    *("encodes", "slices", "recomputed", "missed at changed tokens: mean / p90 / worst"),
    "over all: mean / p90 / worst",
)


@dataclasses.dataclass(frozen=True)
class Session:
    """A recording: its pictures as arrays `uint8 [H, W, 3]`, and when they come, in seconds."""

    name: str
    paths: Sequence[Path]
    pictures: Sequence[np.ndarray]
    times: Sequence[float]


@dataclasses.dataclass(frozen=True)
class Run:
    """What one encoder did in one session.

    Attributes:
      numbers: of `LoopStats`, and "missed_changed", "missed_all" and "uses" of `use_tails`.
      ticks, spans: for the timeline.
      begun: when the session began, on their clock.
    """

    session: str
    encoder: str
    numbers: dict[str, Any]
    ticks: Sequence[Tick]
    spans: Sequence[Span]
    begun: float


def row_of(run: Run) -> list[str]:
    """A row of text under `HEAD`."""
    return [run.session, run.encoder, *_cells(run.numbers)]


def line_of(run: Run) -> str:
    """One run in a line."""
    kept, age, _, encodes, _, _, missed, _ = _cells(run.numbers)
    return f"{kept} of the ticks kept, age {age}, {encodes} encodes, missed {missed}"


def _cells(numbers: dict[str, Any]) -> list[str]:
    def ms(name: str, *keys: str) -> str:
        return " / ".join("-" if (v := numbers[name][k]) is None else f"{v:.0f}" for k in keys)

    def missed(name: str) -> str:
        return " / ".join(percent(numbers[name][key]) for key in ("mean", "p90", "max"))

    return [
        percent(numbers["kept"]),
        f"{ms('age_ms', 'p50', 'p95', 'max')} ms",
        f"{ms('encode_ms', 'p50', 'p95')} ms",
        str(numbers["encodes"]),
        str(numbers["slices"]),
        percent(numbers["recomputed"]),
        missed("missed_changed"),
        missed("missed_all"),
    ]


def all_sessions(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """For each encoder what a session has in the mean, the largest worst case, and all counts."""
    found = []
    for name in dict.fromkeys(run.encoder for run in runs):
        some = [run.numbers for run in runs if run.encoder == name]
        found.append((name, _cells(_merged(some))))
    return found


def _merged(some: Sequence[dict[str, Any]]) -> dict[str, Any]:
    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    def tails(name: str) -> dict[str, float | None]:
        every = {key: [numbers[name][key] for numbers in some] for key in some[0][name]}
        worst = [value for value in every["max"] if value is not None]
        return {**{k: mean(v) for k, v in every.items()}, "max": max(worst) if worst else None}

    return {
        **{n: tails(n) for n in ("age_ms", "encode_ms", "missed_changed", "missed_all")},
        **{name: sum(numbers[name] for numbers in some) for name in ("encodes", "slices")},
        **{name: mean([numbers[name] for numbers in some]) for name in ("kept", "recomputed")},
    }


def as_json(args: argparse.Namespace, model: dv.Model, runs: Sequence[Run]) -> dict[str, Any]:
    """All numbers; times of ticks and steps in seconds since the session began."""

    def of(item: Tick | Span, run: Run) -> dict[str, Any]:
        moments = ("due", "began", "ended", "captured", "started", "ready")
        return {
            name: round(value - run.begun, 6) if name in moments else value
            for name, value in item._asdict().items()
        }

    return {
        "model": model.name,
        "machine": machine_text(),
        "jax": jax.__version__,
        "hz": args.hz,
        "patience_ms": args.patience_ms,
        "pace": args.pace,
        "runs": [
            {
                "session": run.session,
                "encoder": run.encoder,
                **run.numbers,
                "ticks_at": [of(tick, run) for tick in run.ticks],
                "steps_at": [of(span, run) for span in run.spans],
            }
            for run in runs
        ],
    }


def write_runs(
    args: argparse.Namespace,
    model: dv.Model,
    runs: Sequence[Run],
    sessions: Sequence[Session],
    rows: Sequence[Sequence[str]],
) -> None:
    """The page: the table, and a timeline of every run."""
    parts = [table([HEAD, *rows]), paragraph(KEY)]
    for run, session in zip(runs, sessions, strict=True):
        slowest = max((span.ready - span.started for span in run.spans), default=0.0)
        changes = [run.begun + time for time in session.times[1:]]
        parts.append(heading(f"{run.session}: {run.encoder}"))
        parts.append(timeline_svg(run.ticks, run.spans, changes, 2 * slowest + 1 / args.hz))
    facts = [("tower", tower_text(model)), ("machine", machine_text()), ("Hz", f"{args.hz:g}")]
    write_plain_page(args.page, "Features in time", parts, facts)
