"""The weights that come with the library."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
# In a wheel the weights lie in the package, in a checkout beside it.
_PLACES = (_PACKAGE / "weights", _PACKAGE.parent / "weights")


def bundled_models() -> list[str]:
    """Names of the weights that are there."""
    return sorted({p.parent.name for place in _PLACES for p in place.glob("*/manifest.json")})


def bundled_directory(name: str) -> Path | None:
    """The directory of the bundled weights of that name; None = there are none."""
    found = (place / name for place in _PLACES)
    return next((place for place in found if (place / "manifest.json").is_file()), None)
