"""Writes a measured session as one self-contained HTML page: pictures, numbers and script inside.

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
from diffvis_jax.measure.recording_run import FrameResult, SessionResult
from diffvis_jax.report.plain_page import data_url
from diffvis_jax.towers import VisionConfig, build

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
                "picture": picture,
                "size": size,
                "grid": _patches(size, config, frame.changed.shape[0]),
                "changed": np.flatnonzero(frame.changed).tolist(),
                "maps": _maps(frame),
                "elements": _elements(frame.elements, size, config),
                "full_elements": _elements(frame.full_elements, size, config),
            }
        )
    data = {
        "frames": frames,
        "maps": _map_names(build(config).stages),
        "pictures": pictures,
        "summary": result.summary(),
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
    written.write_text(filled, encoding="utf-8")
    return written


def _part(name: str) -> str:
    return (resources.files("diffvis_jax.report") / name).read_text(encoding="utf-8")


def _maps(frame: FrameResult) -> list[list[float]]:
    """What can be laid over the screen, named by `_map_names`: `[g * g]` each."""
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
        "pending: the stage that owes most",
        *(f"pending in {name}" for name in each),
        "error of each token",
        "steps a patch has waited",
    ]


def _patches(size: tuple[int, int], config: VisionConfig, grid: int) -> dict[str, Any]:
    """Where the patches lie on a screenshot of that size, in its pixels."""
    where = placement(*size, config)
    patch = build(config).patch
    left, top, right, bottom = where.box_to_original((0, 0, patch, patch))
    return {
        "count": grid,
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
    found = on_screenshot(elements, placement(*size, config))
    return [[*(round(edge) for edge in element.box), element.kind] for element in found]


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
