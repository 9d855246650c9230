#!/usr/bin/env python3
"""Trains a small FastViTHD, with its grounding head, on rendered screens.

    python scripts/training/render_pages.py DATA --train 3000 --val 250 --test 350
    python scripts/training/train.py DATA RUN
    python scripts/training/bundle.py RUN weights/NAME --data DATA

Stops and goes on: the same command continues from the newest checkpoint in RUN. `RUN/curve.jsonl`
grows as it goes; the newest checkpoint is kept, and the one that scores best on validation pages.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from architecture import SIZE, SMALLER, Architecture, architecture_of
from learning import Setup
from optimiser import optimiser_of
from runs import check_same, checkpoints, read_recipe, recipe_of
from score import answer, best_threshold, measure
from screens import Screen, ahead, calibration, load_screens, pages_of, random_crops
from starting import check_start, helped, is_weights, start_step, started_state

from diffvis_jax.checkpoints.format import quiet_orbax
from diffvis_jax.grounding.decode import decode
from diffvis_jax.utils.atomic_file import write_whole


def validate(setup: Setup, params: dict[str, Any], screens: list[Screen]) -> dict[str, Any]:
    """What `measure` says at the threshold that suits these screens best."""
    answers = answer(setup.architecture.tower, setup.head, params, screens)
    threshold = best_threshold(setup.head, answers, screens)
    found = [decode(setup.head, a, threshold=threshold)[0] for a in answers]
    return {"threshold": threshold, **measure(setup.head, found, screens)}


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


def train(
    args: argparse.Namespace, architecture: Architecture, manager: ocp.CheckpointManager
) -> None:
    """Trains from the newest checkpoint of `manager` on, or from the start, to the last step."""
    setup, recipe = Setup(architecture, optimiser_of(vars(args))), recipe_of(args)
    newest = manager.latest_step()
    state: Any
    if newest is not None:
        begun = read_recipe(args.run)
        check_same(args.run, begun, recipe)
        if args.steps < newest:
            raise ValueError(f"--steps {args.steps}: {args.run} has {newest} steps already")
        recipe["start_step"] = begun.get("start_step")
        state = manager.restore(newest, args=ocp.args.StandardRestore(setup.shape))
        print(f"going on from step {newest}", flush=True)
    else:
        state = None
        if args.start:
            state = started_state(setup, args.start, args.seed if args.fresh_tokens else None)
        recipe["start_step"] = start_step(args.start) if args.start else None
    done = newest or 0
    validation = load_screens(args.data / "val", setup.head, args.validation, SIZE)
    screens = load_screens(args.data / "train", setup.head, None, SIZE)
    held = calibration(screens, args.side, setup.head)
    if state is None:
        state = setup.state(setup.fresh(args.seed))
    some = -(-len(screens) // 3)
    screens += load_screens(args.data / "train", setup.head, some, SMALLER)
    write_whole(args.run / "recipe.json", json.dumps(recipe, indent=1) + "\n")
    batches = ahead(random_crops(screens, args.side, args.batch, setup.head, args.seed + done))
    # Arrays that are put on a device and others would each have the step compiled for them.
    state = jax.device_put(state, jax.local_devices()[0])
    start, seen = time.monotonic(), []
    while done < args.steps:
        state, parts = setup.step(state, next(batches))
        seen.append(parts)
        done += 1
        if done % 50 == 0:
            mean = {k: float(np.mean([p[k] for p in seen])) for k in seen[0]}
            tell(args.run, {"step": done, "seconds": round(time.monotonic() - start, 1), **mean})
            seen = []
            check_finite(mean, done)
        if done % args.every == 0 or done == args.steps:
            check_finite(parts, done)
            metrics = validate(setup, setup.finished(state, held), validation)
            tell(args.run, {"step": done, **{f"val_{k}": v for k, v in metrics.items()}})
            manager.save(done, args=ocp.args.StandardSave(state), metrics={"f1": metrics["f1"]})
            manager.wait_until_finished()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("data", type=Path, help="written by render_pages.py; holds train/ and val/")
    add("run", type=Path, help="checkpoints and curve go there")
    add("--depths", type=int, nargs=5, default=(2, 12, 24, 4, 2), help="blocks of the stages")
    add(
        "--start",
        type=Path,
        metavar="RUN",
        help="from this run, or from a weight directory; a shallower tower is grown",
    )
    add(
        "--frozen",
        type=int,
        default=0,
        choices=range(4),
        help="leave the stem and so many stages of --start, a weight directory, as they are (0)",
    )
    add(
        "--token-helper",
        action="store_true",
        help="train with a helper head that sees the tokens alone",
    )
    add(
        "--fresh-tokens",
        action="store_true",
        help="begin what comes after stage 3 of --start anew",
    )
    add("--side", type=int, default=256, help="pixels along the side of a crop (256)")
    add("--batch", type=int, default=8, help="crops of a step (8)")
    add("--steps", type=int, default=6000)
    add("--rate", type=float, default=2e-3, help="largest learning rate (2e-3)")
    add("--muon", type=float, metavar="RATE", help="Muon for the matrices of blocks, at this rate")
    add("--every", type=int, default=400, help="steps between validations (400)")
    add("--validation", type=int, default=40, help="pages of the validation (40)")
    add("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        if args.frozen and not (args.start and is_weights(args.start)):
            parser.error("--frozen goes on from folded weights: --start WEIGHTS")
        if args.fresh_tokens and not args.start:
            parser.error("--fresh-tokens goes on from the other stages of a run: --start RUN")
        args.helped = helped(args.start, args.frozen)
        architecture = architecture_of(vars(args))
        if args.side % 64 or not 64 <= args.side <= SIZE:
            parser.error(f"--side must be a multiple of 64 up to {SIZE}, got {args.side}")
        for name in ("batch", "steps", "every", "validation"):
            if getattr(args, name) < 1:
                parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
        for name in ("rate", "muon"):
            value = getattr(args, name)
            if value is not None and not 0 < value < float("inf"):
                parser.error(f"--{name} must be a positive number, got {value}")
        for split in ("val", "train"):
            pages_of(args.data / split)
        if args.start:
            check_start(args.start)
        args.run.mkdir(parents=True, exist_ok=True)
        with quiet_orbax(), checkpoints(args.run) as manager:
            train(args, architecture, manager)
    except (ValueError, OSError) as error:
        print(f"train.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
