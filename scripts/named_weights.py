"""Weights by name: a directory in weights/, or any path."""

from pathlib import Path

WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
TRAINED = "fastvithd-screens"  # bundled; the default of every script that needs weights
HELP = f"a directory in weights/, or any path (default: {TRAINED}, small and trained)"


def find_weights(name: str) -> Path:
    """The directory of that name.

    Raises:
      ValueError: there is none; says which there are.
    """
    named, given = WEIGHTS / name, Path(name)
    directory = given if given.is_dir() and not named.is_dir() else named
    if not directory.is_dir():
        there = sorted(p.name for p in WEIGHTS.glob("*") if p.is_dir())
        raise ValueError(
            f"no weights '{name}': neither in {WEIGHTS.name}/ "
            f"({', '.join(there) or 'which is empty'}) nor a directory"
        )
    return directory
