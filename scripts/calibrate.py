#!/usr/bin/env python3
"""Chooses the cheapest policy that misses no more than a bound, on your weights and screens.

    python scripts/calibrate.py --weights NAME --frames DIR --missed 0.10 --output policy.json

Takes pairs of consecutive frames, and for each a step from a fresh full encode of the first under
many policies: margins, growing with depth and flat. Prints the curve of missed change (at the
tokens whose own pixels changed) against the share of dense MACs, and draws it.

In a stream more is missed, since pending work of earlier steps counts as well. So the cheapest
policy whose median is within the bound is run over the recording, and if it misses more there, the
next one. The first that keeps the bound in both is written as a file for every script's `--policy`.
"""

import argparse
import dataclasses
import itertools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from bundled import BUNDLED
from command_line import check_file, run_script, write_json
from frame_sizes import add_bounds, sized_for, tell_overview, with_bounds
from named_weights import HELP, TRAINED, find_weights
from plots import pyplot, save

import diffvis_jax as dv
from diffvis_jax.images.recording import read_recording
from diffvis_jax.measure.missed import changed_tokens
from diffvis_jax.measure.recording_run import run_session
from diffvis_jax.measure.single_change import small_changes, sweep
from diffvis_jax.report.table import print_table
from diffvis_jax.report.text import TAILS, percent, tails_text
from diffvis_jax.towers import build
from diffvis_jax.utils.progress import Progress

# Margins of a tower of five stages: of the first two, of the third, of the two that attend.
EARLY = (0, 1, 2)
MIDDLE = (1, 2, 3, 4, 6)
LATE = ((2, 4), (3, 4), (5, 8), (8, math.inf), (math.inf, math.inf))
FLAT = (0, 1, 2, 3, 4, 6, 8, 12)


def candidates(stages: int) -> dict[str, dv.Policy]:
    """Name -> policy, none of which settles."""
    policies = {f"margin {margin}": dv.Policy(margin=margin, settle=0) for margin in FLAT}
    if stages == 5:
        for early, middle, late in itertools.product(EARLY, MIDDLE, LATE):
            margin = (early, early, middle, *late)
            name = " ".join("all" if math.isinf(part) else str(part) for part in margin)
            policies[f"margin {name}"] = dv.Policy(margin=margin, settle=0)
    policies["exact"] = dv.Policy(margin=None, settle=0)
    return policies


def best_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of rows sorted by cost, those whose median misses less than that of all cheaper ones."""
    best, least = [], math.inf
    for row in rows:
        if row["missed_changed"]["median"] < least:
            best.append(row)
            least = row["missed_changed"]["median"]
    return best


def choose(
    rows: list[dict[str, Any]], missed: float, in_stream: Callable[[str], dict[str, Any]]
) -> dict[str, Any]:
    """The cheapest row whose median is within the bound, for single changes and in a stream.

    Args:
      rows: sorted by cost; those that are tried in the stream get `missed_stream`.
      missed: the bound.
      in_stream: tails of a policy's missed change in the stream, by its name.

    Raises:
      ValueError: a bound below rounding.
    """
    least = math.inf
    for row in best_rows(rows):
        median = row["missed_changed"]["median"]
        if median <= missed:
            row["missed_stream"] = in_stream(row["policy"])
            median = max(median, row["missed_stream"]["median"])
            if median <= missed:
                return row
            print(f"{row['policy']}: {tails_text(row['missed_stream'])} in the stream", flush=True)
        least = min(least, median)
    raise ValueError(f"--missed {missed:g}: rounding alone leaves {least:.1e}")


def spread_evenly(pairs: list[int], most: int) -> list[int]:
    """At most that many of them."""
    if len(pairs) <= most:
        return pairs
    return [pairs[i] for i in np.linspace(0, len(pairs) - 1, most).astype(int)]


def cost_table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of text, the first their heads."""
    head = [
        "policy",
        "share of dense MACs",
        f"missed at changed tokens: {TAILS}",
        "over all tokens",
    ]
    cells = [
        [
            row["policy"],
            percent(row["recomputed"]["median"]),
            tails_text(row["missed_changed"]),
            tails_text(row["missed_all"]),
        ]
        for row in rows
    ]
    return [head, *cells]


def points(
    rows: list[dict[str, Any]], missed: str = "missed_changed", key: str = "median"
) -> tuple[list[float], list[float]]:
    """What a plot shows of rows: share of dense MACs and missed change, in percent."""
    cost = [100 * row["recomputed"]["median"] for row in rows]
    return cost, [100 * row[missed][key] for row in rows]


def draw(rows: list[dict[str, Any]], chosen: dict[str, Any], missed: float, target: Path) -> None:
    """Missed change, median and worst, against the share of dense MACs."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(8, 5))
    best = best_rows(rows)
    axes.plot(*points(rows), "o", alpha=0.5, label="margins")
    axes.step(*points(best), "k-", where="post", lw=1, label="the best")
    axes.step(*points(best, key="max"), "k:", where="post", lw=1, label="their worst change")
    axes.axhline(100 * missed, color="gray", ls=":", label=f"bound: {percent(missed)}")
    axes.plot(*points([chosen]), "r*", ms=14, label=chosen["policy"])
    axes.set(xlabel="share of dense MACs, %", ylabel="missed change at changed tokens, %: median")
    axes.set_ylim(-2, 110)
    axes.legend()
    save(figure, target)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--weights", metavar="NAME", default=TRAINED, help=HELP)
    add("--frames", type=Path, default=BUNDLED, help="a recording (the bundled session)")
    add("--missed", type=float, default=0.1, help="largest median of the missed change, 0-1 (0.1)")
    add("--most", type=float, default=0.1, help="largest share of changed patches (0.1)")
    add("--pairs", type=int, default=8, help="pairs of frames at most, evenly chosen (8)")
    add("--stream", type=int, default=64, help="frames of the recording that are run (64)")
    add("--output", type=Path, default=Path("policy.json"), help="the policy (policy.json)")
    add_bounds(add)
    add("--curve", type=Path, help="draw the curve there (PNG; needs the extra viz)")
    args = parser.parse_args()
    if not 0 <= args.missed < 1:
        parser.error(f"--missed must lie in 0-1, got {args.missed:g}")
    if args.pairs < 1:
        parser.error(f"--pairs must be at least 1, got {args.pairs}")
    if args.stream < 2:
        parser.error(f"--stream must be at least 2, got {args.stream}")
    return run_script(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    check_file("--output", args.output)
    if args.curve:
        check_file("--curve", args.curve)
        if args.curve.suffix != ".png":
            raise ValueError(f"--curve is a PNG: '{args.curve.name}' must end in .png")
        pyplot()  # before minutes of work
    model = with_bounds(dv.load(find_weights(args.weights), dtype="float32"), args)
    paths = read_recording(args.frames).paths
    model = sized_for(model, paths)
    tell_overview(model)
    frames = dv.preprocess(list(paths), model.config)
    tower = build(model.config)
    pairs = spread_evenly(small_changes(frames, tower.patch, args.most), args.pairs)
    if not pairs:
        raise ValueError(f"{args.frames}: no two frames differ in at most {args.most:.0%}")
    stream = frames[: args.stream]
    if len(stream) < 2 or not changed_tokens(tower, stream[:-1], stream[1:]).any():
        raise ValueError(f"--stream: nothing changes in the first {len(stream)} frames: give more")
    policies = candidates(tower.stages)
    print(f"{len(pairs)} pairs of frames, {len(policies)} policies, float32", flush=True)
    with Progress(len(pairs) * len(policies), "measuring") as progress:
        rows = sweep(model, frames, pairs, policies, progress)
    # The policy that is written settles as any other does.
    settling = {
        name: dataclasses.replace(policy, settle=dv.Policy().settle)
        for name, policy in policies.items()
    }
    headless = dataclasses.replace(model, head=None)  # elements do not matter here

    def in_stream(name: str) -> dict[str, Any]:
        print(f"running {len(stream)} frames: {name}", flush=True)
        return run_session(headless, stream, settling[name]).summary()["missed_changed"]

    chosen = choose(rows, args.missed, in_stream)
    print()
    print_table(cost_table(best_rows(rows)))
    print(f"\n{chosen['policy']}, missed in the stream: {tails_text(chosen['missed_stream'])}")
    about = {
        "weights": model.name,
        "frames": args.frames.name,
        "pairs": pairs,
        "missed_bound": args.missed,
        **chosen,
        "jax": jax.__version__,
    }
    dv.save_policy(settling[chosen["policy"]], args.output, about=about)
    print(f"written: {args.output}: {chosen['policy']}")
    if args.curve:
        draw(rows, chosen, args.missed, args.curve)
        write_json(args.curve.with_suffix(".json"), rows)
        print(f"written: {args.curve}, {args.curve.with_suffix('.json')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
