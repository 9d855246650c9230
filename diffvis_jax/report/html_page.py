"""Writes a measured recording as one self-contained HTML page: pictures, numbers and script inside.

The page itself is in `page.html`, `page.css` and `page.js` beside this file.
"""

import html
import json
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from diffvis_jax.grounding.decode import Element
from diffvis_jax.grounding.find import on_screenshot
from diffvis_jax.images.geometry import placement
from diffvis_jax.images.recording import open_screenshot
from diffvis_jax.measure.missed import TINY
from diffvis_jax.measure.recording_run import FrameResult, SessionResult
from diffvis_jax.report.plain_page import data_url
from diffvis_jax.report.table import COLUMNS, frame_cells
from diffvis_jax.report.text import TAILS, milliseconds, percent, tails_text, times
from diffvis_jax.towers import VisionConfig, build
from diffvis_jax.utils.atomic_file import write_whole

# Pictures are made narrower until all of them fit: a page has to open at once.
PICTURE_WIDTHS = (1440, 1280, 960, 720, 480, 320)
PICTURE_BYTES = 4_000_000


def write_page(
    target: str | os.PathLike[str],
    result: SessionResult,
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
      result: F measured frames.
      paths: F image files, the original screenshots; equal paths are stored once.
      labels: F texts, what happened before each frame.
      config: of the tower: where its patches lie on the screenshots.
      title: of the recording.
      facts: names and values, shown under the title (model, policy, machine).
      notes: sentences for the end of the page.

    Returns:
      The path.
    """
    pictures, which, sizes = _pictures(paths)
    frames = []
    for frame, picture, size, label in zip(result.frames, which, sizes, labels, strict=True):
        frames.append(
            {
                **frame.numbers(),
                "label": label,
                "cells": frame_cells(frame),
                "facts": _facts(frame),
                "verdict": _verdict(frame),
                "picture": picture,
                "size": size,
                "grid": _patches(size, config, frame.changed.shape[1]),
                "changed": np.flatnonzero(frame.changed).tolist(),
                "maps": _maps(frame),
                "elements": _elements(frame.elements, size, config),
                "full_elements": _elements(frame.full_elements, size, config),
            }
        )
    summary = result.summary()
    data = {
        "frames": frames,
        "columns": [name for name, _ in COLUMNS],
        "maps": _map_names(build(config).stages),
        "pictures": pictures,
        "full_ms": summary["full_ms"]["median"],
        "tiles": _tiles(summary),
        "axes": _axes(result.frames),
        "start": _typical(result.frames),
    }
    # "</script>" in a label would end the script element.
    embedded = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    filled = _part("page.html")
    for name, text in {
        "CSS": _part("page.css"),
        "SCRIPT": _part("page.js"),
        "TITLE": html.escape(title),
        "FACTS": "".join(
            f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
            for name, value in facts
        ),
        "NOTES": "".join(f"<li>{html.escape(note)}</li>" for note in notes),
        "DATA": embedded,  # last: a label may contain anything
    }.items():
        filled = filled.replace(f"<!--{name}-->", text)
    written = Path(target)
    write_whole(written, filled)
    return written


def _typical(frames: Sequence[FrameResult]) -> int:
    """The step to open the page at: of those that changed something and were not encoded in full,
    the one with the median speed-up; the first frame where there is none."""
    steps = [f for f in frames[1:] if f.changed_patches and f.path == "partial"]
    steps.sort(key=lambda frame: frame.speed_up or 0)
    return steps[len(steps) // 2].index if steps else 0


def _part(name: str) -> str:
    return (resources.files("diffvis_jax.report") / name).read_text(encoding="utf-8")


def _facts(frame: FrameResult) -> list[tuple[str, str]]:
    """Names and values shown beside the screen."""
    cells = dict(zip((name for name, _ in COLUMNS), frame_cells(frame), strict=True))
    names = ("patches changed", "recomputed", "missed", "missed over all", "error", "same elements")
    facts = [(name, cells[name]) for name in names if cells[name] != "-"]
    return [*facts, ("still pending", percent(frame.pending))]


def _verdict(frame: FrameResult) -> str:
    """One frame in a sentence."""
    if not frame.index:
        return "The first frame is encoded in full."
    speed_up = frame.speed_up or 0
    if 0.95 <= speed_up <= 1.05:
        speed = "Same speed as a full encode"
    elif speed_up < 1:
        speed = f"{speed_up:.2f} of the speed of a full encode"
    else:
        speed = f"{times(speed_up)} faster than a full encode"
    if frame.missed_changed is None:
        return f"{speed}; nothing changed"
    return f"{speed}; {percent(frame.missed_changed)} of the change at changed tokens missed"


def _tiles(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Values and explanations of the totals."""
    tiles = [
        (times(summary["speed_up"]), "as fast as full encodes, over all frames but the first"),
        (
            f"{summary['step_s_total']:.1f} s",
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


def _axes(frames: Sequence[FrameResult]) -> dict[str, dict[str, Any]]:
    """Upper end and tick labels of the charts' axes."""
    missed = (x or 0.0 for frame in frames for x in (frame.missed_changed, frame.missed_all))
    tops = {
        "time": (max(max(frame.step_ms, frame.full_ms) for frame in frames), milliseconds),
        "missed": (max(0.1, *missed), percent),
    }
    return {
        name: {"top": top, "ticks": [form(part * top) for part in (0, 0.5, 1)]}
        for name, (top, form) in tops.items()
    }


def _maps(frame: FrameResult) -> list[list[float]]:
    """Maps that can be laid over the screen, named by `_map_names`: patch by patch."""
    maps = [
        frame.cell_recomputed,
        *frame.stage_recomputed,
        frame.stage_pending.max(0),
        *frame.stage_pending,
        frame.token_error,
        frame.age,
    ]
    return [[float(f"{value:.3g}") for value in values.reshape(-1)] for values in maps]


def _map_names(stages: int) -> list[str]:
    """The names of `_maps`."""
    each = [f"stage {stage}" for stage in range(stages)]
    if stages == 1:
        each = ["all layers"]
    return [
        "recomputed share of each patch",
        *(f"recomputed in {name}" for name in each),
        "pending: the stage with most",
        *(f"pending in {name}" for name in each),
        "error of each patch's worst token",
        "steps a patch has waited",
    ]


def _patches(size: tuple[int, int], config: VisionConfig, columns: int) -> dict[str, Any]:
    """Where the patches lie on a screenshot of that size, in its pixels."""
    where = placement(*size, config)
    patch = build(config).patch
    left, top, right, bottom = where.box_to_original((0, 0, patch, patch))
    return {
        "count": columns,
        "left": round(float(left), 3),
        "top": round(float(top), 3),
        "width": round(float(right - left), 3),
        "height": round(float(bottom - top), 3),
    }


def _elements(
    elements: list[Element] | None, size: tuple[int, int], config: VisionConfig
) -> list[list[Any]] | None:
    """Left, top, right, bottom on the screenshot, and kind, of each element."""
    if elements is None:
        return None
    shown = on_screenshot(elements, placement(*size, config))
    return [[*(round(edge) for edge in element.box), element.kind] for element in shown]


def _pictures(
    paths: Sequence[str | os.PathLike[str]],
) -> tuple[list[str], list[int], list[tuple[int, int]]]:
    """Screenshots as data URLs, the number of each frame's picture, and the original sizes."""
    names = [os.fspath(path) for path in paths]
    distinct = list(dict.fromkeys(names))
    urls: list[str] = []
    sizes: dict[str, tuple[int, int]] = {}
    for width in PICTURE_WIDTHS:
        urls = []
        for path in distinct:
            picture = open_screenshot(path)
            sizes[path] = picture.size
            urls.append(data_url(picture, width))
        if sum(map(len, urls)) <= PICTURE_BYTES:
            break
    numbers = {path: number for number, path in enumerate(distinct)}
    return urls, [numbers[name] for name in names], [sizes[name] for name in names]
