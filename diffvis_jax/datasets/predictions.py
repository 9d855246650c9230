"""Any agent's answers, read from a file of JSON lines.

    {"frame": "0-1000"}
    {"id": "screenspot_web/0", "point": [512, 88]}
    {"id": "screenspot_web/1", "box": [10, 20, 30, 40], "frame": "pixels"}
    {"id": "screenspot_web/2", "point": [10, 20], "frame": "resized", "size": [1092, 756]}
    {"id": "screenspot_web/3", "refused": true}
    {"id": "task/4/0", "action": "write", "text": "hello"}
    {"id": "task/4/1", "raw": "I cannot tell"}

A first line without an id gives the frame of the lines that name none; empty lines do not count.
Boxes are left, top, right, bottom. A line with an id and nothing else that is known is an answer of
wrong format.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffvis_jax.datasets import coordinates
from diffvis_jax.datasets.errors import CoordinateError, DatasetError
from diffvis_jax.datasets.records import Dataset, Record
from diffvis_jax.metrics import Refusal
from diffvis_jax.utils.json_file import JsonError, parse_json, read_text

FRAMES = ("pixels", "0-1", "0-1000", "resized")
WRONG_FORMAT = "wrong format"


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """One answer.

    Attributes:
      answer: the point, `[2]` in pixels; `Refusal()`; `WRONG_FORMAT`; None: no place was named.
      box: `[4]` in pixels, if a box was predicted; the point is its middle.
      action, text: what is to be done, if that was predicted.
    """

    answer: np.ndarray | Refusal | str | None
    box: np.ndarray | None = None
    action: str = ""
    text: str = ""


def read_predictions(path: Path, dataset: Dataset) -> dict[str, Prediction]:
    """The answers by the record's id; records without one are left out.

    Raises:
      DatasetError: a line that is none, an id that is unknown or answered twice, or a frame that
        is not named; names the line.
      CoordinateError: most answers lie outside their frame, or in its first pixel: it is another.
    """
    records = {record.id: record for record in dataset.records}
    found: dict[str, Prediction] = {}
    given: list[tuple[coordinates.Points, str]] = []
    default: Mapping[str, Any] | None = None
    try:
        text = read_text(path)
    except JsonError as error:
        raise DatasetError(f"'{path}' {error}") from error
    # At line ends alone: a string may hold other signs that str.splitlines would split at.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"'{path}' line {number}"
        try:
            item = parse_json(line)
        except JsonError as error:
            raise DatasetError(f"{where}: {error}") from error
        if not isinstance(item, dict):
            raise DatasetError(f"{where}: an object is needed, got {item!r:.100}")
        if "id" not in item and default is None and not found:
            default = item
            continue
        name = item.get("id")
        if not isinstance(name, str) or name not in records:
            raise DatasetError(f"{where}: no record with id {name!r:.100} in '{dataset.name}'")
        if name in found:
            raise DatasetError(f"{where}: '{name}' is answered twice")
        found[name] = _prediction({**(default or {}), **item}, records[name], given, where)
    if not found:
        raise DatasetError(f"'{path}' holds no answers")
    _check_frames(given, path)
    return found


def _prediction(
    item: Mapping[str, Any], record: Record, given: list[tuple[coordinates.Points, str]], where: str
) -> Prediction:
    action, text = (_text(item, name) for name in ("action", "text"))
    if item.get("refused") is True:
        return Prediction(Refusal(), None, action, text)
    name = next((name for name in ("box", "point") if item.get(name) is not None), None)
    if name is None:
        return Prediction(None if action else WRONG_FORMAT, None, action, text)
    frame = _frame(item, record, where)
    numbers = np.asarray(_finite(item[name], 4 if name == "box" else 2))
    if not numbers.size:
        return Prediction(WRONG_FORMAT, None, action, text)
    points = coordinates.Points(numbers.reshape(-1, 2), frame)
    given.append((points, where))
    assert record.size is not None
    xy = points.to(coordinates.pixels(*record.size)).xy
    inverted = name == "box" and (xy[1] < xy[0]).any()
    if inverted:
        return Prediction(WRONG_FORMAT, None, action, text)
    return Prediction(xy.mean(0), xy.reshape(-1) if name == "box" else None, action, text)


def _text(item: Mapping[str, Any], name: str) -> str:
    """A field as text; null is none."""
    value = item.get(name)
    return "" if value is None else str(value)


def _frame(item: Mapping[str, Any], record: Record, where: str) -> coordinates.Frame:
    if record.size is None:
        raise DatasetError(f"{where}: nothing is asked about '{record.id}'")
    kind, size = item.get("frame"), item.get("size")
    if kind == "pixels":
        return coordinates.pixels(*record.size)
    if kind == "0-1":
        return coordinates.UNIT
    if kind == "0-1000":
        return coordinates.THOUSAND
    if kind == "resized":
        numbers = _finite(size, 2)
        if not numbers or min(numbers) <= 0:
            raise DatasetError(
                f"{where}: frame 'resized' needs a size [width, height], got {size!r:.100}"
            )
        return coordinates.resized(*numbers)
    raise DatasetError(f"{where}: frame must be one of {', '.join(FRAMES)}, got {kind!r:.100}")


def _finite(numbers: Any, count: int) -> list[float]:
    """The numbers, or none if they are not so many finite ones: a model may write anything."""
    if not isinstance(numbers, list) or len(numbers) != count:
        return []
    if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        return []
    try:
        found = [float(n) for n in numbers]
    except OverflowError:  # hundreds of digits
        return []
    return found if all(map(math.isfinite, found)) else []


def _check_frames(given: list[tuple[coordinates.Points, str]], path: Path) -> None:
    """A single answer may lie anywhere; if most do, it is the frame that is wrong."""
    for kind in FRAMES:
        some = [(points, where) for points, where in given if points.frame.kind == kind]
        outside = [where for points, where in some if not points.inside.all()]
        tiny = [where for points, where in some if coordinates.looks_like_unit(points)]
        for wrong, why in ((outside, "lie outside the image"), (tiny, "look like 0-1")):
            if 2 * len(wrong) > len(some):
                raise CoordinateError(
                    f"'{path}': {len(wrong)} of {len(some)} answers in frame '{kind}' {why} "
                    f"(the first: {wrong[0]}); is it another frame?"
                )
