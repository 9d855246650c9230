"""Reads the state dicts in PyTorch's `.bin` and `.pt` files and executes nothing.

Such a file is a pickle, a small program: unpickling may call any function it names. Here a name is
looked up in a short list, and what is not in it is an error before anything is called. Tensor data
lies outside the pickle and is read only when asked for.

Three containers are understood: the zip archive that `torch.save` writes since PyTorch 1.6, the
older sequence of pickles, and TorchScript archives (OpenAI's CLIP), whose code is not looked at.
"""

import collections
import dataclasses
import io
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from diffvis_jax.checkpoints.format import raise_if
from diffvis_jax.checkpoints.formats.tensors import MAX_AXES, Shape, Tensor, count
from diffvis_jax.errors import CheckpointError

_STORAGES: dict[str, np.dtype | None] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
# Of modules and tensors in a TorchScript archive, whose objects may be inside themselves.
_MAX_OBJECTS, _MAX_DEPTH = 100_000, 50
_MAX_PICKLE = 256 << 20  # bytes of structure, without tensor data; real ones have under one


@dataclasses.dataclass(frozen=True, slots=True)
class _StorageType:
    """Stands for `torch.FloatStorage` and its like: a name, nothing that could be called."""

    dtype: np.dtype | None


@dataclasses.dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: np.dtype | None
    size: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Strided:
    """What `_rebuild_tensor_v2` describes: a view of a storage."""

    storage: _Storage
    offset: int
    shape: Shape
    stride: tuple[int, ...]


class _Attributes:
    """Stands for an object of a TorchScript archive, or for the options of a training run: what
    they hold, no behaviour."""

    __slots__ = ("state",)

    def __setstate__(self, state: Any) -> None:
        self.state = state


# A pickle may also set attributes of what it got hold of. The stand-ins here have slots and are
# frozen, and what it may call are frozen objects. BUILD gets around that (slots of dataclasses can
# be set as state), so each look-up gives a new one: what is set in it ends with its file.


@dataclasses.dataclass(frozen=True, slots=True)
class _RebuildTensor:
    """Stands for `torch._utils._rebuild_tensor_v2`."""

    def __call__(self, storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> _Strided:
        numbers = (offset, *shape, *stride)
        well_formed = isinstance(storage, _Storage) and len(shape) == len(stride) <= MAX_AXES
        if not well_formed or not all(type(n) is int and n >= 0 for n in numbers):
            raise ValueError("a tensor is malformed")
        return _Strided(storage, offset, tuple(shape), tuple(stride))


@dataclasses.dataclass(frozen=True, slots=True)
class _FirstArgument:
    """Stands for functions whose result is as good as their argument: `torch.Size`,
    `_rebuild_parameter`, and TorchScript's tags of lists and dicts."""

    def __call__(self, value: Any, *_: Any) -> Any:
        return value


def read_pickle(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of one file; only the structure is read.

    Returns:
      The tensors of the state dict by name; and the names of entries beside it that hold tensors
      too, with the reason why those are left out.

    Raises:
      CheckpointError: the file is damaged, holds no state dict, or its pickle names anything
        beyond tensors and dicts (then nothing was executed).
    """
    try:
        if zipfile.is_zipfile(path):
            return _read_zip(path)
        return _read_legacy(path)
    except CheckpointError:
        raise
    except Exception as error:
        # A damaged pickle makes the unpickler raise nearly anything.
        raise CheckpointError(
            f"{path.name}: cannot be read as a PyTorch file ({type(error).__name__}: {error})"
        ) from None


class _Unpickler(pickle.Unpickler):
    """Knows a few names, and calls nothing but what stands for them here."""

    def __init__(self, file: BinaryIO, path: Path, script: bool = False):
        super().__init__(file, encoding="utf-8")
        self._path = path
        self._script = script

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _RebuildTensor()
        if module == "torch" and name in _STORAGES:
            return _StorageType(_STORAGES[name])
        if (module, name) in (("torch", "Size"), ("torch._utils", "_rebuild_parameter")):
            return _FirstArgument()
        # What timm and others save beside the weights.
        if (module, name) == ("argparse", "Namespace"):
            return _Attributes
        if self._script and module.split(".")[0] == "__torch__":
            return _Attributes
        if self._script and module == "torch.jit._pickle":
            return _FirstArgument()
        raise CheckpointError(
            f"{self._path.name}: its pickle asks for {module}.{name}, which is no part of a state "
            "dict; refused, nothing was executed. A whole model that was saved must be loaded and "
            "saved as its state_dict() where its code is"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _, size, *_ = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType):
            raise CheckpointError(f"{self._path.name}: unknown reference in its pickle")
        return _Storage(str(key), storage_type.dtype, int(size))


def _unpickle(file: BinaryIO, path: Path, script: bool = False) -> Any:
    """The next object in a file."""
    start = file.tell()
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        # The unpickler makes room for as many objects as the largest of these numbers says.
        if opcode.name in ("PUT", "LONG_BINPUT") and int(argument or 0) > number:
            raise CheckpointError(f"{path.name}: damaged, its pickle numbers objects that it lacks")
    file.seek(start)
    return _Unpickler(file, path, script).load()


def _read_zip(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in entries if name.split("/")[-1] == "data.pkl"]
        if len(pickles) != 1:
            raise CheckpointError(f"{path.name}: a zip file, but not one that PyTorch wrote")
        root = pickles[0].removesuffix("data.pkl")
        if entries[pickles[0]].file_size > _MAX_PICKLE:
            raise CheckpointError(f"{path.name}: its structure is larger than any state dict's")
        byteorder = entries.get(f"{root}byteorder")
        # The size first: an archive may hold gigabytes of zeros in a few bytes.
        if byteorder is not None and (
            byteorder.file_size != 6 or archive.read(byteorder) != b"little"
        ):
            raise CheckpointError(f"{path.name}: big-endian data is not supported")
        script = any(name.startswith(f"{root}code/") for name in entries)
        structure = io.BytesIO(archive.read(pickles[0]))
    document = _unpickle(structure, path, script)

    def offset(storage: _Storage) -> int:
        info = entries.get(f"{root}data/{storage.key}")
        if info is None:
            raise CheckpointError(f"{path.name}: data of storage {storage.key} is missing")
        if info.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(f"{path.name}: its data is compressed, PyTorch does not do that")
        needed = storage.size * (storage.dtype.itemsize if storage.dtype else 0)
        if info.file_size < needed:
            raise CheckpointError(
                f"{path.name}: storage {storage.key} has {info.file_size} bytes, needs {needed}"
            )
        with path.open("rb") as file:
            # The local header may be longer than the central one: PyTorch pads it for alignment.
            file.seek(info.header_offset)
            header = file.read(30)
            if len(header) < 30 or header[:4] != b"PK\3\4":
                raise CheckpointError(f"{path.name}: damaged zip file")
            name_length, extra_length = struct.unpack("<HH", header[26:30])
        start = info.header_offset + 30 + name_length + extra_length
        if start + needed > path.stat().st_size:
            raise CheckpointError(f"{path.name}: storage {storage.key} reaches beyond the file")
        return start

    found, beside = (_script_state(document, path), {}) if script else _state_dict(document, path)
    return _tensors(path, found, offset), beside


def _read_legacy(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with path.open("rb") as file:
        beginning = file.read(2)
        if beginning == b"PK":
            raise CheckpointError(f"{path.name}: cut off, its zip directory is missing")
        if beginning[:1] != b"\x80":
            raise CheckpointError(f"{path.name}: not a file that PyTorch wrote")
        file.seek(0)
        magic, protocol, system = (_unpickle(file, path) for _ in range(3))
        if magic != _LEGACY_MAGIC or protocol != _LEGACY_PROTOCOL:
            raise CheckpointError(f"{path.name}: not a file that PyTorch wrote")
        if not system.get("little_endian", True):
            raise CheckpointError(f"{path.name}: big-endian data is not supported")
        document, keys = _unpickle(file, path), _unpickle(file, path)
        found, beside = _state_dict(document, path)
        sizes = {x.storage.key: x.storage for x in found.values()}
        # What follows: for every key a number of entries (8 bytes), then the raw data.
        offsets: dict[str, int] = {}
        for key in keys:
            (entries,) = struct.unpack("<q", file.read(8))
            storage = sizes.get(str(key))
            if storage is None or storage.dtype is None or storage.size != entries:
                raise CheckpointError(
                    f"{path.name}: an old PyTorch format with storages outside the state dict; "
                    "load and save it again with a current PyTorch"
                )
            offsets[storage.key] = file.tell()
            file.seek(entries * storage.dtype.itemsize, io.SEEK_CUR)
        if file.tell() > path.stat().st_size or set(sizes) - set(offsets):
            raise CheckpointError(f"{path.name}: cut off")
    return _tensors(path, found, lambda storage: offsets[storage.key]), beside


def _state_dict(document: Any, path: Path) -> tuple[dict[str, _Strided], dict[str, str]]:
    """The mapping of names to tensors, which may lie inside a training checkpoint; and what else
    of it holds tensors, with the reason why that is left out."""
    document = document if isinstance(document, dict) else {}
    for key in ("state_dict", "model_state_dict", "model", "module"):
        # Looked at first: what lies beside may be tensors too, such as the best accuracy.
        if found := _strided(document.get(key)):
            beside = {
                str(name): f"beside the state dict {key!r}"
                for name, value in document.items()
                if name != key and _holds_tensors(value)
            }
            return found, beside
    if found := _strided(document):
        # Other things beside tensors are numbers and strings: no weights.
        return found, {}
    raise CheckpointError(f"{path.name}: no state dict in it")


def _strided(document: Any) -> dict[str, _Strided]:
    if not isinstance(document, dict):
        return {}
    return {str(name): value for name, value in document.items() if isinstance(value, _Strided)}


def _holds_tensors(value: Any) -> bool:
    """Whether there is a tensor in it, or in dicts inside it."""
    stack, seen = [value], set()
    while stack:
        value = stack.pop()
        if isinstance(value, _Strided):
            return True
        # A pickle may refer to the same dict many times, and to one around it.
        if isinstance(value, dict) and id(value) not in seen:
            seen.add(id(value))
            stack += value.values()
    return False


def _script_state(document: Any, path: Path) -> dict[str, _Strided]:
    """The tensors of a TorchScript module and of those inside it, named as in a state dict."""
    found: dict[str, _Strided] = {}
    stack = [("", document)]
    for _ in range(_MAX_OBJECTS):
        if not stack:
            return found
        prefix, value = stack.pop()
        if prefix.count(".") > _MAX_DEPTH:
            break
        if isinstance(value, _Strided):
            found[prefix.removesuffix(".")] = value
        elif isinstance(state := getattr(value, "state", None), dict):
            stack += [(f"{prefix}{name}.", inner) for name, inner in state.items()]
    raise CheckpointError(f"{path.name}: its modules are inside one another without an end")


def _tensors(
    path: Path, found: dict[str, _Strided], offset: Callable[[_Storage], int]
) -> dict[str, Tensor]:
    tensors, problems = {}, []
    for name, view in found.items():
        reach = sum((n - 1) * s for n, s in zip(view.shape, view.stride, strict=True))
        last = view.offset + (reach if count(view.shape) else -1)
        if last >= view.storage.size:
            problems.append(f"{name}: reaches beyond its data")
            continue
        try:
            start = offset(view.storage)
        except CheckpointError as error:
            problems.append(f"{name}: {error}")
            continue
        tensors[name] = _tensor(path, name, view, start)
    raise_if(problems, f"{path.name}: damaged")
    return tensors


def _tensor(path: Path, name: str, view: _Strided, start: int) -> Tensor:
    dtype = view.storage.dtype

    def load() -> np.ndarray:
        if dtype is None:
            raise CheckpointError(f"{name}: its dtype is not supported")
        size = count(view.shape)
        steps = zip(view.shape, view.stride, strict=True)
        reach = 1 + sum((n - 1) * s for n, s in steps) if size else 0
        begin = start + view.offset * dtype.itemsize
        data = np.fromfile(path, np.uint8, reach * dtype.itemsize, offset=begin).view(dtype)
        strides = [s * dtype.itemsize for s in view.stride]
        return np.lib.stride_tricks.as_strided(data, view.shape, strides, writeable=False)

    return Tensor(name, view.shape, dtype, path.name, load)
