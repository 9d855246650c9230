"""Which parameters are kept in the compute dtype: the single place that decides."""

from collections.abc import Sequence

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
