"""What other engines are given, against live PyTorch and transformers."""

import io

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from tiny import deviation
from vlm_files import write_checkpoint

import diffvis_jax as dv
from diffvis_jax.checkpoints.convert import convert
from diffvis_jax.checkpoints.export_language import export_language
from diffvis_jax.providers.torch_file import torch_bytes

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(3, 4), (1, 1), (0, 4), (), (2, 3, 5), (256, 896)])
def test_torch_reads_our_tensors_bit_for_bit(dtype, shape):
    array = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    found = torch.load(io.BytesIO(torch_bytes(array)), weights_only=True, map_location="cpu")
    assert found.shape == shape
    assert found.is_contiguous()
    assert not found.requires_grad
    assert str(found.dtype) == f"torch.{np.dtype(dtype).name}"
    bits = {2: (torch.int16, np.int16), 4: (torch.int32, np.int32)}[array.itemsize]
    assert np.array_equal(
        found.view(bits[0]).numpy(), np.atleast_1d(array).view(bits[1]).reshape(shape)
    )


def test_transformers_reads_our_decoder(tmp_path):
    source = write_checkpoint(tmp_path / "source")
    weights = convert(source, tmp_path / "weights", say=lambda _: None)
    out = export_language(weights, tmp_path / "out")
    theirs, info = transformers.Qwen2ForCausalLM.from_pretrained(
        out, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    model = dv.load(weights)
    ids = np.random.default_rng(0).integers(0, 256, 24)
    with torch.inference_mode():
        expected = theirs.eval()(torch.from_numpy(ids)[None]).logits.numpy()
    assert deviation(dv.logits(model, None, ids), expected) < 1e-5
