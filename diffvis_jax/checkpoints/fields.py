"""Values out of a checkpoint's JSON files: of the type they must have, or an error that names them.

A value that is not there, or null, is None: what that means is the caller's business.
"""

import math
from typing import Any

from diffvis_jax.errors import CheckpointError

Json = dict[str, Any]


def section(document: Json, *names: str) -> Json:
    """The object under these names, one inside the other; empty where there is none."""
    for name in names:
        inner = document.get(name)
        document = inner if isinstance(inner, dict) else {}
    return document


def whole(document: Json, name: str, file: str = "config.json") -> int | None:
    """A positive whole number.

    Raises:
      CheckpointError: it is something else.
    """
    value = document.get(name)
    if value is None or _is_positive(value):
        return value
    raise CheckpointError(f"{file}: {name} must be a positive whole number, got {value!r}")


def side(document: Json, name: str, file: str = "config.json") -> int | None:
    """Pixels along the side of a square, in any of the ways in which files write them.

    Those are a number, `[height, width]`, `[channels, height, width]`, an object with height and
    width, and one with `shortest_edge`; objects with other entries are as good as not there.

    Raises:
      CheckpointError: it is something else, or not a square.
    """
    value = document.get(name)
    sides = [value]
    if isinstance(value, list) and len(value) in (2, 3):
        sides = value[-2:]
    elif isinstance(value, dict):
        edge = value.get("shortest_edge")
        sides = [value.get("height"), value.get("width")] if edge is None else [edge]
    if all(length is None for length in sides):
        return None
    if _is_positive(sides[0]) and sides[0] == sides[-1]:
        return sides[0]
    raise CheckpointError(
        f"{file}: {name} must be the side of a square in whole pixels, got {value!r}"
    )


def number(document: Json, name: str, file: str = "config.json") -> float | None:
    """A finite number.

    Raises:
      CheckpointError: it is something else.
    """
    value = document.get(name)
    if value is None:
        return None
    if not _is_number(value):
        raise CheckpointError(f"{file}: {name} must be a number, got {value!r}")
    return float(value)


def colors(document: Json, name: str, file: str) -> tuple[float, float, float] | None:
    """Three finite numbers, for red, green and blue; one stands for all of them.

    Raises:
      CheckpointError: it is something else.
    """
    value = document.get(name)
    if value is None:
        return None
    values = [value] * 3 if _is_number(value) else value
    if not isinstance(values, list) or len(values) != 3 or not all(map(_is_number, values)):
        raise CheckpointError(f"{file}: {name} must be three numbers, got {value!r}")
    red, green, blue = map(float, values)
    return red, green, blue


def _is_positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
