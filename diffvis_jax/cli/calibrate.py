"""Chooses the cheapest policy that keeps a bound on the worst tenth of the steps, by measuring.

    diffvis calibrate SCREENSHOTS --model NAME --missed 0.5 --output policy.json

Takes pairs of consecutive frames, and for each a step from a fresh full encode of the first under
many policies: the tower's own margins, flat ones, and ones that grow with depth. Margins count
patches; in Qwen2.5-VL patches are its windows, and the stages lie between its full blocks. Prints
the curve of missed change (at the tokens whose own pixels changed) against the share of dense MACs,
and draws it.

In a stream more is missed, since pending work of earlier steps counts as well. So the cheapest
policy whose 90th percentile is within the bound is run over the recording, and if it misses more
there, or too few frames have the clickable elements of a full encode, the next one. The first that
keeps the bounds is written as a file for every script's `--policy`.

With `--static DIR`, frames of a scene in which nothing moves, it proposes for each metric the
smallest threshold that the noise of the camera hardly ever exceeds, and writes that of `--metric`.
"""

import argparse
import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import diffvis_jax as dv
from diffvis_jax.cli.calibrate_static import run_static
from diffvis_jax.cli.command_line import Parser, check_file, run_script, tell, write_json
from diffvis_jax.cli.frame_sizes import add_bounds, sized_for, tell_overview, with_bounds
from diffvis_jax.cli.models import add_model, find_model
from diffvis_jax.cli.plots import pyplot, save
from diffvis_jax.cli.source import add_source
from diffvis_jax.core.change import METRICS
from diffvis_jax.images.source import read_source
from diffvis_jax.measure.missed import changed_tokens
from diffvis_jax.measure.recording_run import SessionResult, run_session
from diffvis_jax.measure.single_change import small_changes, sweep
from diffvis_jax.metrics import tails
from diffvis_jax.report.table import print_table
from diffvis_jax.report.text import MISSED, TAILS, missed_cells, percent, tails_text, times
from diffvis_jax.towers import build
from diffvis_jax.towers.base import Preset, Tower
from diffvis_jax.utils.progress import Progress

# Margins of FastViTHD: of the first two stages, of the third, of the two that attend.
EARLY = (0, 1, 2)
MIDDLE = (1, 2, 3, 4, 6)
LATE = ((2, 4), (3, 4), (5, 8), (8, math.inf), (math.inf, math.inf))
GROWING = (0, 1, 2, math.inf)  # of other towers, in each stage after the first
FLAT = (0, 1, 2, 3, 4, 6, 8, 12)


def margins_name(margins: Sequence[float], tower: Tower) -> str:
    """Margins by stage as text, and whose they are if they are all that a preset says."""
    own = [f" ({name})" for name, own in tower.presets.items() if own == Preset(tuple(margins))]
    return _margins_text(margins) + "".join(own)


def preset_name(name: str, preset: Preset) -> str:
    """All that a preset says, as text."""
    full = f", in full above {percent(preset.full_above)}" if preset.full_above < 1 else ""
    return f"margin {_margins_text(preset.margins)}{full} ({name})"


def _margins_text(margins: Sequence[float]) -> str:
    return " ".join("all" if math.isinf(margin) else f"{margin:g}" for margin in margins)


def candidates(tower: Tower) -> dict[str, dv.Policy]:
    """Name -> policy, none of which settles."""
    policies = {f"margin {margin}": dv.Policy(margin=margin, settle=0) for margin in FLAT}
    for name, preset in tower.presets.items():
        policies[preset_name(name, preset)] = dv.Policy(margin=name, settle=0)
    growing: list[tuple[float, ...]] = []
    if isinstance(tower.config, dv.FastViTHDConfig):
        parts = itertools.product(EARLY, MIDDLE, LATE)
        growing += [(early, early, middle, *late) for early, middle, late in parts]
    elif tower.stages > 1:
        after_first = itertools.combinations_with_replacement(GROWING, tower.stages - 1)
        growing += [(0, *margins) for margins in after_first]
    for margins in growing:
        name = f"margin {margins_name(margins, tower)}"
        policies.setdefault(name, dv.Policy(margin=margins, settle=0))
    policies["exact"] = dv.Policy(margin=None, settle=0)
    return policies


def best_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of rows sorted by cost, those whose worst tenth misses less than that of all cheaper ones."""
    best, least = [], math.inf
    for row in rows:
        if row["missed_changed"]["p90"] < least:
            best.append(row)
            least = row["missed_changed"]["p90"]
    return best


def choose(
    rows: list[dict[str, Any]],
    missed: float,
    same: float,
    in_stream: Callable[[str], dict[str, Any]],
) -> dict[str, Any]:
    """The cheapest row that keeps the bounds, for single changes and in a stream.

    Args:
      rows: sorted by cost; those that are tried in the stream get "stream".
      missed: largest 90th percentile of the missed change.
      same: least share of the frames with the elements of a full encode, where there is a head.
      in_stream: what a policy does in the stream (`in_stream_of`), by its name.

    Raises:
      ValueError: bounds that rounding alone breaks.
    """
    for row in best_rows(rows):
        if row["missed_changed"]["p90"] <= missed:
            row["stream"] = stream = in_stream(row["policy"])
            shared = 1.0 if stream["same"] is None else stream["same"]
            if stream["missed_changed"]["p90"] <= missed and shared >= same:
                return row
            print(f"{row['policy']}, in the stream: {stream_text(stream)}", flush=True)
    raise ValueError(f"no policy keeps --missed {missed:g} and --same {same:g}, not even exact")


def in_stream_of(result: SessionResult) -> dict[str, Any]:
    """`missed_tails` of a run; "recomputed", tails of the share of MACs over the frames that
    changed; "same", the share of frames with the elements of a full encode (None without a head).

    Raises:
      ValueError: all changes are tiny.
    """
    summary = result.summary()
    if summary["missed_changed"]["p90"] is None:
        raise ValueError(f"--stream: only tiny changes in the first {len(result.frames)} frames")
    steps, same = result.frames[1:], summary["same_elements"]
    return {
        **{key: summary[key] for key in ("missed_changed", "missed_all", "tiny")},
        "recomputed": tails(step.recomputed for step in steps if step.changed_patches),
        "same": None if same is None else same / len(steps),
    }


def stream_text(stream: Mapping[str, Any]) -> str:
    """What a policy missed in the stream."""
    same = "" if stream["same"] is None else f", the same elements in {percent(stream['same'])}"
    return f"missed {tails_text(stream['missed_changed'])} ({TAILS}){same}"


def advice(chosen: Mapping[str, Any]) -> str:
    """What to choose, and what it costs, in a sentence."""
    stream = chosen["stream"]
    missed, work = stream["missed_changed"], stream["recomputed"]["median"]
    name = chosen["policy"].partition("(")[2].rstrip(")") or chosen["policy"]
    same = stream["same"]
    found = (
        "" if same is None else f", and finds the same elements in {percent(same)} of the frames"
    )
    return (
        f"choose '{name}': {times(1 / work)} less work than a full encode in the median step, "
        f"misses {percent(missed['median'])} of a change in the median, "
        f"{percent(missed['p90'])} or more in a tenth of the steps{found}"
    )


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
        *MISSED,
    ]
    cells = [
        [
            row["policy"],
            percent(row["recomputed"]["median"]),
            *missed_cells(row),
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
    """Missed change, 90th percentile and worst, against the share of dense MACs."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(8, 5))
    best = best_rows(rows)
    axes.plot(*points(rows, key="p90"), "o", alpha=0.5, label="margins")
    axes.step(*points(best, key="p90"), "k-", where="post", lw=1, label="the best")
    axes.step(*points(best, key="max"), "k:", where="post", lw=1, label="their worst change")
    axes.axhline(100 * missed, color="gray", ls=":", label=f"bound: {percent(missed)}")
    axes.plot(*points([chosen], key="p90"), "r*", ms=14, label=chosen["policy"])
    axes.set(xlabel="share of dense MACs, %", ylabel="missed change at changed tokens, %: p90")
    axes.set_ylim(-2, 110)
    axes.legend()
    save(figure, target)


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add_model(add)
    add_source(add)
    add("--missed", type=float, default=0.5, help="largest p90 of the missed change, 0-1 (0.5)")
    add(
        "--same",
        type=float,
        default=0.9,
        help="least share of frames with the elements of a full encode, if there is a head (0.9)",
    )
    add("--most", type=float, default=0.1, help="largest share of changed patches (0.1)")
    add("--pairs", type=int, default=8, help="pairs of frames at most, evenly chosen (8)")
    add("--stream", type=int, default=64, help="frames of the recording that are run (64)")
    add("--output", type=Path, default=Path("policy.json"), help="the policy (policy.json)")
    add("--static", type=Path, metavar="DIR", help="frames of an unmoving scene: see above")
    add("--metric", choices=METRICS, default="max", help="with --static (%(default)s)")
    add_bounds(add)
    add("--curve", type=Path, help="draw the curve there (PNG; needs the extra viz)")
    args = parser.parse_args(arguments)
    if not 0 <= args.missed < 1:
        parser.error(f"--missed must lie in 0-1, got {args.missed:g}")
    if not 0 <= args.same <= 1:
        parser.error(f"--same must lie in 0-1, got {args.same:g}")
    if args.pairs < 1:
        parser.error(f"--pairs must be at least 1, got {args.pairs}")
    if args.stream < 2:
        parser.error(f"--stream must be at least 2, got {args.stream}")
    if args.static and args.curve:
        parser.error("--curve is about margins: drop it or --static")
    return run_script(lambda: run_static(args) if args.static else run(args))


def run(args: argparse.Namespace) -> int:
    check_file("--output", args.output)
    if args.curve:
        check_file("--curve", args.curve)
        if args.curve.suffix != ".png":
            raise ValueError(f"--curve is a PNG: '{args.curve.name}' must end in .png")
        pyplot()  # before minutes of work
    model = with_bounds(dv.load(find_model(args.model), dtype="float32"), args)
    paths = read_source(args.frames, say=tell).paths
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
    policies = candidates(tower)
    print(f"{len(pairs)} pairs of frames, {len(policies)} policies, float32", flush=True)
    with Progress(len(pairs) * len(policies), "measuring") as progress:
        rows = sweep(model, frames, pairs, policies, progress)
    if rows[0]["missed_changed"]["p90"] is None:
        raise ValueError(f"{args.frames}: only tiny changes in {len(pairs)} pairs of frames")
    # The policy that is written settles as any other does.
    settling = {
        name: dataclasses.replace(policy, settle=dv.Policy().settle)
        for name, policy in policies.items()
    }

    def in_stream(name: str) -> dict[str, Any]:
        print(f"running {len(stream)} frames: {name}", flush=True)
        return in_stream_of(run_session(model, stream, settling[name]))

    chosen = choose(rows, args.missed, args.same, in_stream)
    print()
    print_table(cost_table(best_rows(rows)))
    about = {
        "weights": model.name,
        "frames": args.frames.name,
        "pairs": pairs,
        "missed_bound": args.missed,
        "same_bound": args.same,
        **chosen,
        "jax": jax.__version__,
    }
    dv.save_policy(settling[chosen["policy"]], args.output, about=about)
    print(f"\nwritten: {args.output}: {chosen['policy']}")
    if args.curve:
        draw(rows, chosen, args.missed, args.curve)
        write_json(args.curve.with_suffix(".json"), rows)
        print(f"written: {args.curve}, {args.curve.with_suffix('.json')}")
    print(advice(chosen))
    return 0
