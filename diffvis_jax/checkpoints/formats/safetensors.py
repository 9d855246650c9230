"""Reads `.safetensors` without a dependency: 8 bytes of length, JSON, then the raw tensors.

Tensors are read with plain file reads, not through a memory map, so that pages of the source never
count as this process's memory. Format: huggingface/safetensors, README "Format".
"""

from pathlib import Path
from typing import Any

import numpy as np

from diffvis_jax.checkpoints.format import parse_json, raise_if
from diffvis_jax.checkpoints.formats.tensors import DTYPES, MAX_AXES, Shape, Tensor, count
from diffvis_jax.errors import CheckpointError

_MAX_HEADER = 100_000_000  # bytes; the limit that the format's own library sets


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, by name; only the header is read.

    Raises:
      CheckpointError: the file is truncated or not in this format; lists every bad entry.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(_MAX_HEADER, size - 8):
            raise CheckpointError(f"{path.name}: not a safetensors file, or cut off in its header")
        raw = file.read(length)
    header = parse_json(raw, f"{path.name}: not a safetensors file")
    # MLX lays convolutions out otherwise, and its names are another's, too.
    metadata = header.pop("__metadata__", None)
    if isinstance(metadata, dict) and metadata.get("format") == "mlx":
        raise CheckpointError(
            f"{path.name} holds MLX weights; convert the PyTorch checkpoint that it was made from"
        )
    start = 8 + length
    tensors, problems, end = {}, [], 0
    for name, entry in header.items():
        parsed = _parse(entry)
        if parsed is None:
            problems.append(f"{name}: malformed entry {entry!r}"[:200])
            continue
        dtype_name, shape, begin, stop = parsed
        dtype = DTYPES.get(dtype_name)
        end = max(end, stop)
        if dtype is not None and stop - begin != count(shape) * dtype.itemsize:
            problems.append(
                f"{name}: {stop - begin} bytes for {dtype_name} {list(shape)}, "
                f"expected {count(shape) * dtype.itemsize}"
            )
        tensors[name] = _tensor(path, name, shape, dtype, dtype_name, start + begin)
    if end > size - start:
        problems.append(f"cut off: {size} bytes, but its header promises {start + end}")
    raise_if(problems, f"{path.name}: damaged")
    return tensors


def _parse(entry: Any) -> tuple[str, Shape, int, int] | None:
    """An entry of the header -> (dtype, shape, begin, stop), or None if it is malformed."""
    try:
        dtype, shape, (begin, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = (*shape, begin, stop)
    except (TypeError, KeyError, ValueError):
        return None
    well_formed = isinstance(dtype, str) and isinstance(shape, list) and len(shape) <= MAX_AXES
    if not well_formed or not all(type(n) is int and n >= 0 for n in numbers):
        return None
    return dtype, tuple(shape), begin, stop


def _tensor(
    path: Path, name: str, shape: Shape, dtype: np.dtype | None, dtype_name: str, offset: int
) -> Tensor:
    def load() -> np.ndarray:
        if dtype is None:
            raise CheckpointError(f"{name}: dtype {dtype_name} is not supported")
        # Read as bytes: numpy cannot read bfloat16 from files.
        data = np.fromfile(path, np.uint8, count(shape) * dtype.itemsize, offset=offset)
        return data.view(dtype).reshape(shape)

    return Tensor(name, shape, dtype, path.name, load)
