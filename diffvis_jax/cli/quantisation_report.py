"""What quantising cost: bytes, each kind of layer, and the tokens of some frames."""

import os
from pathlib import Path

import numpy as np

import diffvis_jax as dv
from diffvis_jax.checkpoints.store import load_vision
from diffvis_jax.cli.frame_sizes import sized_for
from diffvis_jax.images.source import read_source
from diffvis_jax.measure.weights import WeightsCompared, compare_weights
from diffvis_jax.metrics import tails
from diffvis_jax.quantisation import QuantReport
from diffvis_jax.report.table import print_table
from diffvis_jax.report.text import TAILS, decimal, percent, tails_text


def print_report(report: QuantReport, *, details: bool) -> None:
    """Bytes before and after; with details, those of each kind of layer and what it lost."""
    print(
        f"{report.quant.name}: {len(report.matrices)} matrices; all parameters "
        f"{report.before / 1e6:.1f} MB before, {report.after / 1e6:.1f} MB after "
        f"({report.before:,} and {report.after:,} bytes)"
    )
    if report.kept:
        print(f"kept as floats: {', '.join(report.kept)}")
    if not details:
        return
    rows = [["matrices", "number", "MB before", "MB after", f"relative error: {TAILS}"]]
    for name, some in report.groups().items():
        sizes = (sum(getattr(each, key) for each in some) / 1e6 for key in ("before", "after"))
        errors = tails_text(tails(each.error for each in some), two_digits)
        rows.append([name, f"{len(some)}", *(f"{size:.2f}" for size in sizes), errors])
    print()
    print_table(rows)


def two_digits(share: float | None) -> str:
    """A share with two digits that count: "0.35%"."""
    return "-" if share is None else f"{100 * share:.2g}%"


def read_frames(
    source: str | os.PathLike[str], dtype: str, place: Path
) -> tuple[dv.Model, np.ndarray]:
    """The tower of a weight directory, and the frames of a recording as it takes them.

    Raises:
      ValueError: no frames, or only one, which shows no change.
    """
    paths = read_source(place).paths
    if len(paths) < 2:
        raise ValueError(f"--report {place}: one frame shows no change: give at least two")
    config, params = load_vision(source, dtype)
    model = sized_for(dv.Model(config, params), paths)
    return model, dv.preprocess(list(paths), model.config)


def print_fidelity(
    source: str | os.PathLike[str], directory: str | os.PathLike[str], dtype: str, place: Path
) -> None:
    """What the quantised weights change in the tokens of a recording."""
    model, frames = read_frames(source, dtype, place)
    _, params = load_vision(directory)
    compared = compare_weights(model.config, model.params, params, frames)
    print(f"\ntokens of {len(frames)} frames, {TAILS}:")
    for name, text in fidelity_cells(compared).items():
        print(f"  {name}: {text}")


def fidelity_cells(compared: WeightsCompared) -> dict[str, str]:
    """By the heads of a table's columns."""
    return {
        "token error": tails_text(compared.token_error, two_digits),
        "error of the change": tails_text(compared.change_error, lambda x: decimal(x, ".2g")),
        "missed at changed tokens": tails_text(compared.missed_changed, percent),
        "jitter of full encodes": tails_text(compared.jitter, two_digits),
        "jitter of the stream": tails_text(compared.jitter_stream, two_digits),
    }
