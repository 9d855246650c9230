"""Plain folders of frames, rendered pages, and recorded sessions with a `trajectory.json`.

Three kinds of `trajectory.json` are known. A recorder's: `steps[]` with `frame`, and `action`,
`target` and `target_box` (pixels, left, top, right, bottom) of what was done *before* that frame:
what was aimed at was seen on the frame before, and that is where it is asked for. A recorder's
with `next_actions`, done after the frame: one screenshot for each action. And that of rendered
pages: `frames[]` with `file`, and `elements` that name everything that can be clicked.
"""

import contextlib
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffvis_jax.datasets.coordinates import Boxes, Frame, Points, pixels, read_box, resized
from diffvis_jax.datasets.errors import DatasetError, Faults
from diffvis_jax.datasets.files import data_files, field, find_file, read_json
from diffvis_jax.datasets.records import Dataset, Record, collected, image_size
from diffvis_jax.images.recording import (
    has_frames,
    is_hidden,
    is_image,
    list_folders,
    list_frames,
    read_recording,
    shown,
)

NAME = "trajectory.json"


def read_frames(root: Path, images: Path | None, faults: Faults) -> Dataset:
    """A folder of frames (see `recording`), or a folder of such folders: nothing is asked.

    Raises:
      DatasetError: both, frames and folders of frames; or neither.
    """
    _no_images(images)
    records = []
    for folder in _frame_folders(root):
        with faults.at(f"'{folder}'"):
            recording = read_recording(folder)
            name = shown(folder.resolve().name)
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
    return collected(root.resolve().name, "frames", records, faults)


def _frame_folders(root: Path) -> list[Path]:
    """The folder itself, or those in it."""
    inner = list_folders(root) if root.is_dir() else []
    if not inner or (root / "session.json").exists():
        return [root]
    frames, held = list_frames(root), [folder for folder in inner if has_frames(folder)]
    if frames and held:
        raise DatasetError(
            f"'{root}' holds both images ('{frames[0].name}', .. : {len(frames)}) and folders with "
            f"images ('{held[0].name}', .. : {len(held)}): name the folder that is meant, or move "
            "the other ones away"
        )
    return [root] if frames else inner


def trajectory_files(root: Path) -> list[Path]:
    """The `trajectory.json` of a directory, or those of all directories below it.

    Raises:
      DatasetError: there are both.
    """
    found = data_files(root, f"**/{NAME}")
    if len(found) > 1 and root / NAME in found:
        other = next(file for file in found if file != root / NAME)
        raise DatasetError(
            f"'{root}' is a session, and holds others ('{other}'): name the one that is meant, or "
            "move the others away"
        )
    return found


def read_trajectories(root: Path, images: Path | None, faults: Faults) -> Dataset:
    """A recorded session, or all those below a directory; its frames are beside it.

    Where frames have another size than the recorder says, all of them by one factor, the screen
    was a scaled one: boxes are scaled with it.

    Args:
      root: a directory with a `trajectory.json`, or with such directories in it.
    """
    _no_images(images)
    records: list[Record] = []
    files = trajectory_files(root)
    for file in files:
        where = f"'{file}'"
        with faults.at(where):
            content = read_json(file, dict)
            steps = field(content, "steps" if "steps" in content else "frames", list, where)
            folder, whole = file.parent.resolve(), root.resolve()
            name = folder.name if folder == whole else str(folder.relative_to(whole))
            records += _session(
                steps, _resolution(content, where), folder, shown(name), where, faults
            )
    _tell_left_out(root, files, records)
    return collected(root.resolve().name, "trajectory", records, faults)


def page_files(root: Path) -> list[Path]:
    """The JSON files of a directory, and those below it, with a picture of the same name."""
    return [file for file in data_files(root, "**/*.json") if file.with_suffix(".png").is_file()]


def read_pages(root: Path, images: Path | None, faults: Faults) -> Dataset:
    """Rendered pages, each a picture and what can be clicked on it (`elements`): single screens.

    Args:
      root: the directory that holds them, at any depth.
    """
    _no_images(images)
    records: list[Record] = []
    for file in page_files(root):
        where = f"'{file}'"
        with faults.at(where):
            content = read_json(file, dict)
            step = {**content, "file": file.with_suffix(".png").name, "action": "start"}
            name = shown(str(file.with_suffix("").relative_to(root)))
            records += _session(
                [step], _resolution(content, where), file.parent, name, where, faults
            )
    return collected(root.resolve().name, "pages", records, faults)


def _session(
    steps: Sequence[Any], resolution: Frame, folder: Path, name: str, where: str, faults: Faults
) -> list[Record]:
    images: dict[int, Path] = {}
    sizes: dict[int, tuple[int, int]] = {}
    for index, step in enumerate(steps):
        at = f"{where} step {index}"
        with faults.at(at):
            file = field(step, "frame" if "file" not in step else "file", str, at)
            images[index] = find_file(file, [folder], at)
            # A broken image is one frame less, once it is decoded.
            with contextlib.suppress(DatasetError):
                sizes[index] = image_size(images[index], at)
    all_sizes = {*sizes.values()}
    usual = next(iter(all_sizes)) if len(all_sizes) == 1 else None
    records = []
    for index, image in images.items():
        at = f"{where} step {index}"
        with faults.at(at):
            size, step = sizes.get(index, usual), steps[index]
            frame = _frame(size, resolution, len(all_sizes) > 1, f"{at}: '{image}'")
            asked, target = steps[index + 1] if index + 1 < len(steps) else {}, None
            if isinstance(asked, Mapping) and "target_box" in asked:
                after = f"{where} step {index + 1}"
                numbers = field(asked, "target_box", list, after)
                target = Boxes(read_box(numbers, "xyxy", frame, after))
            records.append(
                Record(
                    id=f"{name}/{index}",
                    image=image,
                    size=size or (int(resolution.width), int(resolution.height)),
                    stream=name,
                    step=index,
                    instruction=str(asked.get("target", "")) if target else "",
                    action=str(asked.get("action", "")) if target else "",
                    target=target,
                    elements=_elements(step, frame, at),
                    groups={
                        "session": name,
                        "trace": "steps" if "next_actions" in step else "stream",
                        "action before": str(step.get("action", "unknown")),
                    },
                    source=at,
                )
            )
    return records


def _frame(size: tuple[int, int] | None, resolution: Frame, several: bool, where: str) -> Frame:
    """What the numbers of a step mean.

    Args:
      size: of its image; None: it is not known.
      several: whether the images of the session have several sizes.
    """
    width, height = resolution.width, resolution.height
    if size is None or size == (width, height):
        return resolution
    across, down = size[0] / width, size[1] / height
    # On a screen scaled by a fraction the recorder's size is rounded.
    alike = abs(size[0] - down * width) <= max(1, down) and abs(size[1] - across * height) <= max(
        1, across
    )
    if several or not alike:
        changes = "; the frames of this session have several sizes" if several else ""
        raise DatasetError(
            f"{where} has {size[0]} x {size[1]} px, the recording says {width:g} x {height:g}"
            f"{changes}"
        )
    return resized(width, height)


def _elements(step: Mapping[str, Any], frame: Frame, where: str) -> Points | None:
    if "elements" not in step:
        return None
    boxes = [
        read_box(field(each, "box", list, where), "xyxy", frame, where).xy
        for each in field(step, "elements", list, where)
    ]
    return Points(np.concatenate(boxes) if boxes else np.empty((0, 2, 2)), frame)


def _resolution(content: Mapping[str, Any], where: str) -> Frame:
    size: Any = content.get("resolution") or [content.get("width"), content.get("height")]
    if not (isinstance(size, list) and len(size) == 2 and all(map(_whole, size))):
        raise DatasetError(f"{where}: no resolution [width, height], got {size!r:.100}")
    return pixels(*size)


def _whole(number: Any) -> bool:
    """Whether it is a number of pixels."""
    plain = isinstance(number, int | float) and not isinstance(number, bool)
    return plain and 0 < number < 2**31 and number == int(number)


def _tell_left_out(root: Path, files: Sequence[Path], records: Sequence[Record]) -> None:
    """Warns of folders with images of which no session says anything, and that are no pages."""
    sessions = {file.parent.resolve() for file in files}
    used = {record.image.resolve().parent for record in records if isinstance(record.image, Path)}
    left_out = []
    for place, inner, names in os.walk(root.resolve()):
        folder = Path(place)
        if folder in sessions:
            inner.clear()
            continue
        inner[:] = [name for name in inner if not is_hidden(Path(name))]
        pictures = [folder / name for name in names if is_image(folder / name)]
        if folder not in used and any(not p.with_suffix(".json").is_file() for p in pictures):
            left_out.append(folder)
    if left_out:
        warnings.warn(
            f"'{root}' holds {len(left_out)} folder{'s' * (len(left_out) > 1)} with images and "
            f"without a {NAME} ('{left_out[0].name}', ..): left out",
            stacklevel=3,
        )


def _no_images(images: Path | None) -> None:
    if images is not None:
        raise DatasetError("recorded sessions have their frames beside them: no other directory")
