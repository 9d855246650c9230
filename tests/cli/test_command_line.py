"""What the scripts' command lines have in common."""

import argparse
import io
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

RUN = """
import sys
from diffvis_jax.cli.command_line import keep_programs
from pathlib import Path
keep_programs(Path(sys.argv[1]))
import jax, json
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
found = []
jax.monitoring.register_event_listener(lambda event, **_: found.append(event))
jax.jit(lambda x: x * 2 + 1)(3.0).block_until_ready()
print(json.dumps(found.count("/jax/compilation_cache/cache_hits")))
"""


def test_a_second_run_finds_what_the_first_one_compiled(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_MAX_SIZE", raising=False)
    command = [sys.executable, "-c", RUN, str(tmp_path / "kept")]
    first, second = (
        json.loads(subprocess.run(command, cwd=SCRIPTS, check=True, capture_output=True).stdout)
        for _ in range(2)
    )
    assert first == 0
    assert second > 0


@pytest.fixture
def kept_nowhere(monkeypatch):
    """As if nobody had said where programs are kept."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")  # so that it is put back as it was
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_jax_hears_of_the_folder_even_if_it_is_imported_already(script, tmp_path, kept_nowhere):
    script("command_line").keep_programs(tmp_path)
    assert jax.config.jax_compilation_cache_dir == str(tmp_path)


def test_a_folder_that_the_user_named_stays(script, tmp_path, kept_nowhere, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "mine")
    script("command_line").keep_programs(tmp_path)
    assert jax.config.jax_compilation_cache_dir is None


# ---- whatever goes wrong is one line -----------------------------------------------------------


def raises(error):
    def run():
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no such\nthing"), "error: no such thing"),
        (FileNotFoundError(2, "No such file or directory", "a.png"), "No such file or directory: "),
        (OSError(28, "No space left on device"), "make room where results are written"),
        (ImportError("pip install it"), "error: pip install it"),
        (KeyError("x"), "error: KeyError: 'x' (DIFFVIS_TRACEBACK=1 shows where)"),
        (AssertionError(), "error: AssertionError:  (DIFFVIS_TRACEBACK=1"),
        (RecursionError("too deep"), "RecursionError: too deep"),
        (MemoryError(), "out of memory: do less at a time"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory, 9 GB"),
            "out of memory: do",
        ),
        (
            jax.errors.JaxRuntimeError("INTERNAL: " + "long\n" * 9999),
            "JaxRuntimeError: INTERNAL: l",
        ),
    ],
)
def test_errors_are_one_line(script, monkeypatch, capsys, error, said):
    monkeypatch.delenv("DIFFVIS_TRACEBACK", raising=False)
    assert script("command_line").run_script(raises(error)) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1
    assert len(printed) < 1200


def test_the_place_of_an_error_is_shown_on_demand(script, monkeypatch, capsys):
    monkeypatch.setenv("DIFFVIS_TRACEBACK", "1")
    assert script("command_line").run_script(raises(AssertionError("a bug"))) == 2
    printed = capsys.readouterr().err
    assert "Traceback (most recent call last)" in printed
    assert "raise error" in printed
    assert printed.endswith("error: AssertionError: a bug (DIFFVIS_TRACEBACK=1 shows where)\n")


@pytest.mark.parametrize("platform", ["cuda", "gpu", "nonsense"])
def test_a_platform_that_is_not_there_is_named(platform):
    code = "import sys; from diffvis_jax.cli.command_line import run_script; import jax; "
    code += "sys.exit(run_script(lambda: len(jax.devices())))"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=SCRIPTS,
        env={**os.environ, "JAX_PLATFORMS": platform},
        capture_output=True,
        text=True,
    )
    said = ended.stderr.splitlines()[-1]
    if ended.returncode != 2:
        pytest.skip(f"this machine has {platform}")
    assert said.startswith(f"error: JAX cannot start on JAX_PLATFORMS={platform}; on this machine")
    assert "cpu" in said
    assert "Traceback" not in ended.stderr


def test_what_a_terminal_cannot_show_is_written_out(script, monkeypatch):
    streams = {}
    for name, encoding in (("stdout", "utf-8"), ("stderr", "ascii")):
        streams[name] = io.TextIOWrapper(io.BytesIO(), encoding, errors="strict")
        monkeypatch.setattr(sys, name, streams[name])

    def run():
        print("bild_\udce4.png \u4e2d")
        script("command_line").tell("bild_\udce4.png \u4e2d")
        return 0

    assert script("command_line").run_script(run) == 0
    written = {name: stream for name, stream in streams.items() if not stream.flush()}
    assert written["stdout"].buffer.getvalue() == "bild_\\udce4.png \u4e2d\n".encode()
    assert written["stderr"].buffer.getvalue() == b"bild_\\udce4.png \\u4e2d\n"


@pytest.mark.filterwarnings("default")
def test_warnings_are_one_line(script, capsys):
    def run():
        warnings.warn("three\nfiles", stacklevel=1)
        return 0

    assert script("command_line").run_script(run) == 0
    assert capsys.readouterr().err == "warning: three files\n"


def test_a_reader_that_leaves_is_no_error():
    code = "import sys; from diffvis_jax.cli.command_line import run_script; "
    code += "sys.exit(run_script(lambda: [print('x' * 99) for _ in range(99999)] and 0))"
    command = f'{sys.executable} -c "{code}" | head -1'
    ended = subprocess.run(command, shell=True, cwd=SCRIPTS, capture_output=True, text=True)
    assert ended.stderr == ""


@pytest.mark.parametrize(("text", "found"), [("1024", 1024), ("728x1316", (728, 1316))])
def test_sides(script, text, found):
    assert script("command_line").sides(text) == found


@pytest.mark.parametrize("text", ["", "x", "-3", "1x2x3", "12px", "7.5"])
def test_what_are_no_sides(script, text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected pixels"):
        script("command_line").sides(text)
