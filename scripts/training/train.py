#!/usr/bin/env python3
"""Trains the bundled tower, with its grounding head, on rendered screens.

    python scripts/training/render_pages.py DATA --train 3000 --val 250 --test 350
    python scripts/training/train.py DATA RUN
    python scripts/training/bundle.py RUN weights/NAME --data DATA

Stops and goes on: the same command continues from the newest checkpoint in RUN. `RUN/curve.jsonl`
grows as it goes; the newest checkpoint is kept, and the one that scores best on validation pages.
"""

import argparse
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from architecture import HEAD, LONG_SIDE, TOWER
from learning import Setup, finished
from optimiser import optimiser
from runs import beginning, check_same, checkpoints, read_recipe, recipe_of
from score import answer, best_threshold, measure
from screens import Screen, ahead, load_screens, pages_of, random_crops
from teacher import load_teacher, measured

from diffvis_jax.checkpoints.format import quiet_orbax
from diffvis_jax.grounding.decode import decode
from diffvis_jax.utils.atomic_file import write_whole

MEASURED = 24  # batches that the teacher's channels are measured on


def validate(params: dict[str, Any], screens: list[Screen]) -> dict[str, Any]:
    """What `measure` says at the threshold that suits these screens best."""
    answers = answer(TOWER, HEAD, params, screens)
    threshold = best_threshold(HEAD, answers, screens)
    found = [decode(HEAD, a, threshold=threshold)[0] for a in answers]
    return {"threshold": threshold, **measure(HEAD, found, screens)}


def check_finite(parts: dict[str, Any], step: int) -> None:
    """Weights that have become NaN stay so; saved, they would be what the run goes on from.

    Args:
      parts: of the loss, and the gradient's norm.

    Raises:
      ValueError: one of them is not finite.
    """
    if not all(np.isfinite(value) for value in parts.values()):
        raise ValueError(
            f"the loss or its gradient is no longer a number at step {step}: lower --rate, in "
            "another run"
        )


def tell(run: Path, row: dict[str, Any]) -> None:
    """A line of the curve, which is shown as well."""
    print(json.dumps(row), flush=True)
    with (run / "curve.jsonl").open("a", encoding="utf-8") as curve:
        print(json.dumps(row), file=curve)


def train(args: argparse.Namespace, manager: ocp.CheckpointManager) -> None:
    """Trains from the newest checkpoint of `manager` on, or from the start, to the last step."""
    teacher, taught = load_teacher(args.teacher) if args.teacher else (None, None)
    setup, recipe = Setup(optimiser(args.rate, args.steps), teacher), recipe_of(args)
    newest = manager.latest_step()
    state: Any
    if newest is not None:
        check_same(args.run, read_recipe(args.run), recipe)
        if args.steps < newest:
            raise ValueError(f"--steps {args.steps}: {args.run} has {newest} steps already")
        state = manager.restore(newest, args=ocp.args.StandardRestore(setup.shape))
        print(f"going on from step {newest}", flush=True)
    else:
        params = setup.fresh(args.seed)
        if args.start:
            name, held = beginning(args.start)
            params = {key: held.get(key, own) for key, own in params.items()}
            print(f"started from {name}", flush=True)
        state = setup.state(params)
    done = newest or 0
    frames = TOWER.preprocess
    validation = load_screens(args.data / "val", HEAD.kinds, args.validation, frames)
    screens = load_screens(args.data / "train", HEAD.kinds, None, frames)
    write_whole(args.run / "recipe.json", json.dumps(recipe, indent=1) + "\n")
    if teacher is not None and taught is not None:
        crops = random_crops(screens, args.side, args.batch, HEAD, args.seed)
        pixels = (batch["pixels"] for batch in itertools.islice(crops, MEASURED))
        taught = measured(teacher, taught, pixels)
    batches = ahead(
        random_crops(
            screens, args.side, args.batch, HEAD, args.seed + done, change_every=args.change_every
        )
    )
    # Arrays that are put on a device and others would each have the step compiled for them.
    state = jax.device_put(state, jax.local_devices()[0])
    start = time.monotonic()
    seen: dict[str, list[Any]] = {}
    while done < args.steps:
        state, parts = setup.step(state, next(batches), taught)
        done += 1
        for name, part in parts.items():
            seen.setdefault(name, []).append(part)
        if done % 50 == 0:
            mean = {name: float(np.mean(parts)) for name, parts in seen.items()}
            tell(args.run, {"step": done, "seconds": round(time.monotonic() - start, 1), **mean})
            seen = {}
            check_finite(mean, done)
        if done % args.every == 0 or done == args.steps:
            check_finite(parts, done)
            metrics = validate(finished(state), validation)
            tell(args.run, {"step": done, **{f"val_{k}": v for k, v in metrics.items()}})
            manager.save(done, args=ocp.args.StandardSave(state), metrics={"f1": metrics["f1"]})
            manager.wait_until_finished()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("data", type=Path, help="written by render_pages.py; holds train/ and val/")
    add("run", type=Path, help="checkpoints and curve go there")
    add(
        "--start",
        type=Path,
        metavar="RUN",
        help="from the averaged weights of this run, or from a weight directory",
    )
    add(
        "--teacher",
        type=Path,
        metavar="WEIGHTS",
        help="a weight directory of a FastViTHD with a head, which is imitated",
    )
    add(
        "--change-every",
        type=int,
        default=4,
        metavar="N",
        help="every Nth step learns from a step after a change, with what is left old (4; 0: none)",
    )
    add("--side", type=int, default=512, help="pixels along the side of a crop (512)")
    add("--batch", type=int, default=2, help="crops of a step (2)")
    add("--steps", type=int, default=6000)
    add("--rate", type=float, default=2e-3, help="largest learning rate (2e-3)")
    add("--every", type=int, default=400, help="steps between validations (400)")
    add("--validation", type=int, default=40, help="pages of the validation (40)")
    add("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        if args.side % 64 or not 64 <= args.side <= LONG_SIDE:
            parser.error(f"--side must be a multiple of 64 up to {LONG_SIDE}, got {args.side}")
        if args.change_every < 0:
            parser.error(f"--change-every must be at least 0, got {args.change_every}")
        for name in ("batch", "steps", "every", "validation"):
            if getattr(args, name) < 1:
                parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
        if not 0 < args.rate < float("inf"):
            parser.error(f"--rate must be a positive number, got {args.rate}")
        for split in ("val", "train"):
            pages_of(args.data / split)
        if args.start and not (args.start / "manifest.json").exists():
            read_recipe(args.start)
        args.run.mkdir(parents=True, exist_ok=True)
        with quiet_orbax(), checkpoints(args.run) as manager:
            train(args, manager)
    except (ValueError, OSError) as error:
        print(f"train.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
