#!/usr/bin/env python3
"""Writes the best weights of a training run as a weight directory, in bfloat16.

The numbers in its manifest are measured on the rounded weights, as they are shipped.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
from architecture import ABOUT, HEAD, TOWER
from card import card
from learning import finished
from runs import read_recipe, restore
from score import answer, best_threshold, score
from screens import load_screens

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
    recipe = read_recipe(args.run)
    with quiet_orbax():
        best, state = restore(args.run, best=True)
    found = finished(state)
    tower, tower_params = cast(TOWER, found["tower"], "bfloat16")
    head, head_params = cast(HEAD, found["head"], "bfloat16")
    exact, exact_params = cast(tower, tower_params, "float32")
    params = {
        "tower": exact_params,
        "head": jax.tree.map(lambda x: x.astype("float32"), head_params),
    }
    splits = {
        split: load_screens(args.data / split, HEAD.kinds, args.pages, TOWER.preprocess)
        for split in ("val", "test")
    }
    threshold = best_threshold(head, answer(exact, head, params, splits["val"]), splits["val"])
    head = dataclasses.replace(head, threshold=threshold)
    print(f"threshold {threshold:g}, chosen on val/")
    measured = {}
    for split, screens in splits.items():
        said = {**score(exact, head, params, screens), "pages": len(screens)}
        measured[split] = said
        print(split, json.dumps(said))
    text = card(
        args.target.name,
        tower=ABOUT,
        kinds=HEAD.kinds,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        recipe=recipe,
        step=best,
        threshold=threshold,
        measured=measured,
    )
    with tempfile.TemporaryDirectory() as folder:
        readme = Path(folder) / "README.md"
        readme.write_text(text, encoding="utf-8")
        save(
            args.target,
            config=tower,
            params=tower_params,
            grounding_config=head,
            grounding_params=head_params,
            manifest_extra={
                "source": "trained by scripts/training/train.py",
                "recipe": options_of(recipe),
                "step": best,
                "measured": measured,
                "head": dataclasses.asdict(head),
            },
            files=[readme],
            force=args.force,
        )
    size = sum(file.stat().st_size for file in args.target.rglob("*") if file.is_file())
    print(f"{args.target}: {size / 1e6:.1f} MB")
    return 0


def options_of(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe without the places of one machine: of what it names, the name stays."""
    options = {name: value for name, value in recipe.items() if name not in ("data", "run")}
    named = {key: recipe[key] and Path(recipe[key]).name for key in ("start", "teacher")}
    return {**options, **named}


if __name__ == "__main__":
    sys.exit(main())
