"""A convolutional patch embedding that looks at nothing outside its window.

A few small convolutions before a vision transformer let it train faster than one large linear
patch embedding (arXiv 2106.14881). Here their borders are those of the window, so that a window
stays a cell without a halo.

Each stage halves the map: the first has a position for 8 x 8 pixels, the next for 16 x 16, and so
on. K windows, h x w positions of them, S width of a stage.
"""

import jax
import jax.numpy as jnp
from jax import lax

from diffvis_jax.ops.attention import rms_norm
from diffvis_jax.ops.matmul import linear
from diffvis_jax.ops.pointwise import gelu
from diffvis_jax.ops.precision import precision_of
from diffvis_jax.ops.space_to_depth import space_to_depth
from diffvis_jax.towers.params import Param, Params, Specs, affine, normal, ones

STRIDE = 8  # pixels along the side of a position of the first stage
_SQUARE = 4  # pixels along the side of the squares, four of which make such a position
_BLOCKS = 2  # of a stage
_EPSILON = 1e-6


def stem_specs(width: int, before: int) -> Specs:
    """Parameters of a stage of S = `width`, after one of width `before`; 0 = after the pixels."""
    first = {} if before else {"squares": affine(width, 3 * _SQUARE**2)}
    block = {
        "norm_scale": Param((width,), ones),
        "conv": {
            "kernel": Param((3, 3, width, width), normal((9 * width) ** -0.5)),
            "bias": Param((width,)),
        },
        "output": affine(width, width, _BLOCKS**-0.5),
    }
    blocks = {f"block_{number}": block for number in range(_BLOCKS)}
    return {**first, "join": affine(width, 4 * (before or width)), **blocks}


def stem_macs(width: int, before: int) -> int:
    """Multiply-accumulates of one position."""
    first = 0 if before else 4 * 3 * _SQUARE**2 * width
    return first + 4 * (before or width) * width + _BLOCKS * 10 * width**2


def stem_stage(params: Params, x: jax.Array, cell: int) -> jax.Array:
    """Normalised pixels `[K, 8 h, 8 w, 3]`, or the stage before, `[K, 2 h, 2 w, C]`, to
    `[K, h, w, S]`.

    Args:
      params: as `stem_specs` says.
      x: float32, whole windows.
      cell: positions of the result along the side of a window.
    """
    if "squares" in params:
        x = gelu(linear(space_to_depth(x, _SQUARE), **params["squares"]))
    x = linear(space_to_depth(x, 2), **params["join"])
    for number in range(_BLOCKS):
        own = params[f"block_{number}"]
        y = _convolved(rms_norm(x, own["norm_scale"], _EPSILON), **own["conv"], cell=cell)
        x = x + linear(gelu(y), **own["output"])
    return x


def _convolved(x: jax.Array, kernel: jax.Array, bias: jax.Array, cell: int) -> jax.Array:
    """3 x 3 convolution of each window by itself, zeros beyond it.

    Args:
      x: `[K, h, w, S]`.
      kernel: `[3, 3, S, S]`, inputs before outputs.
      bias: `[S]`.
    """
    count, height, width, channels = x.shape
    x = x.reshape(count, height // cell, cell, width // cell, cell, channels).swapaxes(2, 3)
    y = lax.conv_general_dilated(
        x.reshape(-1, cell, cell, channels).astype(kernel.dtype),
        kernel,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision_of(kernel),
        preferred_element_type=jnp.float32,
    )
    y = (y + bias).reshape(count, height // cell, width // cell, cell, cell, -1).swapaxes(2, 3)
    return y.reshape(count, height, width, -1)
