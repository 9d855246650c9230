"""Models by name: bundled weights, a converted directory, a PyTorch checkpoint, or hf:REPO."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffvis_jax.checkpoints.bundled import bundled_directory, bundled_models

PACKAGE = Path(__file__).resolve().parents[1]
TRAINED = "screens-vit"  # bundled; the default of every command that needs weights
WHAT = (
    "bundled weights by name, a directory that `diffvis convert` wrote, or a PyTorch checkpoint "
    "(directory, file or hf:REPO), which is converted once"
)


def add_model(
    add: Callable[..., Any],
    *,
    required: bool = False,
    default: str = TRAINED,
    several: bool = False,
) -> None:
    """`--model`, also under the names that it had; None where it is not given.

    Args:
      add: a parser's or a group's `add_argument`.
      required: whether there is no default.
      default: what stands for None, for the help.
      several: whether names may be separated by commas.
    """
    add(
        *("--model", "--model-path", "--weights"),
        metavar="MODEL",
        required=required,
        help=("one or more, by commas: " if several else "")
        + WHAT
        + ("" if required else f" (default: {default})"),
    )


def find_model(name: str | None, *, language: bool = False) -> Path:
    """The weight directory of a model; a PyTorch checkpoint is converted if need be.

    Args:
      name: as `WHAT` says; None = the trained weights that are bundled.
      language: whether a language model is needed.

    Raises:
      ValueError: nothing of the kind; says which weights there are.
    """
    from diffvis_jax.checkpoints.conversion_cache import weight_directory

    name = name or TRAINED
    bundled = bundled_directory(name)
    if (
        bundled is None
        and not name.startswith("hf:")
        and not os.path.exists(os.path.expanduser(name))
    ):
        raise ValueError(
            f"no model '{name}': neither bundled ({', '.join(bundled_models()) or 'none is'}), nor "
            "a directory or file, nor hf:REPO"
        )

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    return weight_directory(bundled or name, language=language, say=say)
