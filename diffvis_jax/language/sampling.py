"""The choice of the next id from logits: greedy, temperature, top-k, top-p, repetition penalty.

B streams, V vocabulary rows.
"""

import math
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.errors import ConfigError
from diffvis_jax.ops.broadcast import per_channel

_NOT_CHOSEN = np.float32(-1e30)


@flax.struct.dataclass
class Sampling:
    """How ids are chosen; made by `make_sampling`. All but `kind` are traced.

    Attributes:
      kind: "greedy"; "temperature", from all ids; or "sorted", from the likeliest, which needs
        the logits sorted at every step.
      temperature: what logits are divided by.
      top_p: of the likeliest ids, as few as have this much probability together.
      top_k: of the likeliest ids, this many.
      vocabulary: ids at and beyond this one are never chosen.
      repetition_penalty: what makes an id that is there already unlikelier; None = nothing does.
    """

    kind: Literal["greedy", "temperature", "sorted"] = flax.struct.field(pytree_node=False)
    temperature: Any
    top_p: Any
    top_k: Any
    vocabulary: Any
    repetition_penalty: Any = None


def make_sampling(
    temperature: float = 0.0,
    top_p: float | None = None,
    top_k: int | None = None,
    *,
    vocabulary: int,
    repetition_penalty: float = 1.0,
) -> Sampling:
    """Checks the options.

    Args:
      temperature: 0 = greedy, whatever `top_p` and `top_k` say.
      top_p: 0-1; None or 1 = no such limit.
      top_k: None = no such limit.
      vocabulary: how many ids may be chosen: those of the tokenizer. Embeddings are padded, and
        the logits of the rows beyond mean nothing.
      repetition_penalty: what the logits of ids in prompt and answer are divided by (negative ones
        multiplied); 1 = nothing.

    Raises:
      ConfigError: a number out of range.
    """
    if not 0 <= temperature < math.inf:
        raise ConfigError(f"temperature must be a number from 0 up, got {temperature!r}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ConfigError(f"top_p must be above 0 and at most 1, got {top_p!r}")
    if top_k is not None and top_k < 1:
        raise ConfigError(f"top_k must be at least 1, got {top_k!r}")
    if vocabulary < 1:
        raise ConfigError(f"vocabulary must be at least 1, got {vocabulary!r}")
    if not 0 < repetition_penalty < math.inf:
        raise ConfigError(f"repetition_penalty must be above 0, got {repetition_penalty!r}")
    limited = (top_p is not None and top_p < 1) or top_k is not None
    kind = "greedy" if temperature == 0 else "sorted" if limited else "temperature"
    return Sampling(
        kind=kind,
        temperature=np.float32(temperature or 1),
        top_p=np.float32(1 if top_p is None else top_p),
        top_k=np.int32(min(top_k or vocabulary, vocabulary)),
        vocabulary=np.int32(vocabulary),
        repetition_penalty=None if repetition_penalty == 1 else np.float32(repetition_penalty),
    )


def choose(
    logits: jax.Array, key: jax.Array, sampling: Sampling, seen: jax.Array | None = None
) -> jax.Array:
    """The next id of each stream, int32 `[B]`.

    Args:
      logits: float32 `[B, V]`.
      key: used by all kinds but "greedy".
      seen: bool `[B, V]`, the ids that are there already; None without a penalty.
    """
    logits = penalised(logits, seen, sampling.repetition_penalty)
    logits = within_vocabulary(logits, sampling.vocabulary)
    if sampling.kind == "greedy":
        return logits.argmax(-1).astype(jnp.int32)
    logits = logits / sampling.temperature
    if sampling.kind == "temperature":
        return jax.random.categorical(key, logits).astype(jnp.int32)
    # As transformers does: top-k first, then top-p of the probabilities that are left.
    order = jnp.argsort(-logits, axis=-1)
    logits = jnp.take_along_axis(logits, order, axis=-1)
    logits = jnp.where(_ids_of(logits) < sampling.top_k, logits, _NOT_CHOSEN)
    probability = jax.nn.softmax(logits)
    before = jnp.cumsum(probability, axis=-1) - probability
    logits = jnp.where(before < sampling.top_p, logits, _NOT_CHOSEN)
    rank = jax.random.categorical(key, logits)
    return jnp.take_along_axis(order, rank[:, None], axis=-1)[:, 0].astype(jnp.int32)


def seen_in(ids: jax.Array | None, rows: int) -> jax.Array:
    """Which of V = `rows` ids are among those of a prompt, int32 `[B, T]` (-1: none): bool
    `[B, V]`.

    Raises:
      ConfigError: nobody told them.
    """
    if ids is None:
        raise ConfigError("a repetition_penalty other than 1 needs the ids of the prompt")
    stream = jnp.arange(len(ids), dtype=jnp.int32)[:, None]
    ids = jnp.where(ids < 0, rows, ids)  # or they would count from the end
    return jnp.zeros((len(ids), rows), bool).at[stream, ids].set(True, mode="drop")


def penalised(logits: jax.Array, seen: jax.Array | None, penalty: jax.Array | None) -> jax.Array:
    """Logits, or logarithms of probabilities, `[..., V]` with those `seen` made smaller (CTRL,
    arXiv 1909.05858)."""
    if seen is None or penalty is None:
        return logits
    return jnp.where(seen, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)


def within_vocabulary(logits: jax.Array, vocabulary: jax.Array) -> jax.Array:
    """Logits `[..., V]` with the ids at and beyond `vocabulary` put out of reach."""
    return jnp.where(_ids_of(logits) < vocabulary, logits, _NOT_CHOSEN)


def _ids_of(logits: jax.Array) -> jax.Array:
    """int32, with as many axes as the logits `[..., V]` have."""
    return per_channel(jnp.arange(logits.shape[-1], dtype=jnp.int32), logits)
