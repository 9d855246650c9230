"""scripts/task_fidelity.py: what full and differential encodes find, side by side."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import FASTVITHD

import diffvis_jax as dv
from diffvis_jax.checkpoints import store
from diffvis_jax.grounding.decode import Element

ROOT = Path(__file__).resolve().parents[2]
STREAM = ROOT / "tests" / "data" / "screens_sample" / "streams" / "login_46"


@pytest.fixture(scope="module")
def task(script):
    return script("task_fidelity")


def test_rendered_stream_in_pixels_of_the_frame(task):
    session = task.Session(STREAM, FASTVITHD, 2)
    record = json.loads((STREAM / "trajectory.json").read_text())["frames"][1]
    assert session.frames.shape == (2, 256, 256, 3)
    assert len(session.elements[1]) == len(record["elements"])
    assert session.targets == [None, None]
    # 1280 x 720 px, padded to a square and made a fifth as large.
    left, top, right, bottom = record["elements"][0]["box"]
    expected = np.array([left, top + 280, right, bottom + 280]) / 5
    np.testing.assert_allclose(session.elements[1][0], expected, atol=1e-6)


def test_a_target_is_asked_for_before_the_action(task, tmp_path):
    for index in range(2):
        Image.new("RGB", (200, 100)).save(tmp_path / f"{index}.png")
    steps = [{"frame": "0.png"}, {"frame": "1.png", "target_box": [0, 0, 20, 10]}]
    (tmp_path / "trajectory.json").write_text(
        json.dumps({"resolution": [200, 100], "steps": steps})
    )
    session = task.Session(tmp_path, FASTVITHD, None)
    assert session.elements == [None, None]
    assert session.targets[1] is None
    np.testing.assert_allclose(session.targets[0], np.array([0, 50, 20, 60]) * 1.28)


def test_exact_policy_finds_the_same(task, grounding_model):
    session = task.Session(STREAM, grounding_model.config, 3)
    session.elements = [None] * 3
    session.targets = [None, np.array([0, 60, 200, 200.0]), np.array([0, 60, 200, 200.0])]
    full = [task.encode_full(grounding_model, frame) for frame in session.frames]
    rows = task.compare(grounding_model, session, dv.Policy.exact(), full)
    assert len(rows) == 2
    assert all(row["missed"] is None or row["missed"] < 1e-3 for row in rows)
    assert all(row["lost"] <= 0.02 * row["found"] for row in rows)  # rounding at the threshold
    said = task.summary(rows)
    assert said["queries"] == 2
    assert said["click_full"] == said["click_differential"]
    assert "exact" in task.table({"exact": said})


def test_doing_nothing_is_seen(task, grounding_model):
    """A screen becomes another one, and a threshold of 1 takes that for no change."""
    session = task.Session(STREAM, grounding_model.config, 2)
    session.frames[1] = 255 - session.frames[1]
    full = [task.encode_full(grounding_model, frame) for frame in session.frames]
    (row,) = task.compare(grounding_model, session, dv.Policy(change_threshold=1.0), full)
    assert row["share"] == 0
    assert row["missed"] == pytest.approx(1, abs=1e-3)
    assert not row["same"]
    assert row["lost"] > 0


def test_clicks_of_each_kind_of_label(task):
    found = [Element((0, 0, 20, 20), "button", 0.9), Element((50, 50, 90, 70), "link", 0.8)]
    row = task.judged("full", found, np.array([[0, 0, 18, 20.0], [0, 0, 30, 8]]), None, 16)
    assert row["full_clicks"].tolist() == [True]  # the second is small
    assert row["full_counts"].true_positives == 1
    row = task.judged("full", found, None, np.array([60, 52, 80, 68.0]), 16)
    assert row["full_clicks"].tolist() == [True]
    assert "full_counts" not in row
    assert task.judged("full", [], None, None, 16)["full_clicks"].tolist() == []


def test_bad_input_is_named_before_any_work(task, grounding_model, tmp_path, monkeypatch, capsys):
    plain, trained = tmp_path / "plain", tmp_path / "trained"
    store.save(plain, config=FASTVITHD, params=grounding_model.params)
    store.save(
        trained,
        config=FASTVITHD,
        params=grounding_model.params,
        grounding_config=grounding_model.head.config,
        grounding_params=grounding_model.head.params,
    )
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "trajectory.json").write_text('{"steps": [{"frame": "a.png"}]}')

    def refuse(*args):
        raise AssertionError("work has begun")

    monkeypatch.setattr(task, "compare", refuse)
    for weights, session, more, said in [
        (plain, STREAM, (), "no grounding head"),
        (trained, tmp_path, (), "no trajectory.json"),
        (trained, broken, (), "broken/trajectory.json' is no trajectory"),
        (trained, STREAM, ("--most", "1"), "two frames are needed, got 1"),
        (trained, STREAM, ("--policy", "fastest"), "no policy 'fastest'"),
        (trained, STREAM, ("--output", str(tmp_path / "no" / "a.json")), "no such directory"),
    ]:
        command = ["task_fidelity.py", str(session), "--weights", str(weights), *more]
        monkeypatch.setattr(sys, "argv", command)
        assert task.main() == 2
        printed = capsys.readouterr().err
        assert said in printed
        assert printed.startswith("error: ")
        assert printed.count("\n") == 1
