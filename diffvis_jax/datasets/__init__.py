"""Data sets as they are published, read into one record type."""

from collections.abc import Callable
from pathlib import Path

from diffvis_jax.datasets.agentnet import read_agentnet
from diffvis_jax.datasets.coordinates import (
    THOUSAND,
    UNIT,
    Boxes,
    Frame,
    Outline,
    Points,
    Target,
    in_pixels,
    pixels,
    resized,
)
from diffvis_jax.datasets.errors import CoordinateError, DatasetError, Faults
from diffvis_jax.datasets.files import data_files
from diffvis_jax.datasets.mind2web import read_mind2web
from diffvis_jax.datasets.records import (
    Dataset,
    Record,
    Screen,
    Stream,
    chained,
    load_screen,
    merged,
)
from diffvis_jax.datasets.sessions import (
    page_files,
    read_frames,
    read_pages,
    read_trajectories,
    trajectory_files,
)
from diffvis_jax.datasets.single_screens import (
    read_osworld_g,
    read_screenspot,
    read_screenspot_pro,
)

__all__ = [
    "KINDS",
    "THOUSAND",
    "UNIT",
    "Boxes",
    "CoordinateError",
    "Dataset",
    "DatasetError",
    "Frame",
    "Outline",
    "Points",
    "Record",
    "Screen",
    "Stream",
    "Target",
    "chained",
    "in_pixels",
    "load_screen",
    "merged",
    "open_dataset",
    "pixels",
    "resized",
]

Reader = Callable[[Path, Path | None, Faults], Dataset]

_READERS: dict[str, Reader] = {
    "screenspot": read_screenspot,
    "screenspot-v2": read_screenspot,
    "screenspot-pro": read_screenspot_pro,
    "osworld-g": read_osworld_g,
    "agentnetbench": read_agentnet,
    "mind2web": read_mind2web,
    "trajectory": read_trajectories,
    "pages": read_pages,
    "frames": read_frames,
}
KINDS = tuple(_READERS)


def open_dataset(
    path: str | Path, kind: str | None = None, *, images: Path | None = None, skip: bool = False
) -> Dataset:
    """Reads the annotations of a data set; of images at most the headers.

    Args:
      path: a directory (of OSWorld-G and Mind2Web also a file).
      kind: one of `KINDS`; None = as its files look.
      images: where its images are, if not where they are published.
      skip: leave faulty records, and files that cannot be read, out, and list them in
        `Dataset.faults`; else the first is raised.

    Raises:
      DatasetError: no such data set, or a faulty record; names file and record.
    """
    path = Path(path)
    if not path.exists():
        raise DatasetError(f"no such directory or file: '{path}'")
    if kind is not None and kind not in _READERS:
        raise DatasetError(f"no format '{kind}': there are {', '.join(KINDS)}")
    return _READERS[kind or _looks_like(path)](path, images, Faults(skip))


def _looks_like(path: Path) -> str:
    """The format, by names of files."""
    if path.is_file():
        return "mind2web" if path.suffix == ".parquet" else "osworld-g"
    for pattern, kind in (
        ("screenspot_*_v2.json", "screenspot-v2"),
        ("screenspot_*.json", "screenspot"),
        ("OSWorld-G*.json", "osworld-g"),
        ("annotations/*.json", "screenspot-pro"),
        ("**/*.parquet", "mind2web"),
    ):
        if data_files(path, pattern):
            return kind
    if trajectory_files(path):
        return "trajectory"
    if page_files(path):
        return "pages"
    if any(file.name != "session.json" for file in data_files(path, "*.json", "data/*.json")):
        return "agentnetbench"
    return "frames"
