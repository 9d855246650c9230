"""`diffvis evaluate`: one table, however many devices and processes, and after a kill."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import dataset_samples as samples
import pytest
from tiny import CLIP, random_head, random_params

from diffvis_jax.checkpoints import store
from diffvis_jax.grounding.head import HeadConfig

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Weights of a tower that compiles fast, and sessions of different length."""
    root = tmp_path_factory.mktemp("evaluate")
    config = HeadConfig(token_width=CLIP.width, patch=CLIP.patch, hidden=8, place_width=8)
    params = random_head(config)
    params["answers"]["bias"] = params["answers"]["bias"] + 4.0  # enough answers to compare
    store.save(
        root / "weights",
        config=CLIP,
        params=random_params(CLIP),
        grounding_config=config,
        grounding_params=params,
    )
    for number, length in enumerate((5, 3, 4, 2, 3, 3, 2, 4)):
        samples.recorded(root / "data" / f"s{number}", length, seed=number)
    return root


def command(place, target, *more, data="data"):
    return [
        *(sys.executable, str(ROOT / "scripts" / "evaluate.py"), str(place / data)),
        *("--weights", str(place / "weights"), "--policies", "1,exact"),
        *("--output", str(target), "--no-report", *map(str, more)),
    ]


STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def _no_process_stays():
    yield
    while STARTED:
        process = STARTED.pop()
        process.kill()
        process.communicate()


def start(place, target, *more, devices, data="data"):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_PLATFORMS": "cpu",
        # What one process has compiled, the next need not.
        "JAX_COMPILATION_CACHE_DIR": str(place / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    process = subprocess.Popen(
        command(place, target, *more, data=data),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    STARTED.append(process)
    return process


def finished(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


@pytest.mark.slow
def test_a_run_that_measured_nothing_is_no_success(place, tmp_path):
    samples.recorded(place / "broken", 2)
    for file in (place / "broken").glob("*.png"):
        file.write_bytes(file.read_bytes()[:60])  # cut off behind its header
    process = start(place, tmp_path / "run", devices=1, data="broken")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "error: no frame could be measured; the first: " in err
    assert "frame_000.png" in err


def results(target):
    """What was found, without times and machine."""
    summary = json.loads((target / "summary.json").read_text())["weights"]
    text = json.dumps(summary, sort_keys=True)
    return json.loads(re.sub(r'"ms(_full)?(_mean)?": ([0-9.e+-]+|{[^}]*})', '"ms": 0', text))


def assert_close(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            # Cells whose values move by rounding alone may be recomputed or not.
            assert_close(a[key], b[key]) if key != "recomputed" else None
    elif isinstance(a, list):
        assert a == pytest.approx(b, abs=1e-3)
    else:
        assert a == (pytest.approx(b, abs=1e-3) if isinstance(a, float) else b)


@pytest.fixture(scope="module")
def one_device(place):
    target = place / "one"
    finished(start(place, target, "--batch", 2, devices=1))
    return results(target)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.slow
def test_four_devices(place, one_device):
    target = place / "four"
    out = finished(start(place, target, "--batch", 4, devices=4))
    assert "| exact " in out
    assert_close(results(target), one_device)


def processes(place, target):
    port = free_port()
    return [
        start(
            *(place, target, "--batch", 2, "--coordinator", f"127.0.0.1:{port}"),
            *("--processes", 2, "--process", number),
            devices=2,
        )
        for number in range(2)
    ]


@pytest.mark.slow
def test_two_processes_one_killed_and_started_again(place, one_device):
    target = place / "two"
    running = processes(place, target)
    file = target / "results-1.jsonl"
    until = time.monotonic() + 240
    while not file.is_file():  # from then on it compiles and works for seconds
        assert time.monotonic() < until
        assert running[1].poll() is None, running[1].communicate()[1]
        time.sleep(0.02)
    running[1].kill()  # SIGKILL: it can clean up nothing
    running[1].communicate()
    assert running[1].returncode == -signal.SIGKILL
    # The other one does its own share, and then says why it cannot go on.
    _, message = running[0].communicate(timeout=120)
    assert running[0].returncode == 3
    assert "another process of this run was lost; what was written is kept" in message
    assert not (target / "summary.json").exists()
    # Whenever it was killed, what it leaves is like this: finished streams, and a partial line.
    lines = (place / "one" / "results-0.jsonl").read_bytes().splitlines(keepends=True)
    done = next(line for line in lines if b'"stream":"s1"' in line)
    file.write_bytes(done + b'{"weights": "cut o')
    out, _ = map(finished, processes(place, target))
    assert "going on: 5 streams were done" in out  # the four of the other process, too
    assert file.read_bytes().startswith(done)
    assert_close(results(target), one_device)
    written = [p.read_text().splitlines() for p in sorted(target.glob("results-*.jsonl"))]
    names = [json.loads(line)["stream"] for part in written for line in part]
    assert sorted(names) == [f"s{i}" for i in range(8)]  # each once
    # Started once more, there is nothing left to do.
    again = finished(start(place, target, "--batch", 1, devices=1))
    assert "0 frames are left" in again


@pytest.mark.slow
def test_report(place, script, monkeypatch, capsys):
    evaluate = script("evaluate")
    target = place / "report"
    arguments = [x for x in command(place, target, "--batch", 4)[1:] if x != "--no-report"]
    arguments[arguments.index("1,exact")] = "0,exact"
    monkeypatch.setattr(sys, "argv", arguments)
    assert evaluate.main() == 0
    page = (target / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page)  # self-contained
    assert "margin 0, by session" in page
    assert page.count("data:image/") > 1
    summary = json.loads((target / "summary.json").read_text())
    assert summary["environment"]["devices"] == 4
    assert summary["run"]["seed"] == 0
    assert "McNemar" not in capsys.readouterr().err
    # Another run may not go into its directory.
    monkeypatch.setattr(sys, "argv", [*arguments, "--seed", "1"])
    assert evaluate.main() == 2
    assert "holds another run (seed: 0 there, 1 now)" in capsys.readouterr().err


@pytest.mark.slow
def test_single_screenshots_one_after_the_other(place, script, tmp_path, monkeypatch, capsys):
    evaluate = script("evaluate")
    samples.osworld_g(tmp_path / "data")
    samples.picture(tmp_path / "data" / "images" / "B.png", color=(9, 9, 9))
    file = tmp_path / "data" / "OSWorld-G.json"
    items = json.loads(file.read_text())
    more = {**items[0], "id": "B-0", "image_path": "B.png"}
    file.write_text(json.dumps([*items, more]))
    arguments = command(place, tmp_path / "out", "--batch", 4, "--chain", "type")[1:]
    arguments[1] = str(tmp_path / "data")
    monkeypatch.setattr(sys, "argv", arguments)
    assert evaluate.main() == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())["weights"]
    (measured,) = summary.values()
    said = measured["all"]["exact"]
    assert (said["frames"], said["steps"]) == (2, 1)
    assert said["queries"] == 3  # the one to be refused is not asked
    assert said["missed_all"]["max"] < 1e-3
    assert measured["groups"]["target"]["polygon"]["exact"]["queries"] == 1
    assert re.search(r"\| exact +\| 2 ", capsys.readouterr().out)
    # A run is not resumed on other screenshots, even of the same name, size and length.
    samples.picture(tmp_path / "data" / "images" / "B.png", color=(8, 8, 8))
    assert evaluate.main() == 2
    assert "holds another run (image_hash: " in capsys.readouterr().err


def test_answers_of_an_agent(script, tmp_path, monkeypatch, capsys):
    evaluate = script("evaluate")
    samples.screenspot(tmp_path / "data")
    for name, points in (("a", [[20, 30], [160, 70]]), ("b", [[20, 30], [1, 1]])):
        rows = [{"id": f"screenspot_desktop/{i}", "point": p} for i, p in enumerate(points)]
        text = "\n".join(map(json.dumps, [{"frame": "pixels"}, *rows]))
        (tmp_path / f"{name}.jsonl").write_text(text)
    arguments = [str(tmp_path / "data"), "--output", str(tmp_path / "out"), "--predictions"]
    files = [str(tmp_path / f"{name}.jsonl") for name in "ab"]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *arguments, *files])
    assert evaluate.main() == 0
    printed = capsys.readouterr().out
    assert re.search(r"\| a +\| 3 +\| 66.7% \(20.8%-93.9%\) +\| 0 +\| 1 ", printed)
    assert "a, by platform" in printed
    assert "right in a alone: 1, in b alone: 0" in printed
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["all"]["b"]["outcomes"]["outside"] == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--batch", "3"], "a batch of 3 streams does not divide among 4 devices: take 4"),
        (["--policies", "full"], "no policy 'full'"),
        (["--policy", "full"], "no policy 'full'"),
        (["--weights", "nothing"], "no model 'nothing'"),
        (["--format", "screenspot"], "no records"),
        (["--processes", "2"], "2 processes need a coordinator"),
        (["--images", "."], "recorded sessions have their frames beside them"),
    ],
)
def test_bad_input_is_named_before_any_work(place, script, monkeypatch, capsys, more, said):
    evaluate = script("evaluate")
    target = place / "refused"
    monkeypatch.setattr(sys, "argv", [*command(place, target)[1:], *more])
    monkeypatch.setattr(evaluate, "advance_all", lambda *_: pytest.fail("work has begun"))
    assert evaluate.main() == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert said in printed
    assert printed.count("\n") == 1
    assert not target.exists()
