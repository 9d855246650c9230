"""scripts/benchmarks/compare_detectors.py: who sees that the screen changed, checked by hand."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "screens_sample" / "streams" / "login_46"


@pytest.fixture(scope="module")
def script_module(script):
    return script("compare_detectors")


@pytest.fixture(scope="module")
def named(script_module):
    return script_module.detectors(64)


def distance(detector, a, b):
    return detector.distance(detector.signature(a), detector.signature(b))


@pytest.fixture
def grey():
    return np.full((128, 128, 3), 100, np.uint8)


def test_distances_of_one_pixel_and_of_a_faint_frame(named, grey):
    pixel = grey.copy()
    pixel[5, 70] = 180  # the second patch of four; of a 4 x 4 block the mean rises by 80 / 16
    assert distance(named["hash"], grey, pixel) == 1
    assert distance(named["fingerprint"], grey, pixel) == 5
    # 2 x 2 pixels of 64 x 64 values rise by 80 / 4.
    assert distance(named["mean"], grey, pixel) == 20 / 64**2
    assert distance(named["patches"], grey, pixel).tolist() == [[0, 80], [0, 0]]
    faint = grey + np.uint8(3)
    assert distance(named["fingerprint"], grey, faint) == 3
    assert distance(named["mean"], grey, faint) == 3
    assert distance(named["patches"], grey, faint).tolist() == [[3, 3], [3, 3]]


def test_phash_is_blind_to_brightness_and_sees_a_mirrored_picture(named):
    ramp = np.arange(128, dtype=np.uint8)[:, None, None]
    picture = np.tile(ramp, (1, 128, 3))
    assert distance(named["pHash"], picture, picture) == 0
    assert distance(named["pHash"], picture, picture + np.uint8(20)) == 0
    # Mirrored, every odd frequency changes its sign; the even ones of a ramp are nearly none.
    assert distance(named["pHash"], picture, picture[::-1].copy()) >= 4


def step(module, size, seen, **distances):
    return module.Step(size, np.array(seen), distances, dict.fromkeys(distances, 1.0))


def test_a_score_by_hand(script_module):
    steps = [
        step(script_module, 0, [[False, False]], whole=0.0, patches=np.array([[0.0, 0.0]])),
        step(script_module, 3, [[True, False]], whole=2.0, patches=np.array([[1.0, 0.0]])),
        step(script_module, 1, [[True, True]], whole=1.0, patches=np.array([[1.0, 9.0]])),
        step(script_module, 7, [[True, True]], whole=6.0, patches=np.array([[5.0, 5.0]])),
    ]
    found = script_module.score(steps, "whole", 2.0)  # only the last one is seen
    assert found["missed"] == 2
    assert found["missed_size"]["median"] == 2
    assert found["missed_size"]["max"] == 3
    assert found["patches_missed"] == 3 / 5
    assert found["in_vain"] == 0
    assert found["false"] == 0
    found = script_module.score(steps, "whole", 0.0)
    assert found["missed"] == 0
    assert found["in_vain"] == 1 / 3  # of the second step, one of two patches
    found = script_module.score(steps, "patches", 1.0)
    assert found["missed"] == 1
    assert found["patches_missed"] == 2 / 5
    assert found["in_vain"] == 0
    found = script_module.score(steps, "whole", -1.0)
    assert found["false"] == 1
    assert found["in_vain"] == 1


def test_the_best_threshold_is_the_largest_that_misses_few_enough(script_module):
    steps = [
        step(script_module, size, [[size > 0]], whole=float(d))
        for size, d in ((0, 0), (1, 1), (1, 2), (1, 2), (1, 5))
    ]
    for miss, expected in ((0, 0), (0.25, 1), (0.5, 1), (0.75, 2), (1, 5)):
        best = script_module.best_threshold(steps, "whole", miss)
        assert best == expected
        assert script_module.score(steps, "whole", best)["missed"] <= miss * 4
    blind = [step(script_module, 1, [[True]], whole=0.0)]
    assert script_module.best_threshold(blind, "whole", 0) == 0


def test_what_the_model_does_not_see_is_missed_by_all(script_module, named, grey):
    other = grey.copy()
    other[0, 0, 0] = 101
    found = script_module.measure((grey, other), (grey, grey), 64, named)
    assert found.size == 1
    assert not found.seen.any()
    for name in named:
        assert script_module.score([found], name, 0.0)["missed"] == 1
    assert script_module.measure((grey, grey[:64]), (grey, grey), 64, named).size == 2


@pytest.mark.slow
def test_a_table_of_recordings(script_module, tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    first = rng.integers(0, 256, (180, 320, 3), np.uint8)
    typed = first.copy()
    typed[80:90, 100:103] = 0
    for number, picture in enumerate((first, first, typed)):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    target = tmp_path / "rows.json"
    command = ["compare_detectors.py", tmp_path, SAMPLE, "--arch", "clip", "--json", target]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    assert script_module.main() == 0
    printed = capsys.readouterr().out
    result = json.loads(target.read_text())
    sample = len(list(SAMPLE.glob("*.png"))) - 1
    assert sum(result["steps"][key] for key in ("changed", "unchanged")) == 2 + sample
    by = {(row["detector"], row["setting"], row["threshold"]): row for row in result["rows"]}
    assert by["patches", "usual", 0]["patches_missed"] == 0
    assert by["patches", "usual", 0]["in_vain"] == 0
    assert by["hash", "usual", 0]["patches_missed"] == 0
    assert by["hash", "usual", 0]["in_vain"] > 0
    assert by["mean", "usual", 0.05 * 255]["missed"] > 0
    for name in ("hash", "fingerprint", "pHash", "mean", "patches"):
        assert name in printed


def test_bad_input_is_named(script_module, tmp_path, monkeypatch, capsys):
    for arguments, said in [
        (("--miss", "2"), "--miss must be a share"),
        ((str(tmp_path / "none"),), "no such directory"),
        (("--json", str(tmp_path / "no" / "rows.json")), "no such directory"),
    ]:
        monkeypatch.setattr(sys, "argv", ["compare_detectors.py", *arguments])
        assert script_module.main() == 2
        assert said in capsys.readouterr().err
