"""Writes weight directories, so that they are whole or not there."""

import dataclasses
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffvis_jax.checkpoints.architectures import expected_shapes, kind_of
from diffvis_jax.checkpoints.format import (
    CONVERTER_VERSION,
    FORMAT,
    FORMAT_VERSION,
    checksum,
    compare_shapes,
    file_checksum,
    quiet_orbax,
    raise_if,
    write_json,
)
from diffvis_jax.errors import CheckpointError
from diffvis_jax.grounding.head import HeadConfig
from diffvis_jax.language.config import QwenConfig

_PART_BYTES = 256 << 20  # leaves are gathered to about this much before they are written


class Writer:
    """Writes a weight directory leaf by leaf; it appears under its name only when whole.

    Use as a context manager: `add` every leaf, then `finish`. Leaving without `finish` removes
    what was written; whatever `directory` held before stays untouched.
    """

    def __init__(self, directory: str | os.PathLike[str], *, force: bool = False):
        """Raises `CheckpointError` when `directory` exists and may not be replaced."""
        self.directory = Path(directory).expanduser().resolve()
        check_target(self.directory, force=force)
        self.bytes = 0
        self._temporary = self.directory.with_name(f".{self.directory.name}.partial-{os.getpid()}")
        self._pending: dict[str, np.ndarray] = {}
        self._pending_tree = ""
        self._pending_bytes = 0
        self._parts: dict[str, int] = {}
        self._tensors: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> "Writer":
        self._temporary.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary.mkdir()
        return self

    def __exit__(self, *_) -> None:
        shutil.rmtree(self._temporary, ignore_errors=True)

    def add(self, tree: str, path: str, leaf: Any) -> None:
        """Adds one parameter of the tree "vision", "language" or "grounding"."""
        array = np.asarray(leaf)
        if tree != self._pending_tree or self._pending_bytes > _PART_BYTES:
            self._flush()
            self._pending_tree = tree
        self._pending[path] = array
        self._pending_bytes += array.nbytes
        self.bytes += array.nbytes
        self._tensors[f"{tree}/{path}"] = {
            "shape": list(array.shape),
            "dtype": array.dtype.name,
            "crc32": checksum(array),
            "part": self._parts.get(tree, 0),
        }

    def _flush(self) -> None:
        if not self._pending:
            return
        # Asked before: on a full disk Orbax's threads go on writing, and printing, for a while.
        free = shutil.disk_usage(self._temporary).free
        if free < self._pending_bytes:
            raise CheckpointError(
                f"no room in '{self.directory.parent}': the next "
                f"{self._pending_bytes / 1e6:.1f} MB do not fit into the {free / 1e6:.1f} MB that "
                "are free; make room, or name another place"
            )
        tree = self._pending_tree
        part = self._parts.get(tree, 0)
        self._parts[tree] = part + 1
        _save_part(self._temporary / tree / f"part_{part:02d}", self._pending)
        self._pending, self._pending_bytes = {}, 0

    def finish(
        self,
        *,
        config: Any,
        language_config: QwenConfig | None = None,
        grounding_config: HeadConfig | None = None,
        manifest_extra: Mapping[str, Any] | None = None,
        files: Mapping[str, Path] | Iterable[Path] = (),
    ) -> Path:
        """Writes the rest and moves the directory to its name.

        Args:
          config: of the tower.
          language_config: of the language model, if its parameters were added.
          grounding_config: of the grounding head, if its parameters were added.
          manifest_extra: further entries of the manifest, such as the source.
          files: to be copied into the directory; a mapping gives them other names.

        Raises:
          CheckpointError: the leaves that were added are not those of the configs.
        """
        self._flush()
        problems = []
        further = {"language": language_config, "grounding": grounding_config}
        for tree, tree_config in {"vision": config, **further}.items():
            found = {
                name.removeprefix(f"{tree}/"): tuple(entry["shape"])
                for name, entry in self._tensors.items()
                if name.startswith(f"{tree}/")
            }
            expected = {} if tree_config is None else expected_shapes(tree_config)
            problems += compare_shapes(tree, found, expected)
        raise_if(problems, f"{self.directory.name}: parameters do not fit their config")

        if not isinstance(files, Mapping):
            files = {Path(file).name: Path(file) for file in files}
        for name, file in files.items():
            shutil.copyfile(file, self._temporary / name)
        document = {"kind": kind_of(config), "vision": dataclasses.asdict(config)}
        for tree, tree_config in further.items():
            if tree_config is not None:
                document[tree] = {"kind": kind_of(tree_config), **dataclasses.asdict(tree_config)}
        write_json(self._temporary / "config.json", document)
        manifest = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "converter_version": CONVERTER_VERSION,
            **(manifest_extra or {}),
            "files": {
                file.relative_to(self._temporary).as_posix(): {
                    "size": file.stat().st_size,
                    "crc32": file_checksum(file),
                }
                for file in sorted(self._temporary.rglob("*"))
                if file.is_file()
            },
            "tensors": self._tensors,
        }
        # Last: a directory without a manifest is a half-written one.
        write_json(self._temporary / "manifest.json", manifest)
        _replace(self._temporary, self.directory)
        return self.directory


def check_target(directory: Path, *, force: bool) -> None:
    """Raises `CheckpointError` unless a weight directory may be written there."""
    if not directory.exists():
        return
    if not force:
        raise CheckpointError(f"{directory} exists already; --force (force=True) replaces it")
    # Never delete what we did not write: a mistyped path could be anything.
    ours = (directory / "manifest.json").is_file() and (directory / "config.json").is_file()
    if not directory.is_dir() or not (ours or not any(directory.iterdir())):
        raise CheckpointError(
            f"{directory} is not a weight directory of this library, so it is not replaced; "
            "remove it yourself or choose another name"
        )


def _save_part(directory: Path, leaves: Mapping[str, np.ndarray]) -> None:
    import orbax.checkpoint as ocp  # 0.75 s: only where it is needed

    try:
        with quiet_orbax(), ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(directory, dict(leaves))
    except ValueError as error:  # TensorStore's, of a full disk too
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"cannot write {directory}: {first}") from error
    # Names the temporary directory, by its full path. What says that all was written is our
    # manifest, and the renaming of the whole.
    (directory / "commit_success.txt").unlink(missing_ok=True)


def _replace(temporary: Path, directory: Path) -> None:
    """Moves `temporary` to `directory`; the old one is removed only when the new one is there."""
    if not directory.exists():
        temporary.rename(directory)
        return
    old = directory.with_name(f".{directory.name}.replaced-{os.getpid()}")
    directory.rename(old)
    try:
        temporary.rename(directory)
    except OSError:
        old.rename(directory)
        raise
    shutil.rmtree(old)
