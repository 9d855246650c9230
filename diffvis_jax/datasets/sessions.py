"""Plain folders of frames, and recorded sessions with a `trajectory.json`.

Three kinds of `trajectory.json` are known. A recorder's: `steps[]` with `frame`, and `action`,
`target` and `target_box` (pixels, left, top, right, bottom) of what was done *before* that frame:
what was aimed at was seen on the frame before, and that is where it is asked for. A recorder's
with `next_actions`, done after the frame: one screenshot for each action. And that of rendered
pages: `frames[]` with `file`, and `elements` that name everything that can be clicked.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffvis_jax.datasets.coordinates import Boxes, Frame, Points, pixels, read_box
from diffvis_jax.datasets.errors import DatasetError, Faults
from diffvis_jax.datasets.files import field, find_file, read_json
from diffvis_jax.datasets.records import Dataset, Record
from diffvis_jax.images.geometry import ImageError
from diffvis_jax.images.recording import read_recording

NAME = "trajectory.json"


def read_frames(root: Path, images: Path | None, faults: Faults) -> Dataset:
    """A folder of frames (see `recording`), or a folder of such folders: nothing is asked.

    Args:
      root: of the frames, or of the folders.
      images: not used: must be None.
      faults: what to do with a faulty folder.
    """
    _no_images(images)
    inner = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    records = []
    for folder in inner or [root]:
        with faults:
            try:
                recording = read_recording(folder)
            except ImageError as error:
                raise DatasetError(str(error)) from error
            name = folder.resolve().name
            records += [
                Record(
                    id=f"{name}/{index}",
                    image=path,
                    size=None,
                    stream=name,
                    step=index,
                    instruction=label,
                    groups={"session": name},
                    source=f"'{path}'",
                )
                for index, (path, label) in enumerate(
                    zip(recording.paths, recording.labels, strict=True)
                )
            ]
    return Dataset(root.resolve().name, "frames", tuple(records), tuple(faults.found))


def trajectory_files(root: Path) -> list[Path]:
    """The `trajectory.json` of a directory, or those of all directories below it."""
    own = root / NAME
    return [own] if own.is_file() else sorted(root.glob(f"**/{NAME}"))


def read_trajectories(root: Path, images: Path | None, faults: Faults) -> Dataset:
    """A recorded session, or all those below a directory; its frames are beside it.

    Args:
      root: a directory with a `trajectory.json`, or with such directories in it.
      images: not used: must be None.
      faults: what to do with faulty steps.
    """
    _no_images(images)
    records = []
    for file in trajectory_files(root):
        where = f"'{file}'"
        content = read_json(file, dict)
        size = content.get("resolution") or [content.get("width"), content.get("height")]
        if not (isinstance(size, list) and len(size) == 2 and all(_positive(n) for n in size)):
            raise DatasetError(f"{where}: no resolution [width, height], got {size!r}")
        steps = field(content, "steps" if "steps" in content else "frames", list, where)
        folder = file.parent.resolve()
        name = folder.name if folder == root.resolve() else str(folder.relative_to(root.resolve()))
        for index, step in enumerate(steps):
            following = steps[index + 1] if index + 1 < len(steps) else {}
            with faults:
                records.append(
                    _record(step, following, name, index, folder, pixels(*size), f"{where} step ")
                )
    return Dataset(root.resolve().name, "trajectory", tuple(records), tuple(faults.found))


def _record(
    step: Any, following: Any, name: str, index: int, folder: Path, frame: Frame, where: str
) -> Record:
    at = f"{where}{index}"
    file = field(step, "frame" if "file" not in step else "file", str, at)
    asked = following if isinstance(following, Mapping) and "target_box" in following else {}
    target = None
    if asked:
        numbers = field(asked, "target_box", list, f"{where}{index + 1}")
        target = Boxes(read_box(numbers, "xyxy", frame, f"{where}{index + 1}"))
    return Record(
        id=f"{name}/{index}",
        image=find_file(file, [folder], at),
        size=(int(frame.width), int(frame.height)),
        stream=name,
        step=index,
        instruction=str(asked.get("target", "")),
        action=str(asked.get("action", "")),
        target=target,
        elements=_elements(step, frame, at),
        groups={
            "session": name,
            "trace": "steps" if "next_actions" in step else "stream",
            "action before": str(step.get("action", "unknown")),
        },
        source=at,
    )


def _elements(step: Mapping[str, Any], frame: Frame, where: str) -> Points | None:
    if "elements" not in step:
        return None
    boxes = [
        read_box(field(each, "box", list, where), "xyxy", frame, where).xy
        for each in field(step, "elements", list, where)
    ]
    return Points(np.concatenate(boxes) if boxes else np.empty((0, 2, 2)), frame)


def _positive(number: Any) -> bool:
    return isinstance(number, int | float) and number > 0


def _no_images(images: Path | None) -> None:
    if images is not None:
        raise DatasetError("recorded sessions have their frames beside them: no other directory")
