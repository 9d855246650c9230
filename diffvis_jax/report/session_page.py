"""A measured recording as a page: the same screens under one policy or several."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffvis_jax.grounding.decode import Element
from diffvis_jax.grounding.find import on_screenshot
from diffvis_jax.images.geometry import placement
from diffvis_jax.images.recording import open_screenshot
from diffvis_jax.measure.missed import TINY
from diffvis_jax.measure.recording_run import FrameResult, SessionResult
from diffvis_jax.report.pictures import compressed
from diffvis_jax.report.player_page import (
    RECOMPUTED,
    Chart,
    Layer,
    Map,
    Mark,
    Run,
    Screen,
    Step,
    axis,
    map_values,
    patches_on,
    write_player_page,
)
from diffvis_jax.report.table import COLUMNS, frame_cells
from diffvis_jax.report.text import TAILS, milliseconds, percent, speed_text, tails_text, times
from diffvis_jax.towers import VisionConfig, build

LAYERS = (
    Layer("clickable, in a full encode", "full-element"),
    Layer("clickable, in this step", "element"),
)
NOTES = (
    (
        "Missed change",
        "the share of the true change of the tokens that the step did not deliver, against a full "
        "encode of the same frame; 0% is exact, 100% is as good as doing nothing. “At changed "
        "tokens” counts the tokens whose own pixels changed. It is not defined where the frame "
        "equals the one before. What earlier steps left pending counts too: a small change soon "
        "after a large one can miss more than 100%.",
    ),
    (
        "Error",
        "the distance of the tokens from those of a full encode of the same frame, over the length "
        "of the latter. What a step leaves out stays pending; on frames without changes it is "
        "worked off, and the error falls.",
    ),
    RECOMPUTED,
    ("Pending", "a patch that has work to make up for, in some layer of the stage."),
    ("Error of each token", "over the RMS length of the frame's tokens."),
    ("Waited", "steps since a patch was last up to date."),
    (
        "Speed-up",
        "the time of a full encode of the frame over the time of the step, measured one after the "
        "other in this run. Over all frames: the sums of both. Compilation and the first frame, "
        "which is always encoded in full, are apart.",
    ),
)


def write_session_page(
    target: str | os.PathLike[str],
    results: Mapping[str, SessionResult],
    paths: Sequence[str | os.PathLike[str]],
    labels: Sequence[str],
    config: VisionConfig,
    *,
    title: str,
    facts: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
) -> Path:
    """Writes the page.

    Args:
      target: the HTML file.
      results: of F measured frames each, by the names of their policies; the page shows the first,
        and a switch where there are several.
      paths: F image files, the original screenshots; equal pictures are stored once.
      labels: F texts, what happened before each frame.
      config: of the tower: where its patches lie on the screenshots.
      title: of the recording.
      facts: names and values, shown under the title (model, policy, machine).
      notes: sentences for the end of the page.

    Returns:
      The path.
    """
    pictures = {path: compressed(open_screenshot(path)) for path in dict.fromkeys(paths)}
    sessions = list(results.values())
    columns = sessions[0].frames[0].changed.shape[1]
    screens = [
        Screen(label, pictures[path], [patches_on(pictures[path].size, config, columns)])
        for path, label in zip(paths, labels, strict=True)
    ]
    # Axes for all of them: what is switched is to be seen.
    every = [frame for session in sessions for frame in session.frames]
    time_axis = axis((max(f.step_ms, f.full_ms) for f in every), milliseconds)
    missed = (missed for frame in every for missed in (frame.missed_changed, frame.missed_all))
    missed_axis = axis(missed, percent, least=0.1)
    runs = []
    for name, result in results.items():
        summary = result.summary()
        runs.append(
            Run(
                name,
                _about(summary),
                _tiles(summary),
                _charts(result, time_axis, missed_axis),
                [
                    _step(frame, screen, config)
                    for frame, screen in zip(result.frames, screens, strict=True)
                ],
            )
        )
    return write_player_page(
        target,
        screens,
        runs,
        columns=[*((name, name == "path") for name, _ in COLUMNS), ("what happened before", True)],
        maps=_maps(build(config).stages),
        layers=LAYERS,
        start=_typical(sessions[0].frames),
        heading="Encode only what changed",
        title=title,
        facts=facts,
        notes=[*NOTES, *notes],
    )


def _typical(frames: Sequence[FrameResult]) -> int:
    """The step to open the page at: of those that changed something and were not encoded in full,
    the one with the median speed-up; the first frame where there is none."""
    steps = [f for f in frames[1:] if f.changed_patches and f.path == "partial"]
    steps.sort(key=lambda frame: frame.speed_up or 0)
    return steps[len(steps) // 2].index if steps else 0


def _step(frame: FrameResult, screen: Screen, config: VisionConfig) -> Step:
    cells = dict(zip((name for name, _ in COLUMNS), frame_cells(frame), strict=True))
    names = ("patches changed", "recomputed", "missed", "missed over all", "error", "same elements")
    facts = [(name, cells[name]) for name in names if cells[name] != "-"]
    return Step(
        kind=frame.path,
        path=cells["path"],
        facts=[*facts, ("still pending", percent(frame.pending))],
        bars=[
            ("full encode", frame.full_ms, cells["full encode"], "full"),
            ("this step", frame.step_ms, cells["step"], "partial"),
        ],
        verdict=verdict_of(frame),
        cells=[*cells.values(), screen.label],
        changed=np.flatnonzero(frame.changed).tolist() if frame.index else [],
        maps=[
            map_values(values)
            for values in (
                frame.cell_recomputed,
                *frame.stage_recomputed,
                frame.stage_pending.max(0),
                *frame.stage_pending,
                frame.token_error,
                frame.age,
            )
        ],
        marks=[
            _marks(elements, screen.picture.size, config)
            for elements in (frame.full_elements, frame.elements)
        ],
    )


def _maps(stages: int) -> list[Map]:
    """Those that `_step` has values for."""
    each = [f"stage {stage}" for stage in range(stages)]
    if stages == 1:
        each = ["all layers"]
    return [
        Map("recomputed share of each patch"),
        *(Map(f"recomputed in {name}") for name in each),
        Map("pending: the stage with most"),
        *(Map(f"pending in {name}") for name in each),
        Map("error of each patch's worst token", relative=True),
        Map("steps a patch has waited", relative=True),
    ]


def verdict_of(frame: FrameResult) -> str:
    """One frame in a sentence."""
    if not frame.index:
        return "The first frame is encoded in full."
    speed = speed_text(frame.speed_up or 0, "a full encode")
    if frame.missed_changed is None:
        return f"{speed}; nothing changed"
    return f"{speed}; {percent(frame.missed_changed)} of the change at changed tokens missed"


def _about(summary: dict[str, Any]) -> str:
    if summary["speed_up"] is None:
        return ""
    missed = summary["missed_changed"]["median"]
    return f"{times(summary['speed_up'])} as fast" + (
        "" if missed is None else f", {percent(missed)} missed"
    )


def _tiles(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Values and explanations of the totals."""
    tiles = [
        (times(summary["speed_up"]), "as fast as full encodes, over all frames but the first"),
        (
            f"{summary['step_s_total']:.1f} s" if summary["speed_up"] else "-",
            f"differential steps; full encodes: {summary['full_s_total']:.1f} s",
        ),
        (milliseconds(summary["full_ms"]["median"]), "one full encode (median)"),
        (tails_text(summary["missed_changed"]), f"missed change at changed tokens ({TAILS})"),
        (tails_text(summary["missed_all"]), f"missed change over all tokens ({TAILS})"),
        (
            f"{summary['tiny']}",
            f"tiny changes left out of these (below {percent(TINY)} of the tokens)",
        ),
    ]
    if summary["same_elements"] is not None:
        share = f"{summary['same_elements']} of {summary['frames'] - 1}"
        tiles.append((share, "frames with exactly the clickable elements of a full encode"))
    return tiles


def _charts(
    result: SessionResult, time_axis: dict[str, Any], missed_axis: dict[str, Any]
) -> list[Chart]:
    return [
        Chart(
            "Time of each step",
            [
                *(("partial", "in part"), ("full", "in full"), ("reuse", "nothing to do")),
                ("line", "a full encode (median)"),
            ],
            **time_axis,
            bars=[[(frame.step_ms, frame.path)] for frame in result.frames],
            line=result.summary()["full_ms"]["median"],
        ),
        Chart(
            "Missed change of each step",
            [("dot", "at changed tokens"), ("ring", "over all tokens")],
            **missed_axis,
            dots=[
                [
                    (value, kind)
                    for value, kind in (
                        (frame.missed_all, "ring"),
                        (frame.missed_changed, "dot"),
                    )
                    if value is not None
                ]
                for frame in result.frames
            ],
        ),
    ]


def _marks(
    elements: list[Element] | None, size: tuple[int, int], config: VisionConfig
) -> list[Mark]:
    """A box for each element, with its kind."""
    boxes: list[Mark] = []
    for element in on_screenshot(elements or [], placement(*size, config)):
        left, top, right, bottom = (round(edge) for edge in element.box)
        boxes.append((left, top, right, bottom, element.kind.replace("_", " ")))
    return boxes
