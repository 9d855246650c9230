"""How a language side is split over a mesh: one table of rules, for parameters and cache.

Tensor parallelism as in Megatron-LM (arXiv 1909.08053): the first matrix of a pair is split by its
columns, the second by its rows, so that attention heads and hidden units stay on their device, and
one sum over the devices follows each pair. The compiler puts the sums in; `prefill`, `advance` and
`prefill_step` run as they are on parameters and caches placed so:

    mesh = jax.make_mesh((2, 4), ("data", "model"))
    params = jax.device_put(params, param_shardings(config, mesh))
    cache = jax.device_put(init_kv_cache(config, batch, capacity), cache_shardings(config, mesh))
"""

import re
from typing import Any

from jax.sharding import Mesh, NamedSharding, PartitionSpec

from diffvis_jax.checkpoints.architectures import expected_shapes
from diffvis_jax.checkpoints.format import unflatten
from diffvis_jax.errors import ConfigError
from diffvis_jax.language.config import DecoderConfig
from diffvis_jax.language.kv_cache import KVCache

_DATA, _MODEL = "data", "model"  # names of the mesh's axes: prompts, and what is split of a layer

# Path of a parameter -> how its axes are split. First match counts.
_RULES = tuple(
    (re.compile(pattern), PartitionSpec(*axes))
    for pattern, axes in (
        (r".*/attention/(query|key|value)/weight", (_MODEL, None)),
        (r".*/attention/(query|key|value)/bias", (_MODEL,)),
        (r".*/attention/output/weight", (None, _MODEL)),
        (r".*/mlp/(gate|up)/weight", (_MODEL, None)),
        (r".*/mlp/down/weight", (None, _MODEL)),
        (r"embed/embedding", (_MODEL, None)),
        (r"head/weight", (_MODEL, None)),
        (r"projector/linear_0/weight", (_MODEL, None)),
        (r"projector/linear_0/bias", (_MODEL,)),
        (r"projector/linear_1/weight", (None, _MODEL)),
        (r".*", ()),  # norms and the other biases: on every device
    )
)


def param_spec(
    path: str, shape: tuple[int, ...], config: DecoderConfig, parts: int
) -> PartitionSpec:
    """How one parameter is split over so many devices.

    Keys and values stay whole where their heads do not divide, and so does an embedding or head
    whose rows do not: the vocabulary of some checkpoints is cut to the tokenizer's.

    Args:
      path: such as "layer_0/mlp/up/weight".
      parts: devices along the axis "model".
    """
    if re.search(r"attention/(key|value)/", path) and config.kv_heads % parts:
        return PartitionSpec()
    spec = next(spec for pattern, spec in _RULES if pattern.fullmatch(path))
    for axis, name in enumerate(spec):
        if name is not None and shape[axis] % parts:
            return PartitionSpec()
    return spec


def param_shardings(config: DecoderConfig, mesh: Mesh) -> dict[str, Any]:
    """Shardings of all parameters, as their tree.

    Raises:
      ConfigError: a mesh without the axis "model", or with more devices along it than heads divide.
    """
    parts = _check_mesh(config, mesh)
    return unflatten(
        {
            path: NamedSharding(mesh, param_spec(path, shape, config, parts))
            for path, shape in expected_shapes(config).items()
        }
    )


def cache_shardings(config: DecoderConfig, mesh: Mesh) -> KVCache:
    """Shardings of a KV cache, as its tree: heads as their parameters, streams over "data"."""
    parts = _check_mesh(config, mesh)
    streams = _DATA if _DATA in mesh.axis_names else None
    groups = None if config.kv_heads % parts else _MODEL
    slots = NamedSharding(mesh, PartitionSpec(streams, groups))
    count = NamedSharding(mesh, PartitionSpec(streams))
    return KVCache(
        keys=(slots,) * config.layers,  # type: ignore[arg-type]
        values=(slots,) * config.layers,  # type: ignore[arg-type]
        length=count,  # type: ignore[arg-type]
        rope_delta=count,  # type: ignore[arg-type]
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of whatever has the prompts as its first axis."""
    return NamedSharding(mesh, PartitionSpec(_DATA if _DATA in mesh.axis_names else None))


def _check_mesh(config: DecoderConfig, mesh: Mesh) -> int:
    """Devices along "model"."""
    if _MODEL not in mesh.axis_names:
        raise ConfigError(
            f"the mesh needs an axis {_MODEL!r} (and may have {_DATA!r}), got {mesh.axis_names}"
        )
    parts = mesh.shape[_MODEL]
    if config.heads % parts:
        able = [n for n in range(1, config.heads + 1) if config.heads % n == 0]
        raise ConfigError(
            f"{config.heads} attention heads do not divide over {parts} devices; {able} would do"
        )
    return parts
