"""A conversion is a table of rules: some source tensors give some destination leaves.

The table is checked against the names and shapes in the file headers before anything is read, so
every missing, unknown or misshapen tensor is reported at once.
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np

from diffvis_jax.checkpoints.formats.tensors import FLOATS, Shape, Tensor
from diffvis_jax.errors import CheckpointError

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Rule:
    """How some leaves are made.

    Attributes:
      sources: canonical names of the tensors that are read, with the shapes they must have.
      targets: paths of the leaves that are made, such as "stem/conv_0/kernel", with their shapes.
      build: the tensors by canonical name -> the leaves, in the order of `targets`.
    """

    sources: dict[str, Shape]
    targets: dict[str, Shape]
    build: Callable[[Arrays], tuple[np.ndarray, ...]]


def move(*moves: tuple[str, str, Shape]) -> Rule:
    """Leaves that are source tensors as they are: source, target and shape of each."""
    return Rule(
        {source: shape for source, _, shape in moves},
        {target: shape for _, target, shape in moves},
        lambda t: tuple(t[source] for source, _, _ in moves),
    )


def move_norm(source: str, target: str, width: int) -> Rule:
    """Scale and bias of a LayerNorm."""
    return move(
        (f"{source}.weight", f"{target}/norm_scale", (width,)),
        (f"{source}.bias", f"{target}/norm_bias", (width,)),
    )


def move_linear(source: str, target: str, inputs: int, outputs: int, *, bias: bool = True) -> Rule:
    """The matrix, and the bias, of a linear layer."""
    matrix = (f"{source}.weight", f"{target}/weight", (outputs, inputs))
    return move(matrix, *[(f"{source}.bias", f"{target}/bias", (outputs,))] * bias)


def split_query_kv(weight: str, bias: str, target: str, width: int) -> Rule:
    """Packed queries, keys and values as two linear layers: `query`, and `kv` of both others."""
    targets = {
        f"{target}/query/weight": (width, width),
        f"{target}/query/bias": (width,),
        f"{target}/kv/weight": (2 * width, width),
        f"{target}/kv/bias": (2 * width,),
    }

    def split(t: Arrays) -> tuple[np.ndarray, ...]:
        return t[weight][:width], t[bias][:width], t[weight][width:], t[bias][width:]

    return Rule({weight: (3 * width, width), bias: (3 * width,)}, targets, split)


def target_shapes(rules: Iterable[Rule]) -> dict[str, Shape]:
    """Path of every leaf that the rules fill -> its shape."""
    return {path: shape for rule in rules for path, shape in rule.targets.items()}


def count_blocks(names: Collection[str], pattern: str) -> int:
    """How many blocks the tensors are of; 0 where there are none.

    Args:
      pattern: how the names of a block begin; its group is the number of the block, from 0.

    Raises:
      CheckpointError: a number that is larger than there are tensors.
    """
    numbers = [int(m[1][:9]) for name in names if (m := re.match(pattern, name))]
    count = max(numbers, default=-1) + 1
    # A table of that many blocks would not end; and most of them would be missing.
    if count > len(names):
        raise CheckpointError(f"block {count - 1} of only {len(names)} tensors ({pattern})")
    return count


def check(
    rules: Iterable[Rule], tensors: Mapping[str, Tensor], name: Callable[[str], str] = str
) -> list[str]:
    """What stands between these tensors and the rules; empty when they fit.

    Args:
      name: canonical name -> how the file would spell it, for messages about missing ones.
    """
    problems, used = [], set()
    for rule in rules:
        for key, shape in rule.sources.items():
            used.add(key)
            tensor = tensors.get(key)
            if tensor is None:
                problems.append(f"missing: {name(key)} {list(shape)}")
                continue
            if tensor.shape != shape:
                problems.append(
                    f"wrong shape: {tensor.name} is {list(tensor.shape)}, expected {list(shape)}"
                )
            if tensor.dtype not in FLOATS:
                problems.append(
                    f"wrong dtype: {tensor.name} is {tensor.dtype or 'of an unknown kind'}, "
                    "expected floating point (quantised checkpoints are not supported)"
                )
    return problems + [unknown(tensor) for key, tensor in tensors.items() if key not in used]


def unknown(tensor: Tensor) -> str:
    """The problem that a tensor is of nothing known."""
    return f"unknown: {tensor.name} {list(tensor.shape)}"
