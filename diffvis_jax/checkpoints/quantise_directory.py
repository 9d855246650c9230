"""Quantises a weight directory into another one, leaf by leaf."""

import dataclasses
import os
from collections.abc import Callable

import numpy as np

from diffvis_jax.checkpoints.format import file_checksum, resolve
from diffvis_jax.checkpoints.store import holds, open_tree, read_manifest
from diffvis_jax.checkpoints.writer import Writer, check_target
from diffvis_jax.errors import CheckpointError
from diffvis_jax.quantisation import QuantConfig, Quantiser, QuantReport
from diffvis_jax.towers.dtypes import storage_dtype
from diffvis_jax.utils.progress import Progress

_TREES = ("vision", "language", "grounding")
# Of the manifest: what is still true of quantised weights.
_KEPT = ("source", "revision", "source_files", "ignored")
_OWN = ("config.json", "manifest.json", "README.md")  # the last tells scores of the floats


def quantise_directory(
    source: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    quant: QuantConfig,
    *,
    dtype: str = "float32",
    vision_only: bool = False,
    force: bool = False,
    say: Callable[[str], None] = print,
) -> QuantReport:
    """Writes a weight directory whose matrices are quantised.

    A grounding head is copied as it is.

    Args:
      source: a weight directory of floats.
      directory: where to.
      quant: how.
      dtype: of what is not quantised.
      vision_only: whether a language model is left out.
      force: whether an existing weight directory is replaced.
      say: where lines for the user go.

    Raises:
      CheckpointError: the source is damaged or quantised already, or the target exists.
      ConfigError: matrices that cannot be quantised so; nothing is written then.
    """
    place, target = resolve(source), resolve(directory)
    if place == target:
        raise CheckpointError(
            f"{target} would replace what it is made from: name another directory"
        )
    check_target(target, force=force)
    manifest = read_manifest(place)
    names = [name for name in _TREES if name == "vision" or holds(place, name)]
    trees = {
        name: open_tree(place, name) for name in names if not (vision_only and name == "language")
    }
    for name, tree in trees.items():
        if tree.stored.kind:
            raise CheckpointError(
                f"{place}: {name} is quantised already ({tree.stored.kind}): quantise the floats "
                "it came from"
            )
    configs = {
        name: tree.config if name == "grounding" else dataclasses.replace(tree.config, dtype=dtype)
        for name, tree in trees.items()
    }
    quantiser = Quantiser.of(quant, {name: configs.get(name) for name in ("vision", "language")})
    total = sum(len(tree.tensors) for tree in trees.values())
    with Writer(target, force=force) as writer, Progress(total, "quantising") as progress:
        for name, tree in trees.items():
            for path, leaf in tree.leaves():
                array = np.asarray(leaf)
                progress(f"{name}/{path}")
                if name == "grounding":
                    writer.add(name, path, array)
                    continue
                array = array.astype(storage_dtype(path, array.shape, dtype), copy=False)
                writer.add(name, path, quantiser(name, path, array))
        kept = {name: manifest[name] for name in _KEPT if name in manifest}
        of = {"name": place.name, "manifest_crc32": file_checksum(place / "manifest.json")}
        files = [file for file in place.iterdir() if file.is_file() and file.name not in _OWN]
        writer.finish(configs, manifest_extra={**kept, "quantised_from": of}, files=files)
    size = f"{writer.bytes / 1e6:.1f} MB of parameters"
    say(f"wrote {target.name}: {size}, {dtype}, {quant.name} matrices")
    return quantiser.report()
