#!/usr/bin/env python3
"""What moving features with the pixels saves while a screen scrolls, and what it costs.

    python scripts/benchmarks/benchmark_scroll.py SESSION... [--released]

Each session runs through the same tower with `Policy(margin=0, scroll=False)` and `scroll=True`:
the share of a full encode that steps recompute, how many patches were moved, how much faster than
full encodes a step is, and the missed change. With --released the shares are those of the released
Qwen2.5-VL tower (3B) at 1792 x 1008 pixels, from its plans alone: no weights are needed.
"""

import argparse
import dataclasses
import functools
import statistics
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import diffvis_jax as dv
from diffvis_jax.cli.command_line import run_script
from diffvis_jax.cli.frame_sizes import sized_for
from diffvis_jax.cli.models import add_model, find_model
from diffvis_jax.core.cache import Cache
from diffvis_jax.core.execute import update_reference
from diffvis_jax.core.plan import compare, make_plan
from diffvis_jax.core.scroll import follow
from diffvis_jax.core.tuning import CPU
from diffvis_jax.images.recording import read_recording
from diffvis_jax.measure.recording_run import run_session
from diffvis_jax.report.table import print_table
from diffvis_jax.report.text import TAILS, tails_text
from diffvis_jax.towers import build

SHOWN = (1008, 1792)  # of 1920 x 1080: a wheel's notch of 120 px is one window


@functools.partial(jax.jit, donate_argnums=0)
def planned(cache: Cache, frames: jax.Array, policy: dv.Policy):
    """A step's bookkeeping without its arithmetic: the cache, the share of a full encode that it
    would recompute, changed patches and moved ones, one number each."""
    tower = build(cache.config)
    every = jnp.ones_like(cache.filled)
    change = compare(tower, cache, frames, policy, every, None)
    changed, moved = change.count, jnp.zeros_like(change.count)
    if policy.scroll:
        cache, shift = follow({}, tower, cache, frames, change.acted)
        moved = shift.moved.sum((1, 2), dtype=jnp.int32)
        change = compare(tower, cache, frames, policy, every, None)
    plan = make_plan(tower, cache, change, policy, None, CPU)
    cache = dataclasses.replace(
        cache,
        pixels=update_reference(tower, cache.pixels, frames, plan.update, CPU),
        stale=plan.stale,
        distance=plan.distance,
        waiting=plan.waiting,
        filled=every,
    )
    return cache, plan.macs.sum() / float(tower.macs), changed[0], moved[0]


def planned_session(frames: np.ndarray, config: dv.Qwen25VisionConfig, policy: dv.Policy):
    """Of every frame but the first that changed: share recomputed, changed and moved patches."""
    cache, rows = dv.init_cache(config), []
    for number, frame in enumerate(frames):
        cache, share, changed, moved = planned(cache, frame[None], policy.resolved(build(config)))
        if number and int(changed):
            rows.append((float(share), int(changed), int(moved)))
    return rows


def of_the_released(paths: list[Path], margin: float, scroll: bool) -> list[str]:
    """Cells of a row of the table: what the released tower's plans say."""
    config = dv.Qwen25VisionConfig(size=SHOWN)
    policy = dv.Policy(margin=(0.0, *[margin] * 4), settle=0, scroll=scroll)
    steps = planned_session(np.stack([resized(path) for path in paths]), config, policy)
    share, changed, moved = (list(x) for x in zip(*steps, strict=True))
    return [f"{sum(moved) / sum(changed):.0%}", f"{np.mean(share):.3f}"]


def of_the_model(model: dv.Model, paths: list[Path], margin: float, scroll: bool) -> list[str]:
    """The same, measured on weights."""
    model = sized_for(model, paths)
    policy = dv.Policy(margin=(0.0, *[margin] * (build(model.config).stages - 1)), scroll=scroll)
    result = run_session(model, dv.preprocess(paths, model.config), policy)
    steps = [step for step in result.frames[1:] if step.changed_patches or step.recomputed]
    faster = statistics.median(step.full_ms / step.step_ms for step in steps)
    summary = result.summary()
    missed = [tails_text(summary[key]) for key in ("missed_changed", "missed_all")]
    return [f"{np.mean([step.recomputed for step in steps]):.3f}", f"{faster:.1f}x", *missed]


def run() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sessions", type=Path, nargs="+", help="recorded sessions")
    parser.add_argument("--margin", type=float, default=0, help="windows around a change (0)")
    parser.add_argument("--max-frames", type=int, default=48, help="of each session (48)")
    parser.add_argument("--released", action="store_true", help="the released tower's plans")
    add_model(parser.add_argument)
    args = parser.parse_args()
    missed = [f"missed at {where} tokens: {TAILS}" for where in ("changed", "all")]
    rows = [["session", "scroll", "recomputed", "speed-up", *missed]]
    if args.released:
        rows = [["session", "scroll", "moved of changed", "recomputed"]]
        measure = of_the_released
    else:
        model = dv.load(find_model(args.model), dtype="float32")
        measure = functools.partial(of_the_model, model)
    for session in args.sessions:
        paths = list(read_recording(session).paths[: args.max_frames])
        for scroll in (False, True):
            row = [session.name, "yes" if scroll else "no"]
            rows.append([*row, *measure(paths, args.margin, scroll)])
    print_table(rows)
    return 0


def resized(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        size = SHOWN[1], SHOWN[0]
        return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC))


if __name__ == "__main__":
    sys.exit(run_script(run))
