"""Plug-ins of the Token Compensator in files."""

import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from compensator_update import BOTTLENECK, Plugin

from diffvis_jax.errors import ConfigError
from diffvis_jax.utils.atomic_file import replacing


def save_compensator(plugin: Plugin, path: str | Path) -> None:
    """Writes a plug-in as `.npz`, in float16: it is small beside what it is added to."""
    arrays = {
        f"{block}/{part}/{name}": np.asarray(value, np.float16)
        for block, parts in plugin.items()
        for part, pair in parts.items()
        for name, value in pair.items()
    }
    with replacing(Path(path)) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def load_compensator(path: str | Path) -> Plugin:
    """Reads a plug-in, as float32.

    Raises:
      ConfigError: no such file, or no plug-in.
    """
    try:
        with np.load(path) as arrays:
            leaves = {name: jnp.asarray(arrays[name], jnp.float32) for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path} is no file of a compensator: {error}") from error
    plugin: Plugin = {}
    for name, value in leaves.items():
        block, part, kind = (*name.split("/"), "", "")[:3]
        if part not in ("query", "value") or kind not in ("down", "up"):
            raise ConfigError(f"{path} is no file of a compensator: it holds {name!r}")
        plugin.setdefault(block, {}).setdefault(part, {})[kind] = value
    for block, parts in plugin.items():
        for part in ("query", "value"):
            pair = parts.get(part, {})
            width = pair["down"].shape[0] if "down" in pair else 0
            shapes = {kind: value.shape for kind, value in pair.items()}
            if shapes != {"down": (width, BOTTLENECK), "up": (BOTTLENECK, width)}:
                raise ConfigError(f"{path}: {block}/{part} has shapes {shapes}")
    return plugin
