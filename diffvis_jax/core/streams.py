"""The step for B streams that begin and end at different times, on one device or several.

B streams, N tokens, D token width.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from diffvis_jax.core.cache import Cache, init_cache, restart
from diffvis_jax.core.policy import Policy
from diffvis_jax.core.report import Report
from diffvis_jax.core.step import encode_step
from diffvis_jax.errors import ConfigError
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
    cache is donated. One compilation serves all policies of one metric, and another those with a
    number for each stream.
    """
    tower = build(config)

    def local(params, cache, frames, fresh, active, policy):
        return advance(params, cache, frames, fresh, active, config=config, policy=policy)

    shards = P(AXIS)

    @functools.cache
    def runner(policies: Any, by_stream: tuple[bool, ...]) -> Callable[..., Any]:
        """For policies of that structure, some of whose leaves have numbers for each stream."""
        specs = [shards if each else P() for each in by_stream]
        in_specs = (P(), shards, shards, shards, shards, jax.tree.unflatten(policies, specs))
        out_specs = (shards, shards, shards)
        return jax.jit(
            jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=out_specs),
            donate_argnums=1,
        )

    def step(params, cache, frames, fresh, active, policy=None):
        policy = (Policy() if policy is None else policy).resolved(tower)
        policy.check_streams(frames.shape[0])
        by_stream = tuple(policy.fields_by_stream().values())
        run = runner(jax.tree.structure(policy), by_stream)
        return run(params, cache, frames, fresh, active, policy)

    return step
