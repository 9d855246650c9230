"""PyTorch checkpoints used as they are: converted at the first use, into a cache directory."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np

from diffvis_jax.checkpoints.conversion_plan import make_plan
from diffvis_jax.checkpoints.convert import convert
from diffvis_jax.checkpoints.format import CONVERTER_VERSION
from diffvis_jax.checkpoints.formats.open import Checkpoint, open_checkpoint
from diffvis_jax.checkpoints.formats.tensors import FLOATS
from diffvis_jax.checkpoints.hub import download
from diffvis_jax.checkpoints.source_config import read_source_config
from diffvis_jax.checkpoints.store import has_language
from diffvis_jax.errors import CheckpointError


def cache_directory() -> Path:
    """Where conversions are kept: `$DIFFVIS_CACHE`, or a directory in the user's cache."""
    if named := os.environ.get("DIFFVIS_CACHE"):
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "diffvis_jax"


def weight_directory(
    source: str | Path, *, language: bool = False, say: Callable[[str], None] = print
) -> Path:
    """A directory that `dv.load` reads: the source itself, or its conversion.

    A checkpoint is converted once, without loss (to bfloat16 if all its weights are, else to
    float32); a conversion is found again by the names, sizes and times of the source's files.

    Args:
      source: a directory that `convert.py` wrote; or what it takes: a PyTorch checkpoint's
        directory or file, or "hf:REPO[@REVISION]".
      language: whether a language model is needed.
      say: where lines for the user go.

    Raises:
      CheckpointError: nothing of the kind, a checkpoint that cannot be converted, or one without
        the language model that is needed; before anything is written.
    """
    path = download(source)[0] if str(source).startswith("hf:") else Path(source)  # type: ignore[arg-type]
    path = path.expanduser()
    if (path / "manifest.json").is_file():
        if language and not has_language(path):
            raise CheckpointError(f"{path} holds a vision tower, but no language model")
        return path
    checkpoint = open_checkpoint(path)
    dtype = _dtype(checkpoint)
    if language:
        plan = make_plan(checkpoint.tensors, read_source_config(checkpoint.directory), dtype=dtype)
        if plan.language_config is None:
            raise CheckpointError(f"{path} holds a vision tower, but no language model")
    name = path.resolve().name if path.is_dir() else path.stem
    target = cache_directory() / f"{name}-{_fingerprint(checkpoint, dtype)}"
    if (target / "manifest.json").is_file():
        return target
    say(f"{path} is a PyTorch checkpoint: converting it, once, to {target}")
    return convert(str(path), target, dtype=dtype, say=say)


def _dtype(checkpoint: Checkpoint) -> str:
    """The smallest dtype of a weight directory that loses nothing."""
    floats = {tensor.dtype for tensor in checkpoint.tensors.values()} & FLOATS
    return "bfloat16" if floats == {np.dtype(ml_dtypes.bfloat16)} else "float32"


def _fingerprint(checkpoint: Checkpoint, dtype: str) -> str:
    """Of whatever a conversion depends on, without reading the weights."""
    beside = [file for file in checkpoint.directory.iterdir() if file.suffix in (".json", ".txt")]
    parts = [f"{CONVERTER_VERSION} {dtype}"]
    for file in sorted({*checkpoint.files, *beside}):
        status = file.stat()
        parts.append(f"{file.name} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
