"""Parity is of what users have: programs that are compiled as they are for them."""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from typing import Any

import jax

jax.config.update("jax_disable_most_optimizations", False)


class _Anything(type):
    """A class every attribute of which is its own name."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _StubModule(types.ModuleType):
    def __init__(self, name: str):
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = _Anything(name, (), {"__module__": self.__name__})
        setattr(self, name, value)
        return value


class _StubFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] != "torchvision":
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec):
        return _StubModule(spec.name)

    def exec_module(self, module):
        pass


def _import_timm() -> None:
    """Imports timm where torchvision has no build; its models do not use it."""
    if "timm" in sys.modules or importlib.util.find_spec("torchvision") is not None:
        return
    # transformers asks whether torchvision is there; it must have looked before the stub answers.
    importlib.import_module("transformers")
    finder = _StubFinder()
    sys.meta_path.append(finder)
    try:
        importlib.import_module("timm")
    finally:
        sys.meta_path.remove(finder)
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]


_import_timm()
