"""Values out of a checkpoint's JSON files: of the type they must have, or an error that names them.

A value that is not there, or null, is None: what that means is the caller's business.
"""

import reprlib
from typing import Any

from diffvis_jax.errors import CheckpointError

Json = dict[str, Any]


_REPR = reprlib.Repr()
_REPR.maxstring = 80


def shown(value: Any) -> str:
    """A value as messages quote it: shortened where it is long or deep."""
    return _REPR.repr(value)


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
    raise CheckpointError(f"{file}: {name} must be a positive whole number, got {shown(value)}")


def flag(document: Json, name: str, file: str = "config.json") -> bool | None:
    """True or false.

    Raises:
      CheckpointError: it is something else.
    """
    value = document.get(name)
    if value is None or isinstance(value, bool):
        return value
    raise CheckpointError(f"{file}: {name} must be true or false, got {shown(value)}")


def text(document: Json, name: str, file: str = "config.json") -> str | None:
    """A text.

    Raises:
      CheckpointError: it is something else.
    """
    value = document.get(name)
    if value is None or isinstance(value, str):
        return value
    raise CheckpointError(f"{file}: {name} must be a text, got {shown(value)}")


def ids(document: Json, name: str, file: str = "config.json") -> tuple[int, ...]:
    """Ids of tokens: one, or a list of them; a negative one stands for none.

    Raises:
      CheckpointError: it is something else.
    """
    value = document.get(name)
    values = value if isinstance(value, list) else [value]
    if not all(x is None or (isinstance(x, int) and not isinstance(x, bool)) for x in values):
        raise CheckpointError(f"{file}: {name} must be an id or a list, got {shown(value)}")
    return tuple(x for x in values if x is not None and x >= 0)


def token(document: Json, name: str, file: str = "config.json") -> int | None:
    """The id of a token, the first where there are several; a negative one stands for none.

    Raises:
      CheckpointError: it is something else.
    """
    return next(iter(ids(document, name, file)), None)


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
        f"{file}: {name} must be the side of a square in whole pixels, got {shown(value)}"
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
        raise CheckpointError(f"{file}: {name} must be a number, got {shown(value)}")
    return float(value)


def positive(document: Json, name: str, file: str = "config.json") -> float | None:
    """A finite number above 0.

    Raises:
      CheckpointError: it is something else.
    """
    value = number(document, name, file)
    if value is None or value > 0:
        return value
    raise CheckpointError(f"{file}: {name} must be above 0, got {shown(value)}")


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
        raise CheckpointError(f"{file}: {name} must be three numbers, got {shown(value)}")
    red, green, blue = map(float, values)
    return red, green, blue


def _is_positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value: Any) -> bool:
    # JSON's whole numbers may be too large for a float; NaN is below nothing.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**1023
