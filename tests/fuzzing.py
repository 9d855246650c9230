"""How many inputs are tried by the tests that draw them."""

import os

from hypothesis import HealthCheck, settings

# A few by default, always the same; `DIFFVIS_FUZZ=100000 pytest -k any_` draws so many new ones.
_LONG = os.environ.get("DIFFVIS_FUZZ")


def fuzz(few: int = 200, share: float = 1.0) -> settings:
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
