"""The full encode of those streams that have a frame, to compare the differential step with.

B streams, H x W pixels of a frame, N tokens, D token width.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from diffvis_jax.core.step import encode
from diffvis_jax.core.streams import AXIS, on_devices
from diffvis_jax.core.tuning import CPU, GPU, TPU, Tuning
from diffvis_jax.core.windows import for_each_chunk, listed
from diffvis_jax.grounding.find import map_indices, map_names
from diffvis_jax.grounding.head import HeadConfig
from diffvis_jax.towers.registry import VisionConfig, build

Encoded = tuple[jax.Array, tuple[jax.Array, ...]]  # tokens [B, N, D], maps [B, H, W, C]


def make_full_step(
    config: VisionConfig, mesh: Mesh, *, head: HeadConfig | None, tuning: Tuning | None = None
) -> Callable[..., Encoded]:
    """The jitted full encode: `full(params, last, frames, active) -> tokens, maps`.

    `last` is what it returned before, first `init_full`: streams that are not active keep theirs,
    and cost nothing, since the work is compacted over streams.

    Args:
      config: of the tower.
      mesh: from `data_mesh`.
      head: of this grounding head, also return the maps that it sees.
      tuning: says how many streams are encoded together; None = as suits the platform.
    """
    names = map_names(config, head) if head else ()

    def local(params: Any, last: Encoded, frames: jax.Array, active: jax.Array) -> Encoded:
        operands = params, last, frames, active
        if tuning is not None:
            return tuned(tuning)(*operands)
        return lax.platform_dependent(*operands, cpu=tuned(CPU), tpu=tuned(TPU), default=tuned(GPU))

    def tuned(tuning: Tuning) -> Callable[..., Encoded]:
        def run(params: Any, last: Encoded, frames: jax.Array, active: jax.Array) -> Encoded:
            def some(last: Encoded, at: jax.Array, count: jax.Array) -> Encoded:
                index = at[0]
                found = encode(params, frames[index], config=config, output="intermediates")
                assert isinstance(found, dict)
                new = found["tokens"], tuple(found[name] for name in names)
                # Places beyond the count are of some stream that exists: not written.
                to = jnp.where(jnp.arange(index.size) < count, index, frames.shape[0])
                return jax.tree.map(lambda old, x: old.at[to].set(x, mode="drop"), last, new)

            size = min(tuning.dense_streams, frames.shape[0])
            return for_each_chunk(listed(active[:, None], (1, 1), size), size, some, last)

        return run

    shards = P(AXIS)
    return jax.jit(
        jax.shard_map(local, mesh=mesh, in_specs=(P(), shards, shards, shards), out_specs=shards)
    )


def init_full(config: VisionConfig, places: int, mesh: Mesh, *, head: HeadConfig | None) -> Encoded:
    """What `make_full_step` returns before the first frame: zeros."""
    tower = build(config)

    def zeros(*shape: int, dtype: Any = jnp.float32) -> jax.Array:
        return on_devices(jnp.zeros((places, *shape), dtype), mesh)

    tokens = zeros(tower.tokens, tower.token_width)
    seen = [tower.layers[index] for index in map_indices(config, head)] if head else []
    return tokens, tuple(zeros(*each.shape, each.width, dtype=tower.dtype) for each in seen)
