#!/usr/bin/env python3
"""What a head that sees tokens alone still finds when there are fewer of them, chance beside it.

    python scripts/training/score_tokens.py DATA/test HEAD --pages 100

HEAD is written by token_head.py. Every method runs at the same counts of tokens; what it merged or
left out is given back from what represents it.
"""

import argparse
import functools
import sys
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from score import measure
from screens import Square, load_screens, squares_of

import diffvis_jax as dv
from diffvis_jax.cli.command_line import run_script, whole
from diffvis_jax.compress import fit_scale, merge, token_set, unmerge, whitened_error
from diffvis_jax.compress.baselines import keep_random, keep_strided, pool
from diffvis_jax.compress.matching import soft_matching
from diffvis_jax.compress.token_scale import TokenScale, whiten
from diffvis_jax.core.step import jit_encode
from diffvis_jax.grounding.find import find_elements
from diffvis_jax.metrics import tails
from diffvis_jax.report.table import print_table
from diffvis_jax.report.text import TAILS, decimal, interval, tails_text
from diffvis_jax.towers import build, with_size
from diffvis_jax.utils.progress import Progress

METHODS = ("random", "strided", "pool", "merge")


@functools.partial(jax.jit, static_argnames=("method", "count", "factor", "grid"))
def fewer(
    tokens: jax.Array,
    scale: TokenScale,
    key: jax.Array,
    *,
    method: str,
    count: int,
    factor: int,
    grid: tuple[int, int],
) -> tuple[jax.Array, jax.Array]:
    """Tokens as they come back, `[1, N, D]`, and the whitened error."""
    white = whiten(tokens, scale)
    if method == "random":
        grouping = keep_random(key, white, count=count)
    elif method == "strided":
        grouping = keep_strided(white, count=count)
    elif method == "pool":
        grouping = pool(grid, factor)
    else:
        grouping = soft_matching(white, target=count)
    boxes = np.zeros((tokens.shape[1], 4), np.float32)
    back = unmerge(merge(token_set(tokens, boxes), grouping, slots=count), grouping)
    return back, whitened_error(tokens, back, scale)


def run() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, help="one split of render_pages.py")
    parser.add_argument("head", type=Path, help="written by token_head.py")
    parser.add_argument("--pages", type=whole(2, 10**6, "pages"), default=100, help="(100)")
    parser.add_argument(
        "--factors", type=int, nargs="+", default=[2, 3, 4], help="sides of the pooled squares"
    )
    args = parser.parse_args()
    model = dv.load(args.head, dtype="float32")
    if model.head is None or model.head.config.maps:
        raise ValueError(f"{args.head} has no head that sees tokens alone: make it with token_head")
    pages = load_screens(args.data, model.head.config.kinds, args.pages, model.config.preprocess)
    squares = [square for page in pages for square in squares_of(page, build(model.config).token)]
    side, _ = Counter(square.long_side for square in squares).most_common(1)[0]
    squares = [square for square in squares if square.long_side == side]  # one number of tokens
    config = with_size(model.config, (side, side))
    grid = build(config).token_grid
    encoded = []
    with Progress(len(squares), "encoding") as progress:
        for square in squares:
            tokens = jit_encode(model.params, jnp.asarray(square.pixels)[None], config=config)
            encoded.append(jnp.asarray(tokens))
            progress("")
    scale = fit_scale(np.concatenate(encoded))
    rows = [["tokens", "method", f"whitened error ({TAILS})", "F1", "precision", "clicks"]]
    rows.append([f"{grid[0] * grid[1]}", "all", "0", *cells(model, squares, encoded)])
    with Progress(len(args.factors) * len(METHODS), "methods") as progress:
        for factor in args.factors:
            for method in METHODS:
                count = -(-grid[0] // factor) * -(-grid[1] // factor)
                how = {"method": method, "count": count, "factor": factor, "grid": grid}
                made = [
                    fewer(tokens, scale, jax.random.key(index), **how)
                    for index, tokens in enumerate(encoded)
                ]
                errors = tails(float(error[0]) for _, error in made)
                text = tails_text(errors, lambda x: decimal(x, ".3f"))
                own = cells(model, squares, [back for back, _ in made])
                rows.append([f"{count}", method, text, *own])
                progress(f"{method}, {count} tokens")
    print(f"{len(squares)} squares of {side} px")
    print_table(rows)
    return 0


def cells(model: dv.Model, squares: list[Square], tokens: list[jax.Array]) -> list[str]:
    assert model.head is not None
    elements = [find_elements(model.head, x)[0] for x in tokens]
    said = measure(model.head.config, elements, squares)  # type: ignore[arg-type]
    clicks = interval(said["click"], said["click_interval"])
    return [f"{said['f1']:.3f}", f"{said['precision']:.3f}", clicks]


if __name__ == "__main__":
    sys.exit(run_script(run))
