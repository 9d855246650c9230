"""Writes weight directories, so that they are whole or not there."""

import dataclasses
import os
import platform
import re
import secrets
import shutil
import sys
import time
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
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
    resolve,
    write_json,
)
from diffvis_jax.checkpoints.quantised import split, stored_of
from diffvis_jax.errors import CheckpointError
from diffvis_jax.ops.quantised import QuantKernel

_DAY = 24 * 60 * 60  # seconds
# How the directories that are being written, or replaced, are named.
_LEFT = re.compile(
    r"\.(?P<name>.+)\.(?P<kind>partial|replaced)"
    r"-(?P<machine>[0-9a-f]{8})-(?P<process>\d{1,9})-[0-9a-f]{8}"
)
_PART_BYTES = 256 << 20  # leaves are gathered to about this much before they are written


class Writer:
    """Writes a weight directory leaf by leaf; it appears under its name only when whole.

    Use as a context manager: `add` every leaf, then `finish`. Leaving without `finish` removes
    what was written; whatever `directory` held before stays untouched.
    """

    def __init__(self, directory: str | os.PathLike[str], *, force: bool = False):
        """Raises `CheckpointError` when `directory` exists and may not be replaced."""
        self.directory = resolve(directory)
        check_target(self.directory, force=force)
        self._force = force
        self.bytes = 0
        self._temporary = Path()  # made when writing begins
        self._pending: dict[str, np.ndarray] = {}
        self._pending_tree = ""
        self._pending_bytes = 0
        self._parts: dict[str, int] = {}
        self._tensors: dict[str, dict[str, Any]] = {}
        self._kernels: dict[str, dict[str, QuantKernel]] = {}  # of each tree

    def __enter__(self) -> "Writer":
        parent, name = self.directory.parent, self.directory.name
        parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(parent)
        writer = f"{_machine()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._temporary = parent / f".{name}.partial-{writer}"
        self._temporary.mkdir()
        return self

    def __exit__(self, *_) -> None:
        shutil.rmtree(self._temporary, ignore_errors=True)

    def add(self, tree: str, path: str, leaf: Any) -> None:
        """Adds one parameter of the tree "vision", "language" or "grounding"."""
        if isinstance(leaf, QuantKernel):
            # Only its shapes are needed at the end, and the arrays may be large.
            self._kernels.setdefault(tree, {})[path] = jax.eval_shape(lambda: leaf)
        for name, part in split(path, leaf).items():
            self._add(tree, name, np.asarray(part))

    def _add(self, tree: str, path: str, array: np.ndarray) -> None:
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
        configs: Mapping[str, Any],
        *,
        manifest_extra: Mapping[str, Any] | None = None,
        files: Mapping[str, Path] | Iterable[Path] = (),
    ) -> Path:
        """Writes the rest and moves the directory to its name.

        Args:
          configs: of the trees that were added, by their names; None where there is none.
          manifest_extra: further entries of the manifest, such as the source.
          files: to be copied into the directory; a mapping gives them other names.

        Raises:
          CheckpointError: the leaves that were added are not those of the configs.
        """
        self._flush()
        problems, quantisation = [], {}
        for tree, config in configs.items():
            found = {
                name.removeprefix(f"{tree}/"): tuple(entry["shape"])
                for name, entry in self._tensors.items()
                if name.startswith(f"{tree}/")
            }
            shapes = {} if config is None else expected_shapes(config)
            stored = stored_of(self._kernels.get(tree, {}), shapes)
            if stored.kind:
                quantisation[tree] = dataclasses.asdict(stored)
            expected = {} if config is None else stored.leaves(shapes, config.dtype)
            problems += compare_shapes(
                tree, found, {path: leaf[0] for path, leaf in expected.items()}
            )
        raise_if(problems, f"{self.directory.name}: parameters do not fit their config")

        if not isinstance(files, Mapping):
            files = {Path(file).name: Path(file) for file in files}
        for name, file in files.items():
            shutil.copyfile(file, self._temporary / name)
        document = {}
        for tree, config in configs.items():
            if config is not None:
                # The tower's kind stands outside of its fields.
                place = document if tree == "vision" else document.setdefault(tree, {})
                place["kind"] = kind_of(config)
                document.setdefault(tree, {}).update(dataclasses.asdict(config))
        if quantisation:
            document["quantisation"] = quantisation
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
        _replace(self._temporary, self.directory, force=self._force)
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


def _replace(temporary: Path, directory: Path, *, force: bool) -> None:
    """Moves `temporary` to `directory`; the old one is removed only when the new one is there."""
    check_target(directory, force=force)  # again: another process may have been faster
    old = temporary.with_name(temporary.name.replace(".partial-", ".replaced-"))
    if directory.exists():
        directory.rename(old)
    try:
        temporary.rename(directory)
    except OSError:
        check_target(directory, force=False)  # faster still
        if old.exists():
            old.rename(directory)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _machine() -> str:
    """Of the machine, or the container, that numbers this process; eight digits."""
    numbering = "/proc/self/ns/pid"
    container = os.readlink(numbering) if os.path.exists(numbering) else ""
    return f"{zlib.crc32(f'{platform.node()} {container}'.encode()):08x}"


def _remove_abandoned(parent: Path) -> None:
    """Removes what conversions into `parent` left there when they were killed: gigabytes."""
    for left in parent.iterdir():
        match = _LEFT.fullmatch(left.name)
        # Without the new directory, what was to be replaced is the only one there is.
        if match is None or (match["kind"] == "replaced" and not (parent / match["name"]).exists()):
            continue
        if match["machine"] == _machine() and sys.platform != "win32":
            abandoned = not _is_running(int(match["process"]))
        else:
            abandoned = time.time() - _last_written(left) > _DAY
        if abandoned:
            shutil.rmtree(left, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)  # does nothing to it
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _last_written(directory: Path) -> float:
    """When something in it was last written, in seconds since 1970; now, if it is being removed."""
    try:
        return max(path.stat().st_mtime for path in (directory, *directory.rglob("*")))
    except FileNotFoundError:
        return time.time()
