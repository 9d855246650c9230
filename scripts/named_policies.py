"""Policies by name, or from a file that calibrate.py wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # so that --help does not wait for JAX
    import diffvis_jax as dv

NAMES = ("faithful", "fast", "exact", "classic")
HELP = f"{', '.join(NAMES)}, or a file written by calibrate.py"


def find_policy(name: str) -> dv.Policy:
    """The policy of that name.

    Raises:
      ValueError: neither a name nor a file that holds a policy.
    """
    import diffvis_jax as dv

    if name in NAMES:
        return getattr(dv.Policy, name)()
    if not Path(name).exists():
        raise ValueError(f"no policy '{name}': neither one of {', '.join(NAMES)} nor a file")
    return dv.load_policy(name)
