"""How much memory this process has taken."""

import sys


def peak_memory_mb() -> float | None:
    """This process's largest size so far, in MB; None on Windows, that counts otherwise."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)  # bytes there, kilobytes elsewhere
