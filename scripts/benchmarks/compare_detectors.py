#!/usr/bin/env python3
"""Did the screen change? Ways in which agents decide that today, beside the diff of patches.

    python scripts/benchmarks/compare_detectors.py SESSION [SESSION ...]

Each step from a recorded frame to the next is judged by itself. It changed if any pixel of the
screenshot differs; what a detector sees is the frame as the model takes it.

* hash: SHA-256 of the frame's bytes.
* fingerprint: 32 x 32 grey values; their largest difference.
* pHash: the signs of the 8 x 8 lowest frequencies of a 32 x 32 picture; how many differ.
* mean: 64 x 64 grey values; their mean difference.
* patches: this library's; each patch by its strongest pixel.

All but the last know only whole frames: what they call changed is encoded in full. They have their
usual thresholds and their best one, which is the largest that misses few enough steps (--miss).
"""

import argparse
import dataclasses
import functools
import hashlib
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

import diffvis_jax as dv
from diffvis_jax.cli.bundled import BUNDLED
from diffvis_jax.cli.command_line import check_file, run_script, write_json
from diffvis_jax.core.change import compute_patch_diff, patch_difference
from diffvis_jax.images.preprocess import open_image, upright_rgb
from diffvis_jax.images.recording import read_recording
from diffvis_jax.metrics import tails
from diffvis_jax.report.table import machine_text, print_table
from diffvis_jax.report.text import TAILS, decimal, percent, tails_text
from diffvis_jax.towers import build
from diffvis_jax.towers.registry import ARCHITECTURES
from diffvis_jax.utils.progress import Progress

SCREEN_PATCH = 64  # pixels of the screenshot
_strongest = jax.jit(patch_difference, static_argnums=(2, 3))


@dataclasses.dataclass(frozen=True)
class Detector:
    """One way to compare two frames.

    Attributes:
      signature: frame `uint8 [H, W, 3]` -> what is kept of it.
      distance: two signatures -> float, or float `[rows, columns]` of the patches.
      usual: thresholds in use; what is farther changed.
    """

    signature: Callable[[np.ndarray], Any]
    distance: Callable[[Any, Any], Any]
    usual: tuple[float, ...]


def grey(frame: np.ndarray, side: int, filter: Image.Resampling) -> np.ndarray:
    """The frame as `uint8 [side, side]`."""
    return np.asarray(Image.fromarray(frame).convert("L").resize((side, side), filter))


def phash(frame: np.ndarray) -> np.ndarray:
    """bool `[64]`: which of the lowest frequencies lie above their median."""
    from scipy.fft import dctn  # here: it takes longer to import than the other detectors run

    picture = grey(frame, 32, Image.Resampling.LANCZOS).astype(np.float64)
    lowest = np.asarray(dctn(picture))[:8, :8].ravel()
    return lowest > np.median(lowest)


def _levels(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a.astype(np.int16) - b)


def detectors(patch: int) -> dict[str, Detector]:
    """All of them, by name; distances in grey levels, of pHash in bits, of the hash 0 or 1.

    Args:
      patch: pixels along the side of the patches that the model compares.
    """

    def patches(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.rint(255 * np.asarray(_strongest(a[None], b[None], patch, "max"))[0])

    small = functools.partial(grey, filter=Image.Resampling.BOX)
    return {
        "hash": Detector(
            lambda x: hashlib.sha256(x.data).digest(), lambda a, b: float(a != b), (0,)
        ),
        "fingerprint": Detector(
            lambda x: small(x, 32), lambda a, b: float(_levels(a, b).max()), (2,)
        ),
        "pHash": Detector(phash, lambda a, b: float((a != b).sum()), (0, 4, 8)),
        "mean": Detector(
            lambda x: small(x, 64), lambda a, b: float(_levels(a, b).mean()), (0.05 * 255,)
        ),
        "patches": Detector(lambda x: x, patches, (0, 3)),
    }


@dataclasses.dataclass(frozen=True)
class Step:
    """What is true of one step, and what each detector measured.

    Attributes:
      size: changed patches of the screenshot (`SCREEN_PATCH`); 0 = nothing changed.
      seen: bool `[rows, columns]`, patches of the model's frame that differ at all.
      distance: by detector.
      us: by detector, microseconds for a signature and a comparison.
    """

    size: int
    seen: np.ndarray
    distance: dict[str, Any]
    us: dict[str, float]


def measure(
    screens: tuple[np.ndarray, np.ndarray],
    frames: tuple[np.ndarray, np.ndarray],
    patch: int,
    named: dict[str, Detector],
) -> Step:
    """One step.

    Args:
      screens: screenshots before and after, `uint8 [H, W, 3]`; of two sizes all of it changed.
      frames: the same as the model takes them, `uint8 [S, S, 3]`.
      patch: pixels along the side of the model's patches.
      named: the detectors.
    """
    before, after = screens
    if before.shape == after.shape:
        size = int(np.asarray(compute_patch_diff(before, after, SCREEN_PATCH)).sum())
    else:
        size = int(np.prod([-(-side // SCREEN_PATCH) for side in after.shape[:2]]))
    distance, us = {}, {}
    for name, detector in named.items():
        kept = detector.signature(frames[0])
        start = time.perf_counter()
        distance[name] = detector.distance(kept, detector.signature(frames[1]))
        us[name] = 1e6 * (time.perf_counter() - start)
    return Step(size, np.asarray(compute_patch_diff(*frames, patch)), distance, us)


def read_steps(folder: Path, config: Any, named: dict[str, Detector]) -> list[Step]:
    """The steps of a recording; its frames are read one at a time.

    Raises:
      ImageError: no recording, or a file that is no picture.
    """
    patch, steps = build(config).patch, []
    paths = read_recording(folder).paths

    def pictures(path: Path) -> tuple[np.ndarray, np.ndarray]:
        with open_image(path, str(path)) as image:
            screen = np.asarray(upright_rgb(image, str(path)))
        return screen, dv.preprocess(screen, config)[0]

    with Progress(len(paths) - 1, folder.name) as progress:
        for before, after in itertools.pairwise(map(pictures, paths)):
            screens, frames = zip(before, after, strict=True)
            steps.append(measure(screens, frames, patch, named))
            progress(folder.name)
    return steps


def score(steps: Sequence[Step], name: str, threshold: float) -> dict[str, Any]:
    """What a detector does at a threshold.

    Returns:
      "missed": steps that changed and were not seen; "missed_size": `tails` of their changed
      patches of the screenshot; "patches_missed": of the model's patches that differ, the share
      that was not encoded; "in_vain": of the model's patches that do not differ, the share that
      was; "false": steps that did not change and were called changed.
    """
    called = [np.broadcast_to(step.distance[name] > threshold, step.seen.shape) for step in steps]
    noticed = [bool(marks.any()) for marks in called]
    missed = [s.size for s, found in zip(steps, noticed, strict=True) if s.size and not found]
    marks, seen = (np.concatenate([x.ravel() for x in each]) for each in (called, _seen(steps)))
    return {
        "threshold": threshold,
        "missed": len(missed),
        "missed_size": tails(missed),
        "patches_missed": float((~marks)[seen].mean()) if seen.any() else None,
        "in_vain": float(marks[~seen].mean()) if not seen.all() else None,
        "false": sum(found and not s.size for s, found in zip(steps, noticed, strict=True)),
    }


def _seen(steps: Sequence[Step]) -> list[np.ndarray]:
    return [step.seen for step in steps]


def best_threshold(steps: Sequence[Step], name: str, miss: float) -> float:
    """The largest threshold at which at most a share `miss` of the changed steps is missed; 0 where
    there is none: the detector misses more at any."""
    farthest = sorted(float(np.max(step.distance[name])) for step in steps if step.size)
    # Missed are those at most as far as the threshold; so it lies below the first that may not be.
    allowed = int(miss * len(farthest))
    if allowed >= len(farthest):
        return farthest[-1] if farthest else 0.0
    below = [d for d in farthest[: allowed + 1] if d < farthest[allowed]]
    return below[-1] if below else 0.0


def compare(steps: Sequence[Step], named: dict[str, Detector], miss: float) -> list[dict[str, Any]]:
    """One row for each detector and threshold, as `score`, and `tails` of its "us"."""
    rows = []
    for name, detector in named.items():
        settings = [("usual", float(threshold)) for threshold in detector.usual]
        # A step is seen by the strongest of its patches: the others would be missed unnoticed.
        by_patch = any(np.ndim(step.distance[name]) for step in steps)
        best = best_threshold(steps, name, miss)
        if not by_patch and best not in detector.usual:
            settings.append(("best", best))
        us = tails(step.us[name] for step in steps)
        for setting, threshold in settings:
            row = {"detector": name, "setting": setting, **score(steps, name, threshold)}
            rows.append(row | {"us": us})
    return rows


def table(rows: Sequence[dict[str, Any]], changed: int, unchanged: int) -> list[list[str]]:
    """Rows of text, the first their heads."""
    head = [
        *("detector", "changed if farther than", f"of {changed} changes missed"),
        *(f"their patches: {TAILS}", "changed patches missed", "unchanged patches encoded"),
        *(f"of {unchanged} unchanged steps encoded", "median time"),
    ]
    cells = [
        [
            row["detector"],
            f"{row['threshold']:.3g} ({row['setting']})",
            f"{row['missed']}",
            tails_text(row["missed_size"], lambda n: decimal(n, ".3g")),
            percent(row["patches_missed"]),
            percent(row["in_vain"]),
            f"{row['false']}",
            f"{row['us']['median']:.0f} us",
        ]
        for row in rows
    ]
    return [head, *cells]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("sessions", type=Path, nargs="*", default=[BUNDLED], metavar="SESSION", help="a recording")
    add("--arch", choices=tuple(ARCHITECTURES), default="fastvithd", help="its frames (fastvithd)")
    add("--miss", type=float, default=0.01, help="steps that may be missed, a share (%(default)s)")
    add("--json", type=Path, help="write all rows there")
    args = parser.parse_args()
    return run_script(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    if not 0 <= args.miss <= 1:
        raise ValueError(f"--miss must be a share, 0-1, got {args.miss}")
    if args.json:
        check_file("--json", args.json)
    config = ARCHITECTURES[args.arch]
    named = detectors(build(config).patch)
    steps = [step for folder in args.sessions for step in read_steps(folder, config, named)]
    if not steps:
        raise ValueError("no recording has two frames")
    changed = sum(step.size > 0 for step in steps)
    rows = compare(steps, named, args.miss)
    sizes = tails(step.size for step in steps if step.size)
    print(
        f"{len(steps)} steps of {len(args.sessions)} recordings; {machine_text()}\n"
        f"patches of {SCREEN_PATCH} px that a change touches, {TAILS}: "
        f"{tails_text(sizes, lambda n: decimal(n, '.3g'))}\n"
    )
    print_table(table(rows, changed, len(steps) - changed))
    if args.json:
        steps_text = {"changed": changed, "unchanged": len(steps) - changed, "sizes": sizes}
        write_json(args.json, {"steps": steps_text, "miss": args.miss, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
