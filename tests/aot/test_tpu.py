"""Tiny towers compiled for TPUs that are not there: the extra `tpu`, and `pytest tests/aot`.

The bounds on loops are what the programs have today: more of them is a step back.
"""

import importlib.util
import sys
from pathlib import Path

import pytest
from tiny import CLIP, FASTVITHD

SCRIPTS = Path(__file__).parents[2] / "scripts" / "benchmarks"

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="libtpu is not installed: pip install -e '.[tpu]' (x86-64 Linux)",
    ),
    pytest.mark.filterwarnings("default"),  # libtpu's own
]


@pytest.fixture(scope="module")
def compiled():
    sys.path.insert(0, str(SCRIPTS))
    import compile_for

    return compile_for.compiled


LOOPS = {"clip": (0, 16), "fastvithd": (0, 66)}  # of an encode, of a step


@pytest.mark.parametrize("target", ["v5e", "v6e"])
@pytest.mark.parametrize("config", [CLIP, FASTVITHD], ids=["clip", "fastvithd"])
def test_it_compiles(compiled, config, target):
    name = "clip" if config is CLIP else "fastvithd"
    encode, step = (compiled(config, what, target) for what in ("encode", "step"))
    most_encode, most_step = LOOPS[name]
    assert encode.count["while"] <= most_encode
    assert step.count["while"] <= most_step
    # Tiles round sizes up, so what is in place is at least the cache.
    assert step.in_place >= step.cache
    assert step.temporary < 64e6
