"""Every command that README and docs show: its options are read, its script is there."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from diffvis_jax.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "scripts" / "training" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "diffvis_jax" / "cli").glob("*.py")),
]


def commands() -> list[tuple[str, str]]:
    """(page, command) of all fenced blocks, and of indented ones in help texts."""
    found = []
    for page in PAGES:
        text = page.read_text().replace("\\\\\n", " ").replace("\\\n", " ")
        if page.suffix == ".md":
            text = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
        for line in text.splitlines():
            for part in re.split(r"&&|\|", line.split("  #")[0].split(" # ")[0]):
                if re.match(r"\s*(diffvis |python scripts/)", part):
                    found.append((page.name, part.strip()))
    return found


def test_there_are_some():
    shown = {command.split()[1] for _, command in commands()}
    assert {"demo", "predict", "watch", "convert", "calibrate", "evaluate", "stats"} <= shown


@pytest.mark.parametrize(("page", "command"), commands())
def test_a_documented_command_is_understood(page, command, monkeypatch):
    program, *arguments = shlex.split(command)
    if program == "python":
        assert (ROOT / arguments[0]).is_file()
        return
    name, *options = arguments
    assert name in COMMANDS
    module = importlib.import_module(f"diffvis_jax.cli.{name}")
    monkeypatch.setattr(module, "run_script", lambda run: 0)
    assert module.main(options) == 0
