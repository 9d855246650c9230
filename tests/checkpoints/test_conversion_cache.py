"""Where conversions are kept."""

import pwd

import pytest

from diffvis_jax.checkpoints.conversion_cache import cache_directory
from diffvis_jax.errors import CheckpointError


def test_directories_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CACHE_HOME", "DIFFVIS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    assert cache_directory() == tmp_path / ".cache" / "diffvis_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert str(cache_directory()) == "/xdg/diffvis_jax"
    monkeypatch.setenv("DIFFVIS_CACHE", "~/mine")
    assert cache_directory() == tmp_path / "mine"


def test_a_user_without_a_home_is_told_what_to_do(monkeypatch):
    def unknown(number):
        raise KeyError(number)

    for name in ("HOME", "XDG_CACHE_HOME", "DIFFVIS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(CheckpointError, match="name a directory in DIFFVIS_CACHE"):
        cache_directory()
    monkeypatch.setenv("DIFFVIS_CACHE", "/mine")
    assert str(cache_directory()) == "/mine"
