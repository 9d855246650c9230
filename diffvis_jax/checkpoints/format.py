"""The format of weight directories: what its writer and its reader share."""

import contextlib
import json
import logging
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from diffvis_jax.checkpoints.formats import foreign
from diffvis_jax.checkpoints.formats.tensors import Shape
from diffvis_jax.errors import CheckpointError
from diffvis_jax.utils import json_file

FORMAT = "diffvis_jax weights"
FORMAT_VERSION = 2  # matrices are [out, in]
CONVERTER_VERSION = "7"

Params = dict[str, Any]


def flatten(params: Mapping[str, Any]) -> dict[str, Any]:
    """A nested tree of parameters -> {"stem/conv_0/kernel": leaf, ...}."""
    return flatten_dict(dict(params), sep="/")


def unflatten(leaves: Mapping[str, Any]) -> Params:
    """The inverse of `flatten`."""
    return unflatten_dict(leaves, sep="/")


def resolve(path: str | os.PathLike[str]) -> Path:
    """The absolute path; "~" stays where no home directory is known."""
    return Path(os.path.expanduser(path)).resolve()


def compare_shapes(
    tree: str, found: Mapping[str, Shape], expected: Mapping[str, Shape]
) -> list[str]:
    problems = [f"{tree}/{path}: missing" for path in expected if path not in found]
    for path, shape in found.items():
        if path not in expected:
            problems.append(f"{tree}/{path}: unknown")
        elif shape != expected[path]:
            problems.append(f"{tree}/{path}: shape {list(shape)}, expected {list(expected[path])}")
    return problems


def checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def file_checksum(file: Path) -> int:
    """CRC-32 of a file, a few megabytes at a time."""
    value = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def to_dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def raise_if(problems: list[str], summary: str) -> None:
    """Raises `CheckpointError` with all the problems, one a line, if there are any."""
    if problems:
        raise CheckpointError("\n  ".join([summary, *problems]))


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; see `parse_json`.

    Raises:
      CheckpointError: it cannot be read, or is no JSON object.
    """
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error})") from None
    return parse_json(raw, str(file))


def parse_json(raw: bytes, name: str) -> dict[str, Any]:
    """The JSON object in UTF-8, UTF-16 or UTF-32, with a byte order mark or without.

    Raises:
      CheckpointError: it is something else; `name` stands for it in the message.
    """

    try:
        document = json_file.parse_json(raw)
    except json_file.JsonError as error:
        raise CheckpointError(f"{name}: {foreign.content(raw) or error}") from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{name}: not a JSON object")
    return document


def write_json(file: Path, document: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


@contextlib.contextmanager
def quiet_orbax():
    """Orbax logs warnings about things that do not concern a user of weights, and of what it raises
    besides a traceback for each thread."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
