"""The format of weight directories: what its writer and its reader share."""

import contextlib
import json
import logging
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from diffvis_jax.checkpoints.formats.tensors import Shape
from diffvis_jax.errors import CheckpointError

FORMAT = "diffvis_jax weights"
FORMAT_VERSION = 1
CONVERTER_VERSION = "2"

Params = dict[str, Any]


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested tree of parameters -> {"stem/conv_0/kernel": leaf, ...}."""
    leaves: dict[str, Any] = {}
    for key, value in params.items():
        path = f"{prefix}{key}"
        leaves |= flatten(value, f"{path}/") if isinstance(value, Mapping) else {path: value}
    return leaves


def unflatten(leaves: Mapping[str, Any]) -> Params:
    """The inverse of `flatten`."""
    params: Params = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = params
        for key in parents:
            node = node.setdefault(key, {})
        node[name] = leaf
    return params


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
    if problems:
        raise CheckpointError("\n  ".join([summary, *problems]))


def read_json(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error})") from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{file}: not a JSON object")
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
