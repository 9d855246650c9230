#!/usr/bin/env python3
"""What weights of one tower and head find on rendered pages: F1, clicks, kinds.

`python scripts/training/score_weights.py DATA/test weights/NAME quantised/NAME ...`
"""

import argparse
import sys
from pathlib import Path

from score import score
from screens import load_screens

import diffvis_jax as dv
from diffvis_jax.cli.command_line import Parser, run_script, whole
from diffvis_jax.cli.models import find_model
from diffvis_jax.quantisation import is_quantised_tree
from diffvis_jax.report.table import print_table
from diffvis_jax.report.text import interval


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("data", type=Path, help="a folder of pages: one split of render_pages.py")
    parser.add_argument("weights", nargs="+", help="weight directories, or bundled weights by name")
    parser.add_argument(
        "--pages",
        type=whole(1, 10**6, "a whole number of pages >= 1"),
        help="so many of them, evenly chosen (default: all)",
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> int:
    rows = [["weights", "F1", "precision", "recall", "clicks", "kinds"]]
    for name in args.weights:
        place = find_model(name)
        model = dv.load(place)
        if not is_quantised_tree(model.params):  # others say what they compute in
            model = dv.load(place, dtype=args.dtype)
        if model.head is None:
            raise ValueError(f"{name} has no grounding head: it finds nothing")
        screens = load_screens(
            args.data, model.head.config.kinds, args.pages, model.config.preprocess
        )
        params = {"tower": model.params, "head": model.head.params}
        said = score(model.config, model.head.config, params, screens)
        shares = (f"{said[key]:.4f}" for key in ("f1", "precision", "recall"))
        clicks = interval(said["click"], said["click_interval"])
        rows.append([name, *shares, clicks, f"{said['kind']:.4f}"])
    print_table(rows)
    return 0


if __name__ == "__main__":
    arguments = parse_arguments()
    sys.exit(run_script(lambda: run(arguments)))
