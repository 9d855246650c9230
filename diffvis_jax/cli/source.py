"""SOURCE on a command line: which pictures."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffvis_jax.cli.bundled import BUNDLED
from diffvis_jax.cli.command_line import whole

WHAT = "a folder of screenshots, a picture, a pattern such as 'shots/*.png', or a film"


class _Path(argparse.Action):
    """Keeps a path. (Of a positional with a `type` argparse would convert the default as well.)"""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, Path(str(values)))


def add_source(add: Callable[..., Any], *old: str, default: Path | None = BUNDLED) -> None:
    """SOURCE, as `args.frames`.

    Args:
      add: a parser's or a group's `add_argument`.
      old: flags under which it was known.
      default: what is looked at without one; None = nothing.
    """
    said = f"{WHAT} (default: the bundled session)" if default else WHAT
    # The flag's default is the one that counts: argparse would let that of the other win over it.
    suppressed = {"nargs": "?", "default": argparse.SUPPRESS}
    add("frames", metavar="SOURCE", action=_Path, help=said, **suppressed)
    add(*(old or ("--frames",)), dest="frames", type=Path, default=default, help=argparse.SUPPRESS)


def add_max_frames(add: Callable[..., Any], *old: str) -> None:
    """`--max-frames`, as `args.max_frames`; `old`: flags under which it was known."""
    add(
        *("--max-frames", *old),
        dest="max_frames",
        metavar="N",
        type=whole(1, 10**9, "a whole number of frames >= 1"),
        help="stop after so many frames (default: all)",
    )
