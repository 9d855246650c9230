#!/usr/bin/env python3
"""Fewer vision tokens: what every method loses, and chance beside it at the same count.

    python scripts/benchmarks/benchmark_tokens.py SESSION... [--model NAME] [--policy full]

Two tables. Of single frames: the whitened error (0 = nothing lost, 1 = as if every token were the
mean) of methods at each count of tokens. Of sessions: how many tokens a history of them holds,
whether a frame is compared by its pixels or its tokens, against full encodes of every frame.
"""

import argparse
import functools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import diffvis_jax as dv
from diffvis_jax.cli.command_line import check_file, run_script, write_json
from diffvis_jax.cli.frame_sizes import sized_for
from diffvis_jax.cli.models import add_model, find_model
from diffvis_jax.cli.named_policies import find_policy
from diffvis_jax.compress import (
    Grouping,
    HistoryPolicy,
    TokenScale,
    current_tokens,
    fit_scale,
    init_history,
    merge,
    token_set,
    unmerge,
    update_history,
    whitened_error,
)
from diffvis_jax.compress.baselines import keep_random, keep_strided, merge_frames, pool
from diffvis_jax.compress.matching import soft_matching
from diffvis_jax.compress.token_scale import whiten
from diffvis_jax.core.step import jit_encode, make_step
from diffvis_jax.images.recording import read_recording
from diffvis_jax.measure.missed import changed_tokens
from diffvis_jax.metrics import tails
from diffvis_jax.report.table import machine_text, print_table, tower_text
from diffvis_jax.report.text import TAILS, decimal, milliseconds, tails_text, times
from diffvis_jax.towers import build
from diffvis_jax.utils.progress import Progress

POLICIES = {
    "pixels": HistoryPolicy(criterion="pixels"),
    "tokens, 0.03": HistoryPolicy(tolerance=0.03),
    "tokens, 0.1": HistoryPolicy(tolerance=0.1),
    "tokens, 0.3": HistoryPolicy(tolerance=0.3),
    "tokens, 0.05, keep half": HistoryPolicy(tolerance=0.05, keep=0.5),
    "tokens, 0.1, keep 0.4": HistoryPolicy(tolerance=0.1, keep=0.4),
}
_SINGLE = 3  # frames of a session that the first table looks at


def run() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sessions", type=Path, nargs="+", help="recorded sessions")
    parser.add_argument("--max-frames", type=int, default=48, help="of each session (48)")
    parser.add_argument(
        "--policy",
        default="faithful",
        help="how frames are encoded; full = all of it (%(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there, too")
    add_model(parser.add_argument)
    args = parser.parse_args()
    if args.json:
        check_file("--json", args.json)
    policy = None if args.policy == "full" else find_policy(args.policy)
    recordings = {path.name: read_recording(path).first(args.max_frames) for path in args.sessions}
    model = dv.load(find_model(args.model), dtype="float32")
    model = sized_for(model, [path for r in recordings.values() for path in r.paths])
    print(f"{tower_text(model)}; {machine_text()}; frames encoded by policy {args.policy}")
    sessions = {}
    with Progress(sum(len(r.paths) for r in recordings.values()), "encoding") as progress:
        for name, recording in recordings.items():
            sessions[name] = encoded(model, list(recording.paths), policy, progress)
    scale = fit_scale(np.concatenate([session.full for session in sessions.values()]))
    parts = [x.full[:: max(1, len(x.full) // _SINGLE)][:_SINGLE] for x in sessions.values()]
    singles = np.concatenate(parts)
    numbers = {
        "frames": list(frame_rows(build(model.config).token_grid, singles, scale)),
        "sessions": list(session_rows(sessions, scale)),
    }
    print(f"\n{len(singles)} single frames, whitened error ({TAILS})")
    print_table(
        [["tokens", "method", "whitened error", "ms a frame"]]
        + [
            [f"{r['tokens']}", r["method"], tails_text(r["error"], three), milliseconds(r["ms"])]
            for r in numbers["frames"]
        ]
    )
    print(f"\nHistories, whitened error of the present ({TAILS})")
    head = ["session", "runs end by", "tokens of frames", "of the history", "fewer"]
    head += ["a step adds: median / 90% / worst", "against the step", "against a full encode"]
    print_table(
        [[*head, "at random", "ms an update"]]
        + [
            [
                *(r["session"], r["criterion"], f"{r['whole']}", f"{r['tokens']}"),
                times(r["whole"] / r["tokens"]),
                tails_text(r["added"], lambda n: f"{n:.0f}"),
                *(tails_text(r[key], three) for key in ("of_step", "of_full", "random")),
                milliseconds(r["ms"]),
            ]
            for r in numbers["sessions"]
        ]
    )
    if args.json:
        write_json(args.json, numbers)
    return 0


class Encoded(NamedTuple):
    """Tokens float32 `[F, N, D]` of a session's frames, by steps and in full, and whose pixels
    changed since the frame before, bool `[F, N]`."""

    step: np.ndarray
    full: np.ndarray
    changed: np.ndarray


def encoded(model: dv.Model, paths: list[Path], policy: dv.Policy | None, progress) -> Encoded:
    config, tower = model.config, build(model.config)
    cache, step, rows, before = dv.init_cache(config), make_step(config), [], None
    for path in paths:
        frame = jnp.asarray(dv.preprocess([path], config))
        full = np.asarray(jit_encode(model.params, frame, config=config))[0]
        tokens = full
        if policy is not None:
            found, cache, _ = step(model.params, cache, frame, policy)
            tokens = np.asarray(found)[0]
        changed = np.ones(len(full), bool)
        if before is not None:
            changed = np.asarray(changed_tokens(tower, before, frame))[0]
        rows.append((tokens, full, changed))
        before = frame
        progress(path.name)
    return Encoded(*(np.stack(part) for part in zip(*rows, strict=True)))


def frame_rows(
    grid: tuple[int, int], frames: np.ndarray, scale: TokenScale
) -> Iterator[dict[str, Any]]:
    """Every method at the counts that pooling allows, and at half of the tokens."""
    number = frames.shape[1]

    def pooled(factor: int) -> int:
        return -(-grid[0] // factor) * -(-grid[1] // factor)

    for count in (number // 2, *(pooled(k) for k in (2, 3, 4))):
        factor = next((k for k in (2, 3, 4) if pooled(k) == count), None)
        methods: dict[str, Callable[[jax.Array, jax.Array], Grouping]] = {
            "random": lambda key, white, n=count: keep_random(key, white, count=n),
            "strided": lambda key, white, n=count: keep_strided(white, count=n),
            "merge": lambda key, white, n=count: soft_matching(white, target=n),
        }
        if factor is not None:
            methods["pool"] = lambda key, white, k=factor: pool(grid, k)
        for name, method in methods.items():

            @jax.jit
            def lost(key, tokens, method=method, slots=count):
                grouping = method(key, whiten(tokens, scale))
                boxes = np.zeros((number, 4), np.float32)
                merged = merge(token_set(tokens, boxes), grouping, slots=slots)
                return whitened_error(tokens, unmerge(merged, grouping), scale)

            errors, ms = [], []
            for index, frame in enumerate(frames):
                arguments = jax.random.key(index), jnp.asarray(frame)[None]
                jax.block_until_ready(lost(*arguments))
                start = time.perf_counter()
                errors.append(float(lost(*arguments)[0]))
                ms.append(1e3 * (time.perf_counter() - start))
            yield {
                **{"tokens": count, "method": name, "error": tails(errors)},
                "ms": float(np.median(ms)),
            }


def session_rows(sessions: dict[str, Encoded], scale: TokenScale) -> Iterator[dict[str, Any]]:
    most = max(len(session.step) for session in sessions.values())  # one program for all
    for criterion, policy in POLICIES.items():
        errors: dict[str, list[float]] = {}
        totals = {"whole": 0, "tokens": 0}
        for name, session in sessions.items():
            row = history_of(session, policy, scale, most)
            for key in ("of_step", "of_full", "added", "random"):
                errors.setdefault(key, []).extend(row[key])
            for key in totals:
                totals[key] += row[key]
            shown = {key: tails(row[key]) for key in ("of_step", "of_full", "added", "random")}
            yield {**row, **shown, "session": name, "criterion": criterion}
        shown = {key: tails(values) for key, values in errors.items()}
        yield {**totals, **shown, "ms": None, "session": "all", "criterion": criterion}
    for name, session in sessions.items():
        held, begins = merge_frames(jnp.asarray(session.step)[None])
        error = np.asarray(whitened_error(jnp.asarray(session.full), held[0], scale))
        count = session.full.shape[1]
        yield {
            **{"session": name, "criterion": "whole frames, cosine 0.95", "ms": None},
            **{"whole": count * len(session.full), "tokens": count * int(begins.sum())},
            **{"added": tails(count * np.asarray(begins)[0, 1:]), "of_step": tails([])},
            **{"of_full": tails(error.tolist()), "random": tails([])},
        }


update = jax.jit(update_history, donate_argnums=0)
error = jax.jit(whitened_error)


def history_of(
    session: Encoded, policy: HistoryPolicy, scale: TokenScale, most: int
) -> dict[str, Any]:
    """One history of a session with room for `most` frames, which is all of it."""
    frames, number, width = session.step.shape
    history = init_history(number, width, slots=max(2, most) * number)
    row: dict[str, Any] = {"whole": frames * number, "of_step": [], "of_full": [], "added": []}
    ms = []
    for tokens, full, changed in zip(*session, strict=True):
        tokens, full = jnp.asarray(tokens)[None], jnp.asarray(full)[None]
        jax.block_until_ready(tokens)
        start = time.perf_counter()
        history, report = update(history, tokens, changed[None], policy=policy, scale=scale)
        added = int(report.added[0])
        ms.append(1e3 * (time.perf_counter() - start))
        row["added"].append(added)
        present = current_tokens(history)
        row["of_step"].append(float(error(tokens, present, scale)[0]))
        row["of_full"].append(float(error(full, present, scale)[0]))
    row["tokens"] = int(history.length[0])
    # Chance with as many tokens: the same share of every frame.
    share = max(1, round(row["tokens"] / frames))
    row["random"] = [
        float(random_error(jax.random.key(i), jnp.asarray(full)[None], scale, count=share)[0])
        for i, full in enumerate(session.full)
    ]
    return {**row, "added": row["added"][1:], "ms": float(np.median(ms[1:]))}


@functools.partial(jax.jit, static_argnames="count")
def random_error(key: jax.Array, tokens: jax.Array, scale: TokenScale, *, count: int) -> jax.Array:
    grouping = keep_random(key, whiten(tokens, scale), count=count)
    boxes = np.zeros((tokens.shape[1], 4), np.float32)
    back = unmerge(merge(token_set(tokens, boxes), grouping, slots=count), grouping)
    return whitened_error(tokens, back, scale)


def three(value: float | None) -> str:
    return decimal(value, ".3f")


if __name__ == "__main__":
    sys.exit(run_script(run))
