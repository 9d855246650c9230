"""Pages of documentation found on the machine, parted into those for training and for testing."""

import os
import random
import zlib
from functools import cache
from glob import glob
from pathlib import Path

from page_templates import UNSEEN_DOCUMENTATION

DEFAULT_ROOTS = (
    "/usr/share/doc/*/html",
    "/usr/share/doc/*/api",
    "/usr/share/doc/sqlite3",
    "/usr/share/gimp/2.0/help",
    "/usr/share/doc/libjs-jquery-ui-docs",
)
SMALLEST = 4000  # bytes; shorter files are redirections and empty indices
SHARE_UNSEEN = 3  # one package in so many is kept for testing


@cache
def _packages(roots: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Files of each package. Several names of one directory count once, under the first."""
    found: dict[str, tuple[str, ...]] = {}
    seen: set[str] = set()
    for pattern in roots:
        for root in sorted(glob(pattern)):
            real = os.path.realpath(root)
            if real in seen:
                continue
            seen.add(real)
            files = [str(path) for path in Path(real).rglob("*.html")]
            files = [path for path in files if os.path.getsize(path) >= SMALLEST]
            if len(files) >= 5:
                found[root] = tuple(sorted(files))
    return found


def is_unseen(package: str) -> bool:
    """Whether a package is kept for testing: by its name alone, so the same on every machine."""
    return zlib.crc32(package.encode()) % SHARE_UNSEEN == 0


def choose_file(family: str, seed: int, roots: tuple[str, ...], attempt: int = 0) -> str | None:
    """The file that `seed` stands for among those installed; None if there are none.

    Another `attempt` gives another file, for when the first turned out to be empty.
    """
    unseen = family == UNSEEN_DOCUMENTATION
    packages = {
        name: files for name, files in _packages(roots).items() if is_unseen(name) == unseen
    }
    if not packages:
        return None
    rng = random.Random(f"{family}/{seed}/file/{attempt}")
    names = sorted(packages)
    # Large packages come more often, but do not crowd out the small ones.
    weights = [min(len(packages[name]), 100) for name in names]
    return rng.choice(packages[rng.choices(names, weights)[0]])
