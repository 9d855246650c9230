"""Weights of one tower side by side, as floats and quantised: bytes, times, and what they change.

`diffvis benchmark --weights A --against B,...`: all in one process, the contenders taking turns.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import diffvis_jax as dv
from diffvis_jax.checkpoints.store import read_manifest
from diffvis_jax.cli.frame_sizes import sized_for
from diffvis_jax.cli.models import find_model
from diffvis_jax.cli.named_policies import find_policies
from diffvis_jax.cli.quantisation_report import fidelity_cells
from diffvis_jax.images.source import read_source
from diffvis_jax.measure.single_change import SingleChange, small_changes
from diffvis_jax.measure.weights import compare_weights
from diffvis_jax.metrics import tails
from diffvis_jax.report.text import TAILS, milliseconds, percent, tails_text, times
from diffvis_jax.towers import build
from diffvis_jax.utils.progress import Progress

_SMALL = 0.02  # share of the patches, of the steps that are timed
_STEPS = 4  # changes that are timed, evenly chosen


def weights_side_by_side(
    first: str | None,
    others: Sequence[str],
    frames: Path,
    *,
    dtype: str,
    policies: str,
    rounds: int,
) -> list[dict[str, Any]]:
    """One row for each of the weights, that of `first` first.

    Args:
      first: weights as floats, by name; the others are compared with them.
      others: quantised ones, or those of another dtype.
      frames: a recording.
      dtype: of floats.
      policies: names of those whose steps are timed; fidelity is that of the first.
      rounds: of each time.

    Raises:
      ValueError: weights of another tower, or frames without a small change.
    """
    places = {name: find_model(name) for name in (first, *others)}
    paths = read_source(frames).paths
    models = {
        name: sized_for(dv.load(place, dtype=dtype if name == first else None), paths)
        for name, place in places.items()
    }
    reference = models[first]
    for name, model in models.items():
        if dataclasses.replace(model.config, dtype="float32") != dataclasses.replace(
            reference.config, dtype="float32"
        ):
            raise ValueError(f"--against: '{name}' is of another tower than '{reference.name}'")
    pictures = dv.preprocess(list(paths), reference.config)
    timed = _times(models, pictures, find_policies(policies), rounds)
    rows = []
    for name, model in models.items():
        row: dict[str, Any] = {"weights": model.name, **timed[name]}
        row["disk"] = _on_disk(places[name])
        row["resident"] = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))
        if name != first:
            chosen = next(iter(find_policies(policies).values()))
            compared = compare_weights(
                model.config, reference.params, model.params, pictures, chosen
            )
            row["fidelity"] = dataclasses.asdict(compared)
            row["cells"] = fidelity_cells(compared)
        rows.append(row)
    return rows


def _on_disk(place: str | os.PathLike[str]) -> int:
    """Bytes of the tower's files."""
    files = read_manifest(place)["files"]
    return sum(entry["size"] for name, entry in files.items() if name.startswith("vision/"))


def _times(
    models: dict[Any, dv.Model], frames: np.ndarray, policies: dict[str, dv.Policy], rounds: int
) -> dict[Any, dict[str, Any]]:
    """Milliseconds of full encodes and of small steps, by the weights' names."""
    patch = build(next(iter(models.values())).config).patch
    numbers = small_changes(frames, patch, _SMALL)
    if not numbers:
        raise ValueError(
            f"no step of these frames changes at most {percent(_SMALL)} of the patches"
        )
    numbers = [
        numbers[i] for i in np.linspace(0, len(numbers) - 1, min(_STEPS, len(numbers))).astype(int)
    ]
    full: dict[Any, list[float]] = {name: [] for name in models}
    steps: dict[Any, dict[str, list[float]]] = {
        name: {policy: [] for policy in policies} for name in models
    }
    with Progress(len(numbers) * rounds * len(models), "timing") as progress:
        for number in numbers:
            before, after = frames[number - 1 : number], frames[number : number + 1]
            changes = {name: SingleChange(model, before, after) for name, model in models.items()}
            for change in changes.values():  # the first runs are not counted
                for policy in policies.values():
                    change.measure(policy)
            for _ in range(rounds):
                for name, change in changes.items():
                    full[name].append(change.time_full())
                    for key, policy in policies.items():
                        steps[name][key].append(change.measure(policy).step_ms)
                    progress(f"frame {number}")
    return {
        name: {
            "full_ms": tails(full[name]),
            "step_ms": {key: tails(some) for key, some in steps[name].items()},
        }
        for name in models
    }


def weights_rows(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Rows of text, the first their heads."""
    first, policies = rows[0], list(rows[0]["step_ms"])
    names = list(next(row["cells"] for row in rows if "cells" in row))
    head = [
        *("weights", "MB on disk", "MB in memory", f"full encode: {TAILS}"),
        *(f"small step, {policy}: {TAILS}, as fast" for policy in policies),
        *(f"{name}: {TAILS}" for name in names),
    ]
    cells = []
    for row in rows:
        steps = []
        for policy in policies:
            now = row["step_ms"][policy]
            ratio = first["step_ms"][policy]["median"] / now["median"]
            steps.append(f"{tails_text(now, milliseconds)}, {times(ratio)}")
        cells.append(
            [
                row["weights"],
                *(f"{row[key] / 1e6:.1f}" for key in ("disk", "resident")),
                tails_text(row["full_ms"], milliseconds),
                *steps,
                *(row.get("cells", {}).get(name, "-") for name in names),
            ]
        )
    return [head, *cells]
