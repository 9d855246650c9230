#!/usr/bin/env python3
"""Tokens that are merged inside a vision transformer: time, work, and what is lost.

    python scripts/benchmarks/benchmark_merged_vit.py                     # CLIP L/14-336, random
    python scripts/benchmarks/benchmark_merged_vit.py --model DIR --frames SESSION

Every schedule leaves about as many tokens. Beside its time stands what the counted work promises,
and the efficiency: the share of that promise that is kept. What is lost is the whitened error of
the tokens, given back to all that they stand for, against the full encode; beside it that of
merging after the tower, and of as many tokens by chance. With random weights the errors say little.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import diffvis_jax as dv
from diffvis_jax.cli.bundled import BUNDLED
from diffvis_jax.cli.command_line import check_file, number, run_script, whole, write_json
from diffvis_jax.cli.models import find_model
from diffvis_jax.compress import TokenScale, fit_scale, merge, token_set, unmerge, whitened_error
from diffvis_jax.compress.baselines import keep_random
from diffvis_jax.compress.matching import soft_matching
from diffvis_jax.compress.merge_schedule import MergeSchedule
from diffvis_jax.compress.merged_vit import encode_merged
from diffvis_jax.compress.token_scale import whiten
from diffvis_jax.core.step import jit_encode
from diffvis_jax.images.recording import read_recording
from diffvis_jax.metrics import tails
from diffvis_jax.report.table import machine_text, print_table, tower_text
from diffvis_jax.report.text import TAILS, decimal, milliseconds, tails_text, times
from diffvis_jax.towers import build
from diffvis_jax.utils.progress import Progress

TINY = dv.CLIPConfig(width=32, layers=3, heads=4, mlp_width=64, patch=8, size=36)


def schedules(config: dv.CLIPConfig, share: float) -> dict[str, MergeSchedule]:
    """Ways to be left with so many of the tokens."""
    tokens, blocks = config.grid**2, config.layers - 1
    left = max(1, round(share * tokens))
    found = {
        "evenly": MergeSchedule.to_length(config, left),
        "linear": MergeSchedule.linear(config, (tokens - left) / blocks),
        "in the first half": MergeSchedule.to_length(config, left, blocks=(blocks + 1) // 2),
        "in the first third": MergeSchedule.to_length(config, left, blocks=(blocks + 2) // 3),
    }
    if config.class_token:
        found["by the class token"] = MergeSchedule.attentive(config, share ** (1 / 3))
    return found


def after_the_tower(tokens: jax.Array, scale: TokenScale, count: int, key: Any) -> dict[str, Any]:
    """Whitened errors `[B]` of as many tokens: merged after the full encode, and by chance."""
    white, boxes = whiten(tokens, scale), np.zeros((tokens.shape[1], 4), np.float32)
    groupings = {
        "after": soft_matching(white, target=count),
        "random": keep_random(key, white, count=count),
    }
    return {
        name: whitened_error(
            tokens, unmerge(merge(token_set(tokens, boxes), grouping, slots=count), grouping), scale
        )
        for name, grouping in groupings.items()
    }


def race(runs: dict[str, Callable[[], Any]], rounds: int, progress: Progress) -> dict[str, Any]:
    """Milliseconds of each, in turns; the first round compiles and does not count."""
    ms: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            ms[name].append(1e3 * (time.perf_counter() - start))
            progress(name)
    return {name: np.array(spent[1:]) for name, spent in ms.items()}


def run(args: argparse.Namespace) -> int:
    if args.json:
        check_file("--json", args.json)
    if args.model:
        model = dv.load(find_model(args.model), dtype=args.dtype)
    else:
        random = TINY if args.tiny else dv.CLIPConfig(dtype=args.dtype)
        model = dv.Model(random, dv.init_params(random), "random")
    config, params = model.config, model.params
    plans = schedules(config, args.share)
    paths = read_recording(args.frames).paths
    paths = [
        paths[i] for i in np.linspace(0, len(paths) - 1, min(args.count, len(paths)), dtype=int)
    ]
    frames = [np.asarray(dv.preprocess([path], config)) for path in paths]
    print(f"{tower_text(model)}; {machine_text()}; {len(frames)} frames")

    full = [jit_encode(params, frame, config=config) for frame in frames]
    scale = fit_scale(np.concatenate(full))
    merged = jax.jit(encode_merged, static_argnames=("config", "schedule"))
    other = jax.jit(after_the_tower, static_argnums=2)
    first = jnp.asarray(np.concatenate([frames[0]] * args.batch))
    runs: dict[str, Callable[[], Any]] = {
        "encode": lambda: jit_encode(params, first, config=config)
    }
    for name, plan in plans.items():
        runs[name] = lambda plan=plan: merged(params, first, config=config, schedule=plan)
    with Progress(len(runs) * (args.rounds + 1), "timing") as progress:
        spent = race(runs, args.rounds, progress)

    rows, tokens, dense = [], build(config).tokens, build(config).macs
    for name, plan in plans.items():
        errors: dict[str, list[float]] = {"inside": [], "after": [], "random": []}
        for i, (frame, whole_encode) in enumerate(zip(frames, full, strict=True)):
            found, grouping = merged(params, frame, config=config, schedule=plan)
            back = whitened_error(whole_encode, unmerge(found, grouping), scale)
            rest = other(whole_encode, scale, plan.left(tokens), jax.random.key(i))
            for key, value in {"inside": back, **rest}.items():
                errors[key].append(float(value[0]))
        promised = dense / plan.macs(config)
        ratio = float(np.median(spent["encode"]) / np.median(spent[name]))
        rows.append(
            {
                **{
                    "schedule": name,
                    "tokens": plan.left(tokens),
                    "ms": tails(spent[name].tolist()),
                },
                **{"speed_up": ratio, "work": promised, "efficiency": ratio / promised},
                **{key: tails(values) for key, values in errors.items()},
            }
        )
    encode = tails(spent["encode"].tolist())
    print(f"full encode, batch {args.batch}: {tails_text(encode, milliseconds)} ({TAILS})\n")
    head = ["merged", "tokens", f"ms: {TAILS}", "faster", "by counted work", "efficiency"]
    print_table(
        [[*head, f"whitened error: {TAILS}", "merged after the tower", "at random"]]
        + [
            [
                *(row["schedule"], f"{row['tokens']}", tails_text(row["ms"], milliseconds)),
                *(times(row["speed_up"]), times(row["work"]), decimal(row["efficiency"], ".2f")),
                *(tails_text(row[key], _three) for key in ("inside", "after", "random")),
            ]
            for row in rows
        ]
    )
    if args.json:
        write_json(args.json, {"encode_ms": encode, "rows": rows})
    return 0


def _three(value: float | None) -> str:
    return decimal(value, ".3f")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", help="weights of a CLIP or SigLIP tower (random ones of L/14-336)")
    add("--tiny", action="store_true", help="random weights of a tiny tower, to try the script")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="(%(default)s)")
    add("--frames", type=Path, default=BUNDLED, help="a recording (the bundled session)")
    add("--count", type=whole(1, 10**4, "a number of frames >= 1"), default=8, help="(8)")
    add("--share", type=number(0, 1, "a share of the tokens, 0-1"), default=0.5, help="(0.5)")
    add("--batch", type=whole(1, 1024, "frames, 1-1024"), default=1, help="in a timed call (1)")
    add("--rounds", type=whole(1, 10**4, "a number of rounds >= 1"), default=9, help="(9)")
    add("--json", type=Path, metavar="FILE", help="write all rows there")
    args = parser.parse_args(arguments)
    return run_script(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
