"""Beam search: the likeliest answers followed side by side.

The rules are those of transformers' `generate` (no early stopping): of W times (1 + number of stop
ids) continuations the best W that go on become the beams; those among the first W that end, or are
cut off, are kept with their score per length; the search is over when no beam can beat the worst
that is kept.

B streams, W beams, K continuations, M ids, V vocabulary rows.
"""

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffvis_jax.core.windows import inside
from diffvis_jax.language.config import DecoderConfig
from diffvis_jax.language.decoder import embed, forward, read_out
from diffvis_jax.language.generate import Stops
from diffvis_jax.language.kv_cache import KVCache
from diffvis_jax.language.sampling import Sampling, penalised, seen_in, within_vocabulary
from diffvis_jax.towers.params import Params

_IMPOSSIBLE = np.float32(-1e9)


@flax.struct.dataclass(kw_only=True)
class Beams:
    """A beam search under way.

    Attributes:
      cache: of all beams, stream by stream; B W streams of its own.
      ids: of the beams, the first `step` of M.
      scores: sums of log probabilities, best beam first.
      ended: the best answers that have ended, likewise.
      ended_scores: their scores, divided by their length to the power of the penalty.
      ended_there: whether there is such an answer.
      open: whether a stream's beams may still improve on those.
      step: ids chosen.
      seen: the ids of the prompt and of each beam; None unless there is a penalty on them.
    """

    cache: KVCache
    ids: jax.Array  # int32 [B, W, M]
    scores: jax.Array  # float32 [B, W]
    ended: jax.Array  # int32 [B, W, M]
    ended_scores: jax.Array  # float32 [B, W]
    ended_there: jax.Array  # bool [B, W]
    open: jax.Array  # bool [B]
    step: jax.Array  # int32 []
    seen: jax.Array | None  # bool [B, W, V]


@functools.partial(jax.jit, static_argnames=("config", "beams", "kept"))
def beam_search(
    params: Params,
    logits: jax.Array,
    cache: KVCache,
    until: jax.Array,
    sampling: Sampling,
    stops: Stops,
    prompt: jax.Array | None,
    length_penalty: jax.Array,
    *,
    config: DecoderConfig,
    beams: int,
    kept: int,
) -> jax.Array:
    """The best answer of each stream.

    Args:
      logits: float32 `[B, V]`, from the prefill.
      cache: from the prefill; not changed.
      until: int32, ids of an answer at most; itself at most `kept`.
      sampling: its vocabulary and its penalty on repetitions.
      prompt: its ids, int32 `[B, T]`, see `Prompt`; needed if they are penalised.
      length_penalty: answers are compared by score / length ** penalty.
      beams: W; static.
      kept: M; static.

    Returns:
      int32 `[B, M]`; what stands after a stop id, or after `until`, is `stops.fill`.
    """
    batch = len(logits)
    blank = jnp.broadcast_to(stops.fill, (batch, beams, kept)).astype(jnp.int32)
    # Only the first beam counts at first: all are the same.
    seen = None
    if sampling.repetition_penalty is not None:
        seen = jnp.repeat(seen_in(prompt, logits.shape[-1])[:, None], beams, axis=1)
    scores = jnp.where(jnp.arange(beams) == 0, np.float32(0), _IMPOSSIBLE)
    state = Beams(
        cache=jax.tree.map(lambda x: jnp.repeat(x, beams, axis=0), cache),
        ids=blank,
        scores=jnp.broadcast_to(scores, (batch, beams)),
        ended=blank,
        ended_scores=jnp.full((batch, beams), _IMPOSSIBLE),
        ended_there=jnp.zeros((batch, beams), bool),
        open=jnp.ones((batch,), bool),
        step=jnp.int32(0),
        seen=seen,
    )
    select = functools.partial(
        _select, until=until, sampling=sampling, stops=stops, penalty=length_penalty
    )

    def more(state: Beams) -> jax.Array:
        return (state.step < until) & state.open.any()

    def step(state: Beams) -> Beams:
        held = inside(params, state.step)  # as in `advance`
        last = lax.dynamic_slice_in_dim(state.ids, state.step - 1, 1, axis=2)
        cache = state.cache
        x = embed(held, last.reshape(batch * beams, 1))
        x, cache, _ = forward(held, cache, x, cache.length[:, None], config=config)
        cache = dataclasses.replace(cache, length=cache.length + 1)
        logits = read_out(held, x[:, 0], config=config)
        return select(dataclasses.replace(state, cache=cache), logits.reshape(batch, beams, -1))

    first = jnp.broadcast_to(logits[:, None], (batch, beams, logits.shape[-1]))
    return lax.while_loop(more, step, select(state, first)).ended[:, 0]


def _select(
    state: Beams,
    logits: jax.Array,
    *,
    until: jax.Array,
    sampling: Sampling,
    stops: Stops,
    penalty: jax.Array,
) -> Beams:
    """Chooses the next beams from logits `[B, W, V]`, and keeps those that end."""
    batch, beams, rows = logits.shape
    # So many that W of them go on, even if every beam's likeliest ids were all the stop ids.
    count = min((1 + stops.ids.shape[0]) * beams, beams * rows)
    scores = jax.nn.log_softmax(logits)
    scores = penalised(scores, state.seen, sampling.repetition_penalty)
    scores = within_vocabulary(scores, sampling.vocabulary) + state.scores[..., None]
    scores, index = lax.top_k(scores.reshape(batch, -1), count)  # [B, K]
    beam, chosen = index // rows, (index % rows).astype(jnp.int32)
    ids = jnp.take_along_axis(state.ids, beam[..., None], axis=1)  # [B, K, M]
    ids = ids.at[:, :, state.step].set(chosen)
    at_end = (chosen[..., None] == stops.ids[None, None]).any(-1)
    length = state.step + 1
    ends = at_end | (length >= until)

    going, next_index = lax.top_k(jnp.where(ends, scores + _IMPOSSIBLE, scores), beams)
    parent = jnp.take_along_axis(beam, next_index, axis=1)

    # Only the first W may be kept: the others were fetched so that enough go on.
    keep = ends & (jnp.arange(count) < beams)[None]
    final = scores / length.astype(jnp.float32) ** penalty
    final = jnp.where(keep & state.open[:, None], final, final + _IMPOSSIBLE)
    merged_scores = jnp.concatenate([state.ended_scores, final], axis=1)
    ended_scores, kept_index = lax.top_k(merged_scores, beams)
    ended = jnp.concatenate([state.ended, ids], axis=1)
    ended_there = jnp.concatenate([state.ended_there, keep & state.open[:, None]], axis=1)
    ended_there = jnp.take_along_axis(ended_there, kept_index, axis=1)

    worst = jnp.where(ended_there, ended_scores.min(1, keepdims=True), _IMPOSSIBLE)
    best_possible = going[:, :1] / length.astype(jnp.float32) ** penalty
    stream = jnp.arange(batch, dtype=jnp.int32)[:, None] * beams
    flat = (stream + parent).reshape(-1)
    seen = state.seen
    if seen is not None:
        last = jnp.take_along_axis(chosen, next_index, axis=1).reshape(-1)
        row = jnp.arange(batch * beams, dtype=jnp.int32)
        seen = seen.reshape(-1, rows)[flat].at[row, last].set(True).reshape(seen.shape)
    return Beams(
        cache=jax.tree.map(lambda x: x[flat], state.cache),
        ids=jnp.take_along_axis(ids, next_index[..., None], axis=1),
        scores=going,
        ended=jnp.take_along_axis(ended, kept_index[..., None], axis=1),
        ended_scores=ended_scores,
        ended_there=ended_there,
        open=state.open & (best_possible > worst).any(1),
        step=length,
        seen=seen,
    )
