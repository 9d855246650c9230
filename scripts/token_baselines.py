"""Two published ways of doing less in a vision transformer, on this library's CLIP blocks.

Both recompute a fixed share of the tokens of a frame; which, they find out layer by layer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import diffvis_jax as dv
from diffvis_jax.ops.attention import attention
from diffvis_jax.ops.pointwise import linear
from diffvis_jax.towers import build
from diffvis_jax.towers.base import Global, Params, Source
from diffvis_jax.towers.clip import Block

State = list[dict[str, jax.Array]]  # of each block


def _embedded(params: Params, config: dv.CLIPConfig, frame: jax.Array) -> jax.Array:
    """The first layer of one frame: `uint8 [1, S, S, 3]` -> float32 `[1, L, D]`."""
    source = build(config).layers[0]
    assert isinstance(source, Source)
    return source.dense(source.own(params), frame)[:, :, 0]


def _blocks(params: Params, config: dv.CLIPConfig) -> list[tuple[Global, Params]]:
    found = []
    for layer in build(config).layers[1:]:
        assert isinstance(layer, Global)
        found.append((layer, layer.own(params)))
    return found


def _attend(block: Block, x: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """What a block's attention adds to the tokens."""
    return block.attention(x, key, value, None) - x


def _feed(block: Block, x: jax.Array) -> jax.Array:
    """What a block's MLP adds to the tokens."""
    return block.mlp(x) - x


def _query(block: Block, x: jax.Array, key: jax.Array) -> jax.Array:
    return block.attention.queries(x, key)


def _rows(x: jax.Array, index: jax.Array) -> jax.Array:
    return x[:, index]


def _put(old: jax.Array, index: jax.Array, rows: jax.Array) -> jax.Array:
    return old.at[:, index].set(rows.astype(old.dtype))


@functools.partial(jax.jit, static_argnames=("config", "ratio"))
def stc_frame(
    params: Params,
    frame: jax.Array,
    held: State | None,
    *,
    config: dv.CLIPConfig,
    ratio: float,
) -> tuple[jax.Array, State]:
    """One frame as STC-Cacher encodes it (arXiv 2512.00891): all keys are computed; the tokens
    whose keys are least similar to those of the last full frame are recomputed, the others copied.

    Args:
      held: what the last full frame left; None = this is one.
      ratio: share of the tokens to recompute in each layer.

    Returns:
      tokens `[1, N, D]`, and what this frame leaves, if it is a full one.
    """
    x, state = _embedded(params, config, frame), []
    count = max(1, round(ratio * config.length))
    for i, (layer, own) in enumerate(_blocks(params, config)):
        key, value = layer.key_value(own, x)
        if held is None:
            adds = layer.apply(own, x, key, value, method=_attend)
            x = x + adds
            feeds = layer.apply(own, x, method=_feed)
            state.append({"key": key, "value": value, "adds": adds, "feeds": feeds})
        else:
            old = held[i]
            norms = jnp.linalg.norm(key, axis=-1) * jnp.linalg.norm(old["key"], axis=-1)
            similar = (key * old["key"]).sum(-1)[0] / norms[0]
            index = jax.lax.top_k(-similar, count)[1]
            value = _put(old["value"], index, _rows(value, index))
            new = layer.apply(own, _rows(x, index), key, value, method=_attend)
            x = x + _put(old["adds"], index, new)
            new = layer.apply(own, _rows(x, index), method=_feed)
            feeds = _put(old["feeds"], index, new)
        x = x + feeds
    return x[:, config.lead :], state


@functools.partial(jax.jit, static_argnames=("config", "share"))
def eventful_frame(
    params: Params, frame: jax.Array, held: State | None, *, config: dv.CLIPConfig, share: float
) -> tuple[jax.Array, State]:
    """One frame through the token gates of Eventful Transformers (arXiv 2308.13494): before
    queries, keys and values, before the projection, and before the MLP, the tokens that moved most
    since they were last passed on are passed on, and the outputs of the others kept.

    Attention among what was passed on is computed in full here, where theirs sums up differences.

    Args:
      held: what the last frame left; None = the first one, all of whose tokens pass.
      share: of the tokens, how many pass a gate.

    Returns:
      tokens `[1, N, D]`, and what this frame leaves.
    """
    x, state = _embedded(params, config, frame), []
    count = max(1, round(share * config.length)) if held is not None else config.length
    for i, (layer, own) in enumerate(_blocks(params, config)):
        new: dict[str, jax.Array] = dict(held[i]) if held is not None else {}

        def gate(name: str, x: jax.Array, new: dict[str, jax.Array] = new) -> jax.Array:
            moved = jnp.linalg.norm(x - new.get(name, 0.0), axis=-1)[0]
            index = jax.lax.top_k(moved, count)[1]
            new[name] = _put(new.get(name, jnp.zeros_like(x)), index, _rows(x, index))
            return index

        def keep(name: str, index: jax.Array, rows: jax.Array, new=new) -> jax.Array:
            empty = jnp.zeros((1, config.length, rows.shape[-1]), rows.dtype)
            new[name] = _put(new.get(name, empty), index, rows)
            return new[name]

        index = gate("tokens", x)
        rows = _rows(x, index)
        key, value = (
            keep(name, index, part)
            for name, part in zip(("key", "value"), layer.key_value(own, rows), strict=True)
        )
        query = keep("query", index, layer.apply(own, rows, key, method=_query))
        mixed = attention(query, key, value, heads=config.heads)
        index = gate("mixed", mixed)
        projected = linear(_rows(mixed, index), **own["attention"]["output"])
        x = x + keep("adds", index, projected)
        index = gate("before", x)
        feeds = layer.apply(own, _rows(x, index), method=_feed)
        x = x + keep("feeds", index, feeds)
        state.append(new)
    return x[:, config.lead :], state


def fixed_ratio(
    model: dv.Model, ratio: float = 0.25, every: int = 2
) -> Callable[[np.ndarray], jax.Array]:
    """`stc_frame` over a session, every `every`-th frame in full; STC's defaults."""
    held: dict[str, Any] = {"frames": 0, "state": None}

    def run(frame: np.ndarray) -> jax.Array:
        full = held["frames"] % every == 0
        held["frames"] += 1
        known = None if full else held["state"]
        tokens, state = stc_frame(model.params, frame, known, config=model.config, ratio=ratio)
        if full:
            held["state"] = state
        return tokens

    return run


def token_gates(model: dv.Model, share: float = 0.25) -> Callable[[np.ndarray], jax.Array]:
    """`eventful_frame` over a session."""
    held: dict[str, Any] = {"state": None}

    def run(frame: np.ndarray) -> jax.Array:
        tokens, held["state"] = eventful_frame(
            model.params, frame, held["state"], config=model.config, share=share
        )
        return tokens

    return run
