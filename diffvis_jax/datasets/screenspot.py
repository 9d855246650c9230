"""ScreenSpot (Cheng et al. 2024), ScreenSpot-v2 (Wu et al. 2024), ScreenSpot-Pro (Li et al. 2025).

One query, one box in pixels. ScreenSpot and v2 write left, top, width, height; Pro writes left,
top, right, bottom, and the size of the image.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diffvis_jax.datasets.coordinates import Boxes, pixels, read_box
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

_FOLDERS = ("screenspot_imgs", "screenspotv2_image", "images")


def read_screenspot(root: Path, images: Path | None, faults: Faults) -> Dataset:
    """`screenspot_{mobile,desktop,web}.json`, or the same with `_v2`, of one directory.

    Args:
      root: directory with the JSON files; the images are in it, in `screenspot_imgs`, in
        `screenspotv2_image`, or in `images`.
      images: directory of the images, if it is another.
      faults: what to do with faulty records.
    """
    files = data_files(root, "screenspot_*.json")
    versions = {path.stem.endswith("_v2") for path in files}
    if len(versions) > 1:
        raise DatasetError(f"'{root}' holds ScreenSpot and ScreenSpot-v2: put them apart")
    folders = image_folders(root, _FOLDERS, images)

    def one(item: Any, name: str, path: Path, where: str) -> Record:
        image = find_file(field(item, "img_filename", str, where), folders, where)
        size = checked_size(image, None, where)
        platform = path.stem.removeprefix("screenspot_").removesuffix("_v2")
        return Record(
            id=name,
            image=image,
            size=size,
            stream=image.name,
            step=0,
            instruction=field(item, "instruction", str, where),
            target=Boxes(read_box(field(item, "bbox", list, where), "xywh", pixels(*size), where)),
            groups={
                "platform": platform,
                "type": field(item, "data_type", str, where),
                "source": str(item.get("data_source", "unknown")),
            },
            source=where,
        )

    kind = "screenspot-v2" if True in versions else "screenspot"
    return collected(root.name, kind, _records(files, one, faults), faults)


def read_screenspot_pro(root: Path, images: Path | None, faults: Faults) -> Dataset:
    """One JSON file for each application, in `annotations` or in the directory itself.

    Args:
      root: directory that holds `annotations` and `images`.
      images: directory of the images, if it is another.
      faults: what to do with faulty records.
    """
    folder = root / "annotations" if (root / "annotations").is_dir() else root
    folders = image_folders(root, ("images",), images)

    def one(item: Any, name: str, path: Path, where: str) -> Record:
        where = f"{where} (id {field(item, 'id', str, where)})"
        image = find_file(field(item, "img_filename", str, where), folders, where)
        size = checked_size(image, field(item, "img_size", list, where), where)
        return Record(
            id=item["id"],
            image=image,
            size=size,
            stream=item["img_filename"],
            step=0,
            instruction=field(item, "instruction", str, where),
            target=Boxes(read_box(field(item, "bbox", list, where), "xyxy", pixels(*size), where)),
            groups={
                "platform": str(item.get("platform", "unknown")),
                "group": str(item.get("group", "unknown")),
                "application": str(item.get("application", path.stem)),
                "type": field(item, "ui_type", str, where),
            },
            source=where,
        )

    records = _records(data_files(folder, "*.json"), one, faults)
    return collected(root.name, "screenspot-pro", records, faults)


def _records(files: Iterable[Path], one: Any, faults: Faults) -> list[Record]:
    records = []
    for path in files:
        with faults.at(f"'{path}'"):
            for index, item in enumerate(read_json(path, list)):
                where = f"'{path}' record {index}"
                with faults.at(where):
                    records.append(one(item, f"{path.stem}/{index}", path, where))
    return records
