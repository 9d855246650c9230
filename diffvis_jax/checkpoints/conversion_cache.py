"""PyTorch checkpoints used as they are: converted at the first use, into a cache directory."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from diffvis_jax.checkpoints.convert import convert
from diffvis_jax.checkpoints.format import CONVERTER_VERSION
from diffvis_jax.checkpoints.formats.open import Checkpoint, open_checkpoint
from diffvis_jax.checkpoints.store import holds
from diffvis_jax.errors import CheckpointError
from diffvis_jax.utils.cache_directory import cache_directory


def weight_directory(
    source: str | Path, *, language: bool = False, say: Callable[[str], None] = print
) -> Path:
    """A directory that `dv.load` reads: the source itself, or its conversion.

    A checkpoint is converted once, without loss (to bfloat16 if all its weights are, else to
    float32). A conversion is found again by the names, sizes and times of the source's files; that
    of a checkpoint on the hub by its name alone, without asking the hub.

    Args:
      source: a directory that `diffvis convert` wrote; or what it takes: a PyTorch checkpoint's
        directory or file, or "hf:REPO[@REVISION]".
      language: whether a language model is needed.

    Raises:
      CheckpointError: nothing of the kind, a checkpoint that cannot be converted, or one without
        the language model that is needed; before anything is written.
    """
    source = os.path.expanduser(source)
    path = Path(source)
    if source.startswith("hf:"):
        name, identity = source.removeprefix("hf:").replace("/", "-"), [source]
    elif (path / "manifest.json").is_file():
        return _with_language(path, language)
    else:
        name = path.resolve().name if path.is_dir() else path.stem
        identity = _identity(open_checkpoint(path))
    digest = hashlib.sha256("\n".join([CONVERTER_VERSION, *identity]).encode()).hexdigest()
    target = cache_directory() / f"{name}-{digest[:16]}"
    if _is_whole(target):
        return _with_language(target, language)
    say(f"{source} is a PyTorch checkpoint: converting it, once, to {target}")
    try:
        return convert(source, target, dtype=None, need_language=language, say=say)
    except CheckpointError:
        if not _is_whole(target):
            raise
        return _with_language(target, language)  # another process was faster


def _is_whole(directory: Path) -> bool:
    return (directory / "manifest.json").is_file()


def _with_language(directory: Path, language: bool) -> Path:
    if language and not holds(directory, "language"):
        raise CheckpointError(f"{directory} holds a vision tower, but no language model")
    return directory


def _identity(checkpoint: Checkpoint) -> list[str]:
    """Of whatever a conversion depends on, without reading the weights."""
    beside = [file for file in checkpoint.directory.iterdir() if file.suffix in (".json", ".txt")]
    statuses = [(file.name, file.stat()) for file in sorted({*checkpoint.files, *beside})]
    return [f"{name} {status.st_size} {status.st_mtime_ns}" for name, status in statuses]
