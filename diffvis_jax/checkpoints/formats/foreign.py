"""Checkpoints of other makes, recognised by what they hold: what they are, and what to do.

Tables, read from the top; the first match counts. Each sentence goes on where a file's name or
"the checkpoint" stands before it.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from diffvis_jax.checkpoints.formats.tensors import Tensor

_ORIGINAL = "convert the PyTorch checkpoint that it was made from"
_IN_FLOATS = f"is quantised, which is not supported; {_ORIGINAL}"
_ADAPTER = (
    "holds an adapter (LoRA or another of PEFT's), the difference to a base model: merge the two "
    "first (PEFT's merge_and_unload(), LLaVA's scripts/merge_lora_weights.py) and convert the "
    "result, without the adapter's files"
)

# How files begin that are no weights. Looked at when a file cannot be read as what its name says:
# a safetensors file begins with a number, which may look like any of the shorter marks.
_CONTENT = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file: run `git lfs pull` there"),
    (b"/annex/objects/", "is a git-annex pointer, not the file: run `git annex get` there"),
    (b"../.git/annex/", "is a git-annex pointer, not the file: run `git annex get` there"),
    (b"<!", "is a web page, not the file: download the file itself"),
    (b"<html", "is a web page, not the file: download the file itself"),
    (b"<?xml", "is an answer of a server, not the file: download it again"),
    (b"GGUF", f"is in llama.cpp's GGUF; {_ORIGINAL}"),
    (b"\x89HDF", f"is HDF5, as Keras writes it; {_ORIGINAL}"),
    (b"\x93NUMPY", f"is a NumPy array; {_ORIGINAL}"),
    (b"\x1f\x8b", "is packed with gzip: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "is packed with zstd: unpack it first"),
    (b"\xfd7zXZ", "is packed with xz: unpack it first"),
)

# How files and folders are named that are no PyTorch weights.
_NAMES = tuple(
    (re.compile(pattern), sentence)
    for pattern, sentence in (
        (r"adapter_(model\..*|config\.json)", _ADAPTER),
        (r".*\.(mlpackage|mlmodelc?)", f"is a Core ML model; {_ORIGINAL}"),
        (r".*\.gguf", f"is in llama.cpp's GGUF; {_ORIGINAL}"),
        (r".*\.onnx(_data)?", f"is an ONNX model; {_ORIGINAL}"),
        (r"openvino_.*|.*\.xml", f"is an OpenVINO model; {_ORIGINAL}"),
        (r".*\.msgpack", f"holds Flax weights in MessagePack; {_ORIGINAL}"),
        (r".*\.(h5|keras|pb|tflite)|.*\.ckpt[.-].*", f"is a TensorFlow model; {_ORIGINAL}"),
        (r".*\.(zip|7z|rar|tar|tgz)", "is an archive: unpack it first"),
        (r".*\.np[yz]", f"holds NumPy arrays; {_ORIGINAL}"),
        (r".*\.(engine|plan|pte|pdparams|llamafile)", f"is a compiled model; {_ORIGINAL}"),
        (
            r".*\.distcp",
            "is a shard of a distributed checkpoint: gather it first, with "
            "torch.distributed.checkpoint.format_utils.dcp_to_torch_save",
        ),
        (
            r"zero_to_fp32\.py|global_step\d+|.*_optim_states\.pt",
            "is of a DeepSpeed checkpoint: gather it first, with its zero_to_fp32.py",
        ),
    )
)

# What tensors are called. Weights without such tensors may still be quantised; then their dtypes
# tell, and the config file.
_TENSORS = tuple(
    (re.compile(rf"(?:.*\.)?(?:{pattern})"), sentence)
    for pattern, sentence in (
        (
            r"(lora_([AB]|down|up|embedding_[AB]|magnitude_vector)|base_layer|ia3_l|oft_r"
            r"|hada_w[12]_[ab]|lokr_w[12](_[ab])?|vera_lambda_[bd])(\..*)?|prompt_embeddings",
            _ADAPTER,
        ),
        (r"qweight|qzeros", f"{_IN_FLOATS} (GPTQ or AWQ)"),
        (
            r"SCB|(nested_)?absmax|(nested_)?quant_map|quant_state\..*",
            f"{_IN_FLOATS} (bitsandbytes)",
        ),
        (r"scales|weight_scale(_inv)?|weight_packed|input_scale|W_q", _IN_FLOATS),
        (r"_?flat_param.*", "holds the flat shards of FSDP: save a full state dict first"),
        (r".*/(kernel|gamma|beta|embeddings):0", f"holds TensorFlow weights; {_ORIGINAL}"),
        (r"kernel|embedding", f"holds Flax weights; {_ORIGINAL}"),
    )
)


def content(beginning: bytes) -> str | None:
    """What a file that begins so is, and what to do; None if it may be what its name says."""
    if not beginning:
        return "is empty: download or copy it again"
    text = beginning.lstrip()
    return next((what for mark, what in _CONTENT if text.startswith(mark)), None)


def file(path: Path) -> str | None:
    """What a file or folder is, by its name and how it begins."""
    if path.is_symlink() and not path.exists():
        return "is a link to a file that is not there: download or copy it again"
    for pattern, what in _NAMES:
        if pattern.fullmatch(path.name):
            return what
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        return content(stream.read(64))


def tensors(found: Mapping[str, Tensor]) -> str | None:
    """What a checkpoint with these tensors is, by their names and shapes."""
    for pattern, what in _TENSORS:
        if name := next(filter(pattern.fullmatch, found), None):
            return f"{what} ({name})"
    if empty := next((name for name, tensor in found.items() if 0 in tensor.shape), None):
        return (
            f"has tensors without content, as DeepSpeed's ZeRO-3 leaves them ({empty}): gather "
            "them first, with the checkpoint's zero_to_fp32.py"
        )
    return None
