#!/usr/bin/env python3
"""Chooses the cheapest policy that misses no more than asked, on your weights and your screens.

    python scripts/calibrate.py --weights NAME --frames DIR --missed 0.10 --output policy.json

Takes pairs of consecutive frames, and for each a step from a fresh full encode of the first under
many policies: margins, growing with depth and flat, tolerances, and for a ViT shares of what
attends most. Prints the curve of missed change (medians, at the tokens whose own pixels changed)
against the share of dense MACs, and draws it.

In a stream more is missed, since what earlier steps left out is owed as well. So the cheapest
policy within the bound is played over the recording, and if it misses more there, the next one. The
first that keeps the bound in both is written as a file that every script takes by `--policy`.
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
from named_weights import HELP, TRAINED, find_weights
from plots import pyplot, save

import diffvis_jax as dv
from diffvis_jax.images.recording import read_recording
from diffvis_jax.measure.recording_run import changed_tokens, run_session
from diffvis_jax.measure.single_change import Measured, SingleChange, median_of, small_changes
from diffvis_jax.towers import build
from diffvis_jax.utils.progress import Progress

# Margins of a tower of five stages: of the first two, of the third, of the two that attend.
EARLY = (0, 1, 2)
MIDDLE = (1, 2, 3, 4, 6)
LATE = ((2, 4), (3, 4), (5, 8), (8, math.inf), (math.inf, math.inf))
FLAT = (0, 1, 2, 3, 4, 6, 8, 12)
TOLERANCES = (0.0003, 0.001, 0.003, 0.01, 0.03)
# Of a tower of one stage: margin, and the share of the cells that attend most to a change.
ATTENDING = tuple(itertools.product((0, 1), (0.1, 0.25, 0.5)))


def candidates(stages: int) -> dict[str, dv.Policy]:
    """Name -> policy; none settles, so that each costs what it says."""
    found = {f"margin {margin}": dv.Policy(margin=margin, settle=0) for margin in FLAT}
    if stages == 5:
        for early, middle, late in itertools.product(EARLY, MIDDLE, LATE):
            margin = (early, early, middle, *late)
            name = " ".join("all" if math.isinf(part) else str(part) for part in margin)
            found[f"margin {name}"] = dv.Policy(margin=margin, settle=0)
    if stages == 1:
        for margin, share in ATTENDING:
            policy = dv.Policy(margin=margin, attending=share, settle=0)
            found[f"margin {margin} @ {share:g}"] = policy
    for tolerance in TOLERANCES:
        found[f"tolerance {tolerance:g}"] = dv.Policy(margin=None, tolerance=tolerance, settle=0)
    found["exact"] = dv.Policy(margin=None, settle=0)
    return found


def measure(
    model: dv.Model, frames: np.ndarray, pairs: list[int], policies: dict[str, dv.Policy]
) -> list[dict[str, Any]]:
    """One row for each policy, the cheapest first: medians over the pairs."""
    seen: dict[str, list[Measured]] = {name: [] for name in policies}
    with Progress(len(pairs) * len(policies), "measuring") as progress:
        for index in pairs:
            change = SingleChange(model, frames[index - 1 : index], frames[index : index + 1])
            for name, policy in policies.items():
                seen[name].append(change.measure(policy))
                progress(f"frame {index}, {name}")
    names = ("recomputed", "missed_changed", "missed_all")
    rows = [
        {"policy": name, **{key: median_of(results, key) for key in names}}
        for name, results in seen.items()
    ]
    return sorted(rows, key=lambda row: (row["recomputed"], row["missed_changed"]))


def best_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of rows sorted by cost, those that miss less than all cheaper ones."""
    found, least = [], math.inf
    for row in rows:
        if row["missed_changed"] < least:
            found.append(row)
            least = row["missed_changed"]
    return found


def choose(
    rows: list[dict[str, Any]], missed: float, in_stream: Callable[[str], float]
) -> dict[str, Any]:
    """The cheapest row within the bound, of single changes and in a stream.

    Args:
      rows: sorted by cost; those that are tried in the stream get `missed_stream`.
      missed: the bound.
      in_stream: what a policy misses in the stream, by its name.

    Raises:
      ValueError: a bound below what rounding leaves.
    """
    for row in best_rows(rows):
        if row["missed_changed"] <= missed:
            row["missed_stream"] = in_stream(row["policy"])
            if row["missed_stream"] <= missed:
                return row
            print(f"{row['policy']}: {row['missed_stream']:.3f} in the stream", flush=True)
    least = min(max(row["missed_changed"], row.get("missed_stream", 0)) for row in rows)
    raise ValueError(f"--missed {missed:g}: rounding alone leaves {least:.1e}")


def spread_evenly(pairs: list[int], most: int) -> list[int]:
    """At most that many of them."""
    if len(pairs) <= most:
        return pairs
    return [pairs[i] for i in np.linspace(0, len(pairs) - 1, most).astype(int)]


def print_table(rows: list[dict[str, Any]], chosen: dict[str, Any]) -> None:
    print("\n| policy | share of dense MACs | missed at changed tokens | missed over all |")
    print("|---|---|---|---|")
    for row in best_rows(rows):
        bold = "**" if row is chosen else ""
        print(
            f"| {bold}{row['policy']}{bold} | {row['recomputed']:.1%} "
            f"| {row['missed_changed']:.3f} | {row['missed_all']:.3f} |"
        )


def draw(rows: list[dict[str, Any]], chosen: dict[str, Any], missed: float, target: Path) -> None:
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(8, 5))
    best = best_rows(rows)
    for kind, label in (("margin", "margins"), ("tolerance", "tolerances")):
        some = [row for row in rows if row["policy"].startswith(kind)]
        x, y = [100 * row["recomputed"] for row in some], [row["missed_changed"] for row in some]
        axes.plot(x, y, "o", alpha=0.5, label=label)
    x, y = [100 * row["recomputed"] for row in best], [row["missed_changed"] for row in best]
    axes.step(x, y, "k-", where="post", lw=1, label="the best")
    axes.axhline(missed, color="gray", ls=":", label=f"asked for: {missed:g}")
    at = (100 * chosen["recomputed"], chosen["missed_changed"])
    axes.plot(*at, "r*", ms=14, label=chosen["policy"])
    axes.set(
        xlabel="share of dense MACs, %", ylabel="missed change at changed tokens", ylim=(-0.02, 1.1)
    )
    axes.legend()
    save(figure, target)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--weights", metavar="NAME", default=TRAINED, help=HELP)
    add("--frames", type=Path, default=BUNDLED, help="a recording (the bundled session)")
    add("--missed", type=float, default=0.1, help="largest missed change, a median (0.1)")
    add("--most", type=float, default=0.1, help="largest share of changed patches (0.1)")
    add("--pairs", type=int, default=8, help="pairs of frames at most, evenly chosen (8)")
    add("--stream", type=int, default=64, help="frames that are played one after the other (64)")
    add("--output", type=Path, default=Path("policy.json"), help="the policy (policy.json)")
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
    model = dv.load(find_weights(args.weights), dtype="float32")
    frames = dv.preprocess(list(read_recording(args.frames).paths), model.config)
    tower = build(model.config)
    pairs = spread_evenly(small_changes(frames, tower.patch, args.most), args.pairs)
    if not pairs:
        raise ValueError(f"{args.frames}: no two frames differ in at most {args.most:.0%}")
    stream = frames[: args.stream]
    if not any(changed_tokens(model, *pair).any() for pair in itertools.pairwise(stream)):
        raise ValueError(f"--stream: nothing changes in the first {len(stream)} frames: give more")
    policies = candidates(tower.stages)
    print(f"{len(pairs)} pairs of frames, {len(policies)} policies, float32", flush=True)
    rows = measure(model, frames, pairs, policies)
    # What is left out is made up for in idle steps, as in any policy.
    settling = {
        name: dataclasses.replace(policy, settle=dv.Policy().settle)
        for name, policy in policies.items()
    }
    headless = dataclasses.replace(model, head=None)  # what it finds is not asked for here

    def in_stream(name: str) -> float:
        print(f"playing {len(stream)} frames: {name}", flush=True)
        played = run_session(headless, stream, settling[name]).summary()
        missed = played["missed_changed_median"]
        assert missed is not None  # something changes: this was looked at above
        return missed

    chosen = choose(rows, args.missed, in_stream)
    print_table(rows, chosen)
    print(f"\n{chosen['policy']}, frame after frame: {chosen['missed_stream']:.3f} missed")
    about = {
        "weights": model.name,
        "frames": args.frames.name,
        "pairs": pairs,
        "missed_asked": args.missed,
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
