"""What the readers share: JSON that is what it should be, and images where they should be."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffvis_jax.datasets.errors import DatasetError
from diffvis_jax.datasets.records import image_size
from diffvis_jax.images.recording import is_hidden
from diffvis_jax.utils import json_file


def data_files(root: Path, *patterns: str) -> list[Path]:
    """The files of a data set, in the order of their names; hidden ones are none, nor are those
    that macOS puts beside others."""
    return sorted(
        {
            path
            for pattern in patterns
            for path in root.glob(pattern)
            if path.is_file() and not any(map(is_hidden, _below(path, root)))
        }
    )


def _below(path: Path, root: Path) -> list[Path]:
    """A path, and those of its parents that are below a folder."""
    return [path, *(parent for parent in path.parents if root in parent.parents)]


def read_json(path: Path, kind: type) -> Any:
    """The content of a JSON file, which must hold a `list` or a `dict`.

    Raises:
      DatasetError: it cannot be read, or holds something else.
    """
    try:
        content = json_file.read_json(path)
    except json_file.JsonError as error:
        raise DatasetError(f"'{path}' {error}") from error
    if not isinstance(content, kind):
        raise DatasetError(f"'{path}' must hold a JSON {kind.__name__}, got {_name(content)}")
    return content


def field(item: Any, name: str, kind: type | tuple[type, ...], where: str) -> Any:
    """A field of a record.

    Raises:
      DatasetError: the record is no object, or the field is missing or of another type.
    """
    if not isinstance(item, Mapping):
        raise DatasetError(f"{where}: an object is needed, got {_name(item)}")
    if name not in item:
        raise DatasetError(f"{where}: no field '{name}'; there are {sorted(map(str, item))}")
    if not isinstance(item[name], kind):
        shown = repr(item[name])[:100]
        raise DatasetError(f"{where}: field '{name}' is {_name(item[name])}: {shown}")
    return item[name]


def _name(value: Any) -> str:
    return type(value).__name__


def find_file(name: str, folders: Sequence[Path], where: str) -> Path:
    """The first of `folder / name` that is a file.

    Raises:
      DatasetError: none is.
    """
    for folder in folders:
        if os.path.isfile(path := folder / name):  # whatever its name is
            return path
    looked = ", ".join(f"'{folder}'" for folder in folders)
    raise DatasetError(f"{where}: missing image '{name}' (looked in {looked})")


def checked_size(image: Path, given: Any, where: str) -> tuple[int, int]:
    """Width and height of an image, which must be those given, if any are.

    Raises:
      DatasetError: an image that cannot be read, or of another size.
    """
    size = image_size(image, where)
    if given is not None and [*size] != [*given]:
        raise DatasetError(
            f"{where}: '{image}' has {size[0]} x {size[1]} px, the annotation says {given}"
        )
    return size


def image_folders(root: Path, names: Sequence[str], images: Path | None) -> list[Path]:
    """Where to look for images: the folder given, or those of that name, and the root itself.

    Raises:
      DatasetError: the folder given is none.
    """
    if images is None:
        return [*(root / name for name in names if (root / name).is_dir()), root]
    if not images.is_dir():
        raise DatasetError(f"no such directory of images: '{images}'")
    return [images]
