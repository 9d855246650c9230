"""Compares the converted tower with PyTorch's on the same pixels."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.checkpoints.tensors import Tensor
from diffvis_jax.checkpoints.torch_reference import (
    clip_torch,
    fastvithd_torch,
    pixels_to_torch,
)
from diffvis_jax.errors import CheckpointError
from diffvis_jax.towers.clip import CLIPConfig

# Largest deviation, as a share of the largest token value. Float32 gives about 1e-6 on small
# towers and 1e-5 on big ones, bfloat16 about 1e-2; a wrong weight or activation gives more.
TOLERANCE = {"float32": 2e-4, "bfloat16": 1e-1}


def verify_tower(
    config: Any,
    params: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    say: Callable[[str], None] = print,
) -> float:
    """Encodes one frame of noise with both, and prints how far they differ.

    The PyTorch model gets the source's tensors, in training form where they are: neither folds nor
    fusions of the converter are in it.

    Args:
      config: of the tower.
      params: converted parameters, arrays of any kind.
      tensors: the source's tensors by canonical name.
      say: where the lines go.

    Returns:
      Largest absolute difference over the largest absolute value.

    Raises:
      CheckpointError: it is beyond `TOLERANCE`, or an extra is missing.
    """
    from diffvis_jax.step import encode  # it imports every tower; the converter needs none of it

    state = {name: np.asarray(tensor.load(), np.float32) for name, tensor in tensors.items()}
    if isinstance(config, CLIPConfig):
        network = clip_torch(config, state)
    else:
        network = fastvithd_torch(config, state)
    frames = np.random.default_rng(0).integers(0, 256, (1, config.size, config.size, 3), np.uint8)
    expected = network(pixels_to_torch(frames, config)).numpy()
    device_params = jax.tree.map(jnp.asarray, dict(params))
    encoded = jax.jit(lambda p, x: encode(p, x, config=config))(device_params, frames)
    tokens = np.asarray(encoded)
    if tokens.shape != expected.shape:
        raise CheckpointError(f"tokens are {tokens.shape}, PyTorch's are {expected.shape}")
    difference = np.abs(tokens - expected)
    scale = float(np.abs(expected).max())
    error = float(difference.max()) / scale
    rms = float(np.sqrt((difference**2).mean() / (expected**2).mean()))
    say(
        f"against PyTorch, {config.size} px, {config.dtype}: max error {error:.2e} of the largest "
        f"value {scale:.3g}, RMS {rms:.2e}"
    )
    # Written so that NaN fails too.
    if not error <= TOLERANCE[config.dtype]:
        raise CheckpointError(
            f"differs from PyTorch by {error:.2e}, more than {TOLERANCE[config.dtype]:.0e}: "
            "not written"
        )
    return error
