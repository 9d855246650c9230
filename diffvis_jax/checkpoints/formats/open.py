"""Finds the weight files behind a path, and opens them as one set of named tensors."""

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path

from diffvis_jax.checkpoints.format import raise_if, read_json
from diffvis_jax.checkpoints.formats import foreign
from diffvis_jax.checkpoints.formats.safetensors import read_safetensors
from diffvis_jax.checkpoints.formats.tensors import Tensor
from diffvis_jax.checkpoints.formats.torch_pickle import read_pickle
from diffvis_jax.errors import CheckpointError
from diffvis_jax.images.recording import is_hidden

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_SHARD = re.compile(r"(.+)-(\d{1,6})-of-(\d{1,6})\.(?:safetensors|bin)")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint.

    Attributes:
      tensors: all of them, by the names in the files.
      directory: where the weight files are, and config and tokenizer files beside them.
      files: the weight files.
      ignored: what else in them holds tensors, with the reason why those are left out.
    """

    tensors: dict[str, Tensor]
    directory: Path
    files: tuple[Path, ...]
    ignored: dict[str, str]


def open_checkpoint(path: Path) -> Checkpoint:
    """Reads the headers of a weight file, or of all shards in a directory.

    Raises:
      CheckpointError: nothing there, a checkpoint of another make, an incomplete set of shards, or
        damaged files.
    """
    if path.is_dir():
        directory, files, index = path, *_find_files(path)
    elif path.is_file():
        directory, files, index = path.parent, (path,), None
        if path.name.endswith(".index.json"):
            files, index = _indexed_files(path)
    else:
        raise CheckpointError(f"{path}: no such file or directory")

    tensors: dict[str, Tensor] = {}
    ignored: dict[str, str] = {}
    problems = []
    for file in files:
        try:
            found, beside = _open(file)
        except CheckpointError as error:
            if len(files) == 1:
                raise
            problems.append(str(error))
            continue
        ignored |= beside
        for name, tensor in found.items():
            if name in tensors:
                problems.append(f"{name} is in both {tensors[name].file} and {file.name}")
            tensors[name] = tensor
    raise_if(problems, f"{path.name}: its files cannot be read")
    for name, file in (index or {}).items():
        if name not in tensors:
            problems.append(f"{name}: promised by the index, but not in {file}")
        elif tensors[name].file != file:
            problems.append(f"{name}: in {tensors[name].file}, the index says {file}")
    raise_if(problems, f"{path.name}: shards contradict each other")
    if not tensors:
        raise CheckpointError(f"{path}: no tensors in it")
    return Checkpoint(tensors, directory, tuple(files), ignored)


def _open(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        if file.suffix == ".safetensors":
            return read_safetensors(file), {}
        if file.suffix in SUFFIXES:
            return read_pickle(file)
        raise CheckpointError(f"{file.name}: not one of {', '.join(SUFFIXES)}")
    except CheckpointError:
        if what := foreign.file(file):
            raise CheckpointError(f"{file.name} {what}") from None
        raise


def _find_files(directory: Path) -> tuple[tuple[Path, ...], dict[str, str] | None]:
    """The weight files of a directory, and what its index says is where."""
    if what := foreign.file(directory):
        raise CheckpointError(f"{directory.name} {what}")
    # Beside the base model's weights, too: without the adapter they are another model.
    there = sorted(path for path in directory.iterdir() if not is_hidden(path))
    if adapters := [path for path in there if path.name.startswith("adapter_model.")]:
        raise CheckpointError(f"{directory.name}: {adapters[0].name} {foreign.file(adapters[0])}")
    for suffix in SUFFIXES:  # the safest format first, where a directory holds several
        found = [path for path in there if path.suffix == suffix and path.is_file()]
        indices = [path for path in there if path.name.endswith(f"{suffix}.index.json")]
        if len(indices) == 1:
            return _indexed_files(indices[0])
        if len(indices) > 1:
            raise CheckpointError(f"{directory}: several models, name one: {_names(indices)}")
        # Saved optimizer and training state is no model.
        found = [p for p in found if p.stem not in ("optimizer", "scheduler", "training_args")]
        if not found:
            continue
        shards = [match for p in found if (match := _SHARD.fullmatch(p.name))]
        if len(found) == 1 and not shards:
            return tuple(found), None
        main = [p for p in found if p.stem in ("model", "pytorch_model")]
        if main:
            return (main[0],), None
        if len(shards) == len(found) and len({(m[1], m[3]) for m in shards}) == 1:
            missing = set(range(1, int(shards[0][3]) + 1)) - {int(m[2]) for m in shards}
            if missing:
                raise CheckpointError(
                    f"{directory}: {shards[0][1]} has {shards[0][3]} shards, "
                    f"missing are {sorted(missing)}"
                )
            return tuple(found), None
        raise CheckpointError(f"{directory}: several models, name one file: {_names(found)}")
    for path in there:
        if what := foreign.file(path):
            raise CheckpointError(f"{directory.name}: {path.name} {what}")
    raise CheckpointError(f"{directory}: no {', '.join(SUFFIXES)} file in it")


def _indexed_files(index: Path) -> tuple[tuple[Path, ...], dict[str, str]]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(
        isinstance(file, str) and Path(file).name == file for file in names.values()
    ):
        raise CheckpointError(
            f"{index}: not an index of shards: its weight_map must name files beside it"
        )
    files = [index.parent / name for name in sorted(set(names.values()))]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(
            f"{index}: missing shards {', '.join(missing)}: download or copy them, too"
        )
    return tuple(files), names


def _names(files: Iterable[Path]) -> str:
    return ", ".join(file.name for file in files)
