"""Tests that draw their inputs: how many are tried, and JSON that is nearly right."""

import json
import os

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


_NUMBERS = st.one_of(
    st.integers(-2, 300), st.floats(-1, 400), st.sampled_from([10**400, -(10**30), 1e308, 1e-320])
)
_SCALARS = st.one_of(
    st.none(), st.booleans(), _NUMBERS, st.floats(), st.text(max_size=5), st.just("\ud800\x00")
)
json_values = st.recursive(
    st.one_of(_SCALARS, st.lists(_NUMBERS, max_size=6)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def changed(content: st.SearchStrategy) -> st.SearchStrategy:
    """Documents in which any part may be replaced, left out, or given to another name."""

    def change(document, draw):
        place = document
        while isinstance(place, dict | list) and place:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 3)):
                place = place[key]
                continue
            if draw(st.integers(0, 3)):
                place[key] = draw(json_values)
            else:
                del place[key]
            break
        return document

    @st.composite
    def documents(draw):
        document = json.loads(json.dumps(draw(content)))
        for _ in range(draw(st.integers(0, 3))):
            document = change(document, draw)
        return document

    return documents()


def json_texts(content: st.SearchStrategy) -> st.SearchStrategy[bytes]:
    """Files of such documents: now and then with a mark, cut off, damaged, or of anything."""
    whole = changed(content).map(lambda document: json.dumps(document).encode())

    @st.composite
    def texts(draw):
        text = draw(whole)
        match draw(st.integers(0, 11)):
            case 0:
                return b"\xef\xbb\xbf" + text
            case 1:
                return text[: draw(st.integers(0, len(text)))]
            case 2:
                at = draw(st.integers(0, len(text)))
                return text[:at] + draw(st.binary(max_size=4)) + text[at:]
            case 3:
                return draw(st.binary(max_size=20) | st.sampled_from([b"[" * 20_000, b"9" * 5000]))
            case 4:
                return draw(json_values.map(lambda value: json.dumps(value).encode()))
        return text

    return texts()
