"""How much memory there is for weights and caches."""

import os
import sys
from pathlib import Path

import jax

_GROUPS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def available_memory() -> int | None:
    """Bytes of the accelerator; without one of the machine, or of the control group that this
    process is in, whichever is less; None = nobody says."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    found = []
    if sys.platform == "linux":
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        for file in _GROUPS:
            text = file.read_text("ascii").strip() if file.exists() else "max"
            found += [int(text)] if text.isdigit() else []
    return min(found, default=None)
