"""Which parameters are kept in the compute dtype: the single place that decides."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import jax.numpy as jnp


def storage_dtype(path: str | Sequence[str], shape: tuple[int, ...], dtype: str) -> jnp.dtype:
    """The dtype in which one parameter is kept.

    Matrices (`weight`), embeddings and the stem's dense convolution get `dtype`. Depthwise kernels,
    biases, norms, the class token and positions stay float32: they are small, are not operands of
    a matrix product, and lose more by rounding.

    Args:
      path: "stem/conv_2/weight", or as a sequence.
      shape: of the parameter.
      dtype: "float32" or "bfloat16".
    """
    name = (path.split("/") if isinstance(path, str) else path)[-1]
    matrix = len(shape) == 2 and name in ("weight", "kernel", "embedding")
    dense = len(shape) == 4 and name == "kernel" and shape[2] > 1
    return jnp.dtype(dtype) if matrix or dense else jnp.dtype(jnp.float32)


# Matrices that stay floats when others are quantised: patch embeddings and stems, on which all
# else depends; squeeze-excite and the last layer before the tokens; projections of pooled features
# and before a language model. They are small.
_FLOAT = (
    *("embed/*", "*/embed/*", "stem/*", "stem_*"),
    *("head/gate/*", "merger/fc2/*", "projection/*", "projector/*"),
)


def is_matrix(path: str, shape: tuple[int, ...]) -> bool:
    """Whether a parameter is an operand of `ops.matmul.linear`, which takes quantised ones."""
    return len(shape) == 2 and path.split("/")[-1] == "weight"


def is_quantised(path: str, shape: tuple[int, ...]) -> bool:
    """Whether quantising a tower or a language model includes a parameter, unless it is named."""
    return is_matrix(path, shape) and not any(fnmatchcase(path, pattern) for pattern in _FLOAT)
