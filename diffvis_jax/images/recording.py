"""A recorded session on disk: a directory of screenshots, in order, with what happened."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffvis_jax.images.geometry import ImageError
from diffvis_jax.images.preprocess import upright_rgb

if TYPE_CHECKING:
    import PIL.Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")


@dataclasses.dataclass(frozen=True)
class Recording:
    """Screenshots in order.

    Attributes:
      paths: F image files; a file may occur several times (nothing happened).
      labels: F texts, what happened before each frame; the file's name where nobody knows.
      title: of the recording.
      note: programs shown and licences; may be empty.
    """

    paths: tuple[Path, ...]
    labels: tuple[str, ...]
    title: str
    note: str = ""

    def first(self, frames: int | None) -> Recording:
        """The first `frames` of them; None = all."""
        return dataclasses.replace(self, paths=self.paths[:frames], labels=self.labels[:frames])


def read_recording(directory: str | os.PathLike[str]) -> Recording:
    """Finds the frames of a recording; reads no pixels.

    A `session.json` in the directory gives order and labels:
    `{"title": ..., "steps": [{"frame": "frame_00.png", "label": "click OK"}, ...]}`. Without one,
    all image files count, in the order of their names (frame_2 before frame_10).

    Raises:
      ImageError: no such directory, no images in it, or a session.json that makes no sense.
    """
    folder = Path(directory)
    if not folder.exists():
        raise ImageError(f"no such directory: '{folder}'")
    if not folder.is_dir():
        raise ImageError(f"not a directory: '{folder}' (pass the directory that holds the frames)")
    try:
        script = folder / "session.json"
        if script.exists():
            return _read_script(script)
        found = [path for path in folder.iterdir() if is_image(path)]
    except OSError as error:
        raise ImageError(f"cannot read '{folder}' ({error.strerror or error})") from error
    if not found:
        raise ImageError(f"no images in '{folder}' (looked for {', '.join(SUFFIXES)})")
    found.sort(key=natural_order)
    labels = tuple(path.name for path in found)
    return Recording(paths=tuple(found), labels=labels, title=folder.resolve().name)


def has_frames(directory: str | os.PathLike[str]) -> bool:
    """Whether a directory holds images, or a session.json."""
    folder = Path(directory)
    return (folder / "session.json").exists() or any(map(is_image, folder.iterdir()))


def is_image(path: Path) -> bool:
    """Whether a file's name is that of a frame; hidden files are none."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def natural_order(path: Path) -> list[tuple[int, int, str]]:
    """A key to sort paths by their names as people count: frame_2 before frame_10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", path.name)
    return [(0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in parts]


def _read_script(script: Path) -> Recording:
    try:
        content: Any = json.loads(script.read_text(encoding="utf-8"))
        steps = content["steps"]
        paths = tuple(script.parent / step["frame"] for step in steps)
        labels = tuple(str(step.get("label", step["frame"])) for step in steps)
        notes = [str(content[name]) for name in ("programs", "licences") if name in content]
        title = str(content.get("title", script.parent.resolve().name))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ImageError(
            f'\'{script}\' does not read like {{"steps": [{{"frame": "a.png"}}, ...]}} '
            f"({type(error).__name__}: {error})"
        ) from error
    if not paths:
        raise ImageError(f"'{script}' lists no frames")
    for path in dict.fromkeys(paths):
        if not path.is_file():
            raise ImageError(f"'{script}' lists a frame that is not there: '{path.name}'")
    return Recording(paths=paths, labels=labels, title=title, note=". ".join(notes))


def open_screenshot(path: str | os.PathLike[str]) -> PIL.Image.Image:
    """The original picture for people to look at: RGB, upright, as `preprocess` sees it.

    Raises:
      ImageError: its data is damaged, or of values that are no pixels.
    """
    from PIL import Image

    with Image.open(path) as image:
        return upright_rgb(image, f"'{path}'")
