"""Batch norm for training, folded away for use.

The tower is written in its fused inference form: every convolution has a kernel and a bias, and
nothing is normalised. Batch norm bears larger learning rates (docs/training.md). While `normalised`
is in force, what follows a convolution is normalised over the batch, as in the tower's training
form (arXiv 2303.14189, section 3), without a scale and a shift of its own; `fold` puts measured
statistics into kernel and bias.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

import diffvis_jax as dv
from diffvis_jax.towers import fastvithd

EPSILON = 1e-5

Statistics = list[tuple[jax.Array, jax.Array]]  # mean and mean square of each channel


@contextlib.contextmanager
def normalised(config: dv.FastViTHDConfig, frozen: int = 0) -> Iterator[Statistics]:
    """Encodes traced inside have batch norm; yields the list that fills with their statistics.

    Normalised are the inputs of the GELUs of stem and halvings, and those of the feed-forward
    networks: the outputs of the convolutions that `normalised_paths` names, in that order.

    Args:
      config: of the tower; no two of its widths are the same.
      frozen: so many stages, and with them the stem, are left as they are.
    """
    untouched = config.widths[:frozen]
    seen: Statistics = []
    gelu, feed_forward = fastvithd.gelu, fastvithd.feed_forward

    def norm(x: jax.Array) -> jax.Array:
        if x.shape[-1] in untouched:
            return x
        axes = tuple(range(x.ndim - 1))
        mean, square = x.mean(axes), jnp.square(x).mean(axes)
        seen.append((mean, square))
        return (x - mean) * _factor(mean, square)

    def norm_gelu(x: jax.Array) -> jax.Array:
        # The readout has the one GELU without a convolution, and a width of its own.
        return gelu(x) if x.shape[-1] == config.token_width else gelu(norm(x))

    def norm_feed_forward(
        x: jax.Array, residual: jax.Array, fc1: Any, fc2: Any, _: Any, *, inset: int
    ) -> jax.Array:
        # The hidden layer is left as it is: no GELU that normalises.
        return feed_forward(norm(x), residual, fc1, fc2, gelu, inset=inset)

    with mock.patch.multiple(fastvithd, gelu=norm_gelu, feed_forward=norm_feed_forward):
        yield seen


def _factor(mean: jax.Array, square: jax.Array) -> jax.Array:
    return jax.lax.rsqrt(jnp.maximum(square - mean * mean, 0.0) + EPSILON)


def normalised_paths(config: dv.FastViTHDConfig, frozen: int = 0) -> list[tuple[str, ...]]:
    """Where the parameters of the normalised convolutions are, in the order in which they run."""
    paths: list[tuple[str, ...]] = [] if frozen else [("stem", f"conv_{i}") for i in range(3)]
    for stage, depth in list(enumerate(config.depths))[frozen:]:
        name = f"stage_{stage}"
        if stage:
            paths += [(name, "downsample", part) for part in ("conv", "project")]
        paths += [(name, f"block_{block}", "ffn", "conv") for block in range(depth)]
    return paths


def fold(
    params: dict[str, Any],
    config: dv.FastViTHDConfig,
    statistics: Sequence[Statistics],
    frozen: int = 0,
) -> dict[str, Any]:
    """The tower's parameters with the statistics of several batches put into them."""
    paths = normalised_paths(config, frozen)
    params = jax.tree.map(lambda x: x, params)  # new dicts, the same arrays
    for path, parts in zip(paths, zip(*statistics, strict=True), strict=True):
        mean, square = (jnp.mean(jnp.stack(each), 0) for each in zip(*parts, strict=True))
        factor = _factor(mean, square)
        conv = params
        for name in path:
            conv = conv[name]
        if "weight" in conv:
            conv["weight"] = conv["weight"] * factor[:, None]
        else:
            conv["kernel"] = conv["kernel"] * factor
        conv["bias"] = (conv["bias"] - mean) * factor
    return params
