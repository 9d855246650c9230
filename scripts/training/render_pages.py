"""Renders interfaces in Chromium and writes what can be clicked on each of them.

OUT/<split>/<family>/<seed>.png  the viewport
OUT/<split>/<family>/<seed>.json its size, the boxes and kinds of its elements, and the cursor
OUT/streams/<family>_<seed>/     short interactions, a picture per step and trajectory.json

Samples that are there already are left alone, so an interrupted run can be taken up again.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from browser import Tab, open_tabs
from documentation import DEFAULT_ROOTS, choose_file
from page_templates import (
    DOCUMENTATION,
    SPLITS,
    TEST_FAMILIES,
    TRAINING_FAMILIES,
    UNSEEN_DOCUMENTATION,
    Page,
    families_of,
    make_page,
)
from prepare import prepare
from streams import record_stream

from diffvis_jax.utils.atomic_file import replacing, write_whole
from diffvis_jax.utils.progress import Progress

# Splits never share a seed: each has its own range of this many.
SEEDS_PER_SPLIT = 10_000_000
# A page of documentation with fewer elements in view is changed for another, so often at most.
FEWEST_IN_DOCUMENTATION = 3
ATTEMPTS = 5


def seeds_of(split: str, first: int, count: int, only: Sequence[str] = ()) -> list[tuple[str, int]]:
    """(family, seed) of each of `count` pages; the families, or `only` these, take turns."""
    families = only or families_of(split)
    start = SPLITS.index(split) * SEEDS_PER_SPLIT + first
    return [(families[index % len(families)], start + index) for index in range(count)]


def stream_seeds(first: int, count: int) -> list[tuple[str, int]]:
    """Streams come of every family but documentation; trajectory.json says of which split.

    Those kept for testing come first: a few streams have them, too, however many others there are.
    """
    families = (*TEST_FAMILIES, *TRAINING_FAMILIES)
    start = len(SPLITS) * SEEDS_PER_SPLIT + first
    return [(families[index % len(families)], start + index) for index in range(count)]


def described(page: Page, split: str, elements: list[dict[str, Any]]) -> str:
    record = {
        "family": page.family,
        "seed": page.seed,
        "split": split,
        "width": page.width,
        "height": page.height,
        "elements": elements,
        "cursor": list(page.cursor) if page.cursor else None,
    }
    return json.dumps(record, separators=(",", ":"))


async def render(tab: Tab, page: Page, split: str, folder: Path, roots: tuple[str, ...]) -> None:
    elements: list[dict[str, Any]] = []
    for attempt in range(ATTEMPTS):
        file = None
        if page.family in (DOCUMENTATION, UNSEEN_DOCUMENTATION):
            file = choose_file(page.family, page.seed, roots, attempt)
            if file is None:
                return
        await prepare(tab, page, file)
        elements = await tab.elements()
        if file is None or len(elements) >= FEWEST_IN_DOCUMENTATION:
            break
    picture = await tab.screenshot()
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / f"{page.seed}.png") as partial:
        partial.write_bytes(picture)
    # The description comes last: where it is, the picture is.
    write_whole(folder / f"{page.seed}.json", described(page, split, elements))


async def run(options: argparse.Namespace) -> None:
    roots = tuple(options.documentation)
    jobs: list[tuple[str, str, int]] = []
    for split in SPLITS:
        count = getattr(options, split)
        for family, seed in seeds_of(split, options.seed, count, options.families):
            if not (options.out / split / family / f"{seed}.json").exists():
                jobs.append((split, family, seed))
    for family, seed in stream_seeds(options.seed, options.streams):
        if not (options.out / "streams" / f"{family}_{seed}" / "trajectory.json").exists():
            jobs.append(("streams", family, seed))
    queue = iter(jobs)

    with Progress(len(jobs), "rendered") as progress:

        async def work(tab: Tab) -> None:
            for split, family, seed in queue:
                page = make_page(family, seed)
                folder = options.out / split
                if split == "streams":
                    await record_stream(tab, page, folder / f"{family}_{seed}")
                else:
                    await render(tab, page, split, folder / family, roots)
                progress(f"{split}/{family}/{seed}")

        async with open_tabs(min(options.tabs, max(len(jobs), 1))) as tabs:
            await asyncio.gather(*(work(tab) for tab in tabs))


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="directory to write to")
    parser.add_argument("--train", type=int, default=0, help="pages of the training split")
    parser.add_argument(
        "--val", type=int, default=0, help="pages of the same families, other seeds"
    )
    parser.add_argument("--test", type=int, default=0, help="pages of families kept for testing")
    parser.add_argument("--streams", type=int, default=0, help="recorded interactions")
    parser.add_argument(
        "--seed", type=int, default=0, help="number of the first page of each split"
    )
    parser.add_argument(
        "--families",
        nargs="+",
        default=(),
        choices=families_of("val"),
        metavar="NAME",
        help="training and validation pages of these families alone (all)",
    )
    parser.add_argument("--tabs", type=int, default=2, help="pages rendered at the same time")
    parser.add_argument(
        "--documentation",
        nargs="*",
        default=DEFAULT_ROOTS,
        metavar="DIR",
        help="directories of HTML documentation, wildcards allowed (default: usual ones)",
    )
    options = parser.parse_args(arguments)
    if options.families and (options.test or options.streams):
        parser.error("--families: pages of the test and streams come of all their families")
    for name in (*SPLITS, "streams", "seed"):
        if getattr(options, name) < 0:
            parser.error(f"--{name} must be at least 0, got {getattr(options, name)}")
    if options.tabs < 1:
        parser.error(f"--tabs must be at least 1, got {options.tabs}")
    if not any(getattr(options, name) for name in (*SPLITS, "streams")):
        parser.error("nothing to render: give --train, --val, --test or --streams")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        asyncio.run(run(options))
    except OSError as error:
        print(f"render_pages.py: {error}; what was rendered is kept", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
