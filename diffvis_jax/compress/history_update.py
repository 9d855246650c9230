"""One more frame for a history: which runs end, which begin, and which make room.

B streams, M slots, N patches, D token width, E width of what goes along.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffvis_jax.compress.history import History, HistoryPolicy, HistoryReport
from diffvis_jax.compress.matching import match_some
from diffvis_jax.compress.token_scale import TokenScale, check_width, squared_distance, whiten
from diffvis_jax.errors import CacheError, ConfigError
from diffvis_jax.utils.validation import concrete

_NEVER = 2**30


def update_history(
    history: History,
    tokens: Any,
    changed: Any,
    *,
    policy: HistoryPolicy,
    scale: TokenScale | None = None,
    along: Any = None,
    seen: Any = None,
    active: Any = None,
) -> tuple[History, HistoryReport]:
    """Adds a frame: patches that moved end their run and begin another, the others' goes on.

    Args:
      tokens: `[B, N, D]` of the frame.
      changed: bool `[B, N]`, or the step's `[B, rows, columns]` of as many patches: whose pixels
        changed since the frame before.
      policy: when a run ends.
      scale: of the tower's tokens; None only if the policy looks at pixels alone, and then nobody
        knows how far tokens drifted (0).
      along: `[B, N, E]`, what goes along with the tokens.
      seen: bool `[N]` or `[B, N]`, the patches that count; None = all. Others, such as those of
        padding, never get a run.
      active: bool `[B]`; the others' histories stay as they are. None = all.

    Returns:
      The new history, and what was done.

    Raises:
      CacheError: arrays of other shapes than the history's.
      ConfigError: a scale that is missing, or of another width.
    """
    tokens = jnp.asarray(tokens)
    changed = jnp.asarray(changed, bool).reshape(len(tokens), -1)
    _check(history, tokens, changed, along, policy, scale)
    batch, number = history.open.shape
    slots = history.patch.shape[1]
    stream = jnp.arange(batch)[:, None]
    seen = jnp.broadcast_to(True if seen is None else jnp.asarray(seen, bool), (batch, number))
    active = jnp.broadcast_to(True if active is None else jnp.asarray(active, bool), (batch,))
    counted = seen & active[:, None]

    had = history.open >= 0
    tokens = tokens.astype(history.tokens.dtype).astype(jnp.float32)
    if scale is None:
        distance, token_moved = jnp.zeros((batch, number)), jnp.zeros((batch, number), bool)
    else:
        distance = squared_distance(tokens, history.reference, scale)
        differs = (tokens != history.reference).any(-1)
        # A number that is none is further than any tolerance.
        token_moved = jnp.where(policy.tolerance == 0, differs, ~(distance <= policy.tolerance))
    moved = {
        "tokens": token_moved,
        "pixels": changed,
        "either": token_moved | changed,
    }[policy.criterion]
    moved = counted & (moved | ~had)
    share = moved.sum(1) / jnp.maximum(counted.sum(1), 1)
    moved |= counted & (share > policy.keyframe_above)[:, None]
    corrections = (moved & had & ~changed).sum(1, dtype=jnp.int32)

    index = jnp.broadcast_to(jnp.arange(number, dtype=jnp.int32), (batch, number))
    first = index
    if scale is not None:
        target = jnp.ceil(policy.keep * moved.sum(1)).astype(jnp.int32)
        first = match_some(whiten(tokens, scale), moved, target=target)
    begins = moved & (first == index)
    added = begins.sum(1, dtype=jnp.int32)
    history, freed = _make_room(history, added, policy)
    stays = counted & ~moved
    place = history.length[:, None] + jnp.cumsum(begins, 1, dtype=jnp.int32) - 1
    place = jnp.take_along_axis(place, first, axis=1)
    new = jnp.where(begins, place, slots)  # one beyond the last: dropped
    joined = jnp.where(moved, place, slots)
    old = jnp.where(stays, history.open, slots)
    clock = jnp.broadcast_to(history.clock[:, None], (batch, number))
    one = jnp.ones((batch, number), jnp.float32)
    distance = jnp.where(stays, distance, 0)

    def mean(rows: jax.Array) -> jax.Array:
        """Of what shares a run, at its first patch; as offsets, so that one alone keeps its
        bits."""
        own = jnp.take_along_axis(rows, first[..., None], axis=1)
        count = jnp.zeros((batch, number)).at[stream, first].add(one)
        moves = jnp.where((first == index)[..., None], 0, rows - own)
        total = jnp.zeros_like(rows).at[stream, first].add(moves)
        return rows + total / jnp.maximum(count, 1)[..., None]

    history = History(
        tokens=history.tokens.at[stream, new].set(
            mean(tokens).astype(history.tokens.dtype), mode="drop"
        ),
        reference=jnp.where(moved[..., None], tokens, history.reference),
        along=None
        if history.along is None
        else history.along.at[stream, new].set(mean(jnp.asarray(along)), mode="drop"),
        patch=history.patch.at[stream, new].set(index, mode="drop"),
        first=history.first.at[stream, new].set(clock, mode="drop"),
        last=history.last.at[stream, new]
        .set(clock, mode="drop")
        .at[stream, old]
        .set(clock, mode="drop"),
        weight=history.weight.at[stream, old]
        .add(one, mode="drop")
        .at[stream, joined]
        .add(one, mode="drop"),
        drift=history.drift.at[stream, old].max(distance, mode="drop"),
        open=jnp.where(moved, place, history.open),
        length=history.length + added,
        lost=history.lost,
        clock=history.clock + active.astype(jnp.int32),
    )
    report = HistoryReport(
        added=added,
        corrections=corrections,
        freed=freed,
        length=history.length,
        drift=distance.max(1),
        not_finite=(counted & ~jnp.isfinite(tokens).all(-1)).sum(1, dtype=jnp.int32),
    )
    return history, report


def _make_room(
    history: History, needed: jax.Array, policy: HistoryPolicy
) -> tuple[History, jax.Array]:
    """Gives up closed runs, those first that ended first, where there is no room for so many.

    Returns:
      The history, and how many runs it lost, int32 `[B]`.
    """
    batch, slots = history.patch.shape
    stream = jnp.arange(batch)[:, None]
    over = history.length + needed > slots

    def compact(_: jax.Array, carry: tuple[History, jax.Array]) -> tuple[History, jax.Array]:
        history, _ = carry
        index = jnp.arange(slots, dtype=jnp.int32)[None]
        used = index < history.length[:, None]
        opened = jnp.where(history.open < 0, slots, history.open)
        is_open = jnp.zeros((batch, slots), bool).at[stream, opened].set(True, mode="drop")
        closed = used & ~is_open
        least = history.length + needed - slots
        wanted = jnp.maximum(least, jnp.ceil(policy.spare * slots).astype(jnp.int32))
        order = jnp.argsort(jnp.where(closed, history.last, _NEVER), axis=1, stable=True)
        rank = jnp.zeros((batch, slots), jnp.int32).at[stream, order].set(index)
        gone = closed & (rank < wanted[:, None]) & over[:, None]
        keep = used & ~gone
        place = jnp.where(keep, jnp.cumsum(keep, 1, dtype=jnp.int32) - 1, slots)

        def packed(values: jax.Array, empty: int = 0) -> jax.Array:
            return jnp.full_like(values, empty).at[stream, place].set(values, mode="drop")

        inside = jnp.maximum(history.open, 0)
        return (
            dataclasses.replace(
                history,
                tokens=packed(history.tokens),
                along=None if history.along is None else packed(history.along),
                patch=packed(history.patch, -1),
                first=packed(history.first),
                last=packed(history.last),
                weight=packed(history.weight),
                drift=packed(history.drift),
                open=jnp.where(history.open < 0, -1, jnp.take_along_axis(place, inside, axis=1)),
                length=keep.sum(1, dtype=jnp.int32),
                lost=history.lost + jnp.where(gone, history.weight, 0).sum(1),
            ),
            gone.sum(1, dtype=jnp.int32),
        )

    # A loop of one trip or none: moving all slots costs more than the rest.
    none = jnp.zeros((batch,), jnp.int32)
    return lax.fori_loop(0, over.any().astype(jnp.int32), compact, (history, none))


def _check(
    history: History,
    tokens: jax.Array,
    changed: jax.Array,
    along: jax.Array | None,
    policy: HistoryPolicy,
    scale: TokenScale | None,
) -> None:
    expected = (*history.open.shape, history.tokens.shape[-1])
    if tokens.shape != expected:
        raise CacheError(f"this history is of tokens {list(expected)}, got {list(tokens.shape)}")
    if changed.shape != expected[:2]:
        raise CacheError(
            f"changed must be of {expected[1]} patches for {expected[0]} streams, got "
            f"{list(changed.shape)}"
        )
    shape = None if along is None else along.shape
    wanted = None if history.along is None else (*expected[:2], history.along.shape[-1])
    if shape != wanted:
        raise CacheError(f"what goes along must be {wanted}, got {shape}")
    known = concrete(policy.keep)
    if scale is None and known is not None and (known < 1).any():
        raise ConfigError("keep below 1 compares tokens, which needs a scale")
    if scale is not None:
        check_width(tokens, scale)
    elif policy.criterion != "pixels":
        raise ConfigError(
            f"criterion {policy.criterion!r} compares tokens, which needs a scale: "
            "fit_scale(tokens) of frames like those to come"
        )
