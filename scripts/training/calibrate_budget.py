#!/usr/bin/env python3
"""Fits a budget controller to a ladder of frame sizes, and says whether it keeps its promise.

    python scripts/training/calibrate_budget.py DATA/test --model fastvithd-screens \\
        --sizes 512 768 1024 --max-error 0.5 --output budget.json

A rung's error on a page is the share of its elements (of 16 px and more) that are missed. What the
controller knows of a page is seen at the smallest size. Half of the pages fit it; on the others its
coverage, and its choices beside each fixed size, chance, a hand-made rule and the oracle that knows
the errors, are measured.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from score import SMALL
from screens import Screen, pages_of

import diffvis_jax as dv
from diffvis_jax.cli.command_line import check_file, number, run_script, whole
from diffvis_jax.cli.models import find_model
from diffvis_jax.compress.controller import (
    LEAST,
    Controller,
    choose,
    fit_controller,
    predict_error,
    save_controller,
)
from diffvis_jax.grounding.decode import Element
from diffvis_jax.grounding.find import encode_for_head, find_elements
from diffvis_jax.metrics import detection_counts, smaller_than
from diffvis_jax.report.table import print_table, tower_text
from diffvis_jax.report.text import percent
from diffvis_jax.towers import build, with_size
from diffvis_jax.utils.progress import Progress

FEATURES = ("edges", "found", "unsure", "spread")


def features_of(pixels: np.ndarray, tokens: np.ndarray, elements: list[Element]) -> list[float]:
    """What is known of a page after its smallest encode.

    Args:
      pixels: uint8 `[H, W, 3]`.
      tokens: float32 `[N, D]`.
      elements: found at that size.
    """
    grey = pixels.astype(np.float32).mean(-1) / 255
    edges = np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()
    unsure = sum(element.score < 0.5 for element in elements) / max(1, len(elements))
    spread = np.linalg.norm(tokens - tokens.mean(0), axis=1).mean() / np.abs(tokens).mean()
    return [float(np.log(edges + 1e-4)), float(np.log1p(len(elements))), unsure, float(spread)]


def missed(elements: list[Element], screen: Screen) -> float | None:
    """The share of the elements of a page that is not found; None: it has none that count."""
    counts = detection_counts(
        np.array([element.box for element in elements]).reshape(-1, 4),
        screen.boxes,
        scores=[element.score for element in elements],
        ignore=smaller_than(screen.boxes, SMALL * screen.long_side),
    )
    return None if counts.recall is None else 1 - counts.recall


def run() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("data", type=Path, help="one split of render_pages.py")
    add("--model", default="fastvithd-screens", help="(%(default)s)")
    add("--sizes", type=whole(64, 4096, "pixels"), nargs="+", default=[512, 768, 1024])
    add("--pages", type=whole(2 * LEAST, 10**6, "pages"), default=200, help="(200)")
    add("--max-error", type=number(0, 1, "a share"), default=0.5, help="asked for (0.5)")
    add("--output", type=Path, metavar="FILE", help="write the controller there")
    args = parser.parse_args()
    if args.output:
        check_file("--output", args.output)
    model = dv.load(find_model(args.model), dtype="float32")
    if model.head is None:
        raise ValueError(f"{args.model} has no grounding head: it finds nothing")
    paths = pages_of(args.data)
    chosen = np.linspace(0, len(paths) - 1, min(args.pages, len(paths))).astype(int)
    sizes = sorted(args.sizes)
    features, errors, spent = [], [], {size: [] for size in sizes}
    with Progress(len(chosen), "encoding") as progress:
        for index in chosen:
            row, known = [], []
            for size in sizes:
                config = with_size(model.config, size)
                screen = Screen(paths[index], config.preprocess, model.head.config.kinds)
                start = time.perf_counter()
                tokens, maps = encode_for_head(
                    model.params, screen.pixels[None], config=config, head=model.head.config
                )
                found = find_elements(model.head, tokens, maps)[0]
                spent[size].append(1e3 * (time.perf_counter() - start))
                if size == sizes[0]:
                    known = features_of(screen.pixels, np.asarray(tokens[0]), found)
                row.append(missed(found, screen))
            if None not in row:
                features.append(known)
                errors.append(row)
            progress(paths[index].name)
    x, e = np.array(features), np.array(errors)
    order = np.random.default_rng(1).permutation(len(x))
    ours, others = np.split(order, [len(order) // 2])
    rungs = {
        f"{size} px": (
            build(with_size(model.config, size)).tokens,
            statistics.median(spent[size][1:]),
        )
        for size in sizes
    }
    controller = fit_controller(x[ours], e[ours], rungs=rungs, names=FEATURES)
    print(f"{tower_text(model)}; fitted to {len(ours)} pages, measured on {len(others)}")
    print_table(coverage(controller, x[others], e[others]))
    print(f"\nChoices for at most {args.max_error:g} missed")
    print_table(choices(controller, x[others], e[others], args.max_error))
    if args.output:
        save_controller(controller, args.output)
    return 0


def coverage(controller: Controller, x: np.ndarray, e: np.ndarray) -> list[list[str]]:
    foretold = np.asarray(predict_error(controller, jnp.asarray(x, jnp.float32)))
    rows = [
        ["rung", "tokens", "missed: median", "90 %", "foretold: median", "kept (90 % promised)"]
    ]
    for k, name in enumerate(controller.names):
        shares = np.median(e[:, k]), np.quantile(e[:, k], 0.9), np.median(foretold[:, k])
        kept = percent(float((e[:, k] <= foretold[:, k]).mean()))
        rows.append([name, f"{int(controller.tokens[k])}", *map(percent, shares), kept])
    return rows


def choices(controller: Controller, x: np.ndarray, e: np.ndarray, limit: float) -> list[list[str]]:
    """Mean tokens of ways to choose, and how often the error is within the limit."""
    count, last = len(controller.names), e.shape[1] - 1
    within = e <= limit
    level, met = choose(controller, jnp.asarray(x, jnp.float32), max_error=limit)
    rng = np.random.default_rng(0)
    # By hand: the busier a page, the larger, in equal parts.
    busy = np.searchsorted(np.quantile(x[:, 0], np.arange(1, count) / count), x[:, 0])
    ways: dict[str, Any] = {
        "controller": np.asarray(level),
        **{f"always {name}": np.full(len(x), k) for k, name in enumerate(controller.names)},
        "by chance, as often": rng.permutation(np.asarray(level)),
        "by hand: edges": busy,
        "oracle": np.where(within.any(1), within.argmax(1), last),
    }
    rows = [["way", "mean tokens", "within the limit", "missed: mean", "promised"]]
    tokens = np.asarray(controller.tokens)
    for name, k in ways.items():
        lost = e[np.arange(len(e)), k]
        promised = percent(float(np.asarray(met).mean())) if name == "controller" else "-"
        kept = percent(float((lost <= limit).mean()))
        rows.append([name, f"{tokens[k].mean():.0f}", kept, percent(float(lost.mean())), promised])
    return rows


if __name__ == "__main__":
    sys.exit(run_script(run))
