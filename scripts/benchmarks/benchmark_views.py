#!/usr/bin/env python3
"""Several views of one agent: what a tick costs while some of them hold still.

    python scripts/benchmarks/benchmark_views.py --weights screens-vit
    python scripts/benchmarks/benchmark_views.py --random clip-b32
    python scripts/benchmarks/benchmark_views.py --weights screens-vit --noise 2 --metric p99

Every view shows the recording from another frame on. A view that moves goes on in it ("recorded"),
or all of its pixels change ("camera", as if it were carried about). Beside the time of a tick stand
those of V full encodes, one by one and in one call, and what was missed of the changes. `--noise`
adds synthetic sensor noise to all views, and takes the smallest threshold with few false changes:
no recordings of cameras were at hand.
"""

import argparse
import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from views_language import prefill_rows, prefill_table

import diffvis_jax as dv
from diffvis_jax.cli.bundled import BUNDLED
from diffvis_jax.cli.command_line import check_file, number, run_script, whole, write_json
from diffvis_jax.cli.frame_sizes import sized_for
from diffvis_jax.cli.models import find_model
from diffvis_jax.cli.named_policies import find_policy
from diffvis_jax.core.change import METRICS
from diffvis_jax.core.step import jit_encode, make_step
from diffvis_jax.images.recording import read_recording
from diffvis_jax.measure.missed import Missed, changed_tokens, missed_at, missed_tails
from diffvis_jax.measure.static_scene import static_scene
from diffvis_jax.metrics import tails
from diffvis_jax.report.table import machine_text, print_table, tower_text
from diffvis_jax.report.text import MISSED, TAILS, milliseconds, missed_cells, percent, tails_text
from diffvis_jax.report.text import times as ratio_text
from diffvis_jax.towers import build
from diffvis_jax.utils.progress import Progress
from diffvis_jax.views import aggregate, concatenate, init_view_attention, pool
from diffvis_jax.views.combine import HOWS, How

RANDOM = {
    "clip-b32": dv.CLIPConfig(
        width=768, layers=12, heads=12, mlp_width=3072, patch=32, size=224, projection_width=512
    ),
    "clip-tiny": dv.CLIPConfig(
        width=32, layers=2, heads=4, mlp_width=64, patch=8, size=40, projection_width=16
    ),
}
SCENARIOS = ("all static", "one recorded", "one camera", "all recorded", "all camera")


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds, and the result."""
    start = time.perf_counter()
    result = jax.block_until_ready(run())
    return 1e3 * (time.perf_counter() - start), result


def ticks(
    recording: np.ndarray, views: int, scenario: str, count: int, sigma: float
) -> Iterator[np.ndarray]:
    """The frames of all views, `uint8 [V, H, W, 3]`, tick by tick; the last view moves."""
    rng = np.random.default_rng(0)
    which, _, how = scenario.partition(" ")
    moving = {"all": range(views), "one": [views - 1]}[which] if how != "static" else []
    at = np.arange(views) * len(recording) // views
    for tick in range(count):
        step = np.array([tick if v in moving and how == "recorded" else 0 for v in range(views)])
        frames = recording[(at + step) % len(recording)].copy()
        for v in moving if how == "camera" else ():
            frames[v] = np.roll(frames[v], (3 * tick, 5 * tick), (0, 1)) ^ np.uint8(tick % 2)
        if sigma:
            noisy = frames + rng.normal(0, sigma, frames.shape)
            frames = np.round(noisy).clip(0, 255).astype(np.uint8)
        yield frames


class Race:
    """A number of views, in one call and one by one, differentially and in full."""

    def __init__(self, model: dv.Model, views: int, policy: dv.Policy):
        self._model, self._views, self._policy = model, views, policy
        self._step, self._tower = make_step(model.config), build(model.config)

    def run(self, frames: Iterator[np.ndarray], on_tick: Callable[[], None]) -> dict[str, Any]:
        """One row; the first two ticks, which fill the caches and compile, do not count."""
        config, params, views = self._model.config, self._model.params, self._views
        cache = dv.init_cache(config, views)
        caches = [dv.init_cache(config, 1) for _ in range(views)]
        spent: dict[str, list[float]] = {name: [] for name in ("step", "loop", "full", "full_loop")}
        shares: list[float] = []
        missed: list[Missed] = []
        before = last = np.empty(0)
        for tick, now in enumerate(frames):
            ms, (tokens, cache, report) = timed(
                lambda cache=cache, now=now: self._step(params, cache, now, self._policy)
            )
            spent["step"].append(ms)

            def one_by_one(now: np.ndarray = now) -> None:
                for v in range(views):
                    _, caches[v], _ = self._step(params, caches[v], now[v : v + 1], self._policy)
                jax.block_until_ready(caches)

            spent["loop"].append(timed(one_by_one)[0])
            ms, full = timed(lambda now=now: jit_encode(params, now, config=config))
            spent["full"].append(ms)
            ms, _ = timed(
                lambda now=now: [
                    jit_encode(params, now[v : v + 1], config=config) for v in range(views)
                ]
            )
            spent["full_loop"].append(ms)
            full = np.asarray(full)
            if tick > 1:
                shares.append(float(np.mean(report.recomputed)))
                at = np.asarray(changed_tokens(self._tower, last, now))
                found = np.asarray(tokens)
                missed += [missed_at(at[v], found[v], full[v], before[v]) for v in range(views)]
            before, last = full, now
            on_tick()
        ms_of = {name: np.array(ms[2:]) for name, ms in spent.items()}
        return {
            "views": views,
            **{f"{name}_ms": tails(ms.tolist()) for name, ms in ms_of.items()},
            "recomputed": float(np.median(shares)),
            **{
                f"{name}_speed_up": speed_up(ms_of["step"], ms_of[name])
                for name in ("full", "full_loop")
            },
            **missed_tails(missed),
        }


def speed_up(step: np.ndarray, full: np.ndarray) -> dict[str, float | None]:
    """`tails` of the median full time over each tick's; the worst is the smallest."""
    shares = tails((step / np.median(full)).tolist())
    return {name: value and 1 / value for name, value in shares.items()}


def table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of text, the first their heads."""
    head = [
        *("views", "what moves", "recomputed", f"tick: {TAILS}", "one by one"),
        *("V full encodes one by one", "in one call"),
        *(f"one by one / tick: {TAILS}", f"in one call / tick: {TAILS}", *MISSED),
    ]
    cells = [
        [
            f"{row['views']}",
            row["scenario"],
            percent(row["recomputed"]),
            tails_text(row["step_ms"], milliseconds),
            *(milliseconds(row[f"{name}_ms"]["median"]) for name in ("loop", "full_loop", "full")),
            *(tails_text(row[f"{name}_speed_up"], ratio_text) for name in ("full_loop", "full")),
            *missed_cells(row),
        ]
        for row in rows
    ]
    return [head, *cells]


def aggregate_table(model: dv.Model, views: int, rounds: int) -> list[list[str]]:
    """What it takes to make one vector, or one sequence, of the tokens of all views."""
    tower = build(model.config)
    tokens = jax.random.normal(jax.random.key(0), (1, views, tower.tokens, tower.token_width))
    present = jnp.ones((1, views), bool)
    params = init_view_attention(jax.random.key(1), tower.token_width)

    def combined(how: How) -> Callable[..., Any]:
        return jax.jit(lambda t, p: aggregate(pool(t), p, how, params)[0])

    ways: dict[str, Callable[..., Any]] = {how: combined(how) for how in HOWS}
    ways["concatenate"] = jax.jit(concatenate)
    found = [["aggregate of", f"time: {TAILS}"]]
    for name, way in ways.items():
        seen = [timed(lambda way=way: way(tokens, present))[0] for _ in range(rounds + 2)][2:]
        text = tails_text(tails(seen), milliseconds)
        found.append([f"{views} views of {tower.tokens} tokens: {name}", text])
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--weights", default="screens-vit", help="a model's name or directory (%(default)s)")
    add("--random", choices=sorted(RANDOM), help="a tower with random weights in its place")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="(%(default)s)")
    add("--frames", type=Path, default=BUNDLED, help="a recording (the bundled session)")
    add("--views", type=whole(1, 16, "a number of views, 1-16"), nargs="+", default=[1, 2, 3, 4, 5])
    add("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    add("--ticks", type=whole(1, 10**4, "a number of ticks >= 1"), default=12, help="(12)")
    add("--policy", default="faithful", help="(%(default)s)")
    add("--noise", type=number(0, 64, "grey levels, 0-64"), default=0.0, help="sigma (0)")
    add("--metric", choices=METRICS, default="max", help="of the comparison (%(default)s)")
    add(
        "--decoder-layers",
        type=whole(0, 64, "layers, 0-64"),
        default=2,
        help="of the decoder that is timed, in the widths of the 0.5B one; 0 = none (2)",
    )
    add("--json", type=Path, help="write all rows there")
    args = parser.parse_args(arguments)
    return run_script(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    if args.json:
        check_file("--json", args.json)
    paths = list(read_recording(args.frames).paths)
    if args.random:
        config = dataclasses.replace(RANDOM[args.random], dtype=args.dtype)
        model = dv.Model(config, dv.init_params(config), f"random {args.random}")
    else:
        model = sized_for(dv.load(find_model(args.weights), dtype=args.dtype), paths)
    recording = dv.preprocess(paths, model.config)
    policy = dataclasses.replace(find_policy(args.policy), metric=args.metric)
    print(f"{tower_text(model)}; {machine_text()}; policy {args.policy}")
    if args.noise:
        still = np.stack(list(ticks(recording, 1, "all static", 12, args.noise)))[:, 0]
        scene = static_scene(still, build(model.config).patch, args.metric)
        policy = dataclasses.replace(policy, change_threshold=scene.threshold)
        print(
            f"noise of {args.noise:g} grey levels; '{args.metric}' above {scene.threshold:.4f}: "
            f"{percent(scene.false_changes)} false changes a patch"
        )
    rows = []
    total = len(args.views) * len(args.scenarios) * (args.ticks + 2)
    with Progress(total, "ticks") as progress:
        for views in args.views:
            race = Race(model, views, policy)
            for scenario in args.scenarios:
                frames = ticks(recording, views, scenario, args.ticks + 2, args.noise)
                done = functools.partial(progress, f"{views} views, {scenario}")
                rows.append({"scenario": scenario, **race.run(frames, done)})
    print_table(table(rows))
    print()
    print_table(aggregate_table(model, max(args.views), args.ticks))
    language = prefill_rows(build(model.config).tokens, max(args.views), args.decoder_layers)
    print()
    print_table(prefill_table(language))
    if args.json:
        write_json(args.json, {"ticks": rows, "prefill": language})
    return 0


if __name__ == "__main__":
    sys.exit(main())
