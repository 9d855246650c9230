#!/usr/bin/env python3
"""First token, in full and differentially, over a session: how much, how fast, and how far off.

One question is asked about every frame. Every policy of the encoder keeps a cache of its own, and
every prefill policy one for each of these; each frame is also encoded and prefilled in full. In one
process, after warm-up, in turns; each ratio is of two times of the same frame.

`--windows N` changes one patch (of a Qwen2.5-VL: a window) of the first frame, N times, each time
from the state after that frame. A model with random weights and the shapes of the 3B one:

    python scripts/benchmarks/make_random_checkpoint.py DIR --arch qwen2_5_vl --scale full \\
        --layers 4
    diffvis convert DIR weights/NAME
    python scripts/benchmarks/benchmark_prefill.py --weights NAME --windows 10 \\
        --policies exact,fast --tolerance 0
"""

import argparse
import dataclasses
import functools
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import diffvis_jax as dv
from diffvis_jax.cli.bundled import BUNDLED
from diffvis_jax.cli.command_line import check_file, run_script, whole, write_json
from diffvis_jax.cli.frame_sizes import add_bounds, sized_for, with_bounds
from diffvis_jax.cli.models import find_model
from diffvis_jax.cli.named_policies import HELP as POLICY_HELP
from diffvis_jax.cli.named_policies import find_policies
from diffvis_jax.core.cache import Cache
from diffvis_jax.core.step import jit_encode, make_step
from diffvis_jax.images.anyres import Frame, TiledImage, make_frame, pixels_of
from diffvis_jax.images.recording import read_recording
from diffvis_jax.language.differential_prefill import jit_prefill_fresh, prefill_next
from diffvis_jax.language.generate import capacity_for
from diffvis_jax.language.prefill_policy import PrefillPolicy, PrefillReport, describe_prefill
from diffvis_jax.language.prompt import build_prompt, tokenize
from diffvis_jax.language.prompt_cache import Prompt, PromptCache, init_prompt_cache
from diffvis_jax.language.splice import make_prompt, packed
from diffvis_jax.measure.prefill_error import compare_prefill
from diffvis_jax.metrics import tails
from diffvis_jax.report.table import print_table
from diffvis_jax.report.text import TAILS, decimal, milliseconds, percent, tails_text, times
from diffvis_jax.towers import build
from diffvis_jax.towers.base import Tower
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
    """One way to the first token, with its cache of prompts; without policies, the full one."""

    encoder: str
    prefill: str
    policy: PrefillPolicy | None
    cache: PromptCache
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds of one run, and its result."""
    start = time.perf_counter()
    result = jax.block_until_ready(run())
    return 1e3 * (time.perf_counter() - start), result


def changed_windows(first: np.ndarray, tower: Tower, count: int) -> Iterator[np.ndarray]:
    """Frames that differ from the first in one patch, at a random place, whose colours are
    inverted; all `uint8 [1, H, W, 3]`."""
    rng, patch = np.random.default_rng(0), tower.patch
    for place in rng.integers(0, tower.cells, count):
        row, column = divmod(int(place), tower.grid[1])
        frame = first.copy()
        frame[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] ^= 255
        yield frame


class Race:
    """All ways to the first token, in turns."""

    def __init__(self, model: dv.Model, args: argparse.Namespace):
        self._model, self._language, self._new = model, model.language, args.new_tokens
        text = build_prompt(args.prompt, conversation=self._language.config.conversation)
        self._ids = tokenize(text, self._language.tokenizer)
        self._grid = build(model.config).token_grid
        self._step = make_step(model.config)
        self._policies = find_policies(args.policies)
        self._prefills = prefill_policies(args.tolerance, args.refresh_every)
        self._towers: dict[str, Cache] = {}
        self.contenders: list[Contender] = []

    def start(self, frame: Frame) -> None:
        """Makes all caches those of a frame. What it takes twice is compiled after it."""
        pixels = pixels_of(frame)
        for name in self._policies:
            self._towers[name] = dv.init_cache(
                self._model.config, len(pixels), size=pixels.shape[1:3]
            )
        prompt = self._prompt(self._full(pixels), frame)
        length, padded = int(prompt.length[0]), prompt.embeddings.shape[1]

        def cache() -> PromptCache:
            capacity = capacity_for(length, self._new)
            return init_prompt_cache(self._language.config, 1, padded, capacity)

        self.contenders = [Contender("full", "fresh", None, cache())]
        for encoder, (name, policy) in itertools.product(self._policies, self._prefills.items()):
            self.contenders.append(Contender(encoder, name, policy, cache()))
        for _ in range(2):
            self.run(frame)
        self.forget()

    def forget(self) -> None:
        """What was run so far was a warm-up."""
        for contender in self.contenders:
            contender.rows.clear()

    def run(self, frame: Frame, *, keep: bool = True, on_row: Callable[[str], Any] = str) -> None:
        """One frame for everybody; `keep`: whether the caches go on from there."""
        pixels, full_logits = pixels_of(frame), np.empty(0)
        encoded = {"full": timed(lambda: self._full(pixels))}
        for name, policy in self._policies.items():
            cache = self._towers[name] if keep else _copied(self._towers[name])
            encode_ms, (tokens, cache, _) = timed(
                functools.partial(self._step, self._model.params, cache, pixels, policy)
            )
            encoded[name] = encode_ms, tokens
            if keep:
                self._towers[name] = cache
            del cache
        for contender in self.contenders:
            encode_ms, tokens = encoded[contender.encoder]
            start = contender.cache if keep else _copied(contender.cache)
            prefill_ms, (cache, report, prompt, _) = timed(
                functools.partial(self._first_id, contender, start, tokens, frame)
            )
            if keep:
                contender.cache = cache
            if contender.policy is None:
                full_logits = np.asarray(cache.logits, np.float64)
            difference = np.asarray(cache.logits, np.float64) - full_logits
            error = compare_prefill(
                self._language.params,
                cache,
                prompt,
                config=self._language.config,
                new_tokens=self._new,
            )
            contender.rows.append(
                {
                    "encode_ms": encode_ms,
                    "prefill_ms": prefill_ms,
                    "first_token_ms": encode_ms + prefill_ms,
                    **describe_prefill(report)[0],
                    **{k: float(v[0]) for k, v in dataclasses.asdict(error).items()},
                    "full_error": float(np.sqrt(np.square(difference).mean()) / full_logits.std()),
                }
            )
            on_row(f"{contender.encoder}, {contender.prefill}")

    def _full(self, pixels: np.ndarray) -> Any:
        return jit_encode(self._model.params, pixels, config=self._model.config)

    def _prompt(self, tokens: Any, frame: Frame) -> Prompt:
        tiled = isinstance(frame, TiledImage)
        images = [packed(tokens, frame.packing)] if tiled else tokens
        return make_prompt(self._language, images, self._ids, grids=[self._grid])

    def _first_id(
        self, contender: Contender, cache: PromptCache, tokens: Any, frame: Frame
    ) -> tuple[PromptCache, PrefillReport, Prompt, int]:
        params, config = self._language.params, self._language.config
        prompt = self._prompt(tokens, frame)
        if contender.policy is None:
            cache, report = jit_prefill_fresh(params, cache, prompt, config=config)
        else:
            cache, report = prefill_next(params, cache, prompt, contender.policy, config=config)
        return cache, report, prompt, int(cache.logits[0].argmax())


def _copied(cache: Any) -> Any:
    """What a step may consume."""
    return jax.block_until_ready(jax.tree.map(jnp.copy, cache))


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each way to the first token, the full one first."""
    count = 1 if args.windows else args.num_frames
    paths = list(read_recording(args.frames).first(count).paths)
    if len(paths) < 2 and not args.windows:
        raise ValueError(f"'{args.frames}' has one frame only: nothing changes")
    model = with_bounds(dv.load(find_model(args.weights), dtype=args.dtype), args)
    model = sized_for(model, paths)
    race, first = Race(model, args), make_frame(paths[0], model.config)
    frames: Iterator[Frame] = (make_frame(path, model.config) for path in paths[1:])
    if args.windows:
        if isinstance(first, TiledImage):
            raise ValueError("--windows: images of this model are cut into tiles; drop it")
        frames = changed_windows(first, build(model.config), args.windows + 1)
    race.start(first)
    if args.windows:  # the first change of all takes longer than the others
        race.run(next(frames), keep=False)
        race.forget()
    count = args.windows or len(paths) - 1
    with Progress(count * len(race.contenders), "prefills") as progress:
        for frame in frames:
            race.run(frame, keep=not args.windows, on_row=progress)
    full = race.contenders[0].rows
    return [summary(each, full) for each in race.contenders]


def summary(contender: Contender, full: list[dict[str, Any]]) -> dict[str, Any]:
    """`tails` of times, ratios and errors over the frames, medians of counts, means of yes and
    no. The worst ratio is the smallest."""
    rows = contender.rows

    def of(key: str) -> list[float]:
        return [row[key] for row in rows]

    def ratio(key: str) -> dict[str, float | None]:
        share = tails(row[key] / other[key] for row, other in zip(rows, full, strict=True))
        return {name: value and 1 / value for name, value in share.items()}

    return {
        "encoder": contender.encoder,
        "policy": contender.prefill,
        "total": rows[0]["total"],
        **{key: statistics.median(of(key)) for key in ("changed", "prefilled")},
        **{f"{key}_ms": tails(of(f"{key}_ms")) for key in TIMED},
        **{f"{key}_speed_up": ratio(f"{key}_ms") for key in TIMED},
        **{key: tails(of(key)) for key in ("full_error", "logit_error", "divergence")},
        **{key: float(np.mean(of(key))) for key in ("same_first", "agreement", "same_text")},
        "frames": rows,
    }


TIMED = ("encode", "prefill", "first_token")


def table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of text, the first their heads."""
    head = [
        *("encoder", "prefill", "tokens changed", "prefilled", f"first token: {TAILS}"),
        *(f"full / this: {TAILS}", f"logit error from full: {TAILS}"),
        *(f"prefill: {TAILS}", f"fresh / this: {TAILS}", f"logit error from fresh: {TAILS}"),
        *("same first id", "greedy text agrees", "whole text the same"),
    ]

    def error(value: float | None) -> str:
        return decimal(value, ".1e")

    cells = [
        [
            r["encoder"],
            r["policy"],
            f"{r['changed']:.0f}",
            f"{r['prefilled']:.0f} of {r['total']}",
            tails_text(r["first_token_ms"], milliseconds),
            tails_text(r["first_token_speed_up"], times),
            tails_text(r["full_error"], error),
            tails_text(r["prefill_ms"], milliseconds),
            tails_text(r["prefill_speed_up"], times),
            tails_text(r["logit_error"], error),
            *(percent(r[key]) for key in ("same_first", "agreement", "same_text")),
        ]
        for r in rows
    ]
    return [head, *cells]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--weights", required=True, help="a directory in weights/, or any path")
    add("--frames", type=Path, default=BUNDLED, help="a recording (the bundled session)")
    add("--num-frames", type=int, help="the first of them (all)")
    add(
        "--windows",
        metavar="N",
        type=whole(1, 10**6, "a number of changes >= 1"),
        help="change one patch of the first frame, N times, instead of following the recording",
    )
    add_bounds(add)
    add("--prompt", default="What is on the screen?", help="the question (%(default)s)")
    add(
        "--policies",
        "--policy",
        default="faithful",
        help=f"of the encoder, separated by commas: each {POLICY_HELP} (%(default)s)",
    )
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
