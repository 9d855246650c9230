"""Is the place of the next action kept, token by token, when tokens are merged?

    python scripts/benchmarks/benchmark_relevance.py SESSIONS --model screens-vit --share 0.5

Every frame with a target is encoded in full, and its tokens are merged down to a share of them
(`soft_matching`). The most relevant tokens are protected, a share of what is left. *kept*: targets
of which every token stands for itself. Tokens are protected by what changed lately, by edges, by
what the grounding head sees there, by the pointer, by the sum of these, or by chance.
"""

import argparse
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from compare_regions import pointers

import diffvis_jax as dv
from diffvis_jax.agent.tile_encoder import boxes_and_scores
from diffvis_jax.cli.command_line import Parser, number, run_script
from diffvis_jax.cli.frame_sizes import sized_for
from diffvis_jax.cli.models import add_model, find_model
from diffvis_jax.compress import fit_scale, merge, token_set, unmerge, whitened_error
from diffvis_jax.compress import relevance as components
from diffvis_jax.compress.matching import soft_matching, violated
from diffvis_jax.compress.tile_grid import TileGrid
from diffvis_jax.compress.token_scale import TokenScale, whiten
from diffvis_jax.datasets import Stream, open_dataset
from diffvis_jax.datasets.coordinates import bounds
from diffvis_jax.datasets.records import read_image
from diffvis_jax.evaluation.judge import screen_queries
from diffvis_jax.grounding.find import encode_for_head, find_elements
from diffvis_jax.measure.missed import changed_tokens
from diffvis_jax.metrics import tails
from diffvis_jax.report.table import print_table, tower_text
from diffvis_jax.report.text import TAILS, decimal, percent, tails_text
from diffvis_jax.towers import build
from diffvis_jax.towers.base import Tower
from diffvis_jax.utils.progress import Progress

ALL = "the sum of these four"
WAYS = ("nothing", "random", "change", "edges", "elements", "pointer", ALL)


@jax.jit
def merged(
    tokens: jax.Array, scale: TokenScale, score: jax.Array, target: jax.Array, protected: jax.Array
) -> tuple[jax.Array, Any]:
    """The whitened error `[1]`, and the grouping, with the `protected` highest scores protected."""
    rank = jnp.argsort(jnp.argsort(-score, axis=1), axis=1)
    white = whiten(tokens, scale)
    grouping = soft_matching(white, target=target, protected=rank < protected)
    boxes = np.zeros((tokens.shape[1], 4), np.float32)
    back = unmerge(merge(token_set(tokens, boxes), grouping, slots=tokens.shape[1]), grouping)
    return whitened_error(tokens, back, scale), grouping


@functools.partial(jax.jit, static_argnames="grid")
def scores(
    frame: jax.Array,
    unchanged: jax.Array,
    boxes: jax.Array,
    found: jax.Array,
    point: jax.Array,
    *,
    grid: TileGrid,
) -> dict[str, jax.Array]:
    """The components of each token's relevance, float32 `[1, N]`."""
    return {
        "change": components.change(unchanged),
        "edges": components.edges(frame, grid),
        "elements": components.elements(boxes, found, grid),
        "pointer": components.focus(point, grid),
    }


def covers(tower: Tower, box: np.ndarray) -> np.ndarray:
    """Which tokens show some of a box (pixels of the frame), bool `[1, N]`."""
    left, top = np.floor(box[:2] / tower.token).astype(int)
    right, bottom = np.ceil(box[2:] / tower.token).astype(int)
    shown = np.zeros(tower.token_grid, bool)
    shown[max(top, 0) : bottom, max(left, 0) : right] = True
    return shown.reshape(1, -1)


def known_of(
    model: dv.Model, stream: Stream, grid: TileGrid, progress: Progress
) -> Iterator[tuple[jax.Array, dict[str, jax.Array], list[jax.Array]]]:
    """Of each frame with targets: its tokens, their relevance by each component, and which tokens
    cover each target."""
    assert model.head is not None
    config, tower = model.config, build(model.config)
    unchanged, before = np.zeros((1, tower.tokens), np.int32), None
    for screen, pointer in zip(stream.screens, pointers(stream), strict=True):
        picture = read_image(screen.image)
        frame = jnp.asarray(dv.preprocess(picture, config))
        if before is not None:
            moved = np.asarray(changed_tokens(tower, frame, before)).reshape(1, -1)
            unchanged = np.where(moved, 0, unchanged + 1).astype(np.int32)
        before = frame
        progress(stream.name)
        queries = screen_queries(screen, picture.size, max(picture.size) / 64)
        if not queries:
            continue
        tokens, maps = encode_for_head(model.params, frame, config=config, head=model.head.config)
        (found,) = find_elements(model.head, tokens, maps)
        where = dv.placement(*picture.size, config)
        point = (np.nan, np.nan) if pointer is None else where.to_model(*pointer)
        table = boxes_and_scores(found)
        known = scores(frame, unchanged, *table, np.array([point], np.float32), grid=grid)
        boxes = [where.box_to_model(bounds(target)) for _, target in queries]
        yield tokens, known, [jnp.asarray(covers(tower, box)) for box in boxes]


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+", metavar="SESSIONS", help="with targets")
    parser.add_argument(
        "--share", type=number(0.05, 1, "a share"), default=0.5, help="of the tokens (0.5)"
    )
    parser.add_argument(
        "--protect", type=number(0, 1, "a share"), default=0.75, help="of what is left (0.75)"
    )
    add_model(parser.add_argument)
    args = parser.parse_args(arguments)
    return run_script(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    streams = [stream for path in args.data for stream in open_dataset(path).streams]
    model = dv.load(find_model(args.model), dtype="float32")
    if model.head is None:
        raise ValueError(f"{model.name} has no grounding head: it sees no elements")
    model = sized_for(model, [s.image for stream in streams for s in stream.screens])
    tower = build(model.config)
    grid = TileGrid(*tower.frame, tower.token, 0, 1.0)
    left = round(args.share * tower.tokens)
    most = round(args.protect * left)
    kept, lost = ({way: [] for way in WAYS} for _ in range(2))
    rng, scale = np.random.default_rng(0), None
    with Progress(sum(len(stream.screens) for stream in streams), "frames") as progress:
        for stream in streams:
            for tokens, known, targets in known_of(model, stream, grid, progress):
                scale = fit_scale(tokens) if scale is None else scale
                known[ALL] = components.relevance(known, {**components.WEIGHTS, "pointer": 3.0})
                chance = jnp.asarray(rng.random((1, tower.tokens), np.float32))
                known["random"] = known["nothing"] = chance
                for way in WAYS:
                    count = 0 if way == "nothing" else most
                    error, grouping = merged(tokens, scale, known[way], left, count)
                    lost[way].append(float(error[0]))
                    kept[way] += [int(violated(grouping, one)[0]) == 0 for one in targets]
    print(f"{tower_text(model)}; {tower.tokens} tokens become {left}, {most} are protected")
    table = [["protected by", "targets", "kept", f"whitened error ({TAILS})"]]
    for way in WAYS:
        share = percent(float(np.mean(kept[way])))
        errors = tails_text(tails(lost[way]), lambda n: decimal(n, ".3f"))
        table.append([way, f"{len(kept[way])}", share, errors])
    print_table(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
