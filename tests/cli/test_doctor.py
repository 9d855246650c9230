"""`diffvis doctor`: what it says of a machine, and what it recommends."""

import json

import jax
import pytest

from diffvis_jax.cli import doctor
from diffvis_jax.towers.registry import ARCHITECTURES


def test_it_looks_without_measuring(tmp_path, capsys):
    target = tmp_path / "doctor.json"
    assert doctor.main(["--no-measure", "--json", str(target)]) == 0
    found = json.loads(target.read_text())
    assert found["machine"]["jax"] == jax.__version__
    assert "cpu" in found["machine"]["devices"]
    assert set(found["towers"]) == set(ARCHITECTURES)
    assert found["towers"]["clip"]["cache_mb"] == pytest.approx(114, abs=1)
    printed = capsys.readouterr().out
    assert "jax" in printed
    assert "siglip" in printed


def test_bad_input_is_named_before_any_work(tmp_path, capsys):
    assert doctor.main(["--json", str(tmp_path / "nowhere" / "a.json")]) == 2
    assert "no such directory" in capsys.readouterr().err
    assert doctor.main(["--policies", "quick"]) == 2
    assert "no policy 'quick'" in capsys.readouterr().err


def row(speed_up, p90, same):
    return {
        "full_ms": 100.0, "small_ms": 10.0, "idle_ms": 1.0, "speed_up": speed_up, "same": same,
        "missed_changed": {"median": 0.01, "p90": p90, "max": 0.6},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"a": row(2, 0.1, 1.0), "b": row(3, 0.2, 0.99)}, "--policy b"),
        ({"a": row(2, 0.1, 1.0), "b": row(3, 0.2, 0.9)}, "--policy a"),
        ({"a": row(2, 0.1, None), "b": row(3, 0.7, None)}, "--policy a"),
        ({"a": row(2, 0.6, 1.0)}, "--policy exact"),
    ],
)
def test_the_fastest_policy_that_keeps_what_was_found_is_recommended(rows, said):
    *lines, last = doctor.advice({"model": "m", "policies": rows})
    assert said in last
    assert len(lines) == len(rows)
    assert "small step 10.0 ms" in lines[0]


MEASURED = {"model": "screens-vit", "policies": {"faithful": row(2, 0.1, 1.0)}}


def test_a_model_is_recommended(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "measure", lambda args: MEASURED)
    target, config = tmp_path / "doctor.json", tmp_path / "serve.yaml"
    asked = ["--recommend", "--accuracy", "sample clicks=70", "--memory-mb", "2000"]
    assert doctor.main([*asked, "--write", str(config), "--json", str(target)]) == 0
    printed = capsys.readouterr().out
    assert "recommended: fastvithd-screens in float32, --policy faithful" in printed
    assert "sample clicks 79.7 (docs/accuracy.md" in printed
    assert "sample clicks: 67.4 of 70" in printed
    assert "sample clicks: unknown" in printed
    assert config.read_text() == (
        "model:\n  path: fastvithd-screens\n  dtype: float32\n  policy: faithful\n"
    )
    assert json.loads(target.read_text())["recommended"]["path"] == "fastvithd-screens"
    assert doctor.main(["--recommend", "--answers", "--memory-mb", "10"]) == 1
    assert "nothing will do" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recommend", "--no-measure"], "measures how fast"),
        (["--answers"], "belong to --recommend"),
        (["--recommend", "--accuracy", "docvqa"], "NAME=PERCENT"),
        (["--recommend", "--accuracy", "docvqa=200"], "0-100"),
        (["--recommend", "--accuracy", "mmlu=2"], "no numbers of 'mmlu'"),
    ],
)
def test_what_cannot_be_recommended(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "measure", lambda args: MEASURED)
    try:
        status = doctor.main(arguments)
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert message in capsys.readouterr().err
