"""Conversions that are kept: found again, finished by whoever is first, and cleaned up after."""

import os
import pwd
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
from checkpoint_files import DATA, fastvlm, write_directory

import diffvis_jax as dv
from diffvis_jax.checkpoints import conversion_cache, convert, store, writer
from diffvis_jax.checkpoints.conversion_cache import cache_directory, weight_directory
from diffvis_jax.errors import CheckpointError

CLIP = DATA / "openai_clip.safetensors"


def quiet(*_) -> None:
    pass


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DIFFVIS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hub(monkeypatch, tmp_path) -> list[str]:
    """Names of the repositories that were asked for."""
    asked: list[str] = []

    def snapshot_download(repo, **_):
        asked.append(repo)
        commit = tmp_path / "hub" / "0123abcd"
        return str(commit if commit.exists() else write_directory(commit, fastvlm(), CONFIG))

    module = types.ModuleType("huggingface_hub")
    module.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return asked


CONFIG = "vlm_tiny_config.json"


# ---- where ------------------------------------------------------------------------------------


def test_a_user_without_a_home_directory(monkeypatch, tmp_path):
    def unknown(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("HOME", "XDG_CACHE_HOME", "DIFFVIS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(CheckpointError, match=r"no home directory .* set DIFFVIS_CACHE"):
        cache_directory()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "diffvis_jax"
    monkeypatch.setenv("DIFFVIS_CACHE", str(tmp_path / "named"))
    assert cache_directory() == tmp_path / "named"
    # Paths of users that nobody knows are as good as not there.
    for use in (dv.load, weight_directory):
        with pytest.raises(CheckpointError, match="no such"):
            use("~/weights")


# ---- once -------------------------------------------------------------------------------------


def test_the_hub_is_asked_once(cache, hub):
    lines: list[str] = []
    first = weight_directory("hf:owner/name@main", language=True, say=lines.append)
    assert hub == ["owner/name"]
    assert "converting it, once" in lines[0]
    assert store.read_manifest(first)["revision"] == "0123abcd"
    assert weight_directory("hf:owner/name@main", say=quiet) == first
    assert hub == ["owner/name"]
    assert weight_directory("hf:owner/name", say=quiet) != first
    assert len(hub) == 2


def test_a_kept_conversion_without_a_language_model(cache):
    weight_directory(CLIP, say=quiet)
    with pytest.raises(CheckpointError, match="no language model"):
        weight_directory(CLIP, language=True, say=quiet)


def test_two_programs_convert_the_same_checkpoint(cache, monkeypatch):
    """The second is still planning when the first is done."""
    plan, done = convert.make_plan, threading.Event()
    slow = threading.Event()

    def slow_plan(*args, **kwargs):
        slow.set()
        assert done.wait(60)
        return plan(*args, **kwargs)

    monkeypatch.setattr(convert, "make_plan", slow_plan)
    found: list[Path] = []
    second = threading.Thread(target=lambda: found.append(weight_directory(CLIP, say=quiet)))
    second.start()
    assert slow.wait(60)
    monkeypatch.setattr(convert, "make_plan", plan)
    first = weight_directory(CLIP, say=quiet)
    done.set()
    second.join()
    assert found == [first]
    assert os.listdir(cache) == [first.name]


def test_the_second_is_done_a_moment_later(cache, monkeypatch):
    """Both have written everything: between the last look and the renaming the first is done."""
    rename = Path.rename

    def late(self, target):
        if ".partial-" in self.name:
            monkeypatch.setattr(Path, "rename", rename)
            store.save(target, **tiny())
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    directory = weight_directory(CLIP, say=quiet)
    assert store.load_vision(directory)[0].width == 8  # what was there first
    assert os.listdir(cache) == [directory.name]


def tiny() -> dict:
    from test_checkpoint_store import CONFIG, parameters

    return {"config": CONFIG, "params": parameters(CONFIG)}


def test_a_failure_is_not_taken_for_somebody_elses_success(cache, monkeypatch):
    def fail(*_, **__):
        raise CheckpointError("because")

    monkeypatch.setattr(conversion_cache, "convert", fail)
    with pytest.raises(CheckpointError, match="because"):
        weight_directory(CLIP, say=quiet)


# ---- what killed conversions leave behind -----------------------------------------------------


def partial(parent: Path, name: str, machine: str, process: int, kind: str = "partial") -> Path:
    directory = parent / f".{name}.{kind}-{machine}-{process}-0123abcd"
    (directory / "vision").mkdir(parents=True)
    (directory / "vision" / "part").write_bytes(b"gigabytes")
    return directory


def age(directory: Path, days: float) -> None:
    then = time.time() - days * 24 * 3600
    for path in (*directory.rglob("*"), directory):
        os.utime(path, (then, then))


def test_directories_of_killed_processes_are_removed(tmp_path):
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
    )
    process = int(dead.stdout)
    here, elsewhere = writer._machine(), "ffffffff"
    gone = [
        partial(tmp_path, "out", here, process),
        partial(tmp_path, "another", here, process),
        partial(tmp_path, "out", elsewhere, 1),
        partial(tmp_path, "there", here, process, kind="replaced"),
    ]
    age(gone[2], days=2)
    (tmp_path / "there").mkdir()
    kept = [
        partial(tmp_path, "running", here, os.getpid()),
        partial(tmp_path, "new", elsewhere, 1),
        partial(tmp_path, "absent", here, process, kind="replaced"),  # the only copy
        partial(tmp_path, "mine", "partial", process),  # not a name of ours
    ]
    age(kept[0], days=2)
    store.save(tmp_path / "out", **tiny())
    assert not [path for path in gone if path.exists()]
    assert all(path.exists() for path in kept)


def test_nothing_of_a_conversion_is_left_in_its_folder(tmp_path):
    for force in (False, True):
        store.save(tmp_path / "out", force=force, **tiny())
        assert os.listdir(tmp_path) == ["out"]


def test_converting_and_scripts_do_without_what_windows_lacks():
    code = (
        "import sys; sys.modules['resource'] = None; "
        "import diffvis_jax.cli.benchmark, diffvis_jax.cli.predict_output; "
        "import diffvis_jax.checkpoints.convert; "
        "from diffvis_jax.utils.memory import peak_memory_mb; "
        "sys.platform = 'win32'; print(peak_memory_mb())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "None", result.stderr
