"""Seeded random parameters whose activations stay at unit scale.

Fidelity figures on random weights mean something only if no layer dwarfs or drowns the next:
layer scales are 0.1-0.5 (folded into the weights), and after drawing, each layer's kernel is
rescaled so that its output on a test picture has an RMS of 1 (as LSUV does, arXiv 1511.06422).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.errors import ConfigError
from diffvis_jax.towers.base import Tower
from diffvis_jax.towers.dtypes import storage_dtype
from diffvis_jax.towers.forward import run_layer
from diffvis_jax.towers.params import Param, Params, draw, put, subtree
from diffvis_jax.towers.registry import build, with_size

_PICTURE_SIDE = 256


def init_params(config: Any, seed: int = 0) -> Params:
    """Random parameters of a tower, its matrices in the config's dtype.

    Args:
      config: of the tower.
      seed: same seed, same parameters.

    Returns:
      nested dict of arrays, as `diffvis convert` writes them.
    """
    specs = build(config).specs
    params = draw(specs, jax.random.key(seed))
    try:  # a small picture: only the scale is wanted
        tower = build(with_size(config, _PICTURE_SIDE))
    except ConfigError:
        tower = build(config)
    if any(sets_scale for sets_scale in jax.tree.leaves(_scale_setters(specs))):
        params = _rescaled(params, tower, seed)
    return cast_params(params, config.dtype)


def _scale_setters(specs: Any) -> Any:
    return jax.tree.map(
        lambda spec: spec.sets_scale, specs, is_leaf=lambda node: isinstance(node, Param)
    )


def _rescaled(params: Params, tower: Tower, seed: int) -> Params:
    """Runs the layers one after the other on a picture like a screen, half flat and half noise, and
    scales those that say how."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (1, *tower.frame, 3), np.uint8)
    picture[:, : tower.frame[0] // 2] = 255
    x = jnp.asarray(picture)
    run = jax.jit(lambda layer, own, x: run_layer(params, layer, own, x, tower), static_argnums=0)
    for segment in tower.segments:
        for repetition in range(segment.repeat):
            for layer in segment.layers:
                path = tuple(name.format(segment.first_block + repetition) for name in layer.path)
                own = subtree(params, path)
                y = run(layer, own, x)
                setters = _scale_setters(layer.specs)
                for _ in range(2 * any(jax.tree.leaves(setters))):
                    # Twice: an activation or a branch bends the scale.
                    factor = 1 / jnp.sqrt(jnp.square(y).mean())
                    own = jax.tree.map(lambda x, sets: x * factor if sets else x, own, setters)  # noqa: B023
                    y = run(layer, own, x)
                put(params, path, own)
                x = y
    return params


def cast_params(params: Params, dtype: str) -> Params:
    """Matrices in the compute dtype; depthwise kernels, biases and norms stay float32.

    Done once, at load time: a cast inside the step would touch every weight at every frame.
    """

    def cast(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        return leaf.astype(storage_dtype([key.key for key in path], leaf.shape, dtype))

    return jax.tree_util.tree_map_with_path(cast, params)
