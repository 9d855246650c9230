"""The recording that comes with the repository."""

from pathlib import Path

BUNDLED = Path(__file__).resolve().parent / "data" / "session"
