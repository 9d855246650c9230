"""A recorded session on disk: a directory of screenshots, in order, with what happened."""

from __future__ import annotations

import collections
import dataclasses
import os
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from diffvis_jax.images.geometry import ImageError
from diffvis_jax.images.preprocess import open_image, upright_rgb
from diffvis_jax.utils.json_file import read_json

if TYPE_CHECKING:
    import PIL.Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
# Pictures and films that are no frames: nobody leaves them in a recording for nothing.
_OTHER_FORMATS = "apng avi avif gif heic heif ico jfif jp2 jpe jxl mkv mov mp4 pgm qoi svg tga webm"
_FOREIGN = frozenset(f".{name}" for name in _OTHER_FORMATS.split())


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
    all image files count, in the order of their names (frame_2 before frame_10, 9.58 AM before
    1.10 PM). Hidden files are none. Of what else looks like frames, in folders beside them or in
    formats that are not read, a warning tells.

    Raises:
      ImageError: no such directory, no images in it, or a session.json that makes no sense.
    """
    folder = Path(directory)
    if not folder.exists():
        raise ImageError(f"no such directory: '{folder}'")
    if not folder.is_dir():
        raise ImageError(f"not a directory: '{folder}' (pass the directory that holds the frames)")
    script = folder / "session.json"
    if script.exists():
        return _read_script(script)
    found = list_frames(folder)
    others = _others(folder)
    if not found:
        held = f"; it holds {others}" if others else ""
        raise ImageError(f"no images in '{folder}' (looked for {', '.join(SUFFIXES)}){held}")
    if others:
        warnings.warn(f"'{folder}' holds {others} beside its frames: left out", stacklevel=2)
    stems = collections.Counter(path.stem for path in found)
    if twice := [path for path in found if stems[path.stem] > 1]:
        what = f"several files of one name ({_names(twice)}): each is a frame"
        warnings.warn(f"'{folder}' holds {what}", stacklevel=2)
    return Recording(
        paths=tuple(found),
        labels=tuple(shown(path.name) for path in found),
        title=shown(folder.resolve().name),
    )


def sequence_folders(root: Path) -> list[Path]:
    """The folders with frames in a folder, in the order of their names.

    Of frames beside them, and of folders without any, a warning tells; hidden folders are none.

    Raises:
      ImageError: no such folder, or no frames in its folders.
    """
    if not root.is_dir():
        raise ImageError(f"no such directory: '{root}'")
    inner = list_folders(root)
    folders = [folder for folder in inner if has_frames(folder)]
    if not folders:
        raise ImageError(f"no directory with images in '{root}'")
    if alone := list_frames(root):
        what = _counted(len(alone), "image")
        warnings.warn(f"'{root}' holds {what} beside its folders: left out", stacklevel=2)
    if empty := [folder for folder in inner if folder not in folders]:
        what = f"{_counted(len(empty), 'folder')} without frames ({_names(empty)})"
        warnings.warn(f"'{root}' holds {what}: left out", stacklevel=2)
    return folders


def list_frames(folder: Path) -> list[Path]:
    """The image files of a folder, in the order of their names; raises ImageError if it cannot be
    read."""
    return sorted(filter(is_image, _listed(folder)), key=natural_order)


def list_folders(folder: Path) -> list[Path]:
    """The folders in a folder, in the order of their names, hidden ones left out."""
    inner = (path for path in _listed(folder) if os.path.isdir(path) and not is_hidden(path))
    return sorted(inner, key=natural_order)


def has_frames(directory: str | os.PathLike[str]) -> bool:
    """Whether a directory holds images, or a session.json."""
    folder = Path(directory)
    return (folder / "session.json").exists() or bool(list_frames(folder))


def is_image(path: Path) -> bool:
    """Whether a file's name is that of a frame; hidden files and folders are none."""
    return path.suffix.lower() in SUFFIXES and not is_hidden(path) and not os.path.isdir(path)


def is_hidden(path: Path) -> bool:
    """Whether it is hidden, or a file that macOS puts beside others (._shot.png, __MACOSX)."""
    return path.name.startswith(".") or path.name == "__MACOSX"


def natural_order(path: Path) -> tuple[_Parts, _Parts, str]:
    """A key to sort paths by their names as people count.

    frame_2 before frame_10; shot.png before its copies, shot (1).png and shot 2.png; and as the
    clock goes: 9.58 AM, 12.05 PM, 1.10 PM. Seconds of Unix time have decimals: .25 before .5.
    """
    stem = _SECONDS.sub(lambda time: f"{time[0]:0<30}", _CLOCK.sub(_in_24_hours, path.stem))
    return _parts(stem), _parts(path.suffix), path.name


_Parts: TypeAlias = "list[tuple[int, int, str]]"


def _parts(text: str) -> _Parts:
    """Numbers and words, in order."""
    parts = re.findall(r"\d+|\D+", text)  # digits of any script
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part.casefold()) for part in parts]


# macOS names screenshots so: "at 1.10.00 PM", or with the half of the day before the time.
_HALVES = {"am": 0, "上午": 0, "午前": 0, "오전": 0, "pm": 12, "下午": 12, "午後": 12, "오후": 12}
_TIME = r"(?<![0-9])(0?[1-9]|1[0-2])(([.:_-])[0-5][0-9](?:\{}[0-5][0-9])?)(?![0-9])"
_CLOCK = re.compile(
    rf"(上午|午前|오전|下午|午後|오후)\s*{_TIME.format(4)}|{_TIME.format(7)}\s*([ap](?:\.\s?)?m)\b",
    re.IGNORECASE,
)
_SECONDS = re.compile(r"(?<!\d)1[0-9]{9}\.[0-9]{1,9}(?!\d)")  # time.time()


def _in_24_hours(time: re.Match[str]) -> str:
    before, _, _, _, _, _, _, after = time.groups()
    hour, rest = time.group(*((2, 3) if before else (5, 6)))
    half = re.sub(r"[.\s]", "", before or after).lower()
    return f"{int(hour) % 12 + _HALVES[half]:02}{rest}"


def shown(text: str) -> str:
    """A name as text that can be written anywhere: names of files need not be UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise ImageError(f"'{folder}' cannot be read ({error.strerror or error})") from error


def _others(folder: Path) -> str:
    """What looks like frames in a folder and is none, in words; empty: nothing does."""
    foreign = [
        path
        for path in _listed(folder)
        if path.suffix.lower() in _FOREIGN and not is_hidden(path) and os.path.isfile(path)
    ]
    inner = [path for path in list_folders(folder) if _may_hold_frames(path)]
    parts = []
    if inner:
        parts.append(f"{_counted(len(inner), 'folder')} with frames ({_names(inner)})")
    if foreign:
        what = _counted(len(foreign), "file")
        parts.append(f"{what} in formats that are not read ({_names(foreign)})")
    return " and ".join(parts)


def _may_hold_frames(folder: Path) -> bool:
    try:
        return has_frames(folder)
    except ImageError:  # without the right to look: what is in there is not asked for
        return False


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _names(paths: Iterable[Path]) -> str:
    names = sorted(f"'{path.name}'" for path in paths)
    return ", ".join(names[:3]) + (", .." if len(names) > 3 else "")


def _read_script(script: Path) -> Recording:
    try:
        content = read_json(script)
        steps = content["steps"]
        paths = tuple(script.parent / step["frame"] for step in steps)
        said = [(step["frame"], step.get("label")) for step in steps]
        labels = tuple(shown(str(frame if label is None else label)) for frame, label in said)
        notes = [shown(str(content[name])) for name in ("programs", "licences") if name in content]
        title = shown(str(content.get("title", script.parent.resolve().name)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ImageError(
            f'\'{script}\' does not read like {{"steps": [{{"frame": "a.png"}}, ...]}} '
            f"({type(error).__name__}: {error})"
        ) from error
    if not paths:
        raise ImageError(f"'{script}' lists no frames")
    for path in dict.fromkeys(paths):
        if not os.path.isfile(path):  # whatever its name is
            raise ImageError(f"'{script}' lists a frame that is not there: '{shown(path.name)}'")
    return Recording(paths=paths, labels=labels, title=title, note=". ".join(notes))


def open_screenshot(path: str | os.PathLike[str]) -> PIL.Image.Image:
    """The original picture for people to look at: RGB, upright, as `preprocess` sees it.

    Raises:
      ImageError: no image there, its data is damaged, or of values that are no pixels.
    """
    with open_image(path, f"'{path}'") as image:
        return upright_rgb(image, f"'{path}'")
