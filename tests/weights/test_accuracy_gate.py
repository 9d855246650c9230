"""The gate of the bundled weights: every setup finds what it found, and planted faults are seen.

`scripts/benchmarks/accuracy_table.py --gate FILE --accept REASON` writes the expected outcomes.
"""

import dataclasses
from pathlib import Path

import pytest

import diffvis_jax as dv
from diffvis_jax.datasets import open_dataset
from diffvis_jax.errors import ConfigError
from diffvis_jax.evaluation import run
from diffvis_jax.evaluation.gate import accept, judge, read_expected
from diffvis_jax.evaluation.setups import EXACT, FIRST, SETUPS, Outcome, Setup, measure_setups
from diffvis_jax.evaluation.run import load
from diffvis_jax.metrics import tails

ROOT = Path(__file__).resolve().parents[2]
EXPECTED = Path(__file__).with_name("expected.json")
CHECKED = (FIRST, EXACT, "faithful", "fast", "bfloat16", "int8")


@pytest.fixture(scope="module")
def streams():
    sample = ROOT / "tests" / "data" / "screens_sample"
    return [s for kind in ("pages", "trajectory") for s in open_dataset(sample, kind).streams]


def verdicts(name, found):
    return judge(found, read_expected(EXPECTED, name), reference=FIRST, equal=EXACT)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["screens-vit", "fastvithd-screens"])
def test_every_setup_finds_what_it_found(name, streams):
    found = measure_setups(ROOT / "weights" / name, streams, {n: SETUPS[n] for n in CHECKED})
    assert len(found[FIRST].clicks) == 236
    assert {name: fault for name, fault in verdicts(name, found).items() if fault} == {}


def swapped(screen, model):
    """A frame whose red and blue have changed places."""
    frame, size = load(screen, model)
    return frame[..., ::-1], size


def shifted(width, height, config):
    """A placement that is one pixel off, both ways."""
    where = dv.placement(width, height, config)
    return dataclasses.replace(where, offset_x=where.offset_x + 1, offset_y=where.offset_y + 1)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["margin 0", "swapped channels", "a pixel off"])
def test_planted_faults_are_seen(fault, streams, monkeypatch):
    setups = {FIRST: Setup(), "faithful": SETUPS["faithful"]}
    if fault == "margin 0":
        setups["faithful"] = Setup(dataclasses.replace(dv.Policy.faithful(), margin=0))
    elif fault == "swapped channels":
        monkeypatch.setattr(run, "load", swapped)
    else:
        monkeypatch.setattr(run, "placement", shifted)
    found = measure_setups(ROOT / "weights" / "screens-vit", streams, setups)
    faults = verdicts("screens-vit", found)
    assert faults["faithful"]
    assert bool(faults[FIRST]) == (fault != "margin 0")


def outcome(right, iou=0.8, missed=0.1):
    return Outcome(
        clicks={f"q{i}": mark == "1" for i, mark in enumerate(right)},
        ious={f"q{i}": iou for i in range(len(right))},
        f1=None,
        precision=None,
        missed=tails([missed]),
        ms=tails([1.0]),
        recomputed=1.0,
        weights_mb=1.0,
    )


def test_verdicts(tmp_path):
    file = tmp_path / "expected.json"
    before = {"a": outcome("11111111"), "b": outcome("11111100"), "c": outcome("11111111")}
    with pytest.raises(ConfigError, match="say why"):
        accept(file, "tower", before, " ")
    accept(file, "tower", before, "the first")
    expected = read_expected(file, "tower")

    def faults(**found):
        found = {"a": outcome("11111111"), **found}
        return judge(found, expected, reference="a", equal="c")

    assert faults(b=outcome("11110011"))["b"] == ""  # two for two
    assert faults(b=outcome("11110000"))["b"] == ""
    assert "3 queries are lost and 0 won" in faults(b=outcome("11100000"))["b"]
    assert "McNemar" in faults(b=outcome("00000000"))["b"]
    assert "answers 1 queries unlike 'a'" in faults(c=outcome("11111110"))["c"]
    assert "differ by 0.100" in faults(b=outcome("11111100", iou=0.7))["b"]
    assert "misses 0.200" in faults(b=outcome("11111100", missed=0.2))["b"]
    with pytest.raises(ConfigError, match="other queries or setups"):
        judge({"a": outcome("1")}, expected, reference="a", equal="c")
    with pytest.raises(ConfigError, match="no expected outcomes of other"):
        read_expected(file, "other")
    file.write_text("[]")
    with pytest.raises(ConfigError, match="no expected outcomes"):
        accept(file, "tower", before, "again")
