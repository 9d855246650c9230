"""A page to step through: what several runs did with the same screens, one frame at a time.

The page knows nothing of what is measured: `session_page` and `answers_page` say it in these words.
F frames; gh x gw patches of a frame.
"""

import dataclasses
import html
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from diffvis_jax.images.geometry import placement
from diffvis_jax.report.page import part, write_page
from diffvis_jax.report.pictures import Picture, packed
from diffvis_jax.towers import VisionConfig, build

SCRIPTS = ("drawing.js", "charts.js", "player.js")
KEYS = (
    "Keys",
    "arrows step, space plays, Home and End jump, B shows the frame before{more}. On a phone, "
    "swipe.",
)
RECOMPUTED = ("Recomputed", "the share of a full encode's multiply-adds that the step did.")

# left, top, right, bottom of a box, or x, y of a point, in pixels of the screenshot; and a text
Mark = tuple[float, float, float, float, str] | tuple[float, float, str]


@dataclasses.dataclass(frozen=True)
class Screen:
    """What all runs are shown at one step.

    Attributes:
      label: what it is, or what happened before it.
      picture: the screenshot.
      grids: where patches lie on it, see `patches_on`: those that are compared, and others that
        maps refer to.
    """

    label: str
    picture: Picture
    grids: Sequence[dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Step:
    """What one run did with one screen; what is empty or None is not shown.

    Attributes:
      kind: "full", "partial" or "reuse", which has a colour of its own.
      path: the same in words.
      facts: names and values.
      bars: names, milliseconds, these as text, and kinds, see page.css.
      verdict: a sentence.
      cells: of the table.
      changed: numbers of the changed patches, row by row.
      maps: for each map of the page the values of its patches, row by row.
      marks: for each layer of the page.
      answer: of a model.
      other: what it should have answered, where that is something else; the row is marked.
      lines: more sentences.
    """

    kind: str
    path: str
    facts: Sequence[tuple[str, str]]
    bars: Sequence[tuple[str, float, str, str]]
    verdict: str
    cells: Sequence[str]
    changed: Sequence[int] = ()
    maps: Sequence[Sequence[float]] = ()
    marks: Sequence[Sequence[Mark]] = ()
    answer: str | None = None
    other: str | None = None
    lines: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Chart:
    """Values of each frame; see page.css for their kinds.

    Attributes:
      title: what it shows.
      legend: kinds, and what they mean.
      top: upper end of the axis.
      ticks: names of evenly spaced values from 0 to there.
      bars: for each frame, values and kinds, one upon the other.
      dots: for each frame, values and kinds.
      line: a value to compare all bars with.
    """

    title: str
    legend: Sequence[tuple[str, str]]
    top: float
    ticks: Sequence[str]
    bars: Sequence[Sequence[tuple[float, str]]] = ()
    dots: Sequence[Sequence[tuple[float, str]]] = ()
    line: float | None = None


@dataclasses.dataclass(frozen=True)
class Run:
    """One of several ways of working through the screens.

    Attributes:
      name: what tells it from the others.
      about: what it comes to, in a few words.
      tiles: values, and what they are; what says nothing is left out.
      charts: those without values are left out.
      steps: F.
    """

    name: str
    about: str
    tiles: Sequence[tuple[str, str]]
    charts: Sequence[Chart]
    steps: Sequence[Step]


@dataclasses.dataclass(frozen=True)
class Map:
    """Values of patches that can be laid over the screen.

    Attributes:
      name: what they are.
      grid: which of a screen's grids they are of.
      relative: whether they are shown against the largest of the run, and not as they are, 0-1.
    """

    name: str
    grid: int = 0
    relative: bool = False


@dataclasses.dataclass(frozen=True)
class Layer:
    """Marks that can be laid over the screen.

    Attributes:
      name: what they are.
      kind: see page.css.
      shown: whether they are at first.
    """

    name: str
    kind: str
    shown: bool = False


def write_player_page(
    target: str | os.PathLike[str],
    screens: Sequence[Screen],
    runs: Sequence[Run],
    *,
    columns: Sequence[tuple[str, bool]],
    maps: Sequence[Map] = (),
    layers: Sequence[Layer] = (),
    start: int = 0,
    heading: str,
    title: str,
    lead: str = "",
    facts: Sequence[tuple[str, str]] = (),
    notes: Sequence[str | tuple[str, str]] = (),
) -> Path:
    """Writes the page.

    Args:
      target: the HTML file.
      screens: F.
      runs: at least one. Of several the page shows one at a time.
      columns: heads of the table, and whether they are of text.
      maps, layers: what steps have values and marks for.
      start: the frame that it opens at.
      heading, title, facts: see `write_page`.
      lead: HTML above everything.
      notes: sentences for the end of the page, or terms and what they mean.

    Returns:
      The path.
    """
    urls, numbers = packed([screen.picture for screen in screens])
    data = {
        "pictures": urls,
        "screens": [
            {
                "label": screen.label,
                "picture": number,
                "size": screen.picture.size,
                "grids": screen.grids,
            }
            for screen, number in zip(screens, numbers, strict=True)
        ],
        "columns": columns,
        "maps": maps,
        "layers": layers,
        "start": start,
        "runs": [
            dataclasses.replace(
                run,
                tiles=[tile for tile in run.tiles if tile[0] not in ("-", "0")],
                charts=[chart for chart in run.charts if any((*chart.bars, *chart.dots))],
            )
            for run in runs
        ],
    }
    more = ", P the next policy" if len(runs) > 1 else ""
    keys = (KEYS[0], KEYS[1].format(more=more))
    body = part("player.html").replace("<!--LEAD-->", lead)
    body = body.replace("<!--NOTES-->", "".join(map(_note, [keys, *notes])))
    return write_page(
        target, body, heading=heading, title=title, facts=facts, data=data, scripts=SCRIPTS
    )


def _note(note: str | tuple[str, str]) -> str:
    if isinstance(note, str):
        return f"<li>{html.escape(note)}</li>"
    term, meaning = map(html.escape, note)
    return f"<li><b>{term}</b>: {meaning}</li>"


def patches_on(
    size: tuple[int, int], config: VisionConfig, columns: int, *, patch: int | None = None
) -> dict[str, float]:
    """Where patches lie on a screenshot, in its pixels.

    Args:
      size: width and height of the screenshot.
      config: of the tower.
      columns: patches across, gw.
      patch: pixels of the tower's input along their sides; None = those that are compared.
    """
    side = build(config).patch if patch is None else patch
    left, top, right, bottom = placement(*size, config).box_to_original((0, 0, side, side))
    return {
        "count": columns,
        "left": round(float(left), 3),
        "top": round(float(top), 3),
        "width": round(float(right - left), 3),
        "height": round(float(bottom - top), 3),
    }


def map_values(values: Any) -> list[float]:
    """Values of patches `[gh, gw]` for `Step.maps`: three digits say enough."""
    return [float(f"{value:.3g}") for value in values.reshape(-1)]


def axis(
    values: Iterable[float | None], form: Callable[[float], str], least: float = 0.0
) -> dict[str, Any]:
    """`top` and `ticks` of a chart that has room for the values; None are left out."""
    top = max((value for value in values if value is not None), default=0.0)
    top = max(top, least) or 1.0
    return {"top": top, "ticks": [form(share * top) for share in (0, 0.5, 1)]}
