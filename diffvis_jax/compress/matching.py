"""Tokens that resemble each other become one, down to a budget.

B streams, N tokens, C width of the metric.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffvis_jax.compress.token_set import Grouping, check_budget, check_metric, group_by
from diffvis_jax.errors import ConfigError
from diffvis_jax.utils.validation import concrete

_LAST = 1e30  # cost that is paid when nothing else is left


def soft_matching(
    metric: jax.Array,
    *,
    target: Any,
    size: jax.Array | None = None,
    protected: jax.Array | None = None,
    previous: Grouping | None = None,
    moved: jax.Array | None = None,
) -> Grouping:
    """Groups tokens by rounds of bipartite matching (ToMe, arXiv 2210.09461) until `target` groups
    are left.

    In a round every second group looks for its best partner among the others, and the best quarter
    of these pairs become one. Where ToMe compares directions, this compares what a merger costs:
    the sum of squares that it adds (Ward's criterion), so that what is lost stays small.

    In a stream, groups of the last frame none of whose members moved stay together: what a language
    model has read of them stays right.

    Args:
      metric: float32 `[B, N, C]`, such as whitened tokens.
      target: groups to be left, 1 or more; traced, one for all or `[B]`.
      size: float32 `[B, N]`, what tokens stand for; None = 1.
      protected: bool `[B, N]`; those are merged when nothing else is left.
      previous, moved: the grouping of the last frame, and which tokens moved since, bool `[B, N]`.

    Raises:
      ConfigError: a metric of another shape, or a target that is no budget.
    """
    batch, number = metric.shape[:2]
    check_metric(metric, (batch, number))
    known = concrete(target)
    for value in [] if known is None else known.reshape(-1).tolist():
        check_budget("target", value, number)
    if (previous is None) != (moved is None):
        raise ConfigError("previous and moved go together: give both or neither")
    stream = jnp.arange(batch)[:, None]
    index = jnp.broadcast_to(jnp.arange(number, dtype=jnp.int32), (batch, number))
    mass = jnp.ones((batch, number), jnp.float32) if size is None else size
    last = jnp.zeros((batch, number), bool) if protected is None else protected
    target = jnp.broadcast_to(jnp.asarray(target, jnp.int32), (batch,))
    leader, settled = index, jnp.zeros((batch, number), bool)
    if previous is not None and moved is not None:
        leader, settled = _kept(previous, moved, index)
    alive = leader == index

    def centre_of(values: jax.Array) -> jax.Array:
        return jnp.zeros_like(values).at[stream, leader].add(values)

    total = centre_of(mass)
    centre = centre_of(mass[..., None] * metric) / jnp.where(alive, total, 1)[..., None]
    last = jnp.zeros((batch, number), bool).at[stream, leader].max(last)
    half = (number + 1) // 2

    def too_many(state) -> jax.Array:
        alive, settled = state[3], state[5]
        free = (alive & ~settled).sum(1)
        return ((alive.sum(1) > target) & (free > 1)).any()

    def one_round(state):
        leader, centre, mass, alive, last, settled = state
        free = alive & ~settled
        count, ready = free.sum(1), (free & ~last).sum(1)
        # Protected ones stand behind the others, so that these find partners among themselves.
        order = jnp.argsort(2 * ~free + last, axis=1, stable=True).astype(jnp.int32)
        ours, theirs = order[:, 0::2], order[:, 1::2]
        cost = _ward(centre, mass, last, ours, theirs, stream)
        cost = jnp.where(
            2 * jnp.arange(theirs.shape[1])[None, None] + 1 < count[:, None, None], cost, jnp.inf
        )
        best = cost.argmin(-1)
        cost = jnp.where(2 * jnp.arange(half)[None] < count[:, None], cost.min(-1), jnp.inf)
        most = jnp.maximum(jnp.where(ready > 1, ready, count) // 4, 1)
        merging = jnp.clip(alive.sum(1) - target, 0, most)
        rank = jnp.argsort(jnp.argsort(cost, axis=1), axis=1)
        joins = (rank < merging[:, None]) & (cost < jnp.inf)
        into = jnp.take_along_axis(theirs, best, axis=1)
        parent = index.at[stream, jnp.where(joins, ours, number)].set(into, mode="drop")
        gone = parent != index
        moving = jnp.where(gone, mass, 0)
        grown = mass.at[stream, parent].add(moving)
        step = moving[..., None] * (centre - jnp.take_along_axis(centre, parent[..., None], 1))
        centre = centre + jnp.zeros_like(centre).at[stream, parent].add(step) / grown[..., None]
        return (
            jnp.take_along_axis(parent, leader, axis=1),
            centre,
            grown,
            alive & ~gone,
            last.at[stream, parent].max(last & gone),
            settled,
        )

    state = leader, centre, jnp.where(alive, total, 1), alive, last, settled
    return group_by(lax.while_loop(too_many, one_round, state)[0])


def match_some(metric: jax.Array, which: jax.Array, *, target: jax.Array) -> jax.Array:
    """Groups some of the tokens as `soft_matching` does; the others stay alone.

    Args:
      metric: float32 `[B, N, C]`.
      which: bool `[B, N]`, those that may be merged.
      target: int32 `[B]`, groups of them to be left.

    Returns:
      int32 `[B, N]`, the first member of each token's group.
    """
    batch, number = which.shape
    index = jnp.broadcast_to(jnp.arange(number, dtype=jnp.int32), (batch, number))
    alone = Grouping(
        slot=index,
        weight=jnp.ones((batch, number), jnp.float32),
        count=jnp.full((batch,), number, jnp.int32),
    )
    left = number - which.sum(1, dtype=jnp.int32) + jnp.maximum(target, 1)
    found = soft_matching(metric, target=left, previous=alone, moved=which)
    first = jnp.full((batch, number), number, jnp.int32)
    first = first.at[jnp.arange(batch)[:, None], found.slot].min(index)
    return jnp.take_along_axis(first, found.slot, axis=1)


def _ward(
    centre: jax.Array,
    mass: jax.Array,
    last: jax.Array,
    ours: jax.Array,
    theirs: jax.Array,
    stream: jax.Array,
) -> jax.Array:
    """What it costs to merge each of `ours` with each of `theirs`, float32 `[B, A, T]`."""
    a, b = centre[stream, ours], centre[stream, theirs]
    squares = jnp.square(a).sum(-1)[..., None] + jnp.square(b).sum(-1)[:, None]
    distance = jnp.maximum(squares - 2 * jnp.einsum("bac,btc->bat", a, b), 0)
    m, n = mass[stream, ours][..., None], mass[stream, theirs][:, None]
    late = last[stream, ours][..., None] | last[stream, theirs][:, None]
    cost = distance * m * n / (m + n)
    return jnp.where(jnp.isfinite(cost), cost, _LAST) + jnp.where(late, jnp.float32(_LAST), 0)


def _kept(previous: Grouping, moved: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Leaders int32 `[B, N]` of the groups of which no member moved (others lead themselves), and
    whose members those are."""
    batch, number = index.shape
    stream = jnp.arange(batch)[:, None]
    slot = jnp.where(previous.slot < 0, number, previous.slot)
    touched = jnp.zeros((batch, number + 1), bool).at[stream, slot].max(moved)
    settled = ~jnp.take_along_axis(touched, slot, axis=1) & (previous.slot >= 0)
    first = jnp.full((batch, number + 1), number, jnp.int32).at[stream, slot].min(index)
    return jnp.where(settled, jnp.take_along_axis(first, slot, axis=1), index), settled


def attentive(scores: jax.Array, *, keep: int, fuse: bool = True) -> Grouping:
    """The tokens of the highest scores stay; the rest becomes one token, by score (EViT,
    arXiv 2202.07800), or is dropped.

    Args:
      scores: float32 `[B, N]`, at least 0, such as what the class token attends to.
      keep: tokens that stay; with `fuse` there is one slot more.
    """
    number = scores.shape[1]
    check_budget("keep", keep, number)
    index = jnp.arange(number, dtype=jnp.int32)[None]
    rank = jnp.argsort(jnp.argsort(-scores, axis=1, stable=True), axis=1)
    stays = rank < keep
    rest = jnp.where(stays, number, index).min(1, keepdims=True) if fuse else -1
    weight = jnp.where(stays, 1.0, jnp.maximum(scores, 1e-12))
    return group_by(jnp.where(stays, index, rest).astype(jnp.int32), weight)


def violated(grouping: Grouping, protected: jax.Array) -> jax.Array:
    """How many protected tokens had to share a group, or were dropped: int32 `[B]`."""
    stream = jnp.arange(len(protected))[:, None]
    slot = jnp.where(grouping.slot < 0, grouping.slot.shape[1], grouping.slot)
    members = jnp.zeros((len(protected), grouping.slot.shape[1] + 1), jnp.int32)
    members = jnp.take_along_axis(members.at[stream, slot].add(1), slot, axis=1)
    alone = (members == 1) & (grouping.slot >= 0)
    return (protected & ~alone).sum(1, dtype=jnp.int32)
