"""An overview and crops against one frame of as much work, on sessions with targets.

    python scripts/benchmarks/compare_regions.py SESSIONS --model screens-vit \
        --single 288x512,416x768,576x1024 --overview 288x512 --crop 288x512 --crops 1

Runs every session differentially: once for each single size, and once for each way of choosing the
crops. *given*: around the target itself, as an agent that looks again where it is about to click;
*pointer*: around the recorded pointer; *changed*: where the screen changed. Scores are those of
`diffvis evaluate`.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import diffvis_jax as dv
from diffvis_jax.agent.regions import RegionEncoder, Regions
from diffvis_jax.cli.command_line import Parser, run_script, sides, whole, write_json
from diffvis_jax.cli.models import add_model, find_model
from diffvis_jax.cli.named_policies import HELP as POLICY_HELP
from diffvis_jax.cli.named_policies import find_policy
from diffvis_jax.datasets import Screen, Stream, open_dataset
from diffvis_jax.datasets.coordinates import bounds
from diffvis_jax.datasets.records import read_image
from diffvis_jax.evaluation.judge import score_screen, screen_queries
from diffvis_jax.evaluation.summary import LEAST_IOU
from diffvis_jax.grounding.decode import Element
from diffvis_jax.grounding.find import find_elements, maps_of, on_screenshot
from diffvis_jax.metrics import Counts, total, wilson_interval
from diffvis_jax.report.table import print_table
from diffvis_jax.report.text import decimal, interval
from diffvis_jax.resolution.sizes import Size, at_size, size_text
from diffvis_jax.towers import build, with_size
from diffvis_jax.utils.progress import Progress

FOCUS = ("given", "pointer", "changed")
AROUND = 8.0  # pixels around the pointer

Seen = tuple[list[Element], float]  # elements in pixels of the screen, and MACs that were done


def one_frame(model: dv.Model, size: Size, screen: tuple[int, int], policy: dv.Policy) -> Any:
    """(picture, focus) -> what one frame of that size shows; the focus is not looked at."""
    config = at_size(model.config, size, screen)
    encoder = dv.DifferentialVisionEncoder(dataclasses.replace(model, config=config), policy)

    def see(picture: Image.Image, focus: Any) -> Seen:
        head = model.head
        assert head is not None
        tokens = encoder.encode(picture)
        assert encoder.report is not None
        assert encoder.cache is not None
        (found,) = find_elements(head, tokens, maps_of(head.config, encoder.cache))
        done = build(config).macs * float(encoder.report.recomputed[0])
        return on_screenshot(found, dv.placement(*picture.size, config)), done

    return see


def with_crops(model: dv.Model, regions: Regions, policy: dv.Policy) -> Any:
    """(picture, focus) -> what overview and crops show."""
    encoder = RegionEncoder(model, regions, policy)

    def see(picture: Image.Image, focus: Any) -> Seen:
        look = encoder.encode(picture, focus)
        assert look.elements is not None
        return look.elements, look.macs

    return see


def pointers(stream: Stream) -> list[tuple[float, float] | None]:
    """Where the pointer is on each screen, as the recorder says."""
    image = stream.screens[0].image
    assert isinstance(image, Path)
    content = json.loads((image.parent / "trajectory.json").read_text(encoding="utf-8"))
    steps = content.get("steps") or content["frames"]
    return [step.get("pointer") or step.get("cursor") for step in steps]


def focus_of(
    how: str, screen: Screen, pointer: tuple[float, float] | None, size: tuple[int, int]
) -> list[Any] | None:
    """The boxes that crops are to show; None = what changed."""
    if how == "given":
        return [bounds(target).tolist() for _, target in screen_queries(screen, size, 0)]
    if how == "pointer" and pointer is not None:
        x, y = pointer
        return [(x - AROUND, y - AROUND, x + AROUND, y + AROUND)]
    return [] if how == "pointer" else None


def run_stream(
    stream: Stream, how: str, see: Callable[..., Seen], most: int | None
) -> Iterator[dict[str, Any]]:
    """Score and work of each screen."""
    for screen, pointer in list(zip(stream.screens, pointers(stream), strict=True))[:most]:
        picture = read_image(screen.image)
        size = picture.size
        elements, macs = see(picture, focus_of(how, screen, pointer, size))
        small = max(size) / 64
        queries = screen_queries(screen, size, small)
        yield {"macs": macs, **score_screen(elements, queries, screen, size, small)}


def counts_of(rows: Sequence[dict[str, Any]]) -> list[Counts]:
    """Of the screens whose elements are labelled."""
    known = (row["counts"] for row in rows if row["counts"] is not None)
    return [
        Counts(true_positives=right, false_positives=wrong, false_negatives=lost)
        for right, wrong, lost in known
    ]


def summary(name: str, full_macs: float, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Numbers over all screens."""
    clicks = [outcome == "correct" for row in rows for outcome in row["clicks"]]
    overlaps = [overlap for row in rows for overlap in row["ious"]]
    counts = counts_of(rows)
    right = sum(clicks)
    return {
        "frames": name,
        "full_gmacs": full_macs / 1e9,
        "mean_gmacs": float(np.mean([row["macs"] for row in rows])) / 1e9,
        "queries": len(clicks),
        "clicks": right / len(clicks) if clicks else None,
        "clicks_interval": wilson_interval(right, len(clicks)),
        "iou": float(np.mean([x >= LEAST_IOU for x in overlaps])) if overlaps else None,
        "f1": total(counts).f1 if counts else None,
    }


def table(results: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Rows of text, the first their heads."""
    head = ["frames", "GMACs in full", "done, mean", "clicks (95 %)", "IoU 0.5", "F1"]
    return [
        head,
        *(
            [
                r["frames"],
                f"{r['full_gmacs']:.2f}",
                f"{r['mean_gmacs']:.2f}",
                f"{interval(r['clicks'], r['clicks_interval'])} of {r['queries']}",
                decimal(r["iou"], ".3f"),
                decimal(r["f1"], ".3f"),
            ]
            for r in results
        ),
    ]


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("data", type=Path, nargs="+", metavar="SESSIONS", help="with targets, of one screen size")
    add_model(add)
    add("--policy", default="faithful", help=f"{POLICY_HELP} (%(default)s)")
    add("--single", default="", help="sizes of single frames, by commas")
    add("--overview", type=sides, required=True, help="size of the overview")
    add("--crop", type=sides, required=True, help="size of a crop")
    add("--crops", type=whole(1, 64, "1-64 crops"), default=1, help="(%(default)s)")
    add("--snap", type=whole(1, 4096, "pixels"), default=64, help="(%(default)s)")
    add("--focus", default=",".join(FOCUS), help="(%(default)s)")
    add("--max-frames", type=whole(1, 10**9, "a number >= 1"), help="of each session (all)")
    add("--json", type=Path, help="write all numbers there")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    args = build_parser().parse_args(arguments)
    return run_script(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    if unknown := set(args.focus.split(",")) - set(FOCUS):
        raise ValueError(f"--focus: unknown {sorted(unknown)}; there are {', '.join(FOCUS)}")
    streams = [stream for path in args.data for stream in open_dataset(path).streams]
    screen = read_image(streams[0].screens[0].image).size
    model = dv.load(find_model(args.model), dtype="float32")
    if model.head is None:
        raise ValueError(f"{model.name} has no grounding head: nothing can be scored")
    policy = find_policy(args.policy)
    regions = Regions(args.overview, args.crops, args.crop, args.snap)

    def macs(config: Any) -> int:
        return build(config).macs

    ways: list[tuple[str, str, float, Callable[[], Any]]] = []
    for size in [sides(part) for part in args.single.split(",") if part]:
        work = macs(at_size(model.config, size, screen))
        make = lambda size=size: one_frame(model, size, screen, policy)  # noqa: E731
        ways.append((f"one of {size_text(size)}", "", work, make))
    work = macs(at_size(model.config, args.overview, screen))
    work += args.crops * macs(with_size(model.config, args.crop))
    for how in args.focus.split(","):
        name = f"{size_text(args.overview)} and {args.crops} of {size_text(args.crop)}, {how}"
        ways.append((name, how, work, lambda: with_crops(model, regions, policy)))
    results = []
    count = sum(len(stream.screens[: args.max_frames]) for stream in streams)
    with Progress(len(ways) * count, "frames") as progress:
        for name, how, full_macs, make in ways:
            rows = []
            for stream in streams:
                for row in run_stream(stream, how, make(), args.max_frames):
                    rows.append(row)
                    progress(name)
            results.append(summary(name, full_macs, rows))
    print_table(table(results))
    if args.json:
        write_json(args.json, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
