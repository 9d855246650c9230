"""scripts/fidelity.py: what it refuses, before minutes of work."""

import sys

import pytest


@pytest.fixture(scope="module")
def fidelity(script):
    return script("fidelity")


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
        (("--weights", "none-such"), "no weights 'none-such'"),
        (("--frames", "empty"), "no images in 'empty'"),
    ]:
        monkeypatch.setattr(sys, "argv", ["fidelity.py", *arguments])
        assert fidelity.main() == 2
        printed = capsys.readouterr().err
        assert printed.startswith("error: ")
        assert said in printed
        assert printed.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"taken", "empty"}
