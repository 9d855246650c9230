"""Quantised matrices in a weight directory: each is two leaves, `PATH/values` and `PATH/scale`.

What `config.json` says of a tree under "quantisation" tells which matrices those are; without it
none is. O outputs, I inputs, G inputs of a group.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from diffvis_jax.checkpoints.fields import shown
from diffvis_jax.checkpoints.formats.tensors import Shape
from diffvis_jax.errors import CheckpointError
from diffvis_jax.ops.quantised import KINDS, QuantKernel
from diffvis_jax.towers.dtypes import is_matrix, storage_dtype

_PARTS = ("values", "scale")


@dataclasses.dataclass(frozen=True)
class Stored:
    """The quantised matrices of one tree.

    Attributes:
      kind: theirs; "" = there are none.
      group: G; None = a scale for each output.
      kept: paths of the matrices that stayed floats.
    """

    kind: str = ""
    group: int | None = None
    kept: tuple[str, ...] = ()

    def holds(self, path: str, shape: Shape) -> bool:
        """Whether that parameter is a quantised matrix."""
        return bool(self.kind) and is_matrix(path, shape) and path not in self.kept

    def leaves(self, shapes: Mapping[str, Shape], dtype: str) -> dict[str, tuple[Shape, np.dtype]]:
        """What is stored of parameters of these shapes, in the compute dtype: path -> shape,
        dtype."""
        found: dict[str, tuple[Shape, np.dtype]] = {}
        for path, shape in shapes.items():
            if not self.holds(path, shape):
                found[path] = shape, storage_dtype(path, shape, dtype)
                continue
            outputs, inputs = shape
            packed = self.kind == "w4"
            scales = (outputs, inputs // self.group) if self.group else (outputs,)
            found[f"{path}/values"] = (
                (outputs, inputs // 2 if packed else inputs),
                np.dtype(np.uint8 if packed else np.int8),
            )
            found[f"{path}/scale"] = scales, np.dtype(np.float32)
        return found

    def joined(self, leaves: Mapping[str, jax.Array], dtype: str) -> dict[str, Any]:
        """Loaded leaves as parameters: `QuantKernel` in the place of two."""
        found: dict[str, Any] = {}
        for path, leaf in leaves.items():
            owner, _, part = path.rpartition("/")
            if self.kind and part == "values":
                found[owner] = QuantKernel(leaf, leaves[f"{owner}/scale"], self.kind, dtype)
            elif not (self.kind and part == "scale" and f"{owner}/values" in leaves):
                found[path] = leaf
        return found


def split(path: str, leaf: Any) -> dict[str, Any]:
    """A parameter as its leaves."""
    if not isinstance(leaf, QuantKernel):
        return {path: leaf}
    return {f"{path}/{part}": getattr(leaf, part) for part in _PARTS}


def stored_of(kernels: Mapping[str, QuantKernel], shapes: Mapping[str, Shape]) -> Stored:
    """What a directory says of these quantised matrices.

    Args:
      kernels: by their paths; empty = none.
      shapes: of all parameters.

    Raises:
      CheckpointError: they are of several kinds.
    """
    if not kernels:
        return Stored()
    groups = {
        (kernel.kind, kernel.shape[1] // kernel.scale.shape[1] if kernel.scale.ndim == 2 else None)
        for kernel in kernels.values()
    }
    if len(groups) > 1:
        raise CheckpointError(f"quantised matrices of several kinds: {sorted(map(str, groups))}")
    kept = (path for path, shape in shapes.items() if is_matrix(path, shape))
    return Stored(*groups.pop(), tuple(path for path in kept if path not in kernels))


def read_stored(document: Mapping[str, Any], tree: str, directory: str) -> Stored:
    """What `config.json` says of a tree.

    Raises:
      CheckpointError: something that this library does not write.
    """
    section = document.get("quantisation", {})
    entry = section.get(tree) if isinstance(section, dict) else section
    if entry is None:
        return Stored()
    kind, group, kept = (
        entry.get(name) if isinstance(entry, dict) else None for name in ("kind", "group", "kept")
    )
    grouped = type(group) is int and group > 1 if kind == "w4" else group is None
    known = isinstance(kind, str) and kind in KINDS
    listed = isinstance(kept, list) and all(isinstance(path, str) for path in kept)
    if not (known and grouped and listed):
        raise CheckpointError(
            f"{directory}: config.json: quantisation cannot be {shown(entry)}; known kinds are "
            f"{', '.join(KINDS)}"
        )
    assert isinstance(kind, str)
    assert isinstance(kept, list)
    return Stored(kind, group, tuple(kept))
