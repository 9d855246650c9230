"""What recorded sessions say of screens, on frames made for it."""

import json
import re
import sys
import tracemalloc

import dataset_samples as samples
import numpy as np
import pytest

from diffvis_jax.measure.redundancy import History, compare, explained_by_scroll

SIZES = (14, 28)


def page(seed: int = 0, shape=(168, 140, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def step(before, now):
    history = History()
    history.add(before)
    return compare(before, now, SIZES, history)


def test_changed_patches_and_what_rules_miss():
    before = page()
    now = before.copy()
    now[0, 0, 0] ^= 8  # 8 of 255 in one pixel of one patch
    now[30:42, 30:42] ^= 255
    said = step(before, now)
    assert said.changed[14] == pytest.approx(2 / 120)  # 12 x 10 patches of 14 px
    assert said.changed[28] == pytest.approx(2 / 30)
    assert said.missed[14]["mean > 0.05"] == 0.5
    assert said.missed[14]["max > 0.02"] == 0
    assert said.missed[14]["max > 0.1"] == 0.5


def test_nothing_changed():
    said = step(page(), page())
    assert said.changed == {14: 0, 28: 0}
    assert said.missed == {14: {}, 28: {}}
    assert said.scrolled is None
    assert said.seen_before is None
    assert not said.returned


@pytest.mark.parametrize("shift", [(0, 12), (0, -30), (7, 0), (-20, 0)])
def test_a_scroll_is_found(shift):
    before = page()
    dx, dy = shift
    now = page(1)  # what comes in is new
    height, width = before.shape[:2]
    to = slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0))
    source = slice(max(-dy, 0), height + min(-dy, 0)), slice(max(-dx, 0), width + min(-dx, 0))
    now[to] = before[source]
    share, found = explained_by_scroll(before, now)
    assert found == shift
    lost = np.ceil(abs(dy) / 28) * 5 + np.ceil(abs(dx) / 28) * 6  # patches at the edge
    assert share == pytest.approx(1 - lost / 30)


def test_a_scroll_beside_what_stays():
    before = page()
    now = before.copy()
    now[28:140] = np.roll(before[28:140], 28, axis=0)  # a bar above and below stays
    share, found = explained_by_scroll(before, now)
    assert found == (0, 28)
    assert share == pytest.approx(15 / 20)


def test_another_page_is_no_scroll():
    assert explained_by_scroll(page(), page(1)) == (0, (0, 0))


def test_returns():
    history = History()
    a, b = page(), page(1)
    assert history.add(a) == (False, None)
    assert history.add(b) == (False, 0)
    assert history.add(a) == (True, 1)
    assert history.add(a) == (False, None)  # nothing happened
    mixed = a.copy()
    mixed[:64] = b[:64]
    assert history.add(mixed) == (False, 1)  # never so, but each patch was


def test_a_frame_costs_the_same_however_many_came_before():
    frames = [page(seed, (512, 512, 3)) for seed in range(4)]
    history = History()

    def peak_bytes(frame):
        tracemalloc.start()
        history.add(frame)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peaks = [peak_bytes(frames[index % 4]) for index in range(400)]
    assert max(peaks[-4:]) < 1.5 * max(peaks[4:8])


def test_script(script, tmp_path, monkeypatch, capsys):
    stats = script("stats")
    samples.recorded(tmp_path / "data" / "one", 5)
    samples.recorded(tmp_path / "data" / "two", 3, seed=2)
    broken = tmp_path / "data" / "two" / "frame_002.png"
    broken.write_bytes(broken.read_bytes()[:60])
    target = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path / "data"), "--output", str(target)])
    assert stats.main() == 0
    printed = capsys.readouterr()
    assert re.search(r"\| one +\| 4 +\| 0 ", printed.out)
    assert "frame_002.png" in printed.err
    result = json.loads((target / "stats.json").read_text())
    assert result["all"]["steps"] == 5
    # 1 of 4 x 2 patches, in the last step 2.
    assert result["sessions"]["one"]["changed_64"]["mean"] == pytest.approx((3 + 2) / 32)
    assert len(result["broken"]) == 1
    assert (target / "stats.png").stat().st_size > 1000


def test_script_refuses(script, tmp_path, monkeypatch, capsys):
    stats = script("stats")
    samples.recorded(tmp_path / "one", 1)
    for arguments, said in [
        ([tmp_path / "no"], "no such directory"),
        ([tmp_path / "one"], "no two frames of one size"),
        ([tmp_path / "one", "--sizes", "0"], "whole numbers of pixels"),
        ([tmp_path / "one", "--sizes", "14,many"], "whole numbers of pixels"),
        ([tmp_path / "one", "--output", __file__], "--output: not a directory"),
    ]:
        monkeypatch.setattr(sys, "argv", ["x", *map(str, arguments)])
        assert stats.main() == 2
        assert said in capsys.readouterr().err
