#!/usr/bin/env python3
"""Differential prefill over a recorded session: how much, how fast, and how far from a fresh one.

One question is asked about every frame. Every prefill policy keeps a cache of its own and meets
the same vision tokens; after each frame it is compared with a fresh prefill. In one process, after
warm-up, the policies in turns, medians over the frames after the first.
"""

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from bundled import BUNDLED
from command_line import check_file, run_script, write_json
from named_policies import HELP as POLICY_HELP
from named_policies import find_policy
from named_weights import find_weights

import diffvis_jax as dv
from diffvis_jax.images.recording import read_recording
from diffvis_jax.language.differential_prefill import (
    PrefillPolicy,
    Prompt,
    PromptCache,
    describe_prefill,
    init_prompt_cache,
    jit_prefill_fresh,
    prefill_next,
)
from diffvis_jax.language.generate import capacity_for
from diffvis_jax.language.prompt import build_prompt, tokenize
from diffvis_jax.language.splice import make_prompt
from diffvis_jax.measure.prefill_error import compare_prefill
from diffvis_jax.metrics import tails
from diffvis_jax.report.table import print_table
from diffvis_jax.report.text import TAILS, decimal, milliseconds, percent, tails_text, times
from diffvis_jax.utils.progress import Progress


def prefill_policies(tolerances: list[float], refresh_every: int) -> dict[str, PrefillPolicy]:
    """Exact and bounded, with each tolerance."""
    found = {}
    for tolerance in tolerances:
        suffix = f", tolerance {tolerance:g}" if tolerance else ""
        found[f"exact{suffix}"] = PrefillPolicy(tolerance=tolerance)
        found[f"bounded{suffix}"] = PrefillPolicy(
            bounded=True, tolerance=tolerance, refresh_every=refresh_every
        )
    return found


@dataclasses.dataclass
class Contender:
    """One policy with its cache; None = every prefill is a fresh one."""

    policy: PrefillPolicy | None
    cache: PromptCache
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds of one run, and its result."""
    start = time.perf_counter()
    result = jax.block_until_ready(run())
    return 1e3 * (time.perf_counter() - start), result


def prefill(language: dv.Language, contender: Contender, prompt: Prompt) -> tuple[Any, Any]:
    """The new cache, and the report."""
    params, config, cache = language.params, language.config, contender.cache
    if contender.policy is None:
        return jit_prefill_fresh(params, cache, prompt, config=config)
    return prefill_next(params, cache, prompt, contender.policy, config=config)


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per policy."""
    model = dv.load(find_weights(args.weights), dtype=args.dtype)
    language = model.language
    text = build_prompt(args.prompt, conversation=language.config.conversation)
    ids = tokenize(text, language.tokenizer)
    recording = read_recording(args.frames).first(args.num_frames)
    if len(recording.paths) < 2:
        raise ValueError(f"'{args.frames}' has one frame only: nothing changes")
    policy = find_policy(args.policy)
    encoder = dv.DifferentialVisionEncoder(model, policy)
    named = {"fresh": None, **prefill_policies(args.tolerance, args.refresh_every)}
    contenders: dict[str, Contender] = {}
    with Progress(len(recording.paths) * len(named), "prefills") as progress:
        for number, path in enumerate(recording.paths):
            prompt = make_prompt(language, encoder.encode(path), ids)
            for name, chosen in named.items():
                if not number:
                    contenders[name] = Contender(chosen, first_cache(language, prompt, args))
                else:
                    contenders[name].rows.append(one(language, contenders[name], prompt, args))
                progress(name)
    fresh = statistics.median(row["ms"] for row in contenders["fresh"].rows)
    return [summary(name, each.rows, fresh) for name, each in contenders.items()]


def first_cache(language: dv.Language, prompt: Prompt, args: argparse.Namespace) -> PromptCache:
    """A cache of the first frame; both ways of prefilling have been compiled after it."""
    padded = prompt.embeddings.shape[1]
    capacity = capacity_for(int(prompt.length[0]), args.new_tokens)
    cache = init_prompt_cache(language.config, 1, padded, capacity)
    cache, _ = jit_prefill_fresh(language.params, cache, prompt, config=language.config)
    exact = PrefillPolicy.exact()
    return prefill_next(language.params, cache, prompt, exact, config=language.config)[0]


def one(
    language: dv.Language, contender: Contender, prompt: Prompt, args: argparse.Namespace
) -> dict[str, Any]:
    """Prefills one frame, and compares."""
    ms, (contender.cache, report) = timed(lambda: prefill(language, contender, prompt))
    error = compare_prefill(
        language.params,
        contender.cache,
        prompt,
        config=language.config,
        new_tokens=args.new_tokens,
    )
    compared = {k: float(v[0]) for k, v in dataclasses.asdict(error).items()}
    return {"ms": ms, **describe_prefill(report)[0], **compared}


def summary(name: str, rows: list[dict[str, Any]], fresh: float) -> dict[str, Any]:
    """`tails` of times and errors over the frames, medians of counts, means of yes and no."""

    def of(key: str) -> list[float]:
        return [row[key] for row in rows]

    return {
        "policy": name,
        "total": rows[0]["total"],
        "speed_up": fresh / statistics.median(of("ms")),
        **{key: statistics.median(of(key)) for key in ("changed", "prefilled")},
        **{key: tails(of(key)) for key in ("ms", "logit_error", "divergence")},
        **{key: float(np.mean(of(key))) for key in ("same_first", "agreement", "same_text")},
        "frames": rows,
    }


def table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of text, the first their heads."""
    head = [
        *("prefill", "tokens changed", "prefilled", f"time: {TAILS}", "speed-up"),
        *(f"logit error: {TAILS}", "same first id", "greedy text agrees", "whole text the same"),
    ]
    cells = [
        [
            r["policy"],
            f"{r['changed']:.0f}",
            f"{r['prefilled']:.0f} of {r['total']}",
            tails_text(r["ms"], milliseconds),
            times(r["speed_up"]),
            tails_text(r["logit_error"], lambda error: decimal(error, ".1e")),
            *(percent(r[key]) for key in ("same_first", "agreement", "same_text")),
        ]
        for r in rows
    ]
    return [head, *cells]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--weights", required=True, help="a directory in weights/, or any path")
    add("--frames", type=Path, default=BUNDLED, help="a recording (the bundled session)")
    add("--num-frames", type=int, help="the first of them (all)")
    add("--prompt", default="What is on the screen?", help="the question (%(default)s)")
    add("--policy", default="faithful", help=f"of the encoder: {POLICY_HELP} (%(default)s)")
    add("--tolerance", type=float, nargs="+", default=[0.0, 0.02, 0.05], help="(0 0.02 0.05)")
    add("--refresh-every", type=int, default=0, help="steps, of the bounded policies (0 = never)")
    add("--new-tokens", type=int, default=24, help="of the greedy answers compared (24)")
    add("--dtype", choices=("float32", "bfloat16"), help="(as the weights are)")
    add("--json", type=Path, help="write all rows there")
    args = parser.parse_args(arguments)
    return run_script(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    if args.json:
        check_file("--json", args.json)
    rows = measure(args)
    print_table(table(rows))
    if args.json:
        write_json(args.json, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
