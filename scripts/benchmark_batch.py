"""Throughput of batched streams: frames a second against the streams and the share that changes."""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

import diffvis_jax as dv
from diffvis_jax.core.streams import (
    checked_places,
    data_mesh,
    init_streams,
    make_stream_step,
    on_all,
    on_devices,
)
from diffvis_jax.evaluation.full_step import init_full, make_full_step
from diffvis_jax.metrics import tails
from diffvis_jax.report.text import TAILS, milliseconds, percent, tails_text, times
from diffvis_jax.towers import build
from diffvis_jax.utils.progress import Progress

SHARES = (0.0, 0.01, 0.05, 0.2, 0.5, 1.0)


def batches_of(text: str) -> list[int]:
    """The sizes of batches, as given by commas, each of which the devices divide.

    Raises:
      ValueError: no such numbers; names the one.
    """
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--batch: whole numbers are needed, got '{text}'") from None
    return [checked_places(places, data_mesh()) for places in found]


def edited(frames: np.ndarray, patch: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """The frames with that share of the patches of each replaced, at random places."""
    frames = frames.copy()
    rows, columns = (side // patch for side in frames.shape[1:3])
    for frame in frames:
        for index in rng.permutation(rows * columns)[: round(share * rows * columns)]:
            row, column = divmod(int(index), columns)
            spot = frame[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            spot[:] = rng.integers(0, 256, spot.shape, np.uint8)
    return frames


def throughput(
    model: dv.Model,
    frame: np.ndarray,
    policies: Mapping[str, dv.Policy],
    batches: Sequence[int],
    rounds: int,
    seed: int,
) -> list[dict[str, Any]]:
    """One row for each batch, policy and share, over rounds after warm-up.

    All streams begin with the same frame and then change, each at its own places. The full encode
    is of all streams as well, compiled for the batch; both take turns.

    Args:
      model: the tower.
      frame: `uint8 [1, S, S, 3]` to begin with.
      policies: by name.
      batches: B, streams at a time.
      rounds: measurements of everything.
      seed: of the changes.
    """
    mesh, rows = data_mesh(), []
    params = on_all(model.params, mesh)
    tower, rng = build(model.config), np.random.default_rng(seed)
    total = len(batches) * len(policies) * len(SHARES) * rounds
    with Progress(total, "throughput") as progress:
        for places in batches:
            step = make_stream_step(model.config, mesh)
            full = make_full_step(model.config, mesh, head=None)
            last = init_full(model.config, places, mesh, head=None)
            first = np.repeat(frame, places, 0)
            here, never = (on_devices(np.full(places, x), mesh) for x in (True, False))
            start = on_devices(first, mesh)
            jax.block_until_ready(full(params, last, start, here))
            for name, policy in policies.items():
                cache = init_streams(model.config, places, mesh)
                _, cache, _ = step(params, cache, start, never, here, policy)
                for share in SHARES:
                    ms_of: dict[str, list[float]] = {"full": [], "step": []}
                    shares: list[float] = []
                    for _ in range(rounds):
                        _, cache, _ = step(params, cache, start, here, here, policy)
                        after = on_devices(edited(first, tower.patch, share, rng), mesh)
                        jax.block_until_ready((cache, after))
                        begin = time.perf_counter()
                        last = jax.block_until_ready(full(params, last, after, here))
                        middle = time.perf_counter()
                        _, cache, report = jax.block_until_ready(
                            step(params, cache, after, never, here, policy)
                        )
                        ms_of["full"].append(1e3 * (middle - begin))
                        ms_of["step"].append(1e3 * (time.perf_counter() - middle))
                        shares.append(float(np.mean(report.recomputed)))
                        progress(f"{places} streams, {name}, {share:.0%}")
                    rows.append(
                        {
                            "streams": places,
                            "devices": int(mesh.devices.size),
                            "policy": name,
                            "changed": share,
                            "recomputed": statistics.median(shares),
                            **{f"{key}_ms": tails(ms) for key, ms in ms_of.items()},
                        }
                    )
    return rows


def throughput_rows(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Rows of text, the first their heads."""
    head = [
        *("streams", "devices", "policy", "patches changed", "recomputed"),
        *(f"full encode of all: {TAILS}", f"step of all: {TAILS}"),
        *("full encodes / s", "steps / s", "speed-up"),
    ]
    cells = []
    for row in rows:
        full, step = row["full_ms"], row["step_ms"]
        cells.append(
            [
                f"{row['streams']}",
                f"{row['devices']}",
                row["policy"],
                f"{row['changed']:.0%}",
                percent(row["recomputed"]),
                *(tails_text(each, milliseconds) for each in (full, step)),
                *(f"{1e3 * row['streams'] / each['median']:.3g}" for each in (full, step)),
                times(full["median"] / step["median"]),
            ]
        )
    return [head, *cells]
