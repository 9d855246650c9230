"""Sets of single screenshots with a query each: JSON lists of records.

ScreenSpot (Cheng et al. 2024) and ScreenSpot-v2 (Wu et al. 2024): one box in pixels, left, top,
width, height. ScreenSpot-Pro (Li et al. 2025): left, top, right, bottom, and the size of the image.
OSWorld-G (Xie et al. 2025): boxes as ScreenSpot's, polygons x, y, x, y, .., and queries that are to
be refused, of which the coordinates say nothing.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from diffvis_jax.datasets import coordinates
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


def read_screenspot(root: Path, images: Path | None, faults: Faults) -> Dataset:
    """`screenspot_{mobile,desktop,web}.json`, or the same with `_v2`, of one directory; the images
    are in it, in `screenspot_imgs`, in `screenspotv2_image`, or in `images`."""
    files = data_files(root, "screenspot_*.json")
    versions = {path.stem.endswith("_v2") for path in files}
    if len(versions) > 1:
        raise DatasetError(f"'{root}' holds ScreenSpot and ScreenSpot-v2: put them apart")
    folders = image_folders(root, ("screenspot_imgs", "screenspotv2_image", "images"), images)

    def one(item: Any, index: int, path: Path, where: str) -> Record:
        groups = {
            "platform": path.stem.removeprefix("screenspot_").removesuffix("_v2"),
            "type": field(item, "data_type", str, where),
            "source": str(item.get("data_source", "unknown")),
        }
        name = f"{path.stem}/{index}"
        return _record(item, name, ("img_filename", None), folders, _box("xywh"), groups, where)

    kind = "screenspot-v2" if True in versions else "screenspot"
    return collected(root.name, kind, _records(files, one, faults), faults)


def read_screenspot_pro(root: Path, images: Path | None, faults: Faults) -> Dataset:
    """One JSON file for each application, in `annotations` or in the directory itself."""
    folder = root / "annotations" if (root / "annotations").is_dir() else root
    folders = image_folders(root, ("images",), images)

    def one(item: Any, index: int, path: Path, where: str) -> Record:
        name = field(item, "id", str, where)
        where = f"{where} (id {name})"
        groups = {
            "platform": str(item.get("platform", "unknown")),
            "group": str(item.get("group", "unknown")),
            "application": str(item.get("application", path.stem)),
            "type": field(item, "ui_type", str, where),
        }
        image = "img_filename", "img_size"
        return _record(item, name, image, folders, _box("xyxy"), groups, where)

    records = _records(data_files(folder, "*.json"), one, faults)
    return collected(root.name, "screenspot-pro", records, faults)


def read_osworld_g(path: Path, images: Path | None, faults: Faults) -> Dataset:
    """`OSWorld-G.json` or `OSWorld-G_refined.json`, or a directory that holds one of the two; the
    images are beside it, or in `images`."""
    if path.is_dir():
        found = data_files(path, "OSWorld-G*.json")
        if len(found) != 1:
            names = ", ".join(p.name for p in found) or "none"
            raise DatasetError(f"'{path}': one OSWorld-G*.json is needed, found {names}")
        path = found[0]
    folders = image_folders(path.parent, ("images",), images)

    def one(item: Any, index: int, path: Path, where: str) -> Record:
        name = field(item, "id", str, where)
        where = f"{where} (id {name})"
        kinds = field(item, "GUI_types", list, where)
        groups = {
            "type": str(kinds[0]) if kinds else "unknown",
            "target": field(item, "box_type", str, where),
        }
        image = "image_path", "image_size"
        return _record(item, name, image, folders, _any_target, groups, where)

    return collected(path.stem, "osworld-g", _records([path], one, faults), faults)


def _records(
    files: Iterable[Path], one: Callable[[Any, int, Path, str], Record], faults: Faults
) -> list[Record]:
    records = []
    for path in files:
        with faults.at(f"'{path}'"):
            for index, item in enumerate(read_json(path, list)):
                where = f"'{path}' record {index}"
                with faults.at(where):
                    records.append(one(item, index, path, where))
    return records


def _record(
    item: Any,
    name: str,
    image: tuple[str, str | None],
    folders: list[Path],
    target: Callable[[Any, coordinates.Frame, str], coordinates.Target],
    groups: Mapping[str, str],
    where: str,
) -> Record:
    """A record; `image`: the fields of the image's name and, where it is told, of its size."""
    name_field, size_field = image
    file = find_file(field(item, name_field, str, where), folders, where)
    size = checked_size(file, size_field and field(item, size_field, list, where), where)
    return Record(
        id=name,
        image=file,
        size=size,
        stream=item[name_field],
        step=0,
        instruction=field(item, "instruction", str, where),
        target=target(item, coordinates.pixels(*size), where),
        groups=groups,
        source=where,
    )


def _box(form: coordinates.BoxForm) -> Callable[[Any, coordinates.Frame, str], coordinates.Target]:
    return lambda item, frame, where: coordinates.Boxes(
        coordinates.read_box(field(item, "bbox", list, where), form, frame, where)
    )


def _any_target(item: Any, frame: coordinates.Frame, where: str) -> coordinates.Target:
    kind = field(item, "box_type", str, where)
    if kind == "refusal":
        return Refusal()
    numbers = field(item, "box_coordinates", list, where)
    if kind == "bbox":
        return coordinates.Boxes(coordinates.read_box(numbers, "xywh", frame, where))
    if kind == "polygon":
        return coordinates.Outline(coordinates.read_outline(numbers, frame, where))
    raise DatasetError(f"{where}: box_type must be bbox, polygon or refusal, got {kind!r}")
