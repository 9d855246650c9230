"""The frames of a film, as pictures in a folder."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import PIL.Image

from diffvis_jax.images.geometry import ImageError
from diffvis_jax.utils.cache_directory import cache_directory

FILMS = (".mp4", ".webm", ".mkv", ".mov", ".avi", ".gif")
PER_SECOND = 2  # frames taken of a film: a screen shows little that lasts for less


def film_frames(
    film: Path, *, most: int | None = None, say: Callable[[str], None] = lambda text: None
) -> Path:
    """A folder with the frames of a film, `PER_SECOND` of each second; made once, and kept in the
    cache directory.

    Args:
      film: a file of one of `FILMS`. A GIF is read by Pillow, the others by the extra `video`.
      most: frames at most; None = all.
      say: is told of the work.

    Raises:
      ImageError: it cannot be read, or has no frames.
      ImportError: the extra is missing.
    """
    status = film.stat()
    identity = f"{film.resolve()} {status.st_size} {status.st_mtime_ns} {most} {PER_SECOND}"
    digest = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    target = cache_directory() / "films" / f"{film.stem}-{digest}"
    if target.is_dir():
        return target
    say(f"taking {film.name} apart, {PER_SECOND} frames of each second")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        inside = Path(folder) / "frames"
        inside.mkdir()
        count = 0
        for number, picture in enumerate(_pictures(film)):
            if number == most:
                break
            picture.save(inside / f"frame_{number:06}.png", compress_level=1)
            count = number + 1
        if not count:
            raise ImageError(f"'{film}' has no frames")
        try:
            os.replace(inside, target)
        except OSError:
            if not target.is_dir():  # else another process was faster
                raise
    return target


def _pictures(film: Path) -> Iterator[PIL.Image.Image]:
    due = 0.0  # seconds
    for time, picture in _gif(film) if film.suffix.lower() == ".gif" else _video(film):
        if time >= due - 1e-6:  # times are sums of floats
            yield picture()
            due = max(due + 1 / PER_SECOND, time)


def _gif(film: Path) -> Iterator[tuple[float, Callable[[], PIL.Image.Image]]]:
    try:
        with PIL.Image.open(film) as opened:
            time = 0.0
            for number in range(getattr(opened, "n_frames", 1)):
                opened.seek(number)
                yield time, lambda: opened.convert("RGB")
                time += opened.info.get("duration", 100) / 1000
    except (OSError, EOFError) as error:
        raise ImageError(f"'{film}' cannot be read ({error})") from error


def _video(film: Path) -> Iterator[tuple[float, Callable[[], PIL.Image.Image]]]:
    try:
        import av
        from av.error import FFmpegError
    except ImportError as error:
        raise ImportError(
            f"'{film.name}' is a film: reading it needs PyAV (pip install 'diffvis_jax[video]')"
        ) from error
    try:
        with av.open(os.fspath(film)) as opened:
            if not opened.streams.video:
                raise ImageError(f"'{film}' holds no pictures")
            for frame in opened.decode(video=0):
                yield frame.time or 0.0, frame.to_image
    except FFmpegError as error:
        raise ImageError(f"'{film}' cannot be read ({error})") from error
