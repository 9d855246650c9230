"""The one record type of all data sets, and streams of them.

A record is a screenshot, and what is asked about it. A stream is what one agent sees, screenshot
after screenshot; a set of single screenshots is as many streams of one.
"""

import dataclasses
import functools
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from diffvis_jax.datasets.coordinates import Points, Target
from diffvis_jax.datasets.errors import DatasetError, Faults
from diffvis_jax.images.geometry import HasPreprocess, ImageError, PreprocessConfig
from diffvis_jax.images.preprocess import open_image, preprocess, upright_rgb, upright_size
from diffvis_jax.images.recording import shown

if TYPE_CHECKING:
    import PIL.Image


@dataclasses.dataclass(frozen=True)
class ParquetImage:
    """An encoded image in a Parquet file (column "screenshot" with a field "bytes").

    Attributes:
      path: of the file.
      group: its row group.
      row: in the group.
    """

    path: Path
    group: int
    row: int

    def __str__(self) -> str:
        return f"{self.path}, row group {self.group}, row {self.row}"

    def read(self) -> bytes:
        """The encoded image.

        Raises:
          ImageError: there is none, or the file is damaged.
        """
        try:
            with _one_at_a_time:
                content = _screenshots(self.path, self.group)[self.row]
        except MemoryError:
            raise
        except Exception as error:  # pyarrow's errors have no base of their own
            raise ImageError(f"{self}: cannot be read as Parquet ({error})") from error
        if not content:
            raise ImageError(f"{self}: no screenshot")
        return content


# A row group may hold a hundred megabytes: the worker threads are in one or two at a time. The
# cache alone would let each of them decode the same one.
_one_at_a_time = threading.Lock()


@functools.lru_cache(maxsize=2)
def _screenshots(path: Path, group: int) -> list[bytes | None]:
    from diffvis_jax.datasets.mind2web import parquet

    table = parquet().ParquetFile(path).read_row_group(group, columns=["screenshot"])
    return [cell and cell.get("bytes") for cell in table.column("screenshot").to_pylist()]


Image: TypeAlias = Path | ParquetImage


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """A screenshot, and what is asked about it.

    Attributes:
      id: unique in its data set.
      image: where the screenshot is.
      size: its width and height; None where nothing depends on it.
      stream: the stream it belongs to; records of one stream and step share a screenshot.
      step: its place in the stream, from 0.
      instruction: what a model is told.
      action: what it should do: "click", "write", ..; empty where only a place is asked for.
      text: what it should write or choose.
      target: where; None where nothing is asked.
      position: where the person clicked who was recorded, `[2]`, if that is known.
      elements: everything that can be clicked, boxes `[n, 2, 2]`, where that is known.
      groups: name -> value, by which results are broken down.
      source: file and place in it, for errors.
    """

    id: str
    image: Image
    size: tuple[int, int] | None
    stream: str
    step: int
    instruction: str = ""
    action: str = ""
    text: str = ""
    target: Target | None = None
    position: Points | None = None
    elements: Points | None = None
    groups: Mapping[str, str] = dataclasses.field(default_factory=dict)
    source: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Screen:
    """One screenshot of a stream.

    Attributes:
      image: where it is.
      records: what is asked about it, one or more.
    """

    image: Image
    records: tuple[Record, ...]

    @property
    def elements(self) -> Points | None:
        return next((r.elements for r in self.records if r.elements is not None), None)


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """What one agent sees: screenshots in order.

    Attributes:
      name: unique in its data set.
      screens: at least one.
    """

    name: str
    screens: tuple[Screen, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set.

    Attributes:
      name: for people.
      kind: its format, see `datasets.KINDS`.
      records: in the order of the files.
      faults: messages about the records that were left out.
    """

    name: str
    kind: str
    records: tuple[Record, ...]
    faults: tuple[str, ...] = ()

    def __post_init__(self):
        if not self.records:
            raise DatasetError(f"'{self.name}': no records ({self.kind})")
        seen: dict[str, Record] = {}
        for record in self.records:
            _check_id(record, seen.get(record.id))
            seen[record.id] = record

    @functools.cached_property
    def streams(self) -> tuple[Stream, ...]:
        """The records as streams, in the order in which they begin.

        Raises:
          DatasetError: records of one stream and step with different screenshots.
        """
        grouped: dict[str, dict[int, list[Record]]] = {}
        for record in self.records:
            grouped.setdefault(record.stream, {}).setdefault(record.step, []).append(record)
        return tuple(
            Stream(name, tuple(_screen(steps[step]) for step in sorted(steps)))
            for name, steps in grouped.items()
        )


def _screen(records: Sequence[Record]) -> Screen:
    for record in records:
        _check_screenshot(record, records[0])
    return Screen(records[0].image, tuple(records))


def _check_id(record: Record, other: Record | None) -> None:
    if other is not None:
        raise DatasetError(f"duplicate id '{record.id}': {other.source} and {record.source}")


def _check_screenshot(record: Record, other: Record) -> None:
    if record.image != other.image:
        raise DatasetError(
            f"step {record.step} of '{record.stream}' has two screenshots: "
            f"{other.source} and {record.source}"
        )


def collected(name: str, kind: str, records: Iterable[Record], faults: Faults) -> Dataset:
    """The records of a data set that go together.

    Args:
      name, kind: see `Dataset`.
      faults: an id that occurs twice, and a second screenshot of one step, are faults of a record,
        too.

    Raises:
      DatasetError: a fault that is not to be skipped, or no record without one.
    """
    ids: dict[str, Record] = {}
    places: dict[tuple[str, int], Record] = {}
    for record in records:
        with faults.at(record.source):
            _check_id(record, ids.get(record.id))
            _check_screenshot(record, places.get((record.stream, record.step), record))
            ids[record.id] = record
            places.setdefault((record.stream, record.step), record)
    if not ids and faults.found:
        count = len(faults.found)
        raise DatasetError(
            f"'{name}': no records ({kind}) without a fault; the first of {count}: "
            f"{faults.found[0]}"
        )
    return Dataset(shown(name), kind, tuple(ids.values()), tuple(faults.found))


def chained(dataset: Dataset, by: str) -> Dataset:
    """The data set with one stream for each value of a group, its screens one after the other.

    What a set of single screenshots then measures: an agent that comes from another screen of the
    same program.

    Raises:
      DatasetError: a record without that group.
    """
    order: dict[str, dict[tuple[str, int], int]] = {}
    records = []
    for record in dataset.records:
        if by not in record.groups:
            raise DatasetError(f"{record.source}: no group '{by}'; it has {sorted(record.groups)}")
        value = record.groups[by]
        places = order.setdefault(value, {})
        step = places.setdefault((record.stream, record.step), len(places))
        records.append(dataclasses.replace(record, stream=f"{by} {value}", step=step))
    return dataclasses.replace(dataset, records=tuple(records))


def merged(datasets: Sequence[Dataset]) -> Dataset:
    """Several data sets of one kind as one.

    Raises:
      DatasetError: several kinds, or an id in two of them.
    """
    if len(kinds := {dataset.kind for dataset in datasets}) > 1:
        raise DatasetError(f"data sets of several kinds: {', '.join(sorted(kinds))}")
    return Dataset(
        name=", ".join(dataset.name for dataset in datasets),
        kind=datasets[0].kind,
        records=tuple(record for dataset in datasets for record in dataset.records),
        faults=tuple(fault for dataset in datasets for fault in dataset.faults),
    )


# ---- images -----------------------------------------------------------------------------------


def read_image(image: Image) -> "PIL.Image.Image":
    """The screenshot, upright and in RGB.

    Raises:
      ImageError: an image that cannot be read; names it.
    """
    with _opened(image) as opened:
        return upright_rgb(opened, f"'{image}'")


def image_size(image: Image, where: str) -> tuple[int, int]:
    """Width and height of a screenshot, upright; reads its header only.

    Raises:
      DatasetError: no image there; names the record.
    """
    if isinstance(image, Path) and not image.is_file():
        raise DatasetError(f"{where}: missing image '{image}'")
    try:
        with _opened(image) as opened:
            return upright_size(opened)
    except ImageError as error:
        raise DatasetError(f"{where}: {error}") from error


def _opened(image: Image) -> "PIL.Image.Image":
    """The screenshot, not decoded yet; raises ImageError if there is none."""
    return open_image(image if isinstance(image, Path) else image.read(), f"'{image}'")


def load_screen(
    image: Image, config: HasPreprocess | PreprocessConfig
) -> tuple[np.ndarray, tuple[int, int]]:
    """A screenshot as a model's frame `uint8 [S, S, 3]`, and its width and height.

    Raises:
      ImageError: an image that cannot be read; names it.
    """
    picture = read_image(image)
    try:
        return preprocess(picture, config)[0], picture.size
    except ImageError as error:
        raise ImageError(f"'{image}': {error}") from error
