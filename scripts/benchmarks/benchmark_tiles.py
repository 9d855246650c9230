"""An overview and enlarged tiles against the overview alone, on sessions with targets.

    python scripts/benchmarks/benchmark_tiles.py SESSIONS --model fastvithd-screens \\
        --overview 1024 --tile 256,384 --context 0,32 --max-tiles 4,8 --by all,change,random

Runs every session differentially, once for each combination. *cost* is multiply-accumulates over
those of a full encode of the overview, the overview's own included. *fresh* is the share of the
tiles that are up to date.

A click is right if the middle of any detected box lies in the target, so more detections are more
clicks. The columns that are numbers are therefore clicks at so many detections a frame (its mean
over the frames with a target; the threshold of each row is chosen for it), and those that end in a
question mark clicks *by chance*: the same boxes at random places. F1 is the best at any of them.
"""

import argparse
import dataclasses
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from compare_regions import counts_of, pointers

import diffvis_jax as dv
from diffvis_jax.agent.tile_encoder import NAMES, TileEncoder
from diffvis_jax.cli.command_line import Parser, number, run_script, sides, whole, write_json
from diffvis_jax.cli.models import add_model, find_model
from diffvis_jax.cli.named_policies import HELP as POLICY_HELP
from diffvis_jax.cli.named_policies import find_policy
from diffvis_jax.compress.tile_grid import TileGrid
from diffvis_jax.compress.tiles import DetailPolicy
from diffvis_jax.datasets import Stream, open_dataset
from diffvis_jax.datasets.records import read_image
from diffvis_jax.evaluation.judge import score_screen, screen_queries
from diffvis_jax.grounding.decode import Element
from diffvis_jax.metrics import total
from diffvis_jax.report.table import print_table
from diffvis_jax.report.text import decimal
from diffvis_jax.resolution.sizes import at_size
from diffvis_jax.towers import build
from diffvis_jax.utils.progress import Progress

WAYS = (*NAMES, "all", "random")
DRAWS = 20  # random places of a frame's boxes
LOWEST = 0.15  # score of what is looked at
DETECTIONS = (20, 40, 80, 160)


def elsewhere(
    found: list[Element], size: tuple[int, int], rng: np.random.Generator
) -> list[Element]:
    """The same boxes at random places of the screen."""
    boxes = np.array([each.box for each in found]).reshape(-1, 4)
    corner = rng.random((len(boxes), 2)) * (np.array(size) - (boxes[:, 2:] - boxes[:, :2]))
    moved = np.concatenate([corner, corner + boxes[:, 2:] - boxes[:, :2]], 1)
    return [
        dataclasses.replace(each, box=tuple(box.tolist()))
        for each, box in zip(found, moved, strict=True)
    ]


def run_stream(
    stream: Stream, encoder: TileEncoder, full: int, way: str, most: int | None
) -> Iterator[dict[str, Any]]:
    """Score and work of each screen."""
    rng = np.random.default_rng(0)
    known = list(zip(stream.screens, pointers(stream), strict=True))[:most]
    for index, (screen, pointer) in enumerate(known):
        picture = read_image(screen.image)
        size, given = picture.size, None
        if way == "random":
            count = len(TileGrid(size[1], size[0], *encoder.tile).places)
            given = rng.random((1, count), np.float32)
        began = time.perf_counter()
        look = encoder.encode(picture, pointer, given)
        spent = time.perf_counter() - began
        assert look.elements is not None
        small = max(size) / 64
        yield {
            "screen": screen,
            "size": size,
            "small": small,
            "queries": screen_queries(screen, size, small),
            "elements": look.elements,
            "step": index,
            "cost": look.macs / full,
            "ms": 1e3 * spent,
            "fresh": float(np.mean([place is not None for place in look.places])),
        }


def at_detections(rows: list[dict[str, Any]], wanted: int) -> dict[str, Any]:
    """Scores with the threshold that leaves so many detections a frame."""
    rng = np.random.default_rng(0)
    scores = sorted((each.score for row in rows for each in row["elements"]), reverse=True)
    least = scores[min(wanted * len(rows), len(scores)) - 1] if scores else 1.0
    found, chance = [], 0
    for row in rows:
        kept = [each for each in row["elements"] if each.score >= least]
        given = row["queries"], row["screen"], row["size"], row["small"]
        found.append(score_screen(kept, *given))
        for _ in range(DRAWS):
            moved = score_screen(elsewhere(kept, row["size"], rng), *given)
            chance += moved["clicks"].count("correct")
    counts = counts_of(found)
    return {
        "threshold": least,
        "clicks": sum(one["clicks"].count("correct") for one in found),
        "chance": chance / DRAWS,
        "f1": total(counts).f1 if counts else None,
        "precision": total(counts).precision if counts else None,
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Numbers over all screens."""
    asked = [row for row in rows if row["queries"]]
    costs = [row["cost"] for row in rows]
    return {
        "queries": sum(len(row["queries"]) for row in asked),
        "at": {number: at_detections(asked, number) for number in DETECTIONS},
        "cost": float(np.mean(costs)),
        "cost_90": float(np.quantile(costs, 0.9)),
        "fresh": float(np.mean([row["fresh"] for row in asked])),
        "ms": float(np.median([row["ms"] for row in rows if row["step"] > 1])),
    }


def table(results: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of text, the first their heads."""
    head = ["tile", "context", "scale", "most", "by", "of"]
    head += [text for number in DETECTIONS for text in (str(number), f"{number}?")]
    rows = [[*head, "F1", "precision", "cost", "90 %", "fresh", "ms"]]
    for r in results:
        given = r["tile"], r["context"], f"{r['scale']:g}", r["most"], r["by"], r["queries"]
        clicks = [
            text for at in r["at"].values() for text in (str(at["clicks"]), f"{at['chance']:.1f}")
        ]
        best = max(r["at"].values(), key=lambda at: at["f1"] or 0)
        rows.append(
            [
                *map(str, given),
                *clicks,
                decimal(best["f1"], ".3f"),
                decimal(best["precision"], ".3f"),
                f"{r['cost']:.2f}",
                f"{r['cost_90']:.2f}",
                decimal(r["fresh"], ".2f"),
                f"{r['ms']:.0f}",
            ]
        )
    return rows


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("data", type=Path, nargs="+", metavar="SESSIONS", help="with targets, of one screen size")
    add_model(add)
    add("--overview", type=sides, required=True, help="size of the overview")
    add("--tile", default="256", help="pixels from tile to tile, by commas (%(default)s)")
    add("--context", default="0", help="pixels around a tile, by commas (%(default)s)")
    add("--scale", default="2", help="how many times enlarged, by commas (%(default)s)")
    add("--max-tiles", default="0,8", help="a step, by commas; 0 = overview alone (%(default)s)")
    add("--by", default="elements", help=f"of {', '.join(WAYS)}, by commas (%(default)s)")
    above = number(0, 1, "a relevance, 0-1")
    add("--above", type=above, default=0.0, help="least relevance beside changes (%(default)s)")
    add("--policy", default="faithful", help=f"{POLICY_HELP} (%(default)s)")
    add("--max-frames", type=whole(1, 10**9, "a number >= 1"), help="of each session (all)")
    add("--json", type=Path, help="write all numbers there")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    args = build_parser().parse_args(arguments)
    return run_script(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    ways = args.by.split(",")
    if unknown := set(ways) - set(WAYS):
        raise ValueError(f"--by: unknown {sorted(unknown)}; there are {', '.join(WAYS)}")
    streams = [stream for path in args.data for stream in open_dataset(path).streams]
    screen = read_image(streams[0].screens[0].image).size
    model = dv.load(find_model(args.model), dtype="float32")
    if model.head is None:
        raise ValueError(f"{model.name} has no grounding head: nothing can be scored")
    full = build(at_size(model.config, args.overview, screen)).macs
    policy = find_policy(args.policy)
    lists = (map(int, args.tile.split(",")), map(int, args.context.split(",")))
    grids = list(itertools.product(*lists, map(float, args.scale.split(","))))
    counts = [int(count) for count in args.max_tiles.split(",")]
    runs = [
        (*grid, most, way)
        for grid in grids
        for most in counts
        for way in (ways if most else ways[:1])  # without tiles it makes no difference
    ]
    results = []
    frames = sum(len(stream.screens[: args.max_frames]) for stream in streams)
    with Progress(len(runs) * frames, "frames") as progress:
        for tile, context, scale, most, way in runs:
            details = DetailPolicy(
                max_tiles=np.int32(most),
                relevance_above=np.float32(args.above),
                overview=policy,
                detail=policy,
            )
            encoder = TileEncoder(
                model,
                details,
                overview=args.overview,
                tile=tile,
                context=context,
                scale=scale,
                by=(way,) if way in NAMES else NAMES,
                threshold=LOWEST,
            )
            rows = []
            for stream in streams:
                encoder.reset()
                for row in run_stream(stream, encoder, full, way, args.max_frames):
                    rows.append(row)
                    progress(f"{tile} {context} {scale:g} {most} {way}")
            given = {"tile": tile, "context": context, "scale": scale, "most": most, "by": way}
            results.append({**given, **summary(rows)})
            if args.json:
                write_json(args.json, results)
    print_table(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
