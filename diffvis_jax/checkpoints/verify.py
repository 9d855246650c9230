"""Compares the converted tower with PyTorch's on the same pixels."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.checkpoints.formats.tensors import Tensor
from diffvis_jax.checkpoints.torch_reference import (
    clip_torch,
    clip_torch_end,
    fastvithd_torch,
    pixels_to_torch,
    qwen_vision_torch,
    require_torch,
)
from diffvis_jax.errors import CheckpointError
from diffvis_jax.towers import build
from diffvis_jax.towers.clip import CLIPConfig
from diffvis_jax.towers.qwen2_5_vl import Qwen25VisionConfig

# Largest deviation, as a share of the largest token value. Float32 gives about 1e-6 on small
# towers and 1e-5 on big ones, bfloat16 about 1e-2; a wrong weight gives more. A wrong activation
# gives nothing: PyTorch's model is built from the very config that was inferred.
TOLERANCE = {"float32": 2e-4, "bfloat16": 1e-1}


def verify_tower(
    config: Any,
    params: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    say: Callable[[str], None] = print,
    *,
    language: bool = False,
) -> float:
    """Encodes one frame of noise with both, and prints how far they differ and what was compared.

    The PyTorch model gets the source's tensors, in training form where they are: neither folds nor
    fusions of the converter are in it. What no tensor says is the same in both, right or wrong.

    Args:
      tensors: the source's tensors by canonical name.
      language: whether a language model is converted too; it is not compared, and that is said.

    Returns:
      Largest absolute difference over the largest absolute value; of the tokens or, in a CLIP
      tower, of what comes out at its end, whichever is larger.

    Raises:
      CheckpointError: it is beyond `TOLERANCE`, or an extra is missing.
    """
    from diffvis_jax.core.step import encode

    require_torch()
    state = {name: np.asarray(tensor.load(), np.float32) for name, tensor in tensors.items()}
    if isinstance(config, Qwen25VisionConfig):  # of any size: six windows, some of them partial
        config = config.resized(config.window + config.token, 2 * config.window + config.token)
    frames = np.random.default_rng(0).integers(0, 256, (1, *build(config).frame, 3), np.uint8)
    pixels = pixels_to_torch(frames, config)
    assumed = ["resizing", "normalisation"]
    if isinstance(config, CLIPConfig):
        network = clip_torch(config, state)
        end = "pooled" if config.class_token else "last_hidden_state"
        expected = {
            "tokens": network(pixels).numpy(),
            end: clip_torch_end(network, pixels, config).numpy(),
        }
        assumed += ["activation", "number of heads", "epsilon"]
        if config.projection_width:
            assumed.append("projection")
    elif isinstance(config, Qwen25VisionConfig):
        expected = {"tokens": qwen_vision_torch(config, state)(pixels).numpy()}
        assumed += ["number of heads", "which blocks are full", "size of a window"]
    else:
        expected = {"tokens": fastvithd_torch(config, state)(pixels).numpy()}
    if language:
        assumed.append("language model")
    device_params = jax.tree.map(jnp.asarray, dict(params))
    errors = []
    for output, theirs in expected.items():
        encoded = jax.jit(partial(encode, config=config, output=output))(device_params, frames)
        errors.append(_compare(output, np.asarray(encoded), theirs, config, say))
    say(f"compared: {' and '.join(expected)}; not compared: {', '.join(assumed)}")
    return max(errors)


def _compare(
    output: str, ours: np.ndarray, theirs: np.ndarray, config: Any, say: Callable[[str], None]
) -> float:
    if ours.shape != theirs.shape:
        raise CheckpointError(f"{output}: ours are {ours.shape}, PyTorch's are {theirs.shape}")
    difference = np.abs(ours - theirs)
    scale = float(np.abs(theirs).max())
    error = float(difference.max()) / scale
    rms = float(np.sqrt((difference**2).mean() / (theirs**2).mean()))
    height, width = build(config).frame
    say(
        f"{output} against PyTorch, {height} x {width} px, {config.dtype}: max error {error:.2e} "
        f"of the largest value {scale:.3g}, RMS {rms:.2e}"
    )
    # Written so that NaN fails too.
    if not error <= TOLERANCE[config.dtype]:
        raise CheckpointError(
            f"{output}: differs from PyTorch by {error:.2e}, more than "
            f"{TOLERANCE[config.dtype]:.0e}: not written"
        )
    return error
