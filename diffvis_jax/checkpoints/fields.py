"""Values out of a checkpoint's JSON files: of the type they must have, or a `CheckpointError` that
names them.

A value that is not there, or null, is None: what that means is the caller's business.
"""

import reprlib
from collections.abc import Callable
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
    """A positive whole number."""
    return _value(document, name, file, _is_positive, "a positive whole number")


def number(document: Json, name: str, file: str = "config.json") -> float | None:
    """A finite number."""
    value = _value(document, name, file, is_number, "a number")
    return None if value is None else float(value)


def positive(document: Json, name: str, file: str = "config.json") -> float | None:
    """A finite number above 0."""
    number(document, name, file)
    value = _value(document, name, file, lambda x: x > 0, "above 0")
    return None if value is None else float(value)


def flag(document: Json, name: str, file: str = "config.json") -> bool | None:
    """True or false."""
    return _value(document, name, file, lambda x: isinstance(x, bool), "true or false")


def text(document: Json, name: str, file: str = "config.json") -> str | None:
    """A text."""
    return _value(document, name, file, lambda x: isinstance(x, str), "a text")


def ids(document: Json, name: str, file: str = "config.json") -> tuple[int, ...]:
    """Ids of tokens: one, or a list of them; a negative one stands for none."""
    value = _value(document, name, file, lambda x: all(map(_is_id, _listed(x))), "an id or a list")
    return tuple(x for x in _listed(value) if x is not None and x >= 0)


def indices(document: Json, name: str, file: str = "config.json") -> tuple[int, ...] | None:
    """A list of whole numbers from 0 up."""

    def are_indices(value: Any) -> bool:
        return isinstance(value, list) and all(_is_id(x) and x is not None for x in value)

    value = _value(document, name, file, are_indices, "a list of whole numbers")
    return None if value is None else tuple(value)


def pairs(
    document: Json, name: str, file: str = "config.json"
) -> tuple[tuple[int, int], ...] | None:
    """A list of pairs of positive whole numbers."""

    def are_pairs(value: Any) -> bool:
        return isinstance(value, list) and all(
            isinstance(pair, list) and len(pair) == 2 and all(map(_is_positive, pair))
            for pair in value
        )

    value = _value(document, name, file, are_pairs, "a list of pairs of positive whole numbers")
    return None if value is None else tuple((first, second) for first, second in value)


def token(document: Json, name: str, file: str = "config.json") -> int | None:
    """The id of a token, the first where there are several; a negative one stands for none."""
    return next(iter(ids(document, name, file)), None)


def side(document: Json, name: str, file: str = "config.json") -> int | None:
    """Pixels along the side of a square, in any of the ways in which files write them.

    Those are a number, `[height, width]`, `[channels, height, width]`, an object with height and
    width, and one with `shortest_edge`; objects with other entries are as good as not there.
    """

    def sides(value: Any) -> list[Any]:
        if isinstance(value, list) and len(value) in (2, 3):
            return value[-2:]
        if isinstance(value, dict):
            edge = value.get("shortest_edge")
            return [value.get("height"), value.get("width")] if edge is None else [edge]
        return [value]

    def is_side(value: Any) -> bool:
        first, last = sides(value)[0], sides(value)[-1]
        return (first is None and last is None) or (_is_positive(first) and first == last)

    value = _value(document, name, file, is_side, "the side of a square in whole pixels")
    return sides(value)[0]


def colors(document: Json, name: str, file: str) -> tuple[float, float, float] | None:
    """Three finite numbers, for red, green and blue; one stands for all of them."""

    def three(value: Any) -> Any:
        return [value] * 3 if is_number(value) else value

    def are_colors(value: Any) -> bool:
        values = three(value)
        return isinstance(values, list) and len(values) == 3 and all(map(is_number, values))

    value = _value(document, name, file, are_colors, "three numbers")
    if value is None:
        return None
    red, green, blue = (float(x) for x in three(value))
    return red, green, blue


def is_number(value: Any) -> bool:
    """Whether it is a finite number that a float can be."""
    # JSON's whole numbers may be too large for a float; NaN is below nothing.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**1023


def _value(
    document: Json, name: str, file: str, is_right: Callable[[Any], bool], wanted: str
) -> Any:
    value = document.get(name)
    if value is None or is_right(value):
        return value
    raise CheckpointError(f"{file}: {name} must be {wanted}, got {shown(value)}")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _is_id(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def _is_positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
