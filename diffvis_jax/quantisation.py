"""Quantises a tower or a language model: which matrices, how, and what each has lost.

`ops/quantised.py` says what a quantised matrix is, `docs/quantisation.md` what to use when.
"""

import dataclasses
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import jax
import numpy as np

from diffvis_jax.errors import ConfigError
from diffvis_jax.language.config import DecoderConfig
from diffvis_jax.ops.quantised import QuantKernel, dequantise, quantise_kernel
from diffvis_jax.towers.dtypes import is_matrix, is_quantised
from diffvis_jax.towers.params import Params
from diffvis_jax.towers.registry import family_of

# By what it is called on a command line: weights, bits of activations, kind of its matrices.
NAMED: dict[str, tuple[str, int | None, str]] = {
    "int8": ("int8", None, "w8"),
    "w8a8": ("int8", 8, "w8a8"),
    "w8a16": ("int8", 16, "w8a16"),
    "int4": ("int4", None, "w4"),
}


@dataclasses.dataclass(frozen=True)
class QuantConfig:
    """How matrices are quantised.

    Attributes:
      weights: "int8": a scale for each output channel. "int4": a scale for each group of inputs;
        for a language model alone, since a tower loses most of a small change.
      activations: bits to which activations are rounded before a product, each row by its own
        largest: 8, 16, or None = they stay floats. On CPU 8 and 16 are faster than floats where
        few rows are computed; None saves bytes, no time.
      group: inputs that share a scale, of "int4".
      skip: patterns of paths that stay floats, such as "block_0/*"; also with the tree before
        them, "language/*".

    Raises:
      ConfigError: a combination that does not exist.
    """

    weights: str = "int8"
    activations: int | None = None
    group: int = 64
    skip: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "skip", tuple(self.skip))
        if (self.weights, self.activations) not in {each[:2] for each in NAMED.values()}:
            raise ConfigError(
                "weights must be 'int8' with activations None, 8 or 16, or 'int4' with None; got "
                f"{self.weights!r} with {self.activations!r}"
            )
        if self.group < 2 or self.group % 2:
            raise ConfigError(f"group must be an even number of inputs, got {self.group}")

    @classmethod
    def named(cls, name: str, **fields: Any) -> "QuantConfig":
        """By the names of the command line: "int8", "w8a8", "w8a16", "int4".

        Raises:
          ConfigError: another name.
        """
        if name not in NAMED:
            raise ConfigError(f"no quantisation {name!r}: there are {', '.join(NAMED)}")
        weights, activations, _ = NAMED[name]
        return cls(weights=weights, activations=activations, **fields)

    @property
    def name(self) -> str:
        """As `named` takes it."""
        here = self.weights, self.activations
        return next(name for name, each in NAMED.items() if each[:2] == here)

    @property
    def kind(self) -> str:
        """Of the matrices (`ops.quantised.QuantKernel`)."""
        return NAMED[self.name][2]


@dataclasses.dataclass(frozen=True)
class QuantisedMatrix:
    """What became of one matrix.

    Attributes:
      path: with its tree, such as "vision/block_0/mlp/fc1/weight".
      before, after: bytes.
      error: norm of what it lost, over its own.
    """

    path: str
    before: int
    after: int
    error: float


@dataclasses.dataclass(frozen=True)
class QuantReport:
    """What quantising did.

    Attributes:
      quant: how.
      matrices: those that were quantised.
      kept: paths of the matrices that stayed floats.
      before, after: bytes of all parameters, those that are no matrices too.
      fidelity: what it changes in the tokens (`measure.weights.compare_weights`); None without
        frames.
    """

    quant: QuantConfig
    matrices: tuple[QuantisedMatrix, ...]
    kept: tuple[str, ...]
    before: int
    after: int
    fidelity: Any = None

    def groups(self) -> dict[str, tuple[QuantisedMatrix, ...]]:
        """The matrices by what they are called in their blocks, such as "vision/mlp/fc1"."""
        found: dict[str, tuple[QuantisedMatrix, ...]] = {}
        for matrix in self.matrices:
            tree, *names = matrix.path.split("/")[:-1]
            name = "/".join([tree, *(names[-2:] if len(names) > 1 else names)])
            found[name] = (*found.get(name, ()), matrix)
        return found


class Quantiser:
    """Quantises parameters one after the other, and keeps count."""

    def __init__(
        self,
        quant: QuantConfig,
        trees: Mapping[str, Mapping[str, tuple[int, ...]]],
        dtypes: Mapping[str, str],
    ):
        """Decides what is quantised, before any work.

        Args:
          quant: how.
          trees: "vision", "language" -> path of each parameter -> its shape.
          dtypes: of each tree's config.

        Raises:
          ConfigError: a pattern that fits nothing, or nothing is left to be quantised.
        """
        self.quant, self._dtypes = quant, dtypes
        matrices = {
            f"{tree}/{path}": is_quantised(path, shape)
            and (tree == "language" or quant.weights != "int4")
            for tree, shapes in trees.items()
            for path, shape in shapes.items()
            if is_matrix(path, shape)
        }

        def fits(path: str, pattern: str) -> bool:
            return any(fnmatchcase(name, pattern) for name in (path, path.partition("/")[2]))

        for pattern in quant.skip:
            if not any(fits(path, pattern) for path in matrices):
                raise ConfigError(f"skip: no matrix is called {pattern!r}, such as {min(matrices)}")
        self.paths = {
            path
            for path, included in matrices.items()
            if included and not any(fits(path, pattern) for pattern in quant.skip)
        }
        if not self.paths:
            only = " (int4 is for a language model's decoder)" if quant.weights == "int4" else ""
            raise ConfigError(f"there is no matrix to be quantised{only}")
        self.kept = tuple(path for path in matrices if path not in self.paths)
        self._done: list[QuantisedMatrix] = []
        self._before = self._after = 0

    @classmethod
    def of(cls, quant: QuantConfig, configs: Mapping[str, Any]) -> "Quantiser":
        """For whole trees; `configs`: of "vision" and "language", None where there is none."""
        from diffvis_jax.checkpoints.architectures import expected_shapes

        there = {tree: config for tree, config in configs.items() if config is not None}
        shapes = {tree: expected_shapes(config) for tree, config in there.items()}
        return cls(quant, shapes, {tree: config.dtype for tree, config in there.items()})

    def __call__(self, tree: str, path: str, leaf: Any) -> Any:
        """The parameter, quantised if it is to be.

        Raises:
          ConfigError: it cannot be; names it.
        """
        self._before += leaf.nbytes
        name = f"{tree}/{path}"
        if name in self.paths:
            group = self.quant.group if self.quant.weights == "int4" else None
            try:
                kernel = quantise_kernel(leaf, self.quant.kind, group, self._dtypes[tree])
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}") from None
            weights = np.asarray(leaf, np.float32)
            lost = np.linalg.norm(np.asarray(dequantise(kernel)) - weights)
            error = float(lost / max(float(np.linalg.norm(weights)), 1e-30))
            self._done.append(QuantisedMatrix(name, leaf.nbytes, kernel.nbytes, error))
            leaf = kernel
        self._after += leaf.nbytes
        return leaf

    def report(self) -> QuantReport:
        """On what was quantised so far."""
        return QuantReport(self.quant, tuple(self._done), self.kept, self._before, self._after)


def quantise(
    config: Any, params: Params, quant: QuantConfig, *, frames: np.ndarray | None = None
) -> tuple[Params, QuantReport]:
    """Quantises the parameters of a tower, or of a language model.

    The config stays as it is: all functions take the new parameters in the place of the old.

    Args:
      config: of the tower, or a `DecoderConfig`.
      params: float32 or bfloat16; they stay as they are.
      quant: how.
      frames: `uint8 [F, H, W, 3]`, consecutive frames of a screen on which the report measures
        what became of the tokens; a tower alone. None = it does not.

    Returns:
      The parameters, with a `QuantKernel` in the place of each quantised matrix; and the report.

    Raises:
      ConfigError: parameters that are quantised already, NaN or infinite weights, a pattern that
        fits nothing, int4 for a tower, or frames for a language model.
    """
    language = isinstance(config, DecoderConfig)
    if language and frames is not None:
        raise ConfigError("frames are for a tower: a language model sees none")
    if not language:
        family_of(config)
    if is_quantised_tree(params):
        raise ConfigError(
            "the parameters are quantised already: quantise the floats they came from"
        )
    tree = "language" if language else "vision"
    shapes = {_path(keys): leaf.shape for keys, leaf in _leaves(params)}
    quantiser = Quantiser(quant, {tree: shapes}, {tree: config.dtype})
    found = jax.tree_util.tree_map_with_path(
        lambda keys, leaf: quantiser(tree, _path(keys), leaf), params
    )
    report = quantiser.report()
    if frames is not None:
        from diffvis_jax.measure.weights import compare_weights

        fidelity = compare_weights(config, params, found, frames)
        report = dataclasses.replace(report, fidelity=fidelity)
    return found, report


def is_quantised_tree(params: Params) -> bool:
    """Whether there is a quantised matrix among the parameters."""
    leaves = jax.tree.leaves(params, is_leaf=lambda node: isinstance(node, QuantKernel))
    return any(isinstance(leaf, QuantKernel) for leaf in leaves)


def _leaves(params: Params) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(params)[0]


def _path(keys: tuple[Any, ...]) -> str:
    return "/".join(key.key for key in keys)
