"""Tensors for vLLM: the file of one, and which of the last tokens are sent again."""

import io
import pickletools
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffvis_jax.checkpoints.formats import torch_pickle
from diffvis_jax.errors import FrameError
from diffvis_jax.providers.torch_file import torch_bytes
from diffvis_jax.providers.vllm_tokens import sticky


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, ">f4"])
@pytest.mark.parametrize("shape", [(3, 4), (1, 1), (0, 4), (), (2, 3, 5)])
def test_our_own_reader_reads_it(tmp_path, monkeypatch, dtype, shape):
    rng = np.random.default_rng(0)
    array = rng.standard_normal((*shape, 2)).astype(dtype)[..., 0]  # with gaps
    file = tmp_path / "tensor.pt"
    file.write_bytes(torch_bytes(array))
    # It reads state dicts; this is a tensor alone.
    monkeypatch.setattr(torch_pickle, "_state_dict", lambda found, _: ({"tensor": found}, {}))
    tensors, _ = torch_pickle.read_pickle(file)
    found = tensors["tensor"].load()
    assert found.dtype == np.dtype(array.dtype.name)
    assert found.shape == shape
    assert found.tobytes() == array.astype(found.dtype).tobytes()


def test_its_pickle_names_nothing_but_the_tensor():
    with zipfile.ZipFile(io.BytesIO(torch_bytes(np.zeros((2, 3), np.float16)))) as archive:
        assert archive.testzip() is None
        structure = archive.read("archive/data.pkl")
    named = [arg for opcode, arg, _ in pickletools.genops(structure) if opcode.name == "GLOBAL"]
    assert named == [
        "torch._utils _rebuild_tensor_v2",
        "torch HalfStorage",
        "collections OrderedDict",
    ]


@pytest.mark.parametrize("array", [np.zeros(3), np.zeros(3, np.int8), np.zeros(3, object)])
def test_other_dtypes_are_refused(array):
    with pytest.raises(FrameError, match="float32, float16 or bfloat16"):
        torch_bytes(array)


def test_too_many_elements_are_refused():
    with pytest.raises(FrameError, match=r"fewer than 2\^31"):
        torch_bytes(np.broadcast_to(np.float16(0), (2**16, 2**15)))


SENT = np.array([[1, -1, 1, -1], [2, 2, 2, 2], [0, 0, 0, 0]], np.float16)


def test_sticky():
    new = SENT.copy()
    new[0, 0] += 0.25  # a quarter of its RMS
    new[1, 1] += 0.25  # an eighth
    new[2, 2] += 0.25  # of a token that was nothing
    assert np.array_equal(sticky(SENT, new, 0.2), [new[0], SENT[1], new[2]])
    assert np.array_equal(sticky(SENT, new, 0.0), new)
    assert np.array_equal(sticky(SENT, new, 0.5), [SENT[0], SENT[1], new[2]])


@pytest.mark.parametrize("sent", [None, SENT[:2], SENT.astype(np.float32)])
def test_nothing_to_stick_to(sent):
    assert sticky(sent, SENT, 9.0) is SENT


@given(st.integers(0, 2**32 - 1), st.floats(0, 2))
def test_each_token_is_new_or_as_it_was_sent_and_never_far(seed, tolerance):
    rng = np.random.default_rng(seed)
    sent = rng.standard_normal((6, 8)).astype(np.float32)
    scale = rng.choice([0, 0.01, 1], (6, 1))
    new = (sent + scale * rng.standard_normal((6, 8))).astype(np.float32)
    found = sticky(sent, new, tolerance)
    kept, fresh = (found == sent).all(1), (found == new).all(1)
    assert (kept | fresh).all()
    bound = tolerance * np.sqrt(np.square(sent).mean(1))
    assert (np.abs(found - new).max(1) <= bound * 1.001).all()
