"""`diffvis runtime` on recorded sessions: the encoders take turns, then their tokens are judged."""

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import diffvis_jax as dv
from diffvis_jax.cli.command_line import tell, write_json
from diffvis_jax.cli.frame_sizes import sized_for, tell_overview, with_bounds
from diffvis_jax.cli.models import find_model
from diffvis_jax.cli.named_policies import find_policy
from diffvis_jax.cli.runtime import FULL
from diffvis_jax.images.recording import Recording, has_frames, open_screenshot, sequence_folders
from diffvis_jax.images.source import read_source
from diffvis_jax.measure.moment_of_use import missed_when_used, use_tails
from diffvis_jax.report.plain_page import heading, paragraph, table, write_plain_page
from diffvis_jax.report.table import machine_text, print_table, tower_text
from diffvis_jax.report.text import percent
from diffvis_jax.report.timeline import KEY, timeline_svg
from diffvis_jax.runtime.executor import InlineExecutor, ThreadExecutor
from diffvis_jax.runtime.replay import Replay, recorded_times, tick_times
from diffvis_jax.runtime.statistics import Span, Tick

AFTER_S = 0.5  # for which the last frame is shown
HEAD = (
    *("session", "encoder", "ticks kept", "age: p50 / p95 / max", "an encode: p50 / p95"),
    *("encodes", "slices", "recomputed", "missed at changed tokens: mean / p90 / worst"),
    "over all: mean / p90 / worst",
)


@dataclasses.dataclass(frozen=True)
class Contender:
    """A way of encoding.

    Attributes:
      name: for tables.
      policy: what is left out.
      full: whether that is nothing: every frame is encoded in full.
      synchronous: whether the tick waits for all of it.
    """

    name: str
    policy: dv.Policy
    full: bool = False
    synchronous: bool = False


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


def run_sessions(args: argparse.Namespace) -> int:
    """The exit status."""
    contenders = find_contenders(args)
    recordings = read_recordings(args)
    whole = dv.load(find_model(args.model), dtype="float32")
    whole = with_bounds(whole, args)
    tell_overview(whole)
    tell(f"{tower_text(whole)}; {machine_text()}")
    runs, shown = [], []
    for recording in recordings:
        session = load_session(recording, args)
        model = sized_for(whole, session.paths)
        frames = dv.preprocess(list(session.pictures), model.config)
        some = list(contenders)
        if args.budget_ms is not None:
            some.append(budgeted(model, contenders[-1], args.budget_ms, frames))
        for contender in some:
            tell(f"{session.name}: {contender.name}, {session.times[-1] + AFTER_S:.1f} s")
            runs.append(run_one(model, frames, session, contender, args))
            shown.append(session)
    rows = [row_of(run) for run in runs]
    print_table([HEAD, *rows])
    print("\nAll sessions:")
    totals = all_sessions(runs)
    print_table([HEAD[1:], *([name, *cells] for name, cells in totals)])
    if args.json:
        write_json(args.json, as_json(args, whole, runs))
    if args.page:
        write_runs(args, whole, runs, shown, rows)
        tell(f"written: {args.page}")
    return 0


def find_contenders(args: argparse.Namespace) -> list[Contender]:
    """By --policies; the synchronous one first.

    Raises:
      ValueError: no such policy; --budget-ms where steps cannot be bounded.
    """
    full = dv.Policy(keyframe_every=1, settle=0)  # every step is a keyframe
    found = [] if args.no_synchronous else [Contender("synchronous full", full, True, True)]
    for name in map(str.strip, args.policies.split(",")):
        policy = full if name == FULL else find_policy(name)
        found.append(Contender(f"async {name}", policy, name == FULL))
    if args.budget_ms is not None and not has_budget():
        raise ValueError("--budget-ms: policies of this version have no budget")
    return found


def has_budget() -> bool:
    """Whether a policy can bound the work of a step."""
    return "budget" in {field.name for field in dataclasses.fields(dv.Policy)}


def budgeted(model: dv.Model, base: Contender, ms: float, frames: np.ndarray) -> Contender:
    """The same within so many milliseconds a step, by what this machine takes."""
    timing = dv.calibrate_time(model, base.policy, frames)
    share = timing.budget_for(ms)
    tell(f"a full encode takes {timing.ms(1):.0f} ms (p95): a budget of {percent(share)}")
    changes: dict[str, Any] = {"budget": share}
    return Contender(f"{base.name}, {ms:g} ms", dataclasses.replace(base.policy, **changes))


def read_recordings(args: argparse.Namespace) -> list[Recording]:
    """One recording, or all of a folder."""
    source = args.frames
    several = source.is_dir() and not has_frames(source)
    folders = sequence_folders(source) if several else [source]
    return [read_source(folder, most=args.max_frames, say=tell) for folder in folders]


def load_session(recording: Recording, args: argparse.Namespace) -> Session:
    """Decodes the pictures, each file once."""
    opened = {path: np.asarray(open_screenshot(path)) for path in dict.fromkeys(recording.paths)}
    times = None
    if args.pace == "times":
        times = recorded_times(recording.paths[0].parent, recording.paths)
        if times is None:
            tell(f"{recording.title}: no times are recorded: one frame a tick")
    return Session(
        name=recording.title,
        paths=recording.paths,
        pictures=[opened[path] for path in recording.paths],
        times=tick_times(len(recording.paths), args.hz) if times is None else times,
    )


def run_one(
    model: dv.Model,
    frames: np.ndarray,
    session: Session,
    contender: Contender,
    args: argparse.Namespace,
) -> Run:
    """Runs the loop in real time, then judges what it used.

    Args:
      frames: `uint8 [F, H, W, 3]`, of the session's pictures.
    """
    ticks: list[Tick] = []
    uses: list[tuple[int, np.ndarray]] = []
    encoder = dv.AsyncEncoder(
        model,
        contender.policy,
        summarise=lambda tokens, cache: tokens,
        settle=not contender.synchronous,
        executor=InlineExecutor() if contender.synchronous else ThreadExecutor(),
    )
    with encoder:
        replay = Replay(session.pictures, session.times, encoder.clock)

        def act(encoded: dv.Encoded, images: Any, age: float) -> None:
            replay.begin()  # with the first tick
            uses.append((replay.index, encoded.value[0]))

        encoder.start(session.pictures[0])
        patience = args.patience_ms / 1e3
        if contender.full and encoder.encode_seconds > patience:
            patience = 0.0  # in vain, and the features would only be older
        config = dv.LoopConfig(hz=args.hz, max_age=math.inf, patience=patience)
        loop = dv.ControlLoop(encoder, replay.observe, act, config, on_tick=ticks.append)
        stats = loop.run(math.ceil(round((session.times[-1] + AFTER_S) * args.hz, 6)))
    spans = list(encoder.snapshot().spans)  # with the one that was still running
    missed = use_tails(missed_when_used(model, frames, uses))
    numbers = {**stats.as_dict(), **missed}
    return Run(session.name, contender.name, numbers, ticks, spans, ticks[0].began)


# ---- what is shown ----------------------------------------------------------------------------


def row_of(run: Run) -> list[str]:
    """A row of text under `HEAD`."""
    return [run.session, run.encoder, *_cells(run.numbers)]


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
