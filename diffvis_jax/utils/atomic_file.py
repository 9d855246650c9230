"""Files that are written completely or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, renamed to it when the block ends without an error.

    On an error the old file stays and no partial one remains. The temporary name keeps the suffix,
    by which Pillow and Matplotlib choose the format.
    """
    partial = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, see `replacing`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
