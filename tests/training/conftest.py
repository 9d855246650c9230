"""The modules of scripts/training, which is no package, are imported by their names."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts" / "training"))
