"""`scripts/benchmarks/benchmark_merged_vit.py` on a tiny tower."""

import json

import pytest


@pytest.mark.slow
def test_every_schedule_has_a_row(script, tmp_path, capsys):
    file = tmp_path / "rows.json"
    benchmark = script("benchmark_merged_vit")
    assert benchmark.main(["--tiny", "--count", "2", "--rounds", "1", "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["rows"]
    for row in rows:
        assert row["work"] > 1
        assert 0 < row["inside"]["median"] < 1
        assert row["efficiency"] == pytest.approx(row["speed_up"] / row["work"])
    assert {row["tokens"] for row in rows[:4]} == {8}
    assert "by the class token" in capsys.readouterr().out
