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
from diffvis_jax.ops.attention import attention, key_heads, layer_norm, query_heads, value_heads
from diffvis_jax.ops.matmul import linear
from diffvis_jax.ops.pointwise import ACTIVATIONS, feed_forward
from diffvis_jax.towers import build
from diffvis_jax.towers.base import TokenStack
from diffvis_jax.towers.params import Params

State = list[dict[str, jax.Array]]  # of each block


class Blocks:
    """CLIP's blocks, taken apart: what attention adds to the rows `[1, R, D]`, and what the MLP."""

    def __init__(self, params: Params, config: dv.CLIPConfig):
        tower = build(config)
        (stack,) = tower.layers
        assert isinstance(stack, TokenStack)
        self.params = [stack.block_params(params, number) for number in range(stack.depth)]
        self._all, self._patch, self._stack, self._config = params, tower.patch, stack, config

    def embed(self, frame: jax.Array) -> jax.Array:
        """One frame before the first block: `uint8 [1, S, S, 3]` -> float32 `[1, L, D]`."""
        return self._stack.embed_all(self._all, frame, self._patch).astype(jnp.float32)

    def tokens(self, x: jax.Array) -> jax.Array:
        """The rows of the patches."""
        return x[:, self._stack.num_prefix_tokens :]

    def query(self, own: Params, x: jax.Array) -> jax.Array:
        return self._stack.block.query(own, x, *_NOWHERE)

    def key_value(self, own: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self._stack.block.key_value(own, x, *_NOWHERE)

    def mix(self, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        width, dtype = self._stack.block.head_width, query.dtype
        return attention(
            query_heads(query, width, dtype),
            key_heads(key, width, dtype),
            value_heads(value, width, dtype),
        )

    def project(self, own: Params, mixed: jax.Array) -> jax.Array:
        return linear(mixed, **own["attention"]["output"])

    def feed(self, own: Params, x: jax.Array) -> jax.Array:
        mlp, activation = own["mlp"], ACTIVATIONS[self._config.activation]
        normed = layer_norm(x, mlp["norm_scale"], mlp["norm_bias"], self._config.norm_epsilon)
        return feed_forward(normed, jnp.zeros_like(x), mlp["fc1"], mlp["fc2"], activation)


_NOWHERE = (np.zeros(1, np.int32),) * 2  # rows of tokens have no place in a map


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
    blocks = Blocks(params, config)
    x, state = blocks.embed(frame), []
    count = max(1, round(ratio * config.length))
    for i, own in enumerate(blocks.params):
        key, value = blocks.key_value(own, x)
        if held is None:
            adds = blocks.project(own, blocks.mix(blocks.query(own, x), key, value))
            x = x + adds
            feeds = blocks.feed(own, x)
            state.append({"key": key, "value": value, "adds": adds, "feeds": feeds})
        else:
            old = held[i]
            norms = jnp.linalg.norm(key, axis=-1) * jnp.linalg.norm(old["key"], axis=-1)
            similar = (key * old["key"]).sum(-1)[0] / norms[0]
            index = jax.lax.top_k(-similar, count)[1]
            value = _put(old["value"], index, _rows(value, index))
            mixed = blocks.mix(blocks.query(own, _rows(x, index)), key, value)
            x = x + _put(old["adds"], index, blocks.project(own, mixed))
            feeds = _put(old["feeds"], index, blocks.feed(own, _rows(x, index)))
        x = x + feeds
    return blocks.tokens(x), state


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
    blocks = Blocks(params, config)
    x, state = blocks.embed(frame), []
    count = max(1, round(share * config.length)) if held is not None else config.length
    for i, own in enumerate(blocks.params):
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
            for name, part in zip(("key", "value"), blocks.key_value(own, rows), strict=True)
        )
        query = keep("query", index, blocks.query(own, rows))
        mixed = blocks.mix(query, key, value)
        index = gate("mixed", mixed)
        x = x + keep("adds", index, blocks.project(own, _rows(mixed, index)))
        index = gate("before", x)
        x = x + keep("feeds", index, blocks.feed(own, _rows(x, index)))
        state.append(new)
    return blocks.tokens(x), state


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
