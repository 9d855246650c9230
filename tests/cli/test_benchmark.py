"""`diffvis benchmark`: what it says about single changes and settling. No time is judged."""

import dataclasses
import json
import re
import sys

import numpy as np
import pytest
from PIL import Image
from tiny import QWEN, random_params

import diffvis_jax as dv
from diffvis_jax.checkpoints import store
from diffvis_jax.cli.bundled import BUNDLED


@pytest.fixture(scope="module")
def benchmark(script):
    return script("benchmark")


@pytest.fixture
def screens(square, tmp_path):
    """Weights, and two frames of which the second differs in a patch."""
    store.save(tmp_path / "weights", config=square.config, params=square.params)
    (tmp_path / "frames").mkdir()
    frame = square.frames()[:1]
    for name, pixels in (("a", frame), ("b", square.change_patch(frame, 1, 1))):
        Image.fromarray(np.asarray(pixels[0])).save(tmp_path / "frames" / f"{name}.png")
    return tmp_path


def run(benchmark, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, arguments)])
    return benchmark.main()


def test_changes_and_settling(benchmark, screens, monkeypatch, capsys):
    target = screens / "numbers.json"
    where = ("--weights", screens / "weights", "--screenshot-dir", screens / "frames")
    what = ("--skip-full", "--rounds", 2, "--policies", "exact,fast", "--settling", 2)
    more = ("--json", target, "--report", screens / "report", "--page", screens / "page.html")
    assert run(benchmark, monkeypatch, *where, *what, *more) == 0
    printed = capsys.readouterr().out
    page = (screens / "report" / "report.html").read_text()
    assert page.count("<table>") == (screens / "page.html").read_text().count("<table>") == 2
    assert page.count("data:image/png;base64,") == 3
    assert not re.search(r'(src|href)="(?!data:)', page)  # self-contained
    for name in ("changes", "efficiency", "settling"):
        with Image.open(screens / "report" / f"{name}.png") as picture:
            assert picture.size[0] > 600
    assert re.search(r"\| frames +\| exact +\| 4.0% ", printed)  # a patch of 25
    rows = {row["policy"]: row for row in json.loads(target.read_text())["changes"]}
    exact, fast = (rows[name] for name in ("exact", "fast"))
    assert exact["missed_changed"]["max"] < 1e-2 > exact["missed_all"]["max"]
    assert fast["recomputed"]["median"] < exact["recomputed"]["median"] <= 1
    for row in rows.values():
        full_ms, step_ms, recomputed = (
            row[key]["median"] for key in ("full_ms", "step_ms", "recomputed")
        )
        assert row["speed_up"] == pytest.approx(full_ms / step_ms)
        assert row["efficiency"] == pytest.approx(recomputed * row["speed_up"])
    assert "idle step, median / 90% / worst of 40: " in printed
    settled = {row["policy"]: row for row in json.loads(target.read_text())["settling"]}
    assert settled["exact"]["idle steps"]["max"] == 0
    assert settled["exact"]["idle ms"]["max"] == 0
    fast = settled["fast"]
    assert fast["missed after 2"]["median"] <= fast["missed after 0"]["median"]


def test_full_encodes_are_of_the_weights_given(benchmark, screens, monkeypatch, capsys):
    target = screens / "numbers.json"
    where = ("--weights", screens / "weights", "--screenshot-dir", screens / "frames")
    what = ("--skip-changes", "--rounds", 1, "--json", target)
    assert run(benchmark, monkeypatch, *where, *what) == 0
    assert "72 px" in capsys.readouterr().out
    single, half = json.loads(target.read_text())["full"]
    assert (single["name"], half["name"]) == ("diffvis_jax float32", "diffvis_jax bfloat16")
    assert single["error"] == 0 < half["error"] < 0.1
    assert single["weights_mb"] < 10  # the tower of full size has 491


def test_a_hopeless_contender_is_run_once(script):
    def refuse():
        raise AssertionError("run again")

    first = {"quick": 10.0, "slow": 51.0, "fair": 49.0}
    runners = {"quick": lambda: np.zeros(1), "slow": refuse, "fair": lambda: np.zeros(1)}
    times = script("benchmark_full").race(runners, first, 2)
    assert set(times) == {"quick", "fair"}


def test_bad_input_is_named_before_any_work(benchmark, screens, monkeypatch, capsys):
    def refuse(*args):
        raise AssertionError("work has begun")

    monkeypatch.setattr(benchmark, "measure", refuse)
    for arguments, said in [
        (("--scenarios", "letter"), "unknown ['letter']; there are identical frame"),
        ((str(BUNDLED / "frame_00.png"),), "one frame shows no change: give at least two"),
        (("--policies", "fastest"), "no policy 'fastest'"),
        (("--frames", screens / "none"), "none"),
        (("--json", screens / "none" / "numbers.json"), "--json: no such directory"),
        (("--report", screens / "frames" / "a.png"), "--report: not a directory"),
        (("--page", screens / "none" / "page.html"), "--page: no such directory"),
        (("--blocks-per-map", "0"), "blocks_per_map must be"),
        (("--batch", "4", "--changed", "1.5"), "--changed: a number of patches or a share"),
        (("--policies", str(screens / "weights" / "manifest.json")), "is no policy"),
    ]:
        assert run(benchmark, monkeypatch, *arguments) == 2
        printed = capsys.readouterr().err
        assert said in printed
        assert printed.startswith("error: ")
        assert printed.count("\n") == 1
    for arguments in (("--rounds", "0"), ("--settling", "-1")):
        with pytest.raises(SystemExit):
            run(benchmark, monkeypatch, *arguments)


def test_a_tower_of_any_size_gets_pictures_in_its_own(script, screens):
    path = screens / "frames" / "a.png"
    frame = script("benchmark_full").frame_of(path, QWEN)
    assert frame.shape == (1, *QWEN.size, 3)
    with Image.open(path) as picture:
        resized = picture.resize(QWEN.size[::-1], Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(frame[0], resized)


@pytest.mark.parametrize(
    ("text", "numbers"), [("1,8", [1, 8]), (" 2 , 50%,100%", [2, 20, 40]), ("0%,2.5%", [0, 1])]
)
def test_amounts_of_patches(script, text, numbers):
    batch = script("benchmark_batch")
    assert batch.patches_of(batch.amounts_of(text), 40) == numbers


@pytest.mark.parametrize(("text", "said"), [("41", "has 40 patches, got 41"), ("110%", "got 44")])
def test_more_patches_than_there_are(script, text, said):
    batch = script("benchmark_batch")
    with pytest.raises(ValueError, match=said):
        batch.patches_of(batch.amounts_of(text), 40)


@pytest.mark.slow
def test_throughput(benchmark, screens, monkeypatch, capsys):
    target = screens / "throughput.json"
    where = ("--weights", screens / "weights", "--screenshot-dir", screens / "frames")
    what = ("--skip-full", "--skip-changes", "--rounds", 1, "--policies", "exact")
    batch = ("--changed", "0,2,100%", "--batch", "4")
    assert run(benchmark, monkeypatch, *where, *what, *batch, "--json", target) == 0
    assert re.search(r"\| 4 +\| 4 +\| exact +\| 0 +\| 0.0% ", capsys.readouterr().out)
    rows = json.loads(target.read_text())["throughput"]
    assert [row["changed"] for row in rows] == [0, 2, 25]  # those at the edges too
    assert rows[0]["recomputed"] == 0 < rows[-1]["recomputed"]
    assert rows[0]["missed_changed"]["max"] is None
    assert rows[-1]["missed_changed"]["max"] < 1e-3
    assert run(benchmark, monkeypatch, *where, *what, *batch[:-1], "4,6") == 2
    assert "6 streams does not divide among 4 devices" in capsys.readouterr().err


@pytest.mark.slow
def test_weights_side_by_side(benchmark, screens, square, monkeypatch, capsys):
    params, report = dv.quantise(square.config, square.params, dv.QuantConfig(activations=16))
    store.save(screens / "quantised", config=square.config, params=params)
    target = screens / "numbers.json"
    where = ("--weights", screens / "weights", "--against", screens / "quantised")
    further = ("--policies", "exact,fast", "--rounds", 2, "--json", target)
    assert run(benchmark, monkeypatch, *where, screens / "frames", *further) == 2
    assert "no step of these frames changes at most 2.0%" in capsys.readouterr().err
    monkeypatch.setattr("diffvis_jax.cli.benchmark_weights._SMALL", 0.1)
    assert run(benchmark, monkeypatch, *where, screens / "frames", *further) == 0
    printed = capsys.readouterr().out
    assert re.search(r"\| weights +\| MB on disk", printed)
    floats, quantised = json.loads(target.read_text())["weights"]
    assert quantised["resident"] == report.after < floats["resident"] == report.before
    for row, name in ((floats, "weights"), (quantised, "quantised")):
        parts = (screens / name / "vision").rglob("*")  # an index weighs more than tiny weights
        assert row["disk"] == sum(part.stat().st_size for part in parts if part.is_file())
    assert 0 < quantised["fidelity"]["token_error"]["median"] < 0.1
    assert quantised["fidelity"]["missed_changed"]["median"] < 1e-2  # exact
    assert "fidelity" not in floats


def test_weights_of_another_tower_are_not_compared(benchmark, screens, monkeypatch, capsys):
    other = dataclasses.replace(QWEN, depth=2)
    store.save(screens / "other", config=other, params=random_params(other))
    where = ("--weights", screens / "weights", "--against", screens / "other")
    assert run(benchmark, monkeypatch, *where, screens / "frames") == 2
    assert "is of another tower than" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(benchmark, monkeypatch, "--against", screens / "other")
    assert "--against needs the weights" in capsys.readouterr().err
