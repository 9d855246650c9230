"""SOURCE: a picture, a folder of pictures, a pattern of names, or a film, as a recording."""

import dataclasses
import glob
import os
from collections.abc import Callable
from pathlib import Path

from diffvis_jax.images.film_frames import FILMS, film_frames
from diffvis_jax.images.geometry import ImageError
from diffvis_jax.images.recording import (
    SUFFIXES,
    Recording,
    is_image,
    natural_order,
    read_recording,
    shown,
)


def _silent(text: str) -> None: ...


def read_source(
    source: str | os.PathLike[str], *, most: int | None = None, say: Callable[[str], None] = _silent
) -> Recording:
    """Finds the frames of a source; reads no pixels, but a film is taken apart into pictures.

    Args:
      source: a folder as `read_recording` takes it, one picture, a pattern such as
        `shots/*.png`, or a film (`FILMS`).
      most: frames at most; None = all.
      say: is told of long work.

    Raises:
      ImageError: nothing there that is any of these.
      ImportError: a film that needs the extra `video`.
    """
    text = os.fspath(source)
    path = Path(text)
    if path.is_dir():
        return read_recording(path).first(most)
    if path.suffix.lower() in FILMS and path.is_file():
        found = read_recording(film_frames(path, most=most, say=say))
        return dataclasses.replace(found, title=shown(path.name)).first(most)
    if path.is_file():
        if not is_image(path):
            known = ", ".join((*SUFFIXES, *FILMS))
            raise ImageError(f"'{shown(text)}' is neither a picture nor a film (known: {known})")
        return Recording((path,), (shown(path.name),), shown(path.name))
    if any(sign in text for sign in "*?["):
        paths = sorted(
            filter(is_image, map(Path, glob.glob(text, recursive=True))), key=natural_order
        )
        if not paths:
            raise ImageError(f"no picture matches '{shown(text)}'")
        return Recording(tuple(paths), tuple(shown(p.name) for p in paths), shown(text)).first(most)
    raise ImageError(f"no such file or directory: '{shown(text)}'")
