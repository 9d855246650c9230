"""`scripts/benchmarks/benchmark_views.py`: what moves in each scenario, and the arithmetic."""

import itertools
import json

import numpy as np
import pytest

import diffvis_jax as dv


@pytest.fixture(scope="module")
def views(script):
    return script("benchmark_views")


@pytest.mark.parametrize(
    ("scenario", "moving"),
    [
        ("all static", []),
        ("one recorded", [2]),
        ("one camera", [2]),
        ("all recorded", [0, 1, 2]),
        ("all camera", [0, 1, 2]),
    ],
)
def test_what_moves(views, scenario, moving):
    recording = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    frames = list(views.ticks(recording, 3, scenario, 4, 0))
    for a, b in itertools.pairwise(frames):
        assert np.flatnonzero((a != b).any((1, 2, 3))).tolist() == moving
    noisy = list(views.ticks(recording, 3, scenario, 4, 2.0))
    assert (noisy[0] != noisy[1]).any((1, 2, 3)).all()


def test_macs_of_a_prefill(script):
    """Against the figures of a 3B decoder: 2.775 G for each token, and attention."""
    language = script("views_language")
    config = dv.DecoderConfig(
        width=2048, layers=36, heads=16, kv_heads=2, head_width=128, mlp_width=11008
    )
    assert language.macs(config, 0, 1) == pytest.approx(2.775e9, rel=0.001)
    whole = language.macs(config, 0, 5 * 299 + 40)
    assert whole == pytest.approx(4.43e12, rel=0.01)  # attention to half the sequence in the mean
    assert language.macs(config, 4 * 299, 5 * 299 + 40) < 0.25 * whole


@pytest.mark.slow
def test_a_run(views, tmp_path, capsys):
    options = ["--random", "clip-tiny", "--views", "2", "--ticks", "2", "--decoder-layers", "1"]
    options += ["--scenarios", "one camera", "--json", str(tmp_path / "rows.json")]
    assert views.main([*options, "--noise", "2", "--metric", "p99"]) == 0
    printed = capsys.readouterr().out
    assert "false changes a patch" in printed
    written = json.loads((tmp_path / "rows.json").read_text())
    (row,) = written["ticks"]
    assert row["recomputed"] == pytest.approx(0.5)  # one of two views, in full
    assert [each["prefilled"] for each in written["prefill"]] == [90, 65]
