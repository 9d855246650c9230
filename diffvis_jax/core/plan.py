"""What a step does, decided before any arithmetic: which cells each layer computes.

B streams, L layers, P cells. A cell of a layer is *stale* where its output may differ from that of
a full encode of the reference. A change makes stale what it reaches; the policy says which stale
cells are computed now. A cell is exact again once it is computed from inputs that are.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.core.budget import cost, depth_of, is_stack, oldest, settled_blocks, within_budget
from diffvis_jax.core.cache import Cache
from diffvis_jax.core.change import changed_patches, distance_to, shifted
from diffvis_jax.core.policy import Policy
from diffvis_jax.core.tuning import Tuning
from diffvis_jax.towers.base import Tower


@flax.struct.dataclass(kw_only=True)
class Change:
    """How the frames differ from the reference, and what that calls for. Cheap to find out.

    Attributes:
      changed: patches that differ by more than the threshold.
      acted: those of them that are not left for later.
      count: how many differ.
      skipped: the change is left for later, as it is small.
      must: the stream is encoded in full, whatever it costs.
      idle: nothing to act on.
      active: the stream takes part.
      work: there is something to compute.
    """

    changed: jax.Array  # bool [B, rows, columns]
    acted: jax.Array  # bool [B, rows, columns]
    count: jax.Array  # int32 [B]
    skipped: jax.Array  # bool [B]
    must: jax.Array  # bool [B]
    idle: jax.Array  # bool [B]
    active: jax.Array  # bool [B]
    work: jax.Array  # bool [B]


@flax.struct.dataclass(kw_only=True)
class StepPlan:
    """What a step computes.

    Attributes:
      full: streams that are encoded in full.
      update: patches that the reference takes over.
      distance: patches between each cell and the nearest one of the last change.
      compute: cells that each layer computes.
      dense: layers computed over a stream's whole map at once.
      blocks: blocks of a token stack that all rows of a stream go through, from block `start` on.
      start: the first of those.
      progress: blocks of a token stack that the pass over all rows has done after the step.
      stale: what is stale after the step.
      macs: multiply-accumulates done for each cell of each layer.
    """

    full: jax.Array  # bool [B]
    update: jax.Array  # bool [B, rows, columns]
    distance: jax.Array  # int32 [B, P]
    compute: jax.Array  # bool [B, L, P]
    dense: jax.Array  # bool [B, L]
    blocks: jax.Array  # int32 [B]
    start: jax.Array  # int32 [B]
    progress: jax.Array  # int32 [B]
    stale: jax.Array  # bool [B, L, P]
    macs: jax.Array  # float32 [B, L, P]


def compare(
    tower: Tower,
    cache: Cache,
    frames: jax.Array,
    policy: Policy,
    active: jax.Array,
    focus: jax.Array | None,
) -> Change:
    """Looks at the pixels.

    Args:
      frames: `uint8 [B, H, W, 3]`.
      active: bool `[B]`.
      focus: bool `[B, rows, columns]`, places that are to be up to date now; None = none.
    """
    rows, columns = (cells * tower.patch for cells in tower.grid)
    frames, reference = (x[:, :rows, :columns] for x in (frames, cache.reference))
    changed = changed_patches(
        frames, reference, tower.patch, policy.metric, policy.change_threshold
    )
    changed &= (cache.filled & active)[:, None, None]
    count = changed.sum((1, 2), dtype=jnp.int32)
    due = (policy.keyframe_every > 0) & (cache.steps + 1 >= policy.keyframe_every)
    must = (~cache.filled | due | (count > policy.most_changed(tower))) & active
    skipped = ~must & (count > 0) & (count <= policy.skip_small_patches)
    acted = changed & ~skipped[:, None, None]
    idle = active & ~must & ~acted.any((1, 2))
    stale = cache.stale.any((1, 2))
    spends = (policy.settle > 0) | (policy.refresh_patches > 0)
    if focus is not None:
        spends |= focus.any((1, 2))
    return Change(
        changed=changed,
        acted=acted,
        count=count,
        skipped=skipped,
        must=must,
        idle=idle,
        active=active,
        work=active & (~idle | (stale & spends)),
    )


def make_plan(
    tower: Tower,
    cache: Cache,
    change: Change,
    policy: Policy,
    focus: jax.Array | None,
    tuning: Tuning,
) -> StepPlan:
    """Decides which cells each layer computes."""
    acted = change.acted.any((1, 2))
    distance = _by_cell(distance_to(change.acted))
    stale = cache.stale | _reached(tower, change.acted, distance)
    distance = jnp.where(acted[:, None], distance, cache.distance)
    chosen = oldest(cache.age, jnp.full_like(cache.age[:, :1], policy.refresh_patches))
    if focus is not None:
        chosen |= _by_cell(focus)
    margin = policy.margins(tower)[_stages(tower)]
    near = distance[:, None].astype(jnp.float32) <= margin[None, :, None]
    idle = change.idle[:, None, None]
    wanted = (near & ~idle) | chosen[:, None]
    budget = jnp.where(change.idle, policy.settle * float(tower.macs), 0).astype(jnp.float32)
    blocks, start = settled_blocks(tower, cache.progress, change.idle & stale.any((1, 2)), budget)
    if not is_stack(tower):
        wanted |= idle & within_budget(tower, stale, distance, budget, tuning)
    compute = stale & wanted & change.active[:, None, None]

    costs, dense = cost(tower, compute, tuning)
    expensive = costs > tuning.full_above * tower.macs
    full = change.must | (expensive & acted & change.active)
    dense = dense | full[:, None]
    compute = compute | dense[..., None]
    blocks = jnp.where(dense[:, -1], depth_of(tower), blocks)
    start = jnp.where(dense[:, -1], 0, start)

    left = stale & ~compute
    # What is computed from stale inputs stays stale: any of the stream's earlier layers will do, as
    # margins leave out the surroundings of all that they let in. In a token stack the layer's own.
    layer_stale = left.any(-1).astype(jnp.int32)
    inputs_stale = jnp.cumsum(layer_stale, axis=1, dtype=jnp.int32)
    if not is_stack(tower):
        inputs_stale = inputs_stale - layer_stale
    finished = (start + blocks >= depth_of(tower)) & (blocks > 0)
    after = left | (compute & (inputs_stale > 0)[..., None])
    return StepPlan(
        full=full,
        update=change.acted | full[:, None, None],
        distance=distance,
        compute=compute,
        dense=dense,
        blocks=blocks,
        start=start,
        progress=jnp.where(finished | acted, 0, cache.progress + blocks),
        stale=after & ~(finished & is_stack(tower))[:, None, None],
        macs=_macs_done(tower, compute, dense, blocks),
    )


def _by_cell(by_patch: jax.Array) -> jax.Array:
    """`[B, rows, columns]` to `[B, P]`."""
    return by_patch.reshape(by_patch.shape[0], -1)


def _stages(tower: Tower) -> np.ndarray:
    return np.array([layer.stage for layer in tower.layers])


def _reached(tower: Tower, acted: jax.Array, distance: jax.Array) -> jax.Array:
    """The cells of each layer that a change of these patches can reach; bool `[B, L, P]`."""
    down, up = np.ceil(np.array(tower.reaches) / tower.patch).T
    reached = distance[:, None].astype(jnp.float32) <= down.astype(np.float32)[None, :, None]
    if down[0] == 1 and up[0] == 0:  # the first layer's windows look to one side only
        reached = reached.at[:, 0].set(_by_cell(shifted(acted)))
    return reached & acted.any((1, 2))[:, None, None]


def _macs_done(tower: Tower, compute: jax.Array, dense: jax.Array, blocks: jax.Array) -> jax.Array:
    """Multiply-accumulates of each cell of each layer, float32 `[B, L, P]`; the head's count for
    the last layer."""
    layers = tower.layers
    own = np.array([[layer.macs for layer in layers]], np.float32)
    window = np.array([[layer.window_macs for layer in layers]], np.float32)
    computed = compute.astype(jnp.float32)
    macs = computed * jnp.where(dense, own, window)[..., None]
    # Keys and values are replaced where the layer before has computed.
    kv = np.array([[layer.kv_macs] for layer in layers], np.float32)
    before = jnp.concatenate([jnp.zeros_like(computed[:, :1]), computed[:, :-1]], 1)
    macs += before * kv[None]
    head = jnp.where(compute[:, -1].any(-1), np.float32(tower.head_macs / tower.cells), 0)
    macs = macs.at[:, -1].add(head[:, None])
    if not is_stack(tower):
        return macs
    share = jnp.where(dense[:, -1], 0, blocks.astype(jnp.float32) / depth_of(tower))
    return macs.at[:, -1].add(share[:, None] * own[0, -1])
