"""`diffvis runtime`: simulated at once, and on recordings with a tiny tower in real time."""

import json

import numpy as np
import pytest
from PIL import Image

from diffvis_jax.checkpoints import store
from diffvis_jax.cli import runtime
from diffvis_jax.cli.main import main


def test_a_simulation_is_the_same_each_time(capsys, tmp_path):
    printed = []
    for _ in range(2):
        page, out = tmp_path / "page.html", tmp_path / "out.json"
        options = ["--encoder-ms", "380,40", "--ticks", "300", "--page", str(page)]
        assert main(["runtime", "--simulate", *options, "--json", str(out)]) == 0
        printed.append((capsys.readouterr().out, out.read_text(), page.read_text()))
    assert printed[0] == printed[1]
    found = json.loads(printed[0][1])
    assert found["ticks"] == 300
    assert 340 <= found["encode_ms"]["p50"] <= 420
    assert found["age_ms"]["max"] <= found["bound_ms"] == 940
    assert "<svg" in printed[0][2]
    assert "2E + P" in printed[0][0]


def test_a_sweep_is_a_table(capsys, tmp_path):
    out = tmp_path / "out.json"
    assert main(["runtime", "--sweep", "--ticks", "600", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "| 380 ms  | 600 ms      | 800 ms  | 860 ms " in printed
    assert len(json.loads(out.read_text())) == 7
    assert main(["runtime", "--sweep", "--ticks", "600", "--encoder-ms", "60,90", "--hz", "5"]) == 0
    assert "| 90 ms  | 200 ms      | 200 ms  | 380 ms " in capsys.readouterr().out


def test_simulating_needs_no_jax():
    import subprocess
    import sys

    code = (
        "import sys; from diffvis_jax.cli.main import main; "
        "status = main(['runtime', '--simulate', '--encoder-ms', '60', '--ticks', '9']); "
        "assert 'jax' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--simulate"], "--simulate needs --encoder-ms"),
        (["--simulate", "--sweep"], "give one"),
        (["--simulate", "--encoder-ms", "10,20"], "jitter, which is not larger"),
        (["--simulate", "--encoder-ms", "10,2,3"], "an encode time and its jitter"),
        (["--sweep", "--encoder-ms", "10,0"], "takes some time"),
        (["--sweep", "--page", "x.html"], "drop it"),
        (["--encoder-ms", "10"], "--encoder-ms is about --simulate"),
        (["--ticks", "10"], "--ticks is about --simulate"),
        (["--patience-ms", "100"], "below a period, 100 ms at --hz 10"),
        (["--policies", "quick"], "no policy 'quick'"),
        (["--json", "no/such/place.json"], "no such directory"),
        (["no-such-session"], "no-such-session"),
    ],
)
def test_options_that_make_no_sense(options, said, capsys):
    assert main(["runtime", *options]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert said in printed


@pytest.mark.parametrize("option", [("--hz", "0"), ("--encoder-ms", "fast"), ("--encoder-ms", "0")])
def test_numbers_that_are_none(option, capsys):
    with pytest.raises(SystemExit):
        runtime.main(["--simulate", *option])
    assert capsys.readouterr().err.startswith(f"error: argument {option[0]}")


@pytest.fixture(scope="module")
def weights(tmp_path_factory, square):
    place = tmp_path_factory.mktemp("runtime") / "tower"
    return store.save(place, config=square.config, params=square.params)


@pytest.fixture(scope="module")
def sessions(tmp_path_factory, square):
    """Two, of which one has times."""
    root = tmp_path_factory.mktemp("sessions")
    first = square.frames(0)[:1]
    frames = [first, square.change_patch(first, 1, 1), first, square.change_patch(first, 3, 2)]
    for name in ("timed", "untimed"):
        (root / name).mkdir()
        for number, frame in enumerate(frames):
            Image.fromarray(frame[0]).save(root / name / f"f{number}.png")
    steps = [{"frame": f"f{number}.png", "t": 7 + 0.15 * number} for number in range(4)]
    (root / "timed" / "trajectory.json").write_text(json.dumps({"steps": steps}))
    return root


def test_sessions_are_replayed(weights, sessions, tmp_path, capsys):
    out, page = tmp_path / "out.json", tmp_path / "page.html"
    options = ["--model", str(weights), "--hz", "20", "--policies", "full,fast"]
    written = ["--json", str(out), "--page", str(page)]
    assert main(["runtime", str(sessions), *options, *written]) == 0
    printed = capsys.readouterr()
    assert "untimed: no times are recorded" in printed.err
    found = json.loads(out.read_text())
    runs = {(run["session"], run["encoder"]): run for run in found["runs"]}
    assert list(runs) == [
        (session, encoder)
        for session in ("timed", "untimed")
        for encoder in ("synchronous full", "async full", "async fast")
    ]
    for (session, encoder), run in runs.items():
        duration = {"timed": 0.45, "untimed": 2.5 / 20}[session] + 0.5
        assert run["ticks"] + run["skipped"] == np.ceil(round(duration * 20, 6))
        assert run["compiled_after_start"] == run["failures"] == 0
        assert run["uses"] > 0
        assert len(run["ticks_at"]) == run["ticks"]
        assert run["ticks_at"][0]["began"] == 0
        assert (run["recomputed"] == pytest.approx(1)) == (encoder != "async fast")
        assert f"| {session} " in printed.out
    assert "All sessions:" in printed.out
    assert page.read_text().count("<svg") == 6
