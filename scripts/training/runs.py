"""Runs of train.py: their recipe, their checkpoints, and what they may go on with."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from architecture import HEAD, TOWER
from screens import pages_of

from diffvis_jax.checkpoints.format import read_json
from diffvis_jax.checkpoints.store import load_grounding, load_vision

# Of a recipe, what stays as it was begun. A run may become longer.
SAME = (
    "tower",
    "side",
    "batch",
    "rate",
    "seed",
    "start",
    "teacher",
    "change_every",
    "pages",
)


def checkpoints(run: Path) -> ocp.CheckpointManager:
    """The checkpoints of a run: the newest, to go on from, and the best."""
    keep = ocp.checkpoint_managers

    def f1(metrics: Any) -> float:
        return metrics["f1"]

    return ocp.CheckpointManager(
        (run / "checkpoints").resolve(),
        options=ocp.CheckpointManagerOptions(
            best_fn=f1,
            preservation_policy=keep.AnyPreservationPolicy(
                [keep.LatestN(1), keep.BestN(get_metric_fn=f1, n=1)]
            ),
        ),
    )


def recipe_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options, and how many pages there are to train on, as recipe.json holds them."""
    options = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    pages = len(pages_of(args.data / "train"))
    return {**options, "tower": _tower(), "pages": pages}


def _tower() -> dict[str, Any]:
    """The tower as a recipe holds it: tuples are lists there."""
    return json.loads(json.dumps(dataclasses.asdict(TOWER)))


def read_recipe(run: Path) -> dict[str, Any]:
    """The options that a run was trained with.

    Raises:
      ValueError: no run of train.py.
    """
    if not (run / "recipe.json").exists():
        raise ValueError(f"{run} is no run of train.py, it has no recipe.json")
    return read_json(run / "recipe.json")


def restore(run: Path, *, best: bool) -> tuple[int, dict[str, Any]]:
    """Number and state of the best or of the newest checkpoint of a run.

    Raises:
      ValueError: it has none, or was begun with another tower.
    """
    if read_recipe(run).get("tower") != _tower():
        raise ValueError(f"{run} was trained with another tower than architecture.py has now")
    with checkpoints(run) as manager:
        step = manager.best_step() if best else manager.latest_step()
        if step is None:
            raise ValueError(f"{run} has no checkpoint yet")
        return step, manager.restore(step, args=ocp.args.StandardRestore())


def beginning(place: Path) -> tuple[str, dict[str, Any]]:
    """What to train on from: its name, and the parameters "tower", "head" and, of a run, "probes".

    Args:
      place: a run, of which the newest checkpoint is taken, or a weight directory of such a tower.

    Raises:
      ValueError: neither, or another tower.
    """
    if not (place / "manifest.json").exists():
        step, state = restore(place, best=False)
        return f"step {step} of {place}", state["average"]
    config, tower = load_vision(place, "float32")
    head, params = load_grounding(place)
    # Threshold and storage are chosen by bundle.py.
    same_head = dataclasses.replace(head, threshold=HEAD.threshold, dtype=HEAD.dtype) == HEAD
    if config != TOWER or not same_head:
        raise ValueError(f"{place} holds another tower or head than architecture.py has now")
    params = jax.tree.map(lambda x: x.astype("float32"), params)
    return str(place), {"tower": tower, "head": params}


def check_same(run: Path, begun: dict[str, Any], recipe: dict[str, Any]) -> None:
    """A run goes on with the tower, the optimiser and the crops it began with.

    Args:
      run: its directory, for the error.
      begun: its recipe.
      recipe: the one that it is to go on with.

    Raises:
      ValueError: they differ in more than how long the run is, and what is measured on the way.
    """
    differing = [
        f"{name} {begun.get(name)} (now {recipe[name]})"
        for name in SAME
        if begun.get(name) != recipe[name]
    ]
    if differing:
        raise ValueError(
            f"{run} was begun with {', '.join(differing)}: give the same, or name another run "
            f"(--start {run} takes the weights along)"
        )
