"""How many bytes a model takes, before it is there: from shapes alone."""

import dataclasses
import functools
import math
from typing import Any

import jax

from diffvis_jax.checkpoints.architectures import expected_shapes
from diffvis_jax.core.cache import init_cache
from diffvis_jax.language.prompt_cache import init_prompt_cache
from diffvis_jax.machine.catalogue import Entry
from diffvis_jax.towers import build
from diffvis_jax.towers.dtypes import is_quantised

PRECISIONS = ("float32", "bfloat16", "int8")
_SPARE = 1.15  # temporaries of a step, and what XLA keeps


@dataclasses.dataclass(frozen=True)
class Bytes:
    """Of a model in use.

    Attributes:
      weights: of tower and decoder.
      stream: cache of the frames of one stream, and of its prompt.
      sessions: how many streams there are.
    """

    weights: int
    stream: int
    sessions: int

    @property
    def total(self) -> int:
        """With what a step needs beside."""
        return math.ceil(_SPARE * (self.weights + self.sessions * self.stream))


@functools.lru_cache(maxsize=64)
def sizes(entry: Entry, precision: str, sessions: int = 1, context: int = 1024) -> Bytes:
    """What an entry takes.

    Args:
      entry: of the catalogue.
      precision: one of `PRECISIONS`; int8 keeps everything but matrices in float32.
      sessions: streams at once.
      context: positions of a prompt and its answer.
    """
    dtype = "float32" if precision == "int8" else precision
    vision = dataclasses.replace(entry.vision, dtype=dtype)
    stream = _bytes(jax.eval_shape(lambda: init_cache(vision)))
    weights = _weights(vision, precision)
    if entry.decoder is not None:
        decoder = dataclasses.replace(entry.decoder, dtype=dtype)
        weights += _weights(decoder, precision)
        stream += _bytes(jax.eval_shape(lambda: init_prompt_cache(decoder, 1, context, context)))
    return Bytes(weights, stream, sessions)


def macs(entry: Entry) -> int:
    """Multiply-accumulates of a full encode."""
    return build(entry.vision).macs


def _weights(config: Any, precision: str) -> int:
    """Bytes of the parameters of a tower or a decoder."""
    total = 0
    for path, shape in expected_shapes(config).items():
        if precision == "int8" and is_quantised(path, shape):
            total += math.prod(shape) + 4 * shape[0]  # and a scale for each row
        else:
            total += math.prod(shape) * (2 if precision == "bfloat16" else 4)
    return total


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
