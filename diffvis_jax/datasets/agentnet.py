"""AgentNetBench trajectories (OpenCUA, Wang et al. 2025).

A JSON file for each trajectory: `steps[]` with `image` and `ground_truth_actions[]`, each with a
`type`, `params` (`position` x, y in 0-1) and `metadata.bboxes[].rel_bbox` (left, top, width,
height in 0-1). A step may have several actions: each is a record.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffvis_jax.datasets import files
from diffvis_jax.datasets.coordinates import UNIT, Boxes, Points, Target, read_box
from diffvis_jax.datasets.errors import CoordinateError, DatasetError, Faults
from diffvis_jax.datasets.records import Dataset, Record, collected


def read_agentnet(root: Path, images: Path | None, faults: Faults) -> Dataset:
    """All trajectories of a directory.

    Args:
      root: directory with the JSON files, in it or in `data`; images beside them or in `images`.
      faults: what to do with faulty records; one faulty action leaves out its step.
    """
    records: list[Record] = []
    for path in files.data_files(root, "*.json", "data/*.json"):
        beside = files.image_folders(path.parent, ("images",), images)
        folders = beside if images else [*beside, *files.image_folders(root, ("images",), None)]
        with faults.at(f"'{path}'"):
            content = files.read_json(path, dict)
            steps = files.field(content, "steps", list, f"'{path}'")
            name = str(content.get("task_id", path.stem))
            task = str(content.get("high_level_task_description", ""))
            for index, step in enumerate(steps):
                where = f"'{path}' step {index}"
                with faults.at(where):
                    records += list(_actions(step, name, index, task, folders, where))
    return collected(root.name, "agentnetbench", records, faults)


def _actions(
    step: Any, name: str, index: int, task: str, folders: list[Path], where: str
) -> Iterator[Record]:
    image = files.find_file(files.field(step, "image", str, where), folders, where)
    size = files.checked_size(image, None, where)
    actions = files.field(step, "ground_truth_actions", list, where)
    if not actions:
        raise DatasetError(f"{where}: no ground_truth_actions")
    for number, action in enumerate(actions):
        at = f"{where} action {number}"
        kind = files.field(action, "type", str, at)
        params = _object(action, "params", at)
        position = _position(params, at)
        yield Record(
            id=f"{name}/{index}/{number}",
            image=image,
            size=size,
            stream=name,
            step=index,
            instruction=task,
            action=kind,
            text=_text(params),
            target=_target(action, position, at),
            position=position,
            groups={"action": kind},
            source=at,
        )


def _object(action: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    """A field that may be missing, or empty of any kind."""
    return files.field(action, name, Mapping, where) if action.get(name) else {}


def _text(params: Mapping[str, Any]) -> str:
    for name in ("text", "content", "keys", "key", "status"):
        if name in params:
            value = params[name]
            return "+".join(map(str, value)) if isinstance(value, list) else str(value)
    return ""


def _position(params: Mapping[str, Any], where: str) -> Points | None:
    """Where the person clicked, `[2]`; None: an action without a place."""
    if "position" not in params:
        return None
    position = params["position"]
    if isinstance(position, Mapping):
        position = [position.get("x"), position.get("y")]
    if not isinstance(position, list) or len(position) != 2:
        raise CoordinateError(f"{where}: a position is x, y, got {position!r}")
    corners = read_box([*position, 0, 0], "xywh", UNIT, where)
    return Points(corners.xy[0, 0], UNIT)


def _target(action: Mapping[str, Any], position: Points | None, where: str) -> Target | None:
    """The boxes; where there are none, a box without area at the position."""
    metadata = _object(action, "metadata", where)
    if metadata.get("bboxes"):
        boxes = files.field(metadata, "bboxes", list, where)
        read = [
            read_box(files.field(box, "rel_bbox", list, where), "xywh", UNIT, where).xy
            for box in boxes
        ]
        return Boxes(Points(np.concatenate(read), UNIT))
    return position and Boxes(Points(np.stack([position.xy] * 2)[None], UNIT))
