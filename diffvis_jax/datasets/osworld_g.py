"""OSWorld-G (Xie et al. 2025): boxes, polygons, and queries that are to be refused.

Boxes are left, top, width, height in pixels; polygons x, y, x, y, ..; of a refusal the
coordinates say nothing.
"""

from pathlib import Path
from typing import Any

from diffvis_jax.datasets.coordinates import (
    Boxes,
    Frame,
    Outline,
    Target,
    pixels,
    read_box,
    read_outline,
)
from diffvis_jax.datasets.errors import DatasetError, Faults
from diffvis_jax.datasets.files import (
    checked_size,
    data_files,
    field,
    find_file,
    image_folders,
    read_json,
)
from diffvis_jax.datasets.records import Dataset, Record, collected
from diffvis_jax.metrics import Refusal


def read_osworld_g(path: Path, images: Path | None, faults: Faults) -> Dataset:
    """`OSWorld-G.json` or `OSWorld-G_refined.json`.

    Args:
      path: of the file, or of a directory that holds one of the two.
      images: directory of the images; else `images` beside the file, or the file's own.
      faults: what to do with faulty records.
    """
    if path.is_dir():
        found = data_files(path, "OSWorld-G*.json")
        if len(found) != 1:
            names = ", ".join(p.name for p in found) or "none"
            raise DatasetError(f"'{path}': one OSWorld-G*.json is needed, found {names}")
        path = found[0]
    folders = image_folders(path.parent, ("images",), images)
    records = []
    for index, item in enumerate(read_json(path, list)):
        where = f"'{path}' record {index}"
        with faults.at(where):
            records.append(_record(item, folders, where))
    return collected(path.stem, "osworld-g", records, faults)


def _record(item: Any, folders: list[Path], where: str) -> Record:
    where = f"{where} (id {field(item, 'id', str, where)})"
    image = find_file(field(item, "image_path", str, where), folders, where)
    size = checked_size(image, field(item, "image_size", list, where), where)
    kinds = field(item, "GUI_types", list, where)
    return Record(
        id=item["id"],
        image=image,
        size=size,
        stream=item["image_path"],
        step=0,
        instruction=field(item, "instruction", str, where),
        target=_target(item, pixels(*size), where),
        groups={
            "type": str(kinds[0]) if kinds else "unknown",
            "target": field(item, "box_type", str, where),
        },
        source=where,
    )


def _target(item: Any, frame: Frame, where: str) -> Target:
    kind = field(item, "box_type", str, where)
    if kind == "refusal":
        return Refusal()
    numbers = field(item, "box_coordinates", list, where)
    if kind == "bbox":
        return Boxes(read_box(numbers, "xywh", frame, where))
    if kind == "polygon":
        return Outline(read_outline(numbers, frame, where))
    raise DatasetError(f"{where}: box_type must be bbox, polygon or refusal, got {kind!r}")
