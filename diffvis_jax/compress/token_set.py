"""Tokens with what they stand for, and groups of them that become one.

B streams, N tokens before, M slots after, D token width.
"""

from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.errors import ConfigError
from diffvis_jax.utils.validation import concrete


@flax.struct.dataclass(kw_only=True)
class TokenSet:
    """Tokens and what they stand for. Slots that are used come first, in reading order.

    Attributes:
      tokens: zeros beyond `count`.
      size: how many of the encoder's tokens a token stands for; 0 beyond `count`.
      box: left, top, right and bottom of what it stands for, in pixels of the frame.
      time: step of the frame in which that began.
      count: slots used.
    """

    tokens: jax.Array  # float32 [B, M, D]
    size: jax.Array  # float32 [B, M]
    box: jax.Array  # float32 [B, M, 4]
    time: jax.Array  # int32 [B, M]
    count: jax.Array  # int32 [B]


@flax.struct.dataclass(kw_only=True)
class Grouping:
    """Which token goes to which slot. Slots are ordered by their first member.

    Attributes:
      slot: -1 = to none: the token is dropped.
      weight: share in its group's mean, beside its size; 0 = it is represented, not merged.
      count: slots used.
    """

    slot: jax.Array  # int32 [B, N]
    weight: jax.Array  # float32 [B, N]
    count: jax.Array  # int32 [B]


def token_set(tokens: jax.Array, boxes: Any, *, time: Any = 0) -> TokenSet:
    """The tokens of whole frames, each for itself.

    Args:
      tokens: float32 `[B, N, D]`.
      boxes: float32 `[N, 4]` in pixels of the frame, see `token_boxes`.
      time: int32, one step for all, or `[B]`.

    Raises:
      ConfigError: not one box for each token.
    """
    batch, number, _ = tokens.shape
    if np.shape(boxes) != (number, 4):
        raise ConfigError(f"boxes must be [{number}, 4] for {number} tokens, got {np.shape(boxes)}")
    time = jnp.broadcast_to(jnp.asarray(time, jnp.int32).reshape(-1, 1), (batch, number))
    return TokenSet(
        tokens=jnp.asarray(tokens, jnp.float32),
        size=jnp.ones((batch, number), jnp.float32),
        box=jnp.broadcast_to(jnp.asarray(boxes, jnp.float32), (batch, number, 4)),
        time=time,
        count=jnp.full((batch,), number, jnp.int32),
    )


def token_boxes(grid: tuple[int, int], token: int) -> np.ndarray:
    """What the tokens of a frame stand for, float32 `[N, 4]` in its pixels.

    Args:
      grid: rows and columns of tokens.
      token: pixels along the side of one.
    """
    row, column = (part.ravel() for part in np.indices(grid))
    corner = token * np.stack([column, row, column + 1, row + 1], -1)
    return corner.astype(np.float32)


def group_by(leader: jax.Array, weight: jax.Array | None = None) -> Grouping:
    """The grouping in which every token goes with its leader.

    Args:
      leader: int32 `[B, N]`, any token of the own group, the same for all of the group; -1 = the
        token is dropped.
      weight: float32 `[B, N]`; None = all 1.
    """
    batch, number = leader.shape
    stream = jnp.arange(batch)[:, None]
    index = jnp.arange(number, dtype=jnp.int32)[None]
    group = jnp.where(leader < 0, number, leader)
    first = jnp.full((batch, number + 1), number, jnp.int32).at[stream, group].min(index)
    begins = (jnp.take_along_axis(first, group, axis=1) == index) & (leader >= 0)
    rank = jnp.cumsum(begins, axis=1, dtype=jnp.int32) - 1
    own_first = jnp.minimum(jnp.take_along_axis(first, group, axis=1), number - 1)
    slot = jnp.where(leader < 0, -1, jnp.take_along_axis(rank, own_first, axis=1))
    return Grouping(
        slot=slot,
        weight=jnp.ones(leader.shape, jnp.float32) if weight is None else weight,
        count=begins.sum(1, dtype=jnp.int32),
    )


def merge(tokens: TokenSet, grouping: Grouping, *, slots: int) -> TokenSet:
    """Makes one token of each group: the mean by weight and size, so a group of one keeps its bits.

    Args:
      tokens: N of them.
      grouping: of the N.
      slots: M, at least `grouping.count`.

    Raises:
      ConfigError: a grouping of another number of tokens, or one that needs more slots.
    """
    if grouping.slot.shape != tokens.size.shape:
        raise ConfigError(
            f"the grouping is of {list(grouping.slot.shape)} tokens, got {list(tokens.size.shape)}"
        )
    counts = concrete(grouping.count)
    if counts is not None and counts.max() > slots:
        raise ConfigError(f"the grouping has {counts.max()} groups, which need more than {slots}")
    batch, number, _ = tokens.tokens.shape
    stream = jnp.arange(batch)[:, None]
    valid = (grouping.slot >= 0) & (tokens.size > 0)
    slot = jnp.where(valid, grouping.slot, slots)  # the last slot takes what is dropped
    index = jnp.arange(number, dtype=jnp.int32)[None]
    # Offsets from one member that counts: a group of equal tokens keeps their bits.
    counts_in = jnp.where(grouping.weight > 0, index, number)
    anchor = jnp.full((batch, slots + 1), number, jnp.int32).at[stream, slot].min(counts_in)
    anchor = jnp.minimum(anchor, number - 1)
    base = jnp.take_along_axis(tokens.tokens, anchor[..., None], axis=1)
    share = grouping.weight * tokens.size * valid
    offset = tokens.tokens - jnp.take_along_axis(base, slot[..., None], axis=1)

    def summed(values: jax.Array) -> jax.Array:
        zeros = jnp.zeros((batch, slots + 1, *values.shape[2:]), values.dtype)
        return zeros.at[stream, slot].add(values)[:, :slots]

    total = summed(share)
    moved = summed(jnp.where(share[..., None] > 0, share[..., None] * offset, 0))
    moved = moved / jnp.where(total > 0, total, 1)[..., None]
    used = jnp.arange(slots)[None] < grouping.count[:, None]
    far = jnp.float32(2**30)
    edges = []
    for side in range(4):
        empty = jnp.full((batch, slots + 1), far if side < 2 else -far)
        at = empty.at[stream, slot]
        edges.append((at.min if side < 2 else at.max)(tokens.box[..., side])[:, :slots])
    late = jnp.full((batch, slots + 1), 2**30, jnp.int32)
    return TokenSet(
        tokens=jnp.where(used[..., None], base[:, :slots] + moved, 0),
        size=jnp.where(used, summed(tokens.size * valid), 0),
        box=jnp.where(used[..., None], jnp.stack(edges, -1), 0),
        time=jnp.where(used, late.at[stream, slot].min(tokens.time)[:, :slots], 0),
        count=jnp.asarray(grouping.count, jnp.int32),
    )


def unmerge(merged: TokenSet, grouping: Grouping) -> jax.Array:
    """Gives every member its group's token: float32 `[B, N, D]`; zeros where it was dropped."""
    inside = jnp.maximum(grouping.slot, 0)
    tokens = jnp.take_along_axis(merged.tokens, inside[..., None], axis=1)
    return jnp.where((grouping.slot >= 0)[..., None], tokens, 0)


def compose(first: Grouping, second: Grouping, size: jax.Array | None = None) -> Grouping:
    """The grouping that does in one what two do one after the other.

    Args:
      first: of N tokens.
      second: of the slots of the first.
      size: of the N tokens, float32 `[B, N]`; None = all 1.
    """
    size = jnp.ones_like(first.weight) if size is None else size
    stream = jnp.arange(len(first.slot))[:, None]
    inside = jnp.maximum(first.slot, 0)
    empty = jnp.zeros(second.slot.shape, jnp.float32)

    def summed(values: jax.Array) -> jax.Array:
        total = empty.at[stream, inside].add(jnp.where(first.slot >= 0, values, 0))
        return jnp.take_along_axis(total, inside, axis=1)

    # The second weighs a group by all of its size, of which the first may have left out a part.
    counted = summed(first.weight * size)
    ratio = summed(size) / jnp.where(counted > 0, counted, 1)
    slot = jnp.take_along_axis(second.slot, inside, axis=1)
    return Grouping(
        slot=jnp.where(first.slot >= 0, slot, -1),
        weight=first.weight * ratio * jnp.take_along_axis(second.weight, inside, axis=1),
        count=second.count,
    )


def check_budget(name: str, value: Any, most: int, least: int = 1) -> int:
    """A number of tokens that is static.

    Raises:
      ConfigError: no whole number, or outside `least` to `most`.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not least <= value <= most:
        raise ConfigError(f"{name} must be a whole number in {least}-{most}, got {value!r}")
    return int(value)


def check_metric(metric: jax.Array, shape: Sequence[int]) -> None:
    """Raises `ConfigError` unless a metric `[B, N, C]` is of tokens `[B, N]`."""
    if metric.ndim != 3 or tuple(metric.shape[:2]) != tuple(shape):
        raise ConfigError(f"a metric must be [{shape[0]}, {shape[1]}, C], got {list(metric.shape)}")
