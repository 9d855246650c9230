"""scripts/benchmarks/fidelity.py: how far a change travels, what leaving some out costs."""

import sys

import numpy as np
import pytest
from PIL import Image

from diffvis_jax.checkpoints import store


@pytest.fixture(scope="module")
def fidelity(script):
    return script("fidelity")


@pytest.mark.slow
def test_study_of_a_vision_transformer(fidelity, clip, tmp_path, monkeypatch, capsys):
    store.save(tmp_path / "weights", config=clip.config, params=clip.params)
    (tmp_path / "frames").mkdir()
    frame = clip.frames()[:1]
    for index in range(3):
        Image.fromarray(np.asarray(frame[0])).save(tmp_path / "frames" / f"{index}.png")
        frame = clip.change_patch(frame, 1, index, seed=index)
    arguments = ["--weights", "weights", "--frames", "frames", "--output", "out"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fidelity.py", *arguments])
    results = []
    study = fidelity.study
    monkeypatch.setattr(fidelity, "study", lambda *x: results.append(study(*x)) or results[-1])
    assert fidelity.main() == 0
    assert "| margin 0 " in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "fidelity.png") as picture:
        assert picture.size[0] > 400
    for result in results:
        # A changed token moves in every layer; no other does before the first that attends.
        first, *others = result["spread"]
        assert first["0.001 at 0"] == 1
        assert first["0.001"] == 0
        assert all(row["0.001 at 0"] == 1 and row["0.001"] > 0 for row in others)
        missed = {row["policy"]: row["missed_all"]["median"] for row in result["cost"]}
        shares = [row["recomputed"]["median"] for row in result["cost"]]
        # From the changed patches, a margin of 2 reaches all of the 4 x 4 patches.
        assert missed["margin 0"] > missed["margin 1"] > missed["margin 2"]
        assert missed["margin 2"] == pytest.approx(0, abs=1e-3)
        assert shares == sorted(shares)


def test_bad_input_is_named_before_any_work(fidelity, tmp_path, monkeypatch, capsys):
    def refuse(*args):
        raise AssertionError("work has begun")

    monkeypatch.setattr(fidelity, "study", refuse)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "empty").mkdir()
    for arguments, said in [
        (("--output", "taken"), "--output: not a directory"),
        (("--output", "taken/below"), "--output: not a directory"),
        (("--weights", "none-such"), "no model 'none-such'"),
        (("--frames", "empty"), "no images in 'empty'"),
    ]:
        monkeypatch.setattr(sys, "argv", ["fidelity.py", *arguments])
        assert fidelity.main() == 2
        printed = capsys.readouterr().err
        assert printed.startswith("error: ")
        assert said in printed
        assert printed.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"taken", "empty"}
