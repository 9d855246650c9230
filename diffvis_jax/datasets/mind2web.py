"""Multimodal-Mind2Web (Deng et al. 2023; Zheng et al. 2024): Parquet, a row for each step.

`operation` is a JSON string {op, value}; `pos_candidates` are JSON strings whose `attributes`,
again a JSON string, hold `bounding_box_rect` "left,top,width,height" in pixels of the screenshot
(-1,-1,-1,-1: not visible). Rows without a visible positive candidate have no target.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from diffvis_jax.datasets.coordinates import Boxes, Points, pixels, read_box
from diffvis_jax.datasets.errors import DatasetError, Faults
from diffvis_jax.datasets.files import data_files, field
from diffvis_jax.datasets.records import Dataset, ParquetImage, Record, collected
from diffvis_jax.images.geometry import ImageError
from diffvis_jax.images.preprocess import open_image, upright_size
from diffvis_jax.utils.json_file import JsonError, parse_json

_COLUMNS = (
    "action_uid",
    "annotation_id",
    "confirmed_task",
    "domain",
    "operation",
    "pos_candidates",
    "screenshot",
    "target_action_index",
    "website",
)
HIDDEN = "-1,-1,-1,-1"


def parquet() -> ModuleType:
    """`pyarrow.parquet`.

    Raises:
      DatasetError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DatasetError(
            "Parquet files need pyarrow: pip install 'diffvis_jax[datasets]'"
        ) from error
    return pyarrow.parquet


def read_mind2web(path: Path, images: Path | None, faults: Faults) -> Dataset:
    """All Parquet files of a directory, or one; the screenshots are in them.

    Reads every screenshot's header once, to check the boxes, and keeps none.
    """
    if images is not None:
        raise DatasetError("Multimodal-Mind2Web has its images inside: give no directory of images")
    records: list[Record] = []
    parquet()  # whether it is there is no fault of a file
    for file in data_files(path, "**/*.parquet") if path.is_dir() else [path]:
        with faults.at(f"'{file}'"):
            for image, row, where in _rows(file):
                with faults.at(where):
                    records.append(_record(row, image, where))
    return collected(path.stem, "mind2web", records, faults)


def _rows(file: Path) -> Iterator[tuple[ParquetImage, Mapping[str, Any], str]]:
    """A few rows at a time: a screenshot may take a megabyte."""
    arrow = parquet()
    try:
        opened = arrow.ParquetFile(file)
    except (OSError, ValueError) as error:  # pyarrow's own errors are either
        raise DatasetError(f"'{file}' cannot be read as Parquet: {error}") from error
    if missing := sorted(set(_COLUMNS) - set(opened.schema_arrow.names)):
        raise DatasetError(f"'{file}' has no columns {missing}")
    for group in range(opened.num_row_groups):
        index = 0
        for batch in opened.iter_batches(8, row_groups=[group], columns=list(_COLUMNS)):
            for row in batch.to_pylist():
                image = ParquetImage(file, group, index)
                yield image, row, f"'{image}'"
                index += 1


def _record(row: Mapping[str, Any], image: ParquetImage, where: str) -> Record:
    where = f"{where} (action {field(row, 'action_uid', str, where)})"
    size = _size(row["screenshot"], where)
    operation = _json(field(row, "operation", str, where), "operation", where)
    boxes = [
        read_box(_rectangle(rect, where), "xywh", pixels(*size), where).xy
        for rect in _rectangles(field(row, "pos_candidates", list, where), where)
    ]
    try:
        step = int(row["target_action_index"])
    except (TypeError, ValueError):
        at = f"{where}: target_action_index"
        raise DatasetError(f"{at} must be a number, got {row['target_action_index']!r}") from None
    return Record(
        id=row["action_uid"],
        image=image,
        size=size,
        stream=field(row, "annotation_id", str, where),
        step=step,
        instruction=str(row["confirmed_task"]),
        action=str(field(operation, "op", str, where)),
        text=str(operation.get("value", "")),
        target=Boxes(Points(np.concatenate(boxes), pixels(*size))) if boxes else None,
        groups={
            "website": str(row["website"]),
            "domain": str(row["domain"]),
            "action": str(operation["op"]),
        },
        source=where,
    )


def _size(screenshot: Any, where: str) -> tuple[int, int]:
    content = screenshot and screenshot.get("bytes")
    if not content:
        raise DatasetError(f"{where}: missing image (screenshot is empty)")
    try:
        with open_image(content, "the screenshot") as opened:
            return upright_size(opened)
    except ImageError as error:
        raise DatasetError(f"{where}: {error}") from error


def _json(text: Any, what: str, where: str) -> Mapping[str, Any]:
    try:
        content = parse_json(text) if isinstance(text, str) else text
    except JsonError as error:
        raise DatasetError(f"{where}: {what} {error}") from error
    if not isinstance(content, Mapping):
        raise DatasetError(f"{where}: {what} must be an object, got {content!r:.100}")
    return content


def _rectangles(candidates: list[Any], where: str) -> Iterator[str]:
    """Of all visible candidates."""
    for candidate in candidates:
        said = _json(candidate, "a candidate of pos_candidates", where)
        attributes = _json(field(said, "attributes", (str, dict), where), "attributes", where)
        rectangle = field(attributes, "bounding_box_rect", str, where)
        if rectangle.replace(" ", "") != HIDDEN:
            yield rectangle


def _rectangle(text: str, where: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise DatasetError(f"{where}: bounding_box_rect must be 4 numbers, got {text!r}") from None
