"""scripts/benchmarks/compare_peers.py, without the peers: their code is not here."""

import sys

import numpy as np
import pytest
from tiny import FASTVITHD, ROUNDING, deviation, random_params

import diffvis_jax as dv
from diffvis_jax.core.step import jit_encode
from diffvis_jax.towers import build


@pytest.fixture(scope="module")
def compare_peers(script):
    return script("compare_peers")


@pytest.fixture(scope="module")
def peers_sige(script):
    return script("peers_sige")


def test_full_and_differential_encodes_take_turns(compare_peers, clip, monkeypatch):
    monkeypatch.setattr(compare_peers, "PAUSE", 0)
    model = dv.Model(clip.config, clip.params, "tiny")
    contenders = {
        "ours, full": compare_peers.OursInFull(model),
        "ours, exact": compare_peers.Ours(model, dv.Policy.exact()),
        "ours, 0": compare_peers.Ours(model, dv.Policy(margin=0)),
    }
    compare_peers.check(contenders, model)
    rows = compare_peers.measure(contenders, model, clip.frames()[:1], [1, 3], rounds=2)
    found = {(row["changed"], row["contender"]): row for row in rows}
    assert list(found) == [(n, name) for n in (1, 3) for name in contenders]
    for number in (1, 3):
        assert found[number, "ours, full"]["missed_all"]["max"] == 0
        assert found[number, "ours, exact"]["missed_all"]["max"] < 1e-3
        few = found[number, "ours, 0"]
        assert 0.01 < few["missed_changed"]["median"] < few["missed_all"]["median"] < 1


def test_a_contender_that_is_wrong_is_not_measured(compare_peers, clip):
    class Stuck(compare_peers.OursInFull):
        def start(self, frame):
            self._frame = frame

        def step(self, frame):
            return super().step(self._frame)

    model = dv.Model(clip.config, clip.params, "tiny")
    with pytest.raises(ValueError, match=r"stuck is .* off the full encode"):
        compare_peers.check({"stuck": Stuck(model)}, model)


def test_a_stream_that_starts_again_has_forgotten(compare_peers, clip):
    ours = compare_peers.Ours(
        dv.Model(clip.config, clip.params, "tiny"), dv.Policy(margin=0, settle=0)
    )
    frame, other = clip.frames(0)[:1], clip.frames(1)[:1]
    changed = clip.change_patch(frame, 1, 2)
    results = []
    for first in (frame, frame, other, frame):
        ours.start(first)
        results.append(np.asarray(ours.step(changed)))
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])
    assert np.array_equal(results[0], results[3])


def test_speed_ups_are_over_the_fastest_full_encode(compare_peers):
    def row(changed, name, ms):
        times = dict.fromkeys(("median", "p90", "max"), ms)
        shares = dict.fromkeys(("median", "p90", "max"), 0.25)
        each = {"missed_changed": shares, "missed_all": shares, "tiny": 0}
        return {"changed": changed, "contender": name, "ms": times, **each}

    rows = [
        row(1, "A, full", 40.0),
        row(1, "B, full", 20.0),
        row(1, "C", 5.0),
        row(2, "A, full", 8),
    ]
    cells = compare_peers.table(rows)[1:]
    assert [cell[3] for cell in cells] == ["0.50x", "1.00x", "4.00x", "1.00x"]
    assert cells[2][4] == "25.0% / 25.0% / 25.0%"


def test_cells_of_a_change_by_hand(peers_sige):
    sizes = {"depths": (1, 1, 1, 1, 1), "widths": (8, 16, 32, 64, 128), "size": 320}
    tower = build(peers_sige.TrunkConfig(**sizes))
    changed = np.zeros((5, 5), bool)
    changed[1, 1] = True
    found = peers_sige._cells(tower, changed, (1.0, 1.0, 2.0))
    named = dict(zip(tower.names, found, strict=True))
    assert named["stem"].tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    for name in ("stage_0/block_0", "stage_1/downsample", "stage_1/block_0"):
        assert named[name].tolist() == [[r, c] for r in range(3) for c in range(3)]
    for name in ("stage_2/downsample", "stage_2/block_0"):
        assert named[name].tolist() == [[r, c] for r in range(4) for c in range(4)]
    alone = peers_sige._cells(tower, changed, (0.0, 0.0, 0.0))
    assert [cells.tolist() for cells in alone] == [[[1, 1]]] * len(tower.layers)


@pytest.mark.slow
def test_the_trunk_is_the_tower_before_its_attention(peers_sige, fastvithd):
    config = peers_sige.TrunkConfig(**vars(FASTVITHD))
    frame = fastvithd.frames()[:1]
    params = {name: fastvithd.params[name] for name in random_params(config)}
    tokens = jit_encode(params, frame, config=config)
    expected = fastvithd.maps(frame[0])["stage_2/block_0"].reshape(1, -1, 32)
    assert deviation(tokens, expected) < ROUNDING
    assert build(config).token == 16


@pytest.mark.slow
def test_cells_are_those_of_the_step(peers_sige, fastvithd):
    config = peers_sige.TrunkConfig(**{**vars(FASTVITHD), "size": 512})
    tower, params = build(config), random_params(config)
    frame = np.random.default_rng(0).integers(0, 256, (1, 512, 512, 3), np.uint8)
    after = frame.copy()
    after[:, 130:140, 200:210] = 0
    margin = (1.0, 1.0, 2.0)
    step, policy = dv.make_step(config), dv.Policy(margin=margin)
    _, cache, _ = step(params, dv.init_cache(config), frame, policy)
    _, _, report = step(params, cache, after, policy)
    changed = np.zeros(tower.grid, bool)
    changed[2, 3] = True
    cells = peers_sige._cells(tower, changed, margin)
    macs = sum(len(own) * layer.macs for own, layer in zip(cells, tower.layers, strict=True))
    assert float(report.recomputed[0]) == pytest.approx(macs / tower.macs, rel=1e-5)


def test_bad_input_is_named_before_any_work(compare_peers, tmp_path, monkeypatch, capsys):
    for arguments, said in [
        ((), "give the folder of a peer"),
        (("--sige", "a", "--stc", "b"), "run it apart"),
        (("--stc", "a", "--rounds", "0"), "--rounds must be at least 1"),
        (("--stc", "a", "--changed", "two"), "a number of patches or a share"),
        (("--stc", "a", "--json", str(tmp_path / "no" / "rows.json")), "no such directory"),
    ]:
        monkeypatch.setattr(sys, "argv", ["compare_peers.py", *arguments])
        assert compare_peers.main() == 2
        assert said in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="no such directory"):
        sys.modules["peers_vit"].on_path(tmp_path / "none")
