"""Readers of PyTorch's files: what they read, and damaged and hostile files."""

import collections
import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import DATA, stored, write_directory, write_pickle_zip, write_safetensors

from diffvis_jax.checkpoints.formats.open import open_checkpoint
from diffvis_jax.errors import CheckpointError


@pytest.mark.parametrize(
    "name", ["openai_clip_zip.bin", "openai_clip_legacy.bin", "openai_clip_script.pt"]
)
def test_pytorchs_formats_hold_the_same_tensors(name):
    expected, found = stored("openai_clip.safetensors"), stored(name)
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        assert found[key].dtype == array.dtype
        np.testing.assert_array_equal(found[key], array)


# ---- hostile pickles --------------------------------------------------------------------------


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "argument"),
    [(os.system, "touch {}"), (eval, "open({!r}, 'w')"), (os.mkdir, "{}"), (getattr, "{}")],
    ids=["system", "eval", "mkdir", "getattr"],
)
@pytest.mark.parametrize("container", ["zip", "legacy", "script"])
def test_a_pickle_that_calls_something_is_refused(tmp_path, function, argument, container):
    mark = tmp_path / "mark"
    hostile = {"visual.conv1.weight": Call(function, argument.format(str(mark)))}
    file = tmp_path / "model.bin"
    if container == "legacy":
        file.write_bytes(pickle.dumps(hostile, protocol=2))
    else:
        files = {"code/x.py": b""} if container == "script" else {}
        write_pickle_zip(file, hostile, files)
    with pytest.raises(CheckpointError, match="refused, nothing was executed"):
        open_checkpoint(file)
    assert not mark.exists()


@pytest.mark.parametrize(
    "program",
    [
        # Opcodes: GLOBAL, REDUCE, BUILD, STACK_GLOBAL, EXT1.
        b"\x80\x02cbuiltins\nexec\n(X\x04\x00\x00\x00passtR.",
        b"\x80\x02ccollections\nOrderedDict.__init__\n.",
        b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(NK\x00)tR.",
        b"\x80\x02ctorch\nFloatStorage\n)R.",
        b"\x80\x02ctorch\nFloatStorage\n}X\x05\x00\x00\x00dtypeK\x01sb.",
        b"\x80\x02ctorch\nFloatStorage\nN}X\x05\x00\x00\x00dtypeK\x01s\x86b.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x08\x00\x00\x00__code__K\x01s\x86b.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02c__torch__\nX\n.",
        b"\x80\x02}r\xf0\xff\xff\xff.",  # LONG_BINPUT: room for 4 thousand million objects
        b"",
        b"\x80\x02}",
        b"\x80\x02}.",
        b"\x80\x02K\x01.",
    ],
)
def test_odd_pickles_are_errors(tmp_path, program):
    file = tmp_path / "model.bin"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", program)
    with pytest.raises(CheckpointError, match=r"model\.bin"):
        open_checkpoint(file)


class Rebuild:
    """Pickles as PyTorch pickles a tensor."""

    def __init__(self, key, numel, offset, shape, stride):
        self.storage = (key, numel)
        self.view = (offset, shape, stride)


class Parameter(Rebuild):
    """Likewise, of a parameter."""


class TensorPickler(pickle._Pickler):  # the one in Python: it lets names be written freely
    def persistent_id(self, obj):
        if isinstance(obj, tuple) and obj[:1] == ("storage",):
            return obj
        return None

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Parameter):
            self.write(b"ctorch._utils\n_rebuild_parameter\n(")
            self.save(Rebuild(*obj.storage, *obj.view))
            super().save(True)
            super().save(collections.OrderedDict())
            self.write(b"tR")
            return
        if isinstance(obj, Rebuild):
            key, numel = obj.storage
            offset, shape, stride = obj.view
            self.write(b"ctorch._utils\n_rebuild_tensor_v2\n(")
            self.write(b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n")
            for value in (key, "cpu", numel):
                super().save(value)
            self.write(b"tQ")
            for value in (offset, shape, stride, False):
                super().save(value)
            super().save(collections.OrderedDict())
            self.write(b"tR")
            return
        super().save(obj, save_persistent_id)


def tensor_file(path: Path, tensors: dict, data: dict[str, bytes], **zip_options) -> Path:
    buffer = io.BytesIO()
    TensorPickler(buffer, protocol=2).dump(tensors)
    with zipfile.ZipFile(path, "w", **zip_options) as archive:
        archive.writestr("m/data.pkl", buffer.getvalue())
        for key, content in data.items():
            archive.writestr(f"m/data/{key}", content)
    return path


def test_strided_and_shared_storage(tmp_path):
    data = np.arange(12, dtype=np.float32)
    file = tensor_file(
        tmp_path / "m.pt",
        {
            "whole": Rebuild("0", 12, 0, (3, 4), (4, 1)),
            "transposed": Rebuild("0", 12, 0, (4, 3), (1, 4)),
            "tail": Rebuild("0", 12, 8, (4,), (1,)),
            "scalar": Rebuild("0", 12, 5, (), ()),
            "empty": Rebuild("0", 12, 0, (0, 4), (4, 1)),
            "parameter": Parameter("0", 12, 0, (12,), (1,)),
        },
        {"0": data.tobytes()},
    )
    found = {k: t.load() for k, t in open_checkpoint(file).tensors.items()}
    np.testing.assert_array_equal(found["whole"], data.reshape(3, 4))
    np.testing.assert_array_equal(found["transposed"], data.reshape(3, 4).T)
    np.testing.assert_array_equal(found["tail"], data[8:])
    assert found["scalar"] == 5
    np.testing.assert_array_equal(found["parameter"], data)
    assert found["empty"].shape == (0, 4)


@pytest.mark.parametrize("key", ["state_dict", "model", "module"])
def test_tensors_beside_the_state_dict_are_left_out(tmp_path, key):
    one = Rebuild("0", 12, 0, (12,), (1,))
    document = {"best_acc1": one, "epoch": 3, key: {"w": one}, "optimizer": {"state": {0: one}}}
    found = open_checkpoint(tensor_file(tmp_path / "m.pt", document, {"0": bytes(48)}))
    assert set(found.tensors) == {"w"}
    reason = f"beside the state dict '{key}'"
    assert found.ignored == {"best_acc1": reason, "optimizer": reason}


def test_a_parameter_may_be_named_like_a_state_dict(tmp_path):
    one = Rebuild("0", 12, 0, (12,), (1,))
    document = {"model": one, "state_dict": {}, "module": {"note": "empty"}}
    found = open_checkpoint(tensor_file(tmp_path / "m.pt", document, {"0": bytes(48)}))
    assert set(found.tensors) == {"model"}


@pytest.mark.parametrize(
    ("tensor", "data", "expected"),
    [
        (Rebuild("0", 12, 8, (8,), (1,)), {"0": bytes(48)}, "beyond its data"),
        (Rebuild("0", 12, 0, (3,), (9,)), {"0": bytes(48)}, "beyond its data"),
        (Rebuild("0", 12, 0, (12,), (1,)), {"0": bytes(40)}, "needs 48"),
        (Rebuild("1", 12, 0, (12,), (1,)), {"0": bytes(48)}, "storage 1 is missing"),
        (Rebuild("0", 12, -1, (3,), (1,)), {"0": bytes(48)}, "malformed"),
        (Rebuild("0", -9, 0, (3,), (1,)), {"0": bytes(48)}, "beyond its data"),
    ],
)
def test_tensors_outside_their_data(tmp_path, tensor, data, expected):
    file = tensor_file(tmp_path / "m.pt", {"w": tensor}, data)
    with pytest.raises(CheckpointError, match=expected):
        open_checkpoint(file)


def test_an_archive_that_grows_without_an_end_is_not_unpacked(tmp_path):
    file = tensor_file(tmp_path / "m.pt", {}, {})
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/byteorder", bytes(1 << 26))
    with pytest.raises(CheckpointError, match="big-endian"):
        open_checkpoint(file)


def test_data_beyond_the_end_of_the_file(tmp_path):
    """The directory of the archive promises more than there is."""
    one = Rebuild("0", 1200, 0, (1200,), (1,))
    file = tensor_file(tmp_path / "m.pt", {"w": one}, {"0": bytes(48)})
    raw = file.read_bytes()
    sizes = raw.rindex(b"m/data/0") - 26  # in its last entry: packed and unpacked
    assert raw[sizes : sizes + 8] == struct.pack("<II", 48, 48)
    file.write_bytes(raw[:sizes] + struct.pack("<II", 4800, 4800) + raw[sizes + 8 :])
    with pytest.raises(CheckpointError, match="storage 0 reaches beyond the file"):
        open_checkpoint(file)


def test_compressed_data_is_refused(tmp_path):
    file = tensor_file(
        tmp_path / "m.pt",
        {"w": Rebuild("0", 12, 0, (12,), (1,))},
        {"0": bytes(48)},
        compression=zipfile.ZIP_DEFLATED,
    )
    with pytest.raises(CheckpointError, match="compressed"):
        open_checkpoint(file)


@pytest.mark.parametrize(
    "name", ["openai_clip_zip.bin", "openai_clip_legacy.bin", "openai_clip_script.pt"]
)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_files_cut_off(tmp_path, name, share):
    whole = (DATA / name).read_bytes()
    file = tmp_path / name
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match="openai_clip"):
        open_checkpoint(file)


# ---- safetensors ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty: download or copy it again"),
        (b"\x01\x02", "cut off in its header"),
        (struct.pack("<Q", 1 << 40) + b"{}", "cut off in its header"),
        (struct.pack("<Q", 2) + b"[]", "not a safetensors file"),
        (struct.pack("<Q", 3) + b"{x}", "not a safetensors file"),
        (struct.pack("<Q", 2) + b"\xff\xfe", "not a safetensors file"),
    ],
)
def test_no_safetensors(tmp_path, content, expected):
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=expected):
        open_checkpoint(file)


def test_damaged_safetensors_list_every_problem(tmp_path):
    header = json.dumps(
        {
            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
            "b": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
            "c": {"dtype": "F32", "shape": [2]},
            "d": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        }
    ).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(7))
    with pytest.raises(CheckpointError) as raised:
        open_checkpoint(file)
    for expected in ("a: 4 bytes", "b: malformed", "c: malformed", "cut off"):
        assert expected in str(raised.value)


# ---- directories ------------------------------------------------------------------------------

SMALL = {name: np.full((2, 3), i, np.float32) for i, name in enumerate("abcdef")}


def test_missing_shards(tmp_path):
    for index in (True, False):
        source = write_directory(tmp_path / f"{index}", SMALL, shards=3, index=index)
        (source / "model-00002-of-00003.safetensors").unlink()
        with pytest.raises(CheckpointError, match="missing"):
            open_checkpoint(source)


def test_index_and_shards_contradict(tmp_path):
    source = write_directory(tmp_path / "source", SMALL, shards=2, index=True)
    index = source / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    document["weight_map"]["absent"] = document["weight_map"]["a"]
    document["weight_map"]["b"] = document["weight_map"]["a"]
    index.write_text(json.dumps(document))
    with pytest.raises(CheckpointError) as raised:
        open_checkpoint(source)
    assert "absent: promised by the index" in str(raised.value)
    assert "b: in model-00002-of-00002.safetensors, the index says" in str(raised.value)


def test_index_must_not_leave_its_directory(tmp_path):
    source = write_directory(tmp_path / "source", SMALL, shards=2, index=True)
    index = source / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(CheckpointError, match="beside it"):
        open_checkpoint(source)


def test_the_same_tensor_in_two_shards(tmp_path):
    source = write_directory(tmp_path / "source", SMALL, shards=2)
    write_safetensors(source / "model-00001-of-00002.safetensors", SMALL)
    with pytest.raises(CheckpointError, match="is in both"):
        open_checkpoint(source)


def test_safetensors_are_preferred_and_ambiguity_is_an_error(tmp_path):
    source = write_directory(tmp_path / "source", SMALL)
    (source / "pytorch_model.bin").write_bytes(b"never opened")
    assert set(open_checkpoint(source).tensors) == set(SMALL)
    (source / "model.safetensors").rename(source / "one.safetensors")
    write_safetensors(source / "two.safetensors", SMALL)
    with pytest.raises(CheckpointError, match=r"name one file: one\.safetensors, two\.safetensors"):
        open_checkpoint(source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no \.safetensors"):
        open_checkpoint(tmp_path / "empty")
