"""The step for B streams that begin and end at different times, on one device or several.

B streams, S pixels along the side of a frame, N tokens, D token width, g patches along the side.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from diffvis_jax.core.cache import Cache, init_cache, restart
from diffvis_jax.core.policy import Policy
from diffvis_jax.core.report import Report
from diffvis_jax.core.step import encode, encode_step
from diffvis_jax.core.tuning import CPU, GPU, TPU
from diffvis_jax.core.windows import for_each_chunk, listed
from diffvis_jax.errors import ConfigError
from diffvis_jax.grounding.find import map_indices, map_names
from diffvis_jax.grounding.head import HeadConfig
from diffvis_jax.towers.params import Params
from diffvis_jax.towers.registry import VisionConfig, build

AXIS = "data"


def advance(
    params: Params,
    cache: Cache,
    frames: jax.Array,
    fresh: jax.Array,
    active: jax.Array,
    *,
    config: VisionConfig,
    policy: Policy | None = None,
) -> tuple[jax.Array, Cache, Report]:
    """`encode_step` for streams that take turns at their places.

    Args:
      params, cache, frames, config, policy: as `encode_step` takes them.
      fresh: bool `[B]`: another stream begins here with this frame.
      active: bool `[B]`: there is a frame at all; the others stay as they are.

    Returns:
      as `encode_step`: tokens `[B, N, D]`, cache, report.
    """
    return encode_step(
        params, restart(cache, fresh & active), frames, config=config, policy=policy, active=active
    )


# ---- devices ----------------------------------------------------------------------------------


def data_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over the devices of this process (None = all of them), its one axis `AXIS`."""
    devices = jax.local_devices() if devices is None else devices
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))


def checked_places(places: int, mesh: Mesh) -> int:
    """The size of the batch, if the devices divide it.

    Raises:
      ConfigError: they do not.
    """
    devices = mesh.devices.size
    if places < 1 or places % devices:
        near = [n for n in (places // devices * devices, (places // devices + 1) * devices) if n]
        raise ConfigError(
            f"a batch of {places} streams does not divide among {devices} devices: "
            f"take {' or '.join(map(str, near))}"
        )
    return places


def on_devices(x: Any, mesh: Mesh) -> Any:
    """Arrays `[B, ..]` of a pytree, divided among the devices."""
    return jax.device_put(x, NamedSharding(mesh, P(AXIS)))


def on_all(x: Any, mesh: Mesh) -> Any:
    """Arrays of a pytree, whole on every device: the weights."""
    return jax.device_put(x, NamedSharding(mesh, P()))


def init_streams(config: VisionConfig, places: int, mesh: Mesh) -> Cache:
    """An empty cache of that many streams, each on its device.

    Raises:
      ConfigError: devices that do not divide the batch.
    """
    checked_places(places, mesh)
    make = functools.partial(init_cache, config, places)
    return jax.jit(make, out_shardings=NamedSharding(mesh, P(AXIS)))()


def make_stream_step(
    config: VisionConfig, mesh: Mesh
) -> Callable[..., tuple[jax.Array, Cache, Report]]:
    """The jitted step: `step(params, cache, frames, fresh, active, policy)`, as `advance`.

    Each device advances its own streams, with its own trip counts, and waits for no other. The
    cache is donated. One compilation serves all policies of one metric.
    """
    tower = build(config)

    def local(params, cache, frames, fresh, active, policy):
        return advance(params, cache, frames, fresh, active, config=config, policy=policy)

    shards = P(AXIS)
    run = jax.jit(
        jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(P(), shards, shards, shards, shards, P()),
            out_specs=(shards, shards, shards),
        ),
        donate_argnums=1,
    )

    def step(params, cache, frames, fresh, active, policy=None):
        policy = (Policy() if policy is None else policy).resolved(tower)
        return run(params, cache, frames, fresh, active, policy)

    return step


def make_full_step(
    config: VisionConfig, mesh: Mesh, *, head: HeadConfig | None
) -> Callable[..., tuple[jax.Array, tuple[jax.Array, ...]]]:
    """The jitted full encode: `full(params, last, frames, active) -> tokens, maps`.

    `last` is what it returned before, first `init_full`: streams that are not active keep theirs,
    and cost nothing, since the work is compacted over streams.

    Args:
      config: of the tower.
      mesh: from `data_mesh`.
      head: of this grounding head, also return the maps that it sees.
    """
    size = {"cpu": CPU, "tpu": TPU}.get(mesh.devices.flat[0].platform, GPU).dense_streams

    names = map_names(config, head) if head else ()

    def local(params, last, frames, active):
        def some(last, at, count):
            index = at[0]
            found = encode(params, frames[index], config=config, output="intermediates")
            assert isinstance(found, dict)
            new = found["tokens"], tuple(found[name] for name in names)
            # Places beyond the count are of some stream that exists: not written.
            to = jnp.where(jnp.arange(index.size) < count, index, frames.shape[0])
            return jax.tree.map(lambda old, x: old.at[to].set(x, mode="drop"), last, new)

        many = min(size, frames.shape[0])
        return for_each_chunk(listed(active[:, None], (1, 1), many), many, some, last)

    shards = P(AXIS)
    return jax.jit(
        jax.shard_map(local, mesh=mesh, in_specs=(P(), shards, shards, shards), out_specs=shards)
    )


def init_full(
    config: VisionConfig, places: int, mesh: Mesh, *, head: HeadConfig | None
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """What `make_full_step` returns before the first frame: zeros."""
    tower = build(config)

    def zeros(*shape: int, dtype: Any = jnp.float32) -> jax.Array:
        return on_devices(jnp.zeros((places, *shape), dtype), mesh)

    tokens = zeros(tower.tokens, tower.token_width)
    seen = [tower.layers[index] for index in map_indices(config, head)] if head else []
    return tokens, tuple(zeros(*each.shape, each.width, dtype=tower.dtype) for each in seen)
