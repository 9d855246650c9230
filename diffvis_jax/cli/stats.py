"""How redundant are screens? A benchmark of any folder of recorded sessions; no model is run.

    diffvis stats SESSIONS --output DIR

SESSIONS is a folder of frames, a recorded session with a `trajectory.json`, or a folder of such.
Measures, from each frame to the next: the share of patches that differ at all, at several sizes;
which of them usual thresholds take for unchanged; what a scroll explains; what was seen before.
Patches are squares of the screenshot's own pixels.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffvis_jax.cli.command_line import Parser, check_directory, run_script, write_json
from diffvis_jax.cli.plots import pyplot, save
from diffvis_jax.datasets import Screen, Stream, merged, open_dataset
from diffvis_jax.datasets.records import read_image
from diffvis_jax.evaluation.prefetch import prefetch
from diffvis_jax.images.geometry import ImageError
from diffvis_jax.measure.redundancy import RULES, SCREEN_PATCH, History, StepStats, compare
from diffvis_jax.report.table import print_table
from diffvis_jax.report.text import percent
from diffvis_jax.utils.progress import Progress

STRIDES = (1, 2, 5, 10)


def pixels_of(screen: Screen) -> np.ndarray:
    """`uint8 [H, W, 3]`.

    Raises:
      ImageError: a broken file.
    """
    return np.asarray(read_image(screen.image))


class Session:
    """What was measured of one session.

    Attributes:
      name: of the session.
      trace: "stream": frames follow one another in time; "steps": one screenshot for each action.
      steps: of the frames, each against the one before, that have its size.
      strided: n -> share of patches (`SCREEN_PATCH`) that differ from the frame n before.
      broken: messages about frames that could not be read.
    """

    def __init__(self, stream: Stream, sizes: Sequence[int], progress: Progress):
        self.name, self.steps, self.broken = stream.name, [], []
        self.trace = stream.screens[0].records[0].groups.get("trace", "stream")
        self.strided: dict[int, list[float]] = {n: [] for n in STRIDES}
        history, recent = History(), []
        for _, frame in prefetch(stream.screens, pixels_of, workers=2, ahead=4):
            progress(stream.name)
            if isinstance(frame, ImageError):
                self.broken.append(str(frame))
                continue
            if recent and recent[-1].shape != frame.shape:
                history, recent = History(), []
            if recent:
                self.steps.append(compare(recent[-1], frame, sizes, history))
                for n in STRIDES:
                    if len(recent) >= n:
                        self.strided[n].append(_changed(recent[-n], frame))
            else:
                history.add(frame)
            recent = [*recent[1 - max(STRIDES) :], frame]


def _changed(before: np.ndarray, now: np.ndarray) -> float:
    height, width = now.shape[:2]
    differs = (before != now).any(-1)
    rows = np.logical_or.reduceat(differs, np.arange(0, height, SCREEN_PATCH), 0)
    return float(np.logical_or.reduceat(rows, np.arange(0, width, SCREEN_PATCH), 1).mean())


def summary(steps: Sequence[StepStats], sizes: Sequence[int]) -> dict[str, Any]:
    """All steps together, as plain numbers; None where there is nothing to take them of."""
    changing = [step for step in steps if step.changed[min(sizes)] > 0]
    result: dict[str, Any] = {"steps": len(steps), "unchanged": len(steps) - len(changing)}
    for p in sizes:
        shares = [step.changed[p] for step in steps]
        result[f"changed_{p}"] = {
            "median": _or_none(statistics.median, shares),
            "mean": _or_none(statistics.fmean, shares),
            "p25": _quantile(shares, 0.25),
            "p75": _quantile(shares, 0.75),
            "p90": _quantile(shares, 0.9),
            "at_most_10_percent": _or_none(statistics.fmean, [s <= 0.1 for s in shares]),
        }
        result[f"missed_{p}"] = {
            rule: {
                "patches": _weighted(changing, p, rule),
                "steps_unseen": _or_none(
                    statistics.fmean, [step.missed[p][rule] == 1 for step in changing]
                ),
            }
            for rule in RULES
        }
    scrolled = [step.scrolled for step in changing if step.scrolled is not None]
    seen = [step.seen_before for step in changing if step.seen_before is not None]
    result |= {
        "scrolled_mean": _or_none(statistics.fmean, scrolled),
        "scroll_steps": _or_none(statistics.fmean, [share >= 0.5 for share in scrolled]),
        "returned": _or_none(statistics.fmean, [step.returned for step in changing]),
        "seen_before_mean": _or_none(statistics.fmean, seen),
    }
    return result


def _or_none(function: Any, values: Sequence[Any]) -> float | None:
    return float(function(values)) if values else None


def _quantile(values: Sequence[float], q: float) -> float | None:
    return float(np.quantile(values, q)) if values else None


def _weighted(steps: Sequence[StepStats], p: int, rule: str) -> float | None:
    """Share of all changed patches of all steps."""
    changed = sum(step.changed[p] for step in steps)
    missed = sum(step.changed[p] * step.missed[p][rule] for step in steps)
    return missed / changed if changed else None


def tables(result: dict[str, Any], sizes: Sequence[int]) -> list[tuple[str, list[list[str]]]]:
    """Titles and rows of text."""
    traces = {f"**all, {name}**": r for name, r in result["traces"].items()}
    named = {**result["sessions"], **traces, "**all**": result["all"]}
    head = ["session", "steps", "nothing changes"]
    head += [f"changed {p} px: median / mean / p90" for p in sizes]
    head += ["at most 10 % changed", "a scroll explains", "returns", "seen before"]
    rows = [head]
    for name, r in named.items():
        cells = [name, f"{r['steps']}", f"{r['unchanged']}"]
        for p in sizes:
            of = r[f"changed_{p}"]
            cells.append(" / ".join(percent(of[key]) for key in ("median", "mean", "p90")))
        cells.append(percent(r[f"changed_{min(sizes)}"]["at_most_10_percent"]))
        for key in ("scrolled_mean", "returned", "seen_before_mean"):
            cells.append(percent(r[key]))
        rows.append(cells)
    missed = [["rule", *(f"{p} px: patches missed / steps unseen" for p in sizes)]]
    for rule in RULES:
        of = [result["all"][f"missed_{p}"][rule] for p in sizes]
        missed.append(
            [rule, *(f"{percent(o['patches'])} / {percent(o['steps_unseen'])}" for o in of)]
        )
    strides = [["frames apart", *(str(n) for n in STRIDES)]]
    for name in (*result["sessions"], "all"):
        shares = result["strides"][name]
        strides.append([name, *(percent(shares[str(n)]) for n in STRIDES)])
    return [
        ("From each frame to the next", rows),
        ("What thresholds take for unchanged, of all that changed", missed),
        (f"Mean share of {SCREEN_PATCH}-px patches that differ, frames apart", strides),
    ]


def draw(sessions: Sequence[Session], sizes: Sequence[int], target: Path) -> None:
    """Distribution of the changed share, and the means by session."""
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5))
    steps = [step for session in sessions for step in session.steps]
    for p in sizes:
        shares = np.sort([100 * step.changed[p] for step in steps])
        left.step(
            shares, np.arange(1, len(shares) + 1) / len(shares), where="post", label=f"{p} px"
        )
    left.set(xlabel="changed patches, %", ylabel="share of the steps", ylim=(0, 1.02))
    left.set_xscale("symlog", linthresh=0.1)
    left.set_xlim(0, 100)
    left.legend()
    at = np.arange(len(sessions))
    for key, color in (("changed", "tab:blue"), ("not a scroll", "tab:orange")):
        means = []
        for session in sessions:
            shares = [
                step.changed[max(sizes)] * (1 - (step.scrolled or 0) * (key != "changed"))
                for step in session.steps
            ]
            means.append(100 * statistics.fmean(shares) if shares else 0)
        right.bar(at, means, 0.8 if key == "changed" else 0.5, color=color, label=key)
    right.set(ylabel=f"mean share of {max(sizes)}-px patches, %")
    right.set_xticks(
        at, [session.name.rpartition("/")[2] for session in sessions], rotation=40, ha="right"
    )
    right.legend()
    save(figure, target)


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("sessions", type=Path, nargs="+", metavar="SESSIONS", help="a folder of frames or sessions")
    add("--sizes", default="14,28,64", help="patches, pixels along the side (%(default)s)")
    add("--output", type=Path, metavar="DIR", help="stats.json and a plot (extra: viz)")
    args = parser.parse_args(arguments)
    return run_script(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    parts = args.sizes.split(",")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError(f"--sizes: whole numbers of pixels, such as 14,28; got '{args.sizes}'")
    sizes = [int(part) for part in parts]
    if args.output:
        check_directory("--output", args.output)
        pyplot()  # before minutes of work
    streams = merged([open_dataset(path) for path in args.sessions]).streams
    with Progress(sum(len(stream.screens) for stream in streams), "frames") as progress:
        sessions = [Session(stream, sizes, progress) for stream in streams]
    if not any(session.steps for session in sessions):
        raise ValueError("no two frames of one size follow one another")
    everything = [step for session in sessions for step in session.steps]
    strides = {
        session.name: {str(n): _or_none(statistics.fmean, session.strided[n]) for n in STRIDES}
        for session in sessions
    }
    pooled = {n: [x for session in sessions for x in session.strided[n]] for n in STRIDES}
    strides["all"] = {str(n): _or_none(statistics.fmean, pooled[n]) for n in STRIDES}
    result = {
        "sizes": list(sizes),
        "sessions": {session.name: summary(session.steps, sizes) for session in sessions},
        "traces": {
            trace: summary([s for x in sessions if x.trace == trace for s in x.steps], sizes)
            for trace in sorted({session.trace for session in sessions})
        },
        "all": summary(everything, sizes),
        "strides": strides,
        "broken": [message for session in sessions for message in session.broken],
    }
    for title, rows in tables(result, sizes):
        print(f"\n{title}\n")
        print_table(rows)
    for message in result["broken"]:
        print(f"left out: {message}", file=sys.stderr)
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        write_json(args.output / "stats.json", result)
        draw(sessions, sizes, args.output / "stats.png")
        print(f"\nwritten: {args.output / 'stats.json'}, {args.output / 'stats.png'}")
    return 0
