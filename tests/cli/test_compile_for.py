"""compile_for.py: what XLA makes of a program, of this machine at least."""

import sys

import pytest


@pytest.fixture
def run(script, monkeypatch):
    compile_for = script("compile_for")

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["compile_for.py", *arguments])
        return compile_for.main()

    return run


TINY = ("--arch", "clip", "--layers", "2", "--dtype", "float32")


def test_an_encode_for_this_machine(run, capsys):
    assert run("cpu", "encode", *TINY) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("clip encode for cpu: compiled in ")
    assert told[1].startswith("while loops as written 0; as compiled: while ")
    assert "in place 0.0 MB of a cache of " in told[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--arch", "clip", "--depths", *"11111"), "--depths: a clip tower has none"),
        (("--arch", "fastvithd", "--layers", "2"), "--layers: a fastvithd tower has none"),
        (("--arch", "clip", "--size", "30"), "for 336 x 336 pixels only"),
    ],
)
def test_what_a_tower_does_not_have(run, capsys, arguments, said):
    assert run("cpu", "step", *arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
