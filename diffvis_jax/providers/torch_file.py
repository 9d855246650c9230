"""One tensor as `torch.save` writes it, without PyTorch.

A zip archive, nothing in it compressed: a pickle that says how to build the tensor, and its bytes.
Format: PyTorch `torch/serialization.py`, `_save`.
"""

import io
import struct
import zipfile

import numpy as np

from diffvis_jax.errors import FrameError

_STORAGES = {"float32": b"FloatStorage", "float16": b"HalfStorage", "bfloat16": b"BFloat16Storage"}


def torch_bytes(array: np.ndarray) -> bytes:
    """A file that `torch.load(weights_only=True)` reads to a dense tensor of the same bits.

    Args:
      array: float32, float16 or bfloat16 of any shape.

    Raises:
      FrameError: another dtype, or more elements than the format's short numbers count.
    """
    storage = _STORAGES.get(array.dtype.name)
    if storage is None or array.size >= 2**31:
        raise FrameError(
            "a tensor is float32, float16 or bfloat16 of fewer than 2^31 elements, got "
            f"{array.dtype} {list(array.shape)}"
        )
    array = np.array(array, np.dtype(array.dtype.name), order="C")  # in the machine's byte order
    strides = [step // array.itemsize for step in array.strides]
    pickle = b"".join(
        [
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(",
            # The storage has a persistent id: kind, name of its file in data/, device, elements.
            b"(" + _text(b"storage") + b"ctorch\n" + storage + b"\n" + _text(b"0") + _text(b"cpu"),
            _number(array.size) + b"tQ",
            _number(0),
            b"(" + b"".join(map(_number, array.shape)) + b"t",
            b"(" + b"".join(map(_number, strides)) + b"t",
            b"\x89ccollections\nOrderedDict\n)RtR.",
        ]
    )
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        parts = {"data.pkl": pickle, "byteorder": b"little", "data/0": array.tobytes()}
        for name, content in {**parts, "version": b"3\n"}.items():
            # A file of no date: equal arrays are equal bytes.
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)
    return file.getvalue()


def _text(value: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value


def _number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)
