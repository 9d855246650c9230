"""Throughput of batched streams: frames a second against streams and changed patches."""

import re
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
from diffvis_jax.measure.missed import Missed, changed_tokens, missed_at, missed_tails
from diffvis_jax.metrics import tails
from diffvis_jax.report.text import (
    MISSED,
    TAILS,
    decimal,
    milliseconds,
    missed_cells,
    percent,
    tails_text,
    times,
)
from diffvis_jax.towers import build
from diffvis_jax.utils.progress import Progress

CHANGED = "0%,1%,5%,20%,50%,100%"


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


def amounts_of(text: str) -> list[int | float]:
    """Amounts of patches, as given by commas: whole numbers, and shares of all, such as 5%, as
    fractions.

    Raises:
      ValueError: neither; names it.
    """
    found: list[int | float] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(?:(\d+)|(\d+(?:\.\d+)?)%)\s*", part)
        if match is None:
            raise ValueError(f"--changed: a number of patches or a share is needed, got '{part}'")
        found.append(int(match[1]) if match[1] else float(match[2]) / 100)
    return found


def patches_of(amounts: Sequence[int | float], patches: int) -> list[int]:
    """The numbers of patches that amounts mean in a frame of so many.

    Raises:
      ValueError: more than there are; names the number.
    """
    numbers = [round(x * patches) if isinstance(x, float) else x for x in amounts]
    if max(numbers) > patches:
        raise ValueError(f"--changed: a frame has {patches} patches, got {max(numbers)}")
    return numbers


def edited(frames: np.ndarray, patch: int, number: int, rng: np.random.Generator) -> np.ndarray:
    """The frames with so many patches of each replaced, at random places."""
    frames = frames.copy()
    rows, columns = (-(-side // patch) for side in frames.shape[1:3])
    for frame in frames:
        for index in rng.permutation(rows * columns)[:number]:
            row, column = divmod(int(index), columns)
            spot = frame[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            spot[:] = rng.integers(0, 256, spot.shape, np.uint8)
    return frames


def read_once_ms(params: Any, rounds: int) -> float:
    """Milliseconds to multiply one row by every kernel: the least a step of one place could take
    that reads all weights."""
    kernels = [x.reshape(-1, x.shape[-1]) for x in jax.tree.leaves(params) if x.ndim > 1]
    rows = [jax.numpy.ones(x.shape[-1], x.dtype) for x in kernels]
    products = jax.jit(lambda kernels, rows: [k @ r for k, r in zip(kernels, rows, strict=True)])
    seen = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        jax.block_until_ready(products(kernels, rows))
        seen.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(seen[1:])


def throughput(
    model: dv.Model,
    frame: np.ndarray,
    policies: Mapping[str, dv.Policy],
    batches: Sequence[int],
    changed: Sequence[int],
    rounds: int,
    seed: int,
) -> list[dict[str, Any]]:
    """One row for each batch, policy and number of changed patches, over rounds after warm-up.

    All streams begin with the same frame and then change, each at its own places. The full encode
    is of all streams as well, compiled for the batch; both take turns.

    Args:
      model: the tower.
      frame: `uint8 [1, H, W, 3]` to begin with.
      policies: by name.
      batches: B, streams at a time.
      changed: patches that change in each stream.
      rounds: measurements of everything.
      seed: of the changes.
    """
    mesh, rows = data_mesh(), []
    params = on_all(model.params, mesh)
    tower, rng = build(model.config), np.random.default_rng(seed)
    read_ms = read_once_ms(params, rounds)
    total = len(batches) * len(policies) * len(changed) * rounds
    with Progress(total, "throughput") as progress:
        for places in batches:
            step = make_stream_step(model.config, mesh)
            full = make_full_step(model.config, mesh, head=None)
            last = init_full(model.config, places, mesh, head=None)
            first = np.repeat(frame, places, 0)
            here, never = (on_devices(np.full(places, x), mesh) for x in (True, False))
            start = on_devices(first, mesh)
            last = jax.block_until_ready(full(params, last, start, here))
            old = np.asarray(last[0])
            for name, policy in policies.items():
                cache = init_streams(model.config, places, mesh)
                _, cache, _ = step(params, cache, start, never, here, policy)
                # Warm-up: the first step that finds a change is twice as slow as the next.
                some = on_devices(edited(first, tower.patch, changed[0], rng), mesh)
                _, cache, _ = step(params, cache, some, never, here, policy)
                for number in changed:
                    ms_of: dict[str, list[float]] = {"full": [], "step": []}
                    shares: list[float] = []
                    missed: list[Missed] = []
                    for _ in range(rounds):
                        _, cache, _ = step(params, cache, start, here, here, policy)
                        frames = edited(first, tower.patch, number, rng)
                        after = on_devices(frames, mesh)
                        jax.block_until_ready((cache, after))
                        begin = time.perf_counter()
                        last = jax.block_until_ready(full(params, last, after, here))
                        middle = time.perf_counter()
                        tokens, cache, report = jax.block_until_ready(
                            step(params, cache, after, never, here, policy)
                        )
                        ms_of["full"].append(1e3 * (middle - begin))
                        ms_of["step"].append(1e3 * (time.perf_counter() - middle))
                        shares.append(float(np.mean(report.recomputed)))
                        at = np.asarray(changed_tokens(tower, first, frames))
                        results = (at, np.asarray(tokens), np.asarray(last[0]), old)
                        missed += [missed_at(*each) for each in zip(*results, strict=True)]
                        progress(f"{places} streams, {name}, {number} patches")
                    rows.append(
                        {
                            "streams": places,
                            "devices": int(mesh.devices.size),
                            "policy": name,
                            "changed": number,
                            "recomputed": statistics.median(shares),
                            "read_once_ms": read_ms,
                            **{f"{key}_ms": tails(ms) for key, ms in ms_of.items()},
                            **missed_tails(missed),
                        }
                    )
    return rows


def throughput_rows(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Rows of text, the first their heads."""
    head = [
        *("streams", "devices", "policy", "patches changed", "recomputed"),
        *(f"full encode of all: {TAILS}", f"step of all: {TAILS}"),
        *("full encodes / s", "steps / s", "speed-up", "weights read once / step"),
        *MISSED,
    ]
    cells = []
    for row in rows:
        full, step = row["full_ms"], row["step_ms"]
        cells.append(
            [
                f"{row['streams']}",
                f"{row['devices']}",
                row["policy"],
                f"{row['changed']}",
                percent(row["recomputed"]),
                *(tails_text(each, milliseconds) for each in (full, step)),
                *(f"{1e3 * row['streams'] / each['median']:.3g}" for each in (full, step)),
                times(full["median"] / step["median"]),
                decimal(row["read_once_ms"] / step["median"], ".2f"),
                *missed_cells(row),
            ]
        )
    return [head, *cells]
