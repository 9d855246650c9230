"""`diffvis runtime` on recorded sessions: the encoders take turns, then their tokens are judged."""

import argparse
import dataclasses
import math
from typing import Any

import numpy as np

import diffvis_jax as dv
from diffvis_jax.cli.command_line import tell, write_json
from diffvis_jax.cli.frame_sizes import sized_for, tell_overview, with_bounds
from diffvis_jax.cli.models import find_model
from diffvis_jax.cli.named_policies import find_policy
from diffvis_jax.cli.runtime import FULL
from diffvis_jax.cli.runtime_report import (
    HEAD,
    Run,
    Session,
    all_sessions,
    as_json,
    line_of,
    row_of,
    write_runs,
)
from diffvis_jax.images.recording import Recording, has_frames, open_screenshot, sequence_folders
from diffvis_jax.images.source import read_source
from diffvis_jax.measure.moment_of_use import MomentOfUse, use_tails
from diffvis_jax.report.table import machine_text, print_table, tower_text
from diffvis_jax.report.text import percent
from diffvis_jax.runtime.executor import InlineExecutor, ThreadExecutor
from diffvis_jax.runtime.replay import Replay, recorded_times, tick_times
from diffvis_jax.runtime.statistics import Tick

AFTER_S = 0.5  # for which the last frame is shown


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
        judge = MomentOfUse(model, frames)
        for contender in some:
            tell(f"{session.name}: {contender.name}, {session.times[-1] + AFTER_S:.1f} s ...")
            runs.append(run := run_one(model, judge, session, contender, args))
            tell(f"  {line_of(run)}")
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
      ValueError: no such policy.
    """
    full = dv.Policy(keyframe_every=1, settle=0)  # every step is a keyframe
    found = [] if args.no_synchronous else [Contender("synchronous full", full, True, True)]
    for name in map(str.strip, args.policies.split(",")):
        policy = full if name == FULL else find_policy(name)
        found.append(Contender(f"async {name}", policy, name == FULL))
    return found


def budgeted(model: dv.Model, base: Contender, ms: float, frames: np.ndarray) -> Contender:
    """The same within so many milliseconds a step, by what this machine takes."""
    timing = dv.calibrate_time(model, base.policy, frames)
    share = timing.budget_for(ms)
    tell(f"a full encode takes {timing.ms(1):.0f} ms (p95): a budget of {percent(share)}")
    return Contender(f"{base.name}, {ms:g} ms", dataclasses.replace(base.policy, budget=share))


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
    judge: MomentOfUse,
    session: Session,
    contender: Contender,
    args: argparse.Namespace,
) -> Run:
    """Runs the loop in real time, and then judges what it used."""
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
    missed = use_tails(judge.missed(*use) for use in uses)
    numbers = {**stats.as_dict(), **missed}
    return Run(session.name, contender.name, numbers, ticks, spans, ticks[0].began)
