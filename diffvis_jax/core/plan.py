"""What a step does, decided before any arithmetic: which cells each layer computes.

B streams, L layers, P cells. A cell of a layer is *stale* where its output may differ from that of
a full encode of the reference. A change makes stale what it reaches; the policy says which stale
cells are computed now. A cell is exact again once it is computed from inputs that are.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.core.budget import (
    cells_within,
    cost,
    depth_of,
    is_stack,
    narrowed,
    oldest,
    settled_blocks,
    within_budget,
)
from diffvis_jax.core.cache import Cache
from diffvis_jax.core.change import changed_patches, distance_to, shifted
from diffvis_jax.core.policy import Policy
from diffvis_jax.core.tuning import Tuning
from diffvis_jax.towers.base import Tower

_FIRST = 2**20  # steps of age that a cell in focus is worth


@flax.struct.dataclass(kw_only=True)
class Change:
    """How the frames differ from the reference, and what that calls for. Cheap to find out.

    Attributes:
      changed: patches that differ by more than the threshold.
      acted: those of them that are not left for later.
      count: how many differ.
      skipped: the change is left for later, as it is small.
      must: the stream is encoded in full, whatever it costs.
      idle: nothing to act on, and no change left that a budget had no room for.
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
      waiting: changed patches that the budget has no room for.
      distance: patches between each cell and the nearest one of the last change.
      margin_share: how much of the margins a budget allowed for.
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
    waiting: jax.Array  # bool [B, P]
    distance: jax.Array  # int32 [B, P]
    margin_share: jax.Array  # float32 [B]
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
    bounded = policy.budget < 1
    much = (count > policy.most_changed(tower)) & ~bounded
    must = (~cache.filled | due | much) & active
    skipped = ~must & (count > 0) & (count <= policy.skip_small_patches)
    acted = changed & ~skipped[:, None, None]
    idle = active & ~must & ~acted.any((1, 2)) & ~cache.waiting.any(1)
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
    # Changes that a budget had no room for are acted on as if they were of this frame.
    waiting = (_by_cell(change.acted) | cache.waiting) & change.active[:, None]
    acted = waiting.any(1)
    marked = waiting.reshape(change.acted.shape)
    distance = _by_cell(distance_to(marked))
    stale = cache.stale | _reached(tower, marked, distance)
    distance = jnp.where(acted[:, None], distance, cache.distance)
    bounded = jnp.broadcast_to(policy.budget < 1, acted.shape)
    compute, share = _chosen(tower, cache, change, policy, focus, tuning, stale, distance, waiting)
    idle = change.idle & stale.any((1, 2))
    spend = jnp.where(change.idle, jnp.minimum(policy.settle, policy.budget), 0)
    spend = (spend * float(tower.macs)).astype(jnp.float32)
    blocks, start = settled_blocks(tower, cache.progress, idle, spend)
    if not is_stack(tower):
        settled = stale & within_budget(tower, stale, distance, spend, tuning)
        compute |= settled & (idle & change.active)[:, None, None]

    costs, dense = cost(tower, compute, tuning)
    expensive = (costs > tuning.full_above * tower.macs) & ~bounded
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
        waiting=waiting & ~compute[:, -1] | (cache.waiting & ~change.active[:, None]),
        distance=distance,
        margin_share=share,
        compute=compute,
        dense=dense,
        blocks=blocks,
        start=start,
        progress=jnp.where(finished | acted, 0, cache.progress + blocks),
        stale=after & ~(finished & is_stack(tower))[:, None, None],
        macs=_macs_done(tower, compute, dense, blocks),
    )


def _chosen(
    tower: Tower,
    cache: Cache,
    change: Change,
    policy: Policy,
    focus: jax.Array | None,
    tuning: Tuning,
    stale: jax.Array,
    distance: jax.Array,
    waiting: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The stale cells that are computed now, but for what an idle stream settles.

    Args:
      stale, distance, waiting: bool `[B, L, P]`, int32 `[B, P]` and bool `[B, P]`, with the change.

    Returns:
      bool `[B, L, P]`; and how much of the margins the budget allowed for, float32 `[B]`.
    """
    bounded, refresh = (
        jnp.broadcast_to(x, change.idle.shape) for x in (policy.budget < 1, policy.refresh_patches)
    )
    allowed = jnp.where(bounded, policy.budget * float(tower.macs), jnp.inf).astype(jnp.float32)
    room = cells_within(tower, allowed, tuning)
    # With a budget one at least in each step that has something to do: nothing waits for ever.
    least = jnp.clip(refresh, 1, jnp.maximum(room, 1))
    refresh = jnp.where(bounded & ~change.idle, least, refresh)
    chosen = oldest(cache.age, refresh[:, None])
    focused = jnp.zeros_like(waiting) if focus is None else _by_cell(focus)
    margin = jnp.atleast_2d(policy.margins(tower))[:, _stages(tower)]  # [1, L] or [B, L]
    stale = stale & change.active[:, None, None]

    def near(share: jax.Array) -> jax.Array:
        """What margins of that share let in."""
        narrow = jnp.where(share[:, None] > 0, share[:, None] * margin, 0)
        within = distance[:, None].astype(jnp.float32) <= narrow[..., None]
        return stale & ((within & ~change.idle[:, None, None]) | (chosen | focused)[:, None])

    def few() -> jax.Array:
        """As many of the changed cells and of those in focus as there is room for: these first,
        then those that wait for longest."""
        first = focused & stale.any(1)
        turn = jnp.where(waiting | first, cache.age + 1 + first.astype(jnp.int32) * _FIRST, 0)
        left = jnp.maximum(room, 1) - chosen.sum(1, dtype=jnp.int32)
        some = oldest(turn, jnp.maximum(left, 0)[:, None]) | chosen
        return stale & some[:, None]

    return narrowed(near, few, tower, allowed, tuning)


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
