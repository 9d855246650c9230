"""`diffvis calibrate --static DIR`: how much a camera's noise must be exceeded, for each metric."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import diffvis_jax as dv
from diffvis_jax.cli.command_line import check_file, tell
from diffvis_jax.cli.frame_sizes import sized_for, with_bounds
from diffvis_jax.cli.models import find_model
from diffvis_jax.core.change import METRICS
from diffvis_jax.images.source import read_source
from diffvis_jax.measure.recording_run import run_session
from diffvis_jax.measure.static_scene import MOST_FALSE, StaticScene, static_scene
from diffvis_jax.metrics import tails
from diffvis_jax.report.table import print_table
from diffvis_jax.report.text import MISSED, TAILS, missed_cells, percent, tails_text
from diffvis_jax.towers import build


def run_static(args: argparse.Namespace) -> int:
    """Proposes a threshold for each metric, runs the recording with it, and writes one policy."""
    check_file("--output", args.output)
    model = with_bounds(dv.load(find_model(args.model), dtype="float32"), args)
    still = list(read_source(args.static, say=tell).paths)
    moving = list(read_source(args.frames, most=args.stream, say=tell).paths)
    model_of_still, model = (sized_for(model, paths) for paths in (still, moving))
    frames = dv.preprocess(still, model_of_still.config)
    patch = build(model.config).patch
    scenes = [static_scene(frames, patch, metric) for metric in METRICS]
    stream = dv.preprocess(moving, model.config)
    rows = []
    for scene in scenes:
        print(f"running {len(stream)} frames: {scene.metric}", flush=True)
        rows.append(_row(model, stream, scene))
    print()
    print_table(_table(scenes, rows))
    (chosen,) = (scene for scene in scenes if scene.metric == args.metric)
    dv.save_policy(_policy(chosen), args.output, about=_about(model, args.static, chosen))
    print(
        f"\nwritten: {args.output}: a patch changed where its '{chosen.metric}' exceeds "
        f"{chosen.threshold:.4f} ({255 * chosen.threshold:.1f} grey levels)"
    )
    return 0


def _policy(scene: StaticScene) -> dv.Policy:
    return dv.Policy(metric=scene.metric, change_threshold=scene.threshold)


def _row(model: dv.Model, stream: np.ndarray, scene: StaticScene) -> dict[str, Any]:
    result = run_session(model, stream, _policy(scene))
    recomputed = tails(frame.recomputed for frame in result.frames[1:])
    return {**result.summary(), "recomputed": recomputed}


def _table(scenes: list[StaticScene], rows: list[dict[str, Any]]) -> list[list[str]]:
    head = [
        *("metric", "threshold", "grey levels", f"false changes (at most {percent(MOST_FALSE)})"),
        *("of the worst patch", f"in the recording, recomputed: {TAILS}", *MISSED),
    ]
    cells = [
        [
            *(scene.metric, f"{scene.threshold:.4f}", f"{255 * scene.threshold:.1f}"),
            *(percent(scene.false_changes), percent(scene.worst_patch)),
            *(tails_text(row["recomputed"]), *missed_cells(row)),
        ]
        for scene, row in zip(scenes, rows, strict=True)
    ]
    return [head, *cells]


def _about(model: dv.Model, static: Path, scene: StaticScene) -> dict[str, Any]:
    return {"weights": model.name, "static": static.name, **vars(scene)}
