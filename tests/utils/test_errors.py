"""Every error of the library can be caught as one."""

import importlib
import inspect
import pkgutil

import diffvis_jax as dv


def test_every_error_derives_from_the_base():
    found = set()
    for module in pkgutil.walk_packages(dv.__path__, "diffvis_jax."):
        members = inspect.getmembers(importlib.import_module(module.name), inspect.isclass)
        found |= {kind for _, kind in members if kind.__module__.startswith("diffvis_jax.")}
    errors = {kind for kind in found if issubclass(kind, Exception)}
    assert dv.ImageError in errors
    assert {kind for kind in errors if not issubclass(kind, dv.DiffvisError)} == set()
    # Bad input is what Python calls a value that is wrong.
    for error in (dv.ConfigError, dv.FrameError, dv.CacheError, dv.CheckpointError, dv.PromptError):
        assert issubclass(error, ValueError)
