"""JSON that people and other programs have written."""

import json
from pathlib import Path
from typing import Any

from diffvis_jax.errors import DiffvisError


class JsonError(DiffvisError, ValueError):
    """What is wrong with a text: for an error that names the file."""


def read_text(path: Path) -> str:
    """A text in UTF-8, with or without the mark that editors of Windows put first.

    Raises:
      JsonError: it cannot be read, or is in another encoding.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise JsonError(f"cannot be read: it is not in UTF-8 ({error})") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise JsonError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def parse_json(text: str | bytes) -> Any:
    """What a JSON text holds; as bytes in UTF-8, UTF-16 or UTF-32, with a mark or without.

    Raises:
      JsonError: it is none, holds an object with two values of one field, is nested too deeply, or
        has a number of thousands of digits.
    """
    try:
        return json.loads(text, object_pairs_hook=_each_once)
    except JsonError:
        raise
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise JsonError(f"cannot be read as JSON: {error}") from error


def read_json(path: Path) -> Any:
    """What a JSON file holds; raises JsonError, see `read_text` and `parse_json`."""
    return parse_json(read_text(path))


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of two fields of one name `json` would take the last, and say nothing."""
    found = dict(pairs)
    for name, value in pairs:
        if found[name] is not value and found[name] != value:
            raise JsonError(f"holds {name!r} twice, with two values")
    return found
