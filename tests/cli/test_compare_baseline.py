"""`diffvis compare`: what else could be done, done honestly."""

import json
import sys

import numpy as np
import pytest
from PIL import Image
from tiny import QWEN, ROUNDING, deviation, random_params

import diffvis_jax as dv
from diffvis_jax.checkpoints import store
from diffvis_jax.core.step import jit_encode
from diffvis_jax.towers import registry


@pytest.fixture(scope="module")
def compare_baseline(script):
    return script("compare")


def test_similar_frames_are_skipped_and_a_slow_drift_is_not(compare_baseline, clip):
    encode = compare_baseline.skip_similar(dv.Model(clip.config, clip.params, "tiny"))
    frame = np.full((1, 36, 36, 3), 100, np.uint8)
    first = np.asarray(encode(frame))
    dialog = frame.copy()
    dialog[:, 9:27, 9:27] = 0  # a quarter of the frame, by 100 of 255 levels
    assert deviation(encode(dialog)[0], clip.full(dialog)[0]) < ROUNDING
    assert deviation(encode(frame)[0], first[0]) < ROUNDING
    button = clip.change_patch(frame, 1, 1)  # a twentieth of it: 2 % on average
    assert np.array_equal(encode(button), encode(frame))
    # 5 % are 12.75 levels: the drift is compared with what was last encoded.
    for level in (104, 108, 112):
        assert np.array_equal(encode(np.full_like(frame, level)), encode(frame))
    faded = np.full_like(frame, 116)
    assert deviation(encode(faded)[0], clip.full(faded)[0]) < ROUNDING


@pytest.mark.slow
def test_windows_see_their_neighbours_and_nothing_else(compare_baseline, fastvithd):
    model = dv.Model(fastvithd.config, fastvithd.params, "tiny")
    encode = compare_baseline.isolated_windows(model)
    frame = fastvithd.frames()[:1]
    before = np.asarray(encode(frame)[0])
    changed = fastvithd.change_patch(frame, 1, 2)
    after = np.asarray(encode(changed)[0])
    others = np.arange(16) != 1 * 4 + 2
    assert np.array_equal(after[others], before[others])
    window = changed[:, 0:192, 64:256]
    small = dv.FastViTHDConfig(**{**vars(fastvithd.config), "size": 192})
    expected = np.asarray(jit_encode(model.params, window, config=small))[0, 4]
    assert deviation(after[6], expected) < ROUNDING
    # Compared with the frame before: a fade in small steps is never seen.
    for _ in range(10):
        changed = (changed.astype(int) + 8).clip(0, 255).astype(np.uint8)
        assert np.array_equal(encode(changed)[0], after)


@pytest.fixture(scope="module")
def baselines(script):
    return script("token_baselines")


@pytest.mark.parametrize("name", ["fixed_ratio", "token_gates"])
def test_a_share_of_all_tokens_is_a_full_encode(baselines, clip, name):
    encode = getattr(baselines, name)(dv.Model(clip.config, clip.params, "tiny"), 1.0)
    frames = [clip.frames(seed)[:1] for seed in (0, 1, 2)]
    for frame in frames:
        assert deviation(encode(frame), clip.full(frame)) < ROUNDING


@pytest.mark.parametrize("name", ["fixed_ratio", "token_gates"])
def test_a_quarter_of_the_tokens_delivers_something_of_a_change(baselines, clip, name):
    encode = getattr(baselines, name)(dv.Model(clip.config, clip.params, "tiny"))
    frame = clip.frames()[:1]
    before = np.asarray(encode(frame))
    changed = clip.change_patch(frame, 1, 2)
    now, truth = np.asarray(encode(changed)), clip.full(changed)
    at = 1 * clip.config.grid + 2
    missed = np.linalg.norm(now - truth, axis=-1) / np.linalg.norm(before - truth, axis=-1)
    assert missed[0, at] < 0.5
    assert np.median(missed) > 0.5  # of most tokens little: they were not recomputed
    again = np.asarray(encode(changed))
    if name == "fixed_ratio":  # every second frame is encoded in full
        assert deviation(again, truth) < ROUNDING
    else:  # what waits at a gate passes it later
        assert np.linalg.norm(again - truth) < np.linalg.norm(now - truth)


@pytest.mark.parametrize("tower", ["clip", pytest.param("fastvithd", marks=pytest.mark.slow)])
def test_a_table_of_all(compare_baseline, request, tower, tmp_path, monkeypatch, capsys):
    kit = request.getfixturevalue(tower)
    store.save(tmp_path / "weights", config=kit.config, params=kit.params)
    (tmp_path / "frames").mkdir()
    frame = kit.frames()[:1]
    changed = kit.change_patch(frame, 1, 1)
    for name, pixels in (("a", frame), ("b", changed), ("c", changed)):
        Image.fromarray(np.asarray(pixels[0])).save(tmp_path / "frames" / f"{name}.png")
    target = tmp_path / "rows.json"
    where = ("--weights", tmp_path / "weights", "--frames", tmp_path / "frames")
    command = ["compare_baseline.py", *where, "--policies", "exact", "--json", target]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    assert compare_baseline.main() == 0
    printed = capsys.readouterr().out
    rows = json.loads(target.read_text())["rows"]
    others = {
        "fastvithd": {"isolated windows"},
        "clip": {"fixed ratio (STC)", "token gates (Eventful)"},
    }[tower]
    assert rows.keys() == {"full encode", "skip similar frames", "ours, exact"} | others
    for name, each in rows.items():
        assert len(each) == 2
        assert each[1]["missed"] is None  # nothing changed
        assert name in printed
    assert rows["full encode"][0]["missed"] == 0
    assert rows["ours, exact"][0]["missed"] < 1e-2
    for name in others:
        assert rows[name][0]["missed"] > 100 * rows["ours, exact"][0]["missed"]


@pytest.mark.slow
def test_random_weights_of_a_tower_with_sizes(compare_baseline, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(registry.ARCHITECTURES, "qwen2_5_vl", QWEN)
    monkeypatch.setattr(dv, "init_params", random_params)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    for name in "abc":
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        pixels[10:14, 10:14] ^= 255
    target = tmp_path / "rows.json"
    options = ["--arch", "qwen2_5_vl", "--policies", "exact", "--max-pixels", "6000"]
    command = ["compare_baseline.py", *options, "--frames", tmp_path, "--json", target]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    assert compare_baseline.main() == 0
    assert "random weights" in capsys.readouterr().out
    rows = json.loads(target.read_text())["rows"]
    assert rows.keys() == {"full encode", "skip similar frames", "ours, exact"}
    assert all(row["missed"] < 1e-2 for row in rows["ours, exact"])
    assert rows["skip similar frames"][0]["missed"] == 1


def test_bad_input_is_named_before_any_work(compare_baseline, tmp_path, monkeypatch, capsys):
    def refuse(*args):
        raise AssertionError("work has begun")

    monkeypatch.setattr(compare_baseline, "run_all", refuse)
    for arguments, said in [
        (("--policies", "fastest"), "no policy 'fastest'"),
        (("--policy", "fastest"), "no policy 'fastest'"),
        (("--arch", "fastvithd", "--weights", "none-such"), "give one of them"),
        (("--weights", "none-such"), "no model 'none-such'"),
        (("--num-frames", "1"), "two frames are needed"),
        (("--json", str(tmp_path / "no" / "rows.json")), "no such directory"),
    ]:
        monkeypatch.setattr(sys, "argv", ["compare_baseline.py", *arguments])
        assert compare_baseline.main() == 2
        printed = capsys.readouterr().err
        assert said in printed
        assert printed.count("\n") == 1
