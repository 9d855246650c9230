"""Several references for each stream: a screen that was left and comes back is not encoded again.

A stream has K slots, each a whole cache. A frame is compared with every slot and goes on from the
nearest: in place if it differs little, else in the slot that was not used for longest, which first
becomes a copy of the nearest, so that the screen that was left stays as it is (long-term reference
frames, as video codecs have them).

B streams, K slots, H x W pixels of a frame.
"""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from diffvis_jax.core.cache import Cache, init_cache
from diffvis_jax.core.change import changed_patches
from diffvis_jax.core.policy import Policy
from diffvis_jax.core.report import Report
from diffvis_jax.core.step import check_cache, check_frames, encode_step
from diffvis_jax.core.windows import for_each_stream, listed
from diffvis_jax.errors import ConfigError, FrameError
from diffvis_jax.towers.params import Params
from diffvis_jax.towers.registry import VisionConfig, build

NEVER = -1


@flax.struct.dataclass(kw_only=True)
class SlotCache:
    """K caches for each of B streams.

    Attributes:
      cache: of B * K streams: slot k of stream b is number b * K + k.
      used: the step in which a slot was last used; `NEVER` if it holds nothing.
      clock: steps so far.
    """

    cache: Cache
    used: jax.Array  # int32 [B, K]
    clock: jax.Array  # int32 []

    @property
    def config(self) -> VisionConfig:
        return self.cache.config

    @property
    def slots(self) -> int:
        return self.used.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all slots together."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self))


def init_slots(
    config: VisionConfig,
    batch: int = 1,
    *,
    slots: int = 2,
    size: int | tuple[int, int] | None = None,
) -> SlotCache:
    """Empty slots; their memory is `slots` times that of a cache.

    Args:
      config: of the tower.
      batch: B, streams.
      slots: K, screens that each stream remembers.
      size: of the frames in pixels, one side or (height, width); None = the config's.

    Raises:
      ConfigError: fewer than one slot, not a config, or a size that the tower does not take.
      CacheError: batch is no whole number from 1 up.
    """
    if slots < 1:
        raise ConfigError(f"a stream needs at least 1 slot, got {slots}")
    return SlotCache(
        cache=init_cache(config, batch * slots, size=size),
        used=jnp.full((batch, slots), NEVER, jnp.int32),
        clock=jnp.zeros((), jnp.int32),
    )


def encode_slots(
    params: Params,
    slots: SlotCache,
    frames: jax.Array,
    *,
    config: VisionConfig,
    policy: Policy | None = None,
    new_slot_above: float | jax.Array = 0.1,
) -> tuple[jax.Array, SlotCache, Report, jax.Array]:
    """`encode_step` with several references.

    Args:
      params: of the vision tower.
      slots: from `init_slots`, or from the last step.
      frames: `uint8 [B, H, W, 3]`, one frame for each stream.
      config: of the tower; static.
      policy: what may be left out; None = `Policy()`.
      new_slot_above: share of the patches, 0-1; a frame that differs from the nearest slot in more
        of them is another screen and gets a slot of its own.

    Returns:
      tokens `[B, N, D]` float32; the new slots; the report of each stream, counted against the
      slot it went on from; and the slot it is in now, int32 `[B]`.

    Raises:
      FrameError: frames of another size, dtype or batch than the slots.
      CacheError: slots of another config.
      ConfigError: a policy with numbers for another number of streams.
    """
    policy = Policy() if policy is None else policy
    batch, count = slots.used.shape
    frames = jnp.asarray(frames)
    check_frames(frames)
    if frames.shape[0] != batch:
        raise FrameError(
            f"{frames.shape[0]} frames for slots of {batch} streams: make others with "
            f"init_slots(config, batch={frames.shape[0]}, slots={count})"
        )
    every = jnp.repeat(frames, count, 0)
    check_cache(slots.cache, every, config, maker="init_slots")
    policy.check_streams(batch)
    policy = policy.repeated(count)
    nearest, differs = _nearest(slots, every, policy)
    oldest = lax.argmin(slots.used, 1, jnp.int32)
    known = (slots.used != NEVER).any(1)
    moves = ~known | (differs > new_slot_above)
    at = jnp.where(moves, oldest, nearest)
    first = jnp.arange(batch, dtype=jnp.int32) * count
    copied = moves & known & (oldest != nearest)
    cache = _copy(slots.cache, first + nearest, first + oldest, copied)
    active = jnp.zeros((batch * count,), bool).at[first + at].set(True)
    tokens, cache, report = encode_step(
        params, cache, every, config=config, policy=policy, active=active
    )
    here = first + at
    new = SlotCache(
        cache=cache,
        used=slots.used.at[jnp.arange(batch, dtype=jnp.int32), at].set(slots.clock),
        clock=slots.clock + 1,
    )
    return tokens[here], new, jax.tree.map(lambda x: x[here], report), at


def _nearest(slots: SlotCache, every: jax.Array, policy: Policy) -> tuple[jax.Array, jax.Array]:
    """The slot that differs in the fewest patches, int32 `[B]`, and in what share of them."""
    tower = build(slots.cache.config)
    rows, columns = (cells * tower.patch for cells in tower.grid)
    frames, reference = (x[:, :rows, :columns] for x in (every, slots.cache.reference))
    changed = changed_patches(
        frames, reference, tower.patch, policy.metric, policy.change_threshold
    )
    share = changed.mean((1, 2), dtype=jnp.float32).reshape(slots.used.shape)
    share = jnp.where(slots.used == NEVER, 2.0, share)
    # On a tie the most recently used slot: least is out of date there.
    clock = jnp.maximum(slots.clock, 1).astype(jnp.float32)
    order = share - 1e-6 * (slots.used.astype(jnp.float32) / clock)
    nearest = lax.argmin(order, 1, jnp.int32)
    return nearest, jnp.take_along_axis(share, nearest[:, None], 1)[:, 0]


def _copy(cache: Cache, source: jax.Array, target: jax.Array, which: jax.Array) -> Cache:
    """Makes the marked targets copies of their sources, in place inside a loop."""

    def one(cache: Cache, b: jax.Array) -> Cache:
        def leaf(x: jax.Array) -> jax.Array:
            row = lax.dynamic_slice_in_dim(x, source[b], 1)
            return lax.dynamic_update_slice_in_dim(x, row, target[b], 0)

        return jax.tree.map(leaf, cache)

    return for_each_stream(listed(which[:, None], (1, 1)), one, cache)


def make_slot_step(
    config: VisionConfig, *, donate: bool = True
) -> Callable[..., tuple[jax.Array, SlotCache, Report, jax.Array]]:
    """The jitted step: `step(params, slots, frames, policy, new_slot_above)`.

    It returns what `encode_slots` does. The slots are donated, as the cache is by `make_step`.
    """
    tower = build(config)
    step = _donating if donate else _keeping

    def run(params, slots, frames, policy=None, new_slot_above=0.1):
        policy = (Policy() if policy is None else policy).resolved(tower)
        return step(params, slots, frames, config, policy, jnp.float32(new_slot_above))

    return run


def _step(params, slots, frames, config, policy, above):
    return encode_slots(params, slots, frames, config=config, policy=policy, new_slot_above=above)


_donating = jax.jit(_step, static_argnames="config", donate_argnums=1)
_keeping = jax.jit(_step, static_argnames="config")
