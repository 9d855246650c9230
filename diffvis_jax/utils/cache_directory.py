"""Where this library keeps what it can make again: converted checkpoints, compiled programs."""

import os
from pathlib import Path

from diffvis_jax.errors import CheckpointError


def cache_directory() -> Path:
    """`$DIFFVIS_CACHE`, or `diffvis_jax` in the user's cache (`$XDG_CACHE_HOME` or `~/.cache`).

    Raises:
      CheckpointError: nothing tells where that is.
    """
    if named := os.environ.get("DIFFVIS_CACHE"):
        return Path(os.path.expanduser(named)).resolve()
    cache = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    if cache.startswith("~"):
        raise CheckpointError(
            "this user has no home directory to keep conversions in: set DIFFVIS_CACHE to a "
            "directory for them"
        )
    return Path(cache) / "diffvis_jax"
