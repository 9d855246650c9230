"""Tests that draw their inputs: how many are tried, and JSON that is nearly right."""

import copy
import json
import os
from random import Random
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# A few by default, always the same; `DIFFVIS_FUZZ_EXAMPLES=100000 pytest -k any_` draws so many
# new ones.
_LONG = os.environ.get("DIFFVIS_FUZZ_EXAMPLES")


def fuzz(few: int = 100, share: float = 1.0) -> settings:
    """Settings of such a test.

    Args:
      few: inputs by default.
      share: of the number asked for by hand; below 1 where an input takes long.
    """
    return settings(
        max_examples=max(1, int(int(_LONG) * share)) if _LONG else few,
        derandomize=not _LONG,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


_SCALARS = (
    *(None, True, False, 0, 1, -1, 5, 0.5, -0.5, 1.02, 300, 10**400, -(10**30), 1e308, 1e-320),
    *(float("nan"), float("inf"), "", "a", "0.5", "\ud800\x00", "x" * 5000, "\u2028"),
)


def any_value(random: Random, depth: int = 0) -> Any:
    """Something that JSON can hold."""
    kind = random.randrange(8 if depth < 4 else 6)
    if kind < 4:
        return random.choice(_SCALARS)
    if kind < 6:
        return [random.choice(_SCALARS) for _ in range(random.randrange(6))]
    inner = [any_value(random, depth + 1) for _ in range(random.randrange(4))]
    return inner if kind == 6 else {random.choice("abc"): value for value in inner}


def _changed(document: Any, random: Random) -> None:
    """Replaces any part of a document, takes it away, or gives it another name."""
    while isinstance(document, dict | list) and document:
        keys = list(document) if isinstance(document, dict) else list(range(len(document)))
        key = random.choice(keys)
        if isinstance(document[key], dict | list) and document[key] and random.randrange(4):
            document = document[key]
            continue
        match random.randrange(6):
            case 0:
                del document[key]
            case 1 if isinstance(document, dict):
                document[random.choice(["a", *keys])] = document.pop(key)
            case 2:
                document[key] = document[random.choice(keys)]
            case _:
                document[key] = any_value(random)
        return


def _text(document: Any, random: Random) -> bytes:
    document = copy.deepcopy(document)
    for _ in range(random.randrange(4)):
        _changed(document, random)
    text = json.dumps(document).encode()
    at = random.randrange(len(text) + 1)
    match random.randrange(12):
        case 0:
            return b"\xef\xbb\xbf" + text
        case 1:
            return text[:at]
        case 2:
            return text[:at] + random.randbytes(random.randrange(4)) + text[at:]
        case 3:
            return random.choice([b"", b"[" * 20_000, b"9" * 5000, random.randbytes(20)])
        case 4:
            return json.dumps(any_value(random)).encode()
    return text


def json_texts(*documents: Any) -> st.SearchStrategy[bytes]:
    """Files of such documents, changed in a few places; now and then with a mark, cut off, damaged,
    or of anything. Drawn as a whole: piece by piece would take hypothesis a hundred times as long.
    """
    randoms = st.randoms(use_true_random=True)
    return randoms.map(lambda random: _text(random.choice(documents), random))
