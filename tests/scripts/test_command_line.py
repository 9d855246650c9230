"""What the scripts' command lines have in common."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

RUN = """
import sys
from command_line import keep_programs
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
