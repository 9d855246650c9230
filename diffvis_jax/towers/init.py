"""Seeded random parameters whose activations stay at unit scale.

Fidelity figures on random weights mean something only if no layer dwarfs or drowns the next:
layer scales are 0.1-0.5 (folded into the kernels), and after drawing, each layer's kernel is
rescaled so that its output on a test picture has an RMS of 1 (as LSUV does, arXiv 1511.06422).
"""

import dataclasses
import functools
from typing import Any

import flax.core
import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.core.cache import with_size
from diffvis_jax.towers import VisionConfig, build, clip, fastvithd
from diffvis_jax.towers.base import Global, Layer, Params, Source
from diffvis_jax.towers.clip import CLIPConfig
from diffvis_jax.towers.dtypes import storage_dtype
from diffvis_jax.towers.fastvithd import FastViTHDConfig

# The kernel whose scale sets the scale of its layer's output, by module.
_SCALED_BY = {
    fastvithd.Stem: ("conv_2", "kernel"),
    fastvithd.RepMixerBlock: ("mixer", "kernel"),
    fastvithd.Downsample: ("project", "kernel"),
    fastvithd.DepthwiseLayer: ("kernel",),
}
_PICTURE_SIDE = 256


def init_params(config: VisionConfig, seed: int = 0) -> Params:
    """Random parameters of a tower, its matrix kernels in the config's dtype.

    Args:
      config: of the tower.
      seed: same seed, same parameters.

    Returns:
      nested dict of arrays, as `convert.py` writes them.
    """
    # A picture like a screen, half flat and half noise; small, since only the scale is wanted.
    # And each block by itself, however many a cache will keep together.
    small = config
    if isinstance(config, FastViTHDConfig):
        small = dataclasses.replace(with_size(config, _PICTURE_SIDE), blocks_per_map=())
    tower = clip.tower(small, small.layers) if isinstance(small, CLIPConfig) else build(small)
    picture = np.random.default_rng(seed).integers(0, 256, (1, small.size, small.size, 3), np.uint8)
    picture[:, : small.size // 2] = 255
    key = jax.random.key(seed)
    params: Params = {}
    x = jnp.asarray(picture)
    for index, layer in enumerate(tower.layers):
        # Layers of one stage differ in their path alone: without it, they share a compilation.
        alike = dataclasses.replace(layer, path=())
        width = tower.layers[index - 1].width if index else 3
        held = _draw(alike, width, jax.random.fold_in(key, index))
        x, held = _rescale(alike, held, x)
        _put(params, layer.path, held)
    if isinstance(small, FastViTHDConfig):
        gate_key = jax.random.fold_in(key, len(tower.layers))
        gate = tower.readout_module.init(gate_key, jnp.zeros((1, 1, 1, small.token_width)))
        _put(params, tower.readout_path, _plain(gate))
    else:
        params["post"] = {
            "norm_scale": jnp.ones((small.width,)),
            "norm_bias": jnp.zeros((small.width,)),
        }
        if small.projection_width:
            shape = (small.width, small.projection_width)
            draw = jax.random.normal(jax.random.fold_in(key, len(tower.layers)), shape)
            params["projection"] = {"kernel": draw * small.width**-0.5}
    return cast_params(params, config.dtype)


@functools.partial(jax.jit, static_argnames=("layer", "width"))
def _draw(layer: Layer, width: int, key: jax.Array) -> Params:
    """Draws one layer's parameters; `width` is that of the map it reads."""
    origin = jnp.zeros((1,), jnp.int32)
    if isinstance(layer, Source):
        pixels = jnp.zeros((1, layer.window, layer.window, 3), jnp.uint8)
        return _plain(layer.module.init(key, pixels, origin, origin))
    x = jnp.zeros((1, 8, 8, width))
    if isinstance(layer, Global):
        return _plain(layer.module.init(key, x.reshape(1, 64, -1), method=_touch))
    return _plain(layer.module.init(key, x, origin, origin, layer.shape[0]))


def _plain(variables: Any) -> Params:
    return flax.core.unfreeze(variables["params"])


def _touch(module: Any, x: jax.Array) -> jax.Array:
    """Runs both halves of a global layer, so that all its parameters are drawn."""
    return module(x, *module.key_value(x))


@functools.partial(jax.jit, static_argnames="layer")
def _run(layer: Layer, held: Params, x: jax.Array) -> jax.Array:
    if isinstance(layer, Global):
        return layer.dense(held, x, jnp.dtype(jnp.float32))
    return layer.dense(held, x)  # type: ignore[attr-defined]


def _rescale(layer: Layer, held: Params, x: jax.Array) -> tuple[jax.Array, Params]:
    """Runs the layer; if its module has a kernel for that, sets its output to RMS 1."""
    y = _run(layer, held, x)
    path = _SCALED_BY.get(type(layer.module))
    if path is None:
        return y, held
    for _ in range(2):  # once is not enough where an activation or a branch bends the scale
        factor = 1 / jnp.sqrt(jnp.square(y).mean())
        held = jax.tree_util.tree_map_with_path(
            lambda at, leaf, factor=factor: (
                leaf * factor if tuple(k.key for k in at) == path else leaf
            ),
            held,
        )
        y = _run(layer, held, x)
    return y, held


def _put(params: Params, path: tuple[str, ...], held: Params) -> None:
    for name in path[:-1]:
        params = params.setdefault(name, {})
    params[path[-1]] = {**params.get(path[-1], {}), **held}


def cast_params(params: Params, dtype: str) -> Params:
    """Matrix kernels in the compute dtype; depthwise kernels, biases and norms stay float32.

    Done once, at load time: a cast inside the step would touch every weight at every frame.
    """

    def cast(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        return leaf.astype(storage_dtype([key.key for key in path], leaf.shape, dtype))

    return jax.tree_util.tree_map_with_path(cast, params)
