"""Policies by name, by their margins, or from a file that `diffvis calibrate` wrote."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # so that --help does not wait for JAX
    import diffvis_jax as dv

NAMES = ("faithful", "fast", "exact", "classic")
_NUMBER = r"(?:\d+\.?\d*|\.\d+)"
_MARGINS = re.compile(rf"{_NUMBER}(?: +{_NUMBER})*")
HELP = f"{', '.join(NAMES)}, margins such as '2' or '1 1 2 4 8', or a file of diffvis calibrate"


def find_policy(name: str) -> dv.Policy:
    """The policy of that name.

    Raises:
      ValueError: neither a name, nor margins, nor a file that holds a policy.
    """
    import diffvis_jax as dv

    if name in NAMES:
        return getattr(dv.Policy, name)()
    if _MARGINS.fullmatch(name):
        margin = [float(part) for part in name.split()]
        return dv.Policy(margin=margin[0] if len(margin) == 1 else margin)
    if not Path(name).exists():
        raise ValueError(
            f"no policy '{name}': neither one of {', '.join(NAMES)}, nor margins such as '2' "
            "or '1 1 2 4 8', nor a file"
        )
    return dv.load_policy(name)


def find_policies(names: str) -> dict[str, dv.Policy]:
    """Several, separated by commas; margins are called so.

    Raises:
      ValueError: as `find_policy`.
    """
    found = {}
    for name in map(str.strip, names.split(",")):
        found[f"margin {name}" if name[:1].isdigit() else name] = find_policy(name)
    return found
