"""What every reader gives: named tensors that are read one at a time."""

import dataclasses
from collections.abc import Callable

import ml_dtypes
import numpy as np

Shape = tuple[int, ...]

MAX_AXES = 64  # numpy's limit

# Names of dtypes as safetensors writes them. Eight-bit floats are left out: they come with scales
# that only their own library knows how to apply.
DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
FLOATS = frozenset(DTYPES[name] for name in ("F64", "F32", "F16", "BF16"))


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint, not yet read.

    Attributes:
      name: as written in the file.
      shape: as written in the file.
      dtype: numpy dtype; None when numpy has no such dtype, then it cannot be read.
      file: name of the file it is in (for messages).
      load: reads it: -> array of `shape` and `dtype`, a copy of its own.
    """

    name: str
    shape: Shape
    dtype: np.dtype | None
    file: str
    load: Callable[[], np.ndarray]


def count(shape: Shape) -> int:
    """Entries of an array of that shape (exact for any size, unlike numpy's product)."""
    total = 1
    for side in shape:
        total *= side
    return total
