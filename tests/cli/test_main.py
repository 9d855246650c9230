"""The command `diffvis`, what all commands have in common, and the names of the package."""

import importlib
import importlib.resources
import subprocess
import sys
from pathlib import Path

import pytest

import diffvis_jax as dv
from diffvis_jax.checkpoints.bundled import bundled_models
from diffvis_jax.cli import main as diffvis
from diffvis_jax.cli.command_line import Parser
from diffvis_jax.cli.models import find_model

ROOT = Path(__file__).resolve().parents[2]


def test_help_names_every_command_and_imports_no_jax():
    code = (
        "import sys; from diffvis_jax.cli.main import main; status = main(['--help']); "
        "assert not {'jax', 'numpy', 'flax'} & set(sys.modules); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(f"  {name} " in done.stdout for name in diffvis.COMMANDS)


@pytest.mark.parametrize("name", diffvis.COMMANDS)
def test_every_command_has_a_main_that_helps(name, capsys):
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"diffvis_jax.cli.{name}").main(["--help"])
    assert ended.value.code == 0
    assert "--device" in capsys.readouterr().out


def test_version(capsys):
    assert diffvis.main(["--version"]) == 0
    assert capsys.readouterr().out == f"diffvis_jax {dv.__version__}\n"


@pytest.mark.parametrize(
    ("name", "said"),
    [("dmo", "did you mean demo?"), ("xyz", "there are demo, predict, "), ("", "there are demo")],
)
def test_an_unknown_command_gets_the_nearest(name, said, capsys):
    assert diffvis.main([name]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: no command '{name}': ")
    assert said in error


def test_an_unknown_flag_gets_the_nearest(capsys):
    parser = Parser(prog="diffvis x")
    parser.add_argument("--policy")
    with pytest.raises(SystemExit):
        parser.parse_args(["--polcy", "fast"])
    assert "did you mean --policy?" in capsys.readouterr().err


def test_an_unknown_model_is_told_which_there_are():
    with pytest.raises(ValueError, match=r"no model 'nothing-like-it': .*screens"):
        find_model("nothing-like-it")
    assert find_model(None).name in bundled_models()


def test_names_of_the_package_are_those_that_type_checkers_see():
    stub = importlib.resources.files("diffvis_jax").joinpath("__init__.pyi").read_text()
    listed = stub[stub.index("__all__ = [") :].split('"')[1::2]
    assert sorted(listed) == sorted(dv.__all__)
    for name in dv.__all__:
        assert f" {name}" in stub.replace("\n", " ")
        getattr(dv, name)
    reference = (ROOT / "docs" / "reference.md").read_text()
    assert all(f".{name}\n" in reference for name in dv.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        dv.nothing  # noqa: B018


def test_bundled_weights_are_loaded_by_name():
    assert dv.load(bundled_models()[0]).name == bundled_models()[0]
    with pytest.raises(dv.CheckpointError, match="no-such"):
        dv.load("no-such")
