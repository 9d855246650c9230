#!/usr/bin/env python3
"""Does the differential encode find the same things? Full and differential side by side.

    python scripts/task_fidelity.py SESSION [SESSION ...]

Each SESSION is a directory of frames with a `trajectory.json`: of rendered streams
(`scripts/training/render_pages.py --streams`), which name every element of every frame, or of a
recorder, whose steps name the `target_box` that the action was about. For each policy: share of
frames with the same detections, click accuracy with 95 % Wilson intervals and McNemar's exact test,
F1 at IoU 0.5, beside missed change and recomputed share. In float32.
"""

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from command_line import check_file, run_script, write_json
from named_policies import HELP as POLICY_HELP
from named_policies import find_policies
from named_weights import HELP, TRAINED, find_weights

import diffvis_jax as dv
from diffvis_jax.grounding.decode import Element
from diffvis_jax.grounding.find import encode_for_head, find_elements, maps_of
from diffvis_jax.measure.elements import agreement, nearest_points
from diffvis_jax.measure.recording_run import changed_tokens, missed_change
from diffvis_jax.metrics import (
    Counts,
    click_accuracy,
    detection_counts,
    mcnemar,
    smaller_than,
    total,
    wilson_interval,
)
from diffvis_jax.towers import build
from diffvis_jax.utils.progress import Progress

# Of a tower with five stages.
POLICIES = "faithful, 1 1 3 6 12, 1 1 2 5 8, fast, 0"


class Session:
    """Frames in order, and what can be clicked on each.

    Attributes:
      name: of the directory.
      frames: `uint8 [F, S, S, 3]`.
      elements: F arrays float64 `[n, 4]` in pixels of the frame, or F times None.
      targets: F boxes `[4]` in pixels of the frame: what the next action aimed at, as an agent
        sees the screen before it acts; None where nothing was.
    """

    def __init__(self, folder: Path, config: Any, most: int | None):
        file = folder / "trajectory.json"
        if not file.is_file():
            raise ValueError(f"'{folder}' has no trajectory.json")
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            steps = content["steps"] if "steps" in content else content["frames"]
            paths = [
                folder / (step["frame"] if "frame" in step else step["file"]) for step in steps
            ]
            size = content.get("resolution") or (content["width"], content["height"])
            place = dv.placement(int(size[0]), int(size[1]), config)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"'{file}' is no trajectory ({type(error).__name__}: {error})"
            ) from error
        steps, paths = steps[:most], paths[:most]
        if len(steps) < 2:
            raise ValueError(f"'{file}': two frames are needed, got {len(steps)}")
        self.name = folder.name
        self.elements: list[np.ndarray | None] = []
        self.targets: list[np.ndarray | None] = []
        self.frames = dv.preprocess(paths, config)
        for step in steps:
            boxes = step.get("elements")
            boxes = None if boxes is None else np.array([e["box"] for e in boxes]).reshape(-1, 4)
            self.elements.append(None if boxes is None else place.box_to_model(boxes))
        # A recorded frame was taken after its step's action: the target was seen on the one before.
        for step in (*steps[1:], {}):
            target = step.get("target_box")
            self.targets.append(
                None if target is None else place.box_to_model(np.array([target]))[0]
            )


@dataclasses.dataclass(frozen=True)
class Full:
    """What a full encode says of a frame: tokens float32 `[N, D]`, and the elements found."""

    tokens: np.ndarray
    elements: list[Element]


def encode_full(model: dv.Model, frame: np.ndarray) -> Full:
    """Of a frame `uint8 [S, S, 3]`."""
    head = model.head
    assert head is not None
    tokens, maps = encode_for_head(model.params, frame[None], config=model.config, head=head.config)
    return Full(np.asarray(tokens[0]), find_elements(head, tokens, maps)[0])


def compare(
    model: dv.Model, session: Session, policy: dv.Policy, full: Sequence[Full]
) -> list[dict[str, Any]]:
    """One row for each frame after the first."""
    head = model.head
    assert head is not None
    step = dv.make_step(model.config)
    cache = dv.init_cache(model.config, size=session.frames.shape[1])
    rows = []
    for index in range(len(session.frames)):
        frame = session.frames[index : index + 1]
        tokens, cache, report = step(model.params, cache, frame, policy)
        tokens = np.asarray(tokens[0])
        if not index:
            continue
        ours = find_elements(head, jnp.asarray(tokens[None]), maps_of(head.config, cache))[0]
        theirs = full[index].elements
        at = changed_tokens(model, session.frames[index - 1], session.frames[index])
        before, now = full[index - 1].tokens, full[index].tokens
        row: dict[str, Any] = {
            "share": float(report.recomputed[0]),
            "missed": missed_change(tokens[at], now[at], before[at]) if at.any() else None,
            "same": agreement(ours, theirs).same,
            "lost": agreement(ours, theirs).only_second,
            "found": len(theirs),
        }
        for name, found in (("differential", ours), ("full", theirs)):
            labels = session.elements[index], session.targets[index]
            row |= judged(name, found, *labels, small=session.frames.shape[1] / 64)
        rows.append(row)
    return rows


def judged(
    name: str,
    found: list[Element],
    elements: np.ndarray | None,
    target: np.ndarray | None,
    small: float,
) -> dict[str, Any]:
    """What the frame's labels say of a list of elements; those shorter than `small` pixels do not
    count."""
    row: dict[str, Any] = {}
    if elements is not None:
        tiny = smaller_than(elements, small)
        boxes = np.array([e.box for e in found]).reshape(-1, 4)
        row[f"{name}_counts"] = detection_counts(
            boxes, elements, scores=[e.score for e in found], ignore=tiny
        )
        asked = list(elements[~tiny])
    else:
        asked = [] if target is None else [target]
    row[f"{name}_clicks"] = click_accuracy(nearest_points(found, asked), asked).correct
    return row


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All frames together."""
    result: dict[str, Any] = {"frames": len(rows), "same": sum(row["same"] for row in rows)}
    result["same_interval"] = wilson_interval(result["same"], len(rows))
    result["share"] = statistics.fmean(row["share"] for row in rows)
    missed = [row["missed"] for row in rows if row["missed"] is not None]
    result["missed"] = statistics.median(missed) if missed else None
    result["lost"] = sum(row["lost"] for row in rows)
    result["found"] = sum(row["found"] for row in rows)
    clicks = {
        name: np.concatenate([row[f"{name}_clicks"] for row in rows]).astype(bool)
        for name in ("full", "differential")
    }
    result["queries"] = len(clicks["full"])
    for name, right in clicks.items():
        if len(right):
            result[f"click_{name}"] = float(right.mean())
            result[f"click_{name}_interval"] = wilson_interval(int(right.sum()), len(right))
        counts: list[Counts] = [row[f"{name}_counts"] for row in rows if f"{name}_counts" in row]
        result[f"f1_{name}"] = total(counts).f1 if counts else None
    paired = mcnemar(clicks["full"], clicks["differential"])
    result |= {
        "only_full": paired.only_full,
        "only_differential": paired.only_differential,
        "p": paired.p_value,
    }
    return result


def table(results: dict[str, dict[str, Any]]) -> str:
    """A Markdown table, one row for each policy."""

    def clicks(r: dict[str, Any], name: str) -> str:
        if f"click_{name}" not in r:
            return "-"
        low, high = r[f"click_{name}_interval"]
        return f"{r[f'click_{name}']:.3f} ({low:.3f}-{high:.3f})"

    def plain(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    head = (
        "| policy | share of dense MACs | missed change | frames with the same detections "
        "| lost of found | click full | click differential | right in one only (p) "
        "| F1 full / differential |\n|---|---|---|---|---|---|---|---|---|"
    )
    lines = [head]
    for name, r in results.items():
        low, high = r["same_interval"]
        lines.append(
            f"| {name} | {r['share']:.1%} | {plain(r['missed'])} "
            f"| {r['same']}/{r['frames']} = {r['same'] / r['frames']:.1%} ({low:.1%}-{high:.1%}) "
            f"| {r['lost']}/{r['found']} | {clicks(r, 'full')} | {clicks(r, 'differential')} "
            f"| {r['only_full']} / {r['only_differential']} ({r['p']:.2f}) "
            f"| {plain(r['f1_full'])} / {plain(r['f1_differential'])} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("sessions", type=Path, nargs="+", metavar="SESSION", help="has a trajectory.json")
    add("--weights", metavar="NAME", default=TRAINED, help=HELP)
    add("--policies", "--policy", default=POLICIES, help=f"each {POLICY_HELP} (%(default)s)")
    add("--most", type=int, help="most frames of a session (all)")
    add("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    return run_script(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    if args.output:
        check_file("--output", args.output)
    model = dv.load(find_weights(args.weights), dtype="float32")
    if model.head is None:
        raise ValueError(f"'{args.weights}' has no grounding head")
    chosen = find_policies(args.policies)
    for policy in chosen.values():
        policy.margins(build(model.config).stages)
    sessions = [Session(folder, model.config, args.most) for folder in args.sessions]
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    with Progress(len(sessions), "sessions") as progress:
        for session in sessions:
            full = [encode_full(model, frame) for frame in session.frames]
            for name, policy in chosen.items():
                rows[name] += compare(model, session, policy, full)
            progress(session.name)
    results = {name: summary(each) for name, each in rows.items()}
    print(table(results))
    if args.output:
        write_json(args.output, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
