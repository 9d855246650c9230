#!/usr/bin/env python3
"""Writes the best weights of a training run as a weight directory, in bfloat16.

The numbers in its manifest are measured on the rounded weights, as they are shipped.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from score import answer, best_threshold, score
from train import SCREEN, Setup, calibration, checkpoints, configs, load_screens, optimiser

from diffvis_jax.cache import with_size
from diffvis_jax.checkpoints.format import quiet_orbax
from diffvis_jax.checkpoints.store import cast, save
from diffvis_jax.checkpoints.writer import check_target


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("run", type=Path, help="written by train.py")
    add("target", type=Path, help="weight directory to write")
    add(
        "--data",
        type=Path,
        required=True,
        help="rendered pages; val/ chooses the threshold, test/ is measured",
    )
    add("--pages", type=int, help="most pages of the test (all)")
    add("--force", action="store_true", help="replace the directory")
    args = parser.parse_args()
    try:
        return bundle(args)
    except (ValueError, OSError) as error:
        print(f"bundle.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def bundle(args: argparse.Namespace) -> int:
    """Measures and writes; refuses before the work what it could not finish."""
    check_target(args.target.resolve(), force=args.force)
    recipe = json.loads((args.run / "recipe.json").read_text())
    tower, head = configs(int(recipe["side"]), tuple(recipe["depths"]))
    setup = Setup(tower, head, optimiser(float(recipe["rate"]), int(recipe["steps"])))
    with quiet_orbax():
        manager = checkpoints(args.run)
        best = manager.best_step()
        if best is None:
            raise ValueError(f"no checkpoint in {args.run}: run train.py")
        state = manager.restore(best, args=ocp.args.StandardRestore(setup.fresh(0)))
    held = calibration(load_screens(args.data / "train", head, 200, SCREEN), tower.size, head)
    average = setup.folded(state["average"], held)
    tower, tower_params = cast(with_size(tower, SCREEN), average["tower"], "bfloat16")
    head, head_params = cast(head, average["head"], "bfloat16")
    exact, exact_params = cast(tower, tower_params, "float32")
    params = {
        "tower": exact_params,
        "head": jax.tree.map(lambda x: x.astype("float32"), head_params),
    }
    screens = load_screens(args.data / "val", head, args.pages, SCREEN)
    threshold = best_threshold(head, answer(exact, head, params, screens), screens)
    head = dataclasses.replace(head, threshold=threshold)
    print(f"threshold {threshold:g}, chosen on val/")
    measured = {}
    for split in ("val", "test"):
        screens = load_screens(args.data / split, head, args.pages, SCREEN)
        measured[split] = {**score(exact, head, params, screens), "pages": len(screens)}
        print(split, json.dumps(measured[split]))
    save(
        args.target,
        config=tower,
        params=tower_params,
        grounding_config=head,
        grounding_params=head_params,
        manifest_extra={
            "source": "trained by scripts/training/train.py",
            "recipe": {k: v for k, v in recipe.items() if k not in ("data", "run")},
            "step": best,
            "measured": measured,
            "head": dataclasses.asdict(head),
        },
        force=args.force,
    )
    size = sum(file.stat().st_size for file in args.target.rglob("*") if file.is_file())
    print(f"{args.target}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
