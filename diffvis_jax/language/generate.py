"""Prefill and decoding: a prompt of padded length in one pass, then one jitted loop.

`prefill` -> logits; `start` chooses the first id; `advance` is the loop. A generation that streams
calls `advance` for a few ids at a time, one that does not calls it once: it is the same compiled
function, since how far it goes is traced.

B streams, R rows of the padded prompt, D width, T slots, M ids that are kept, V vocabulary rows.
"""

import dataclasses
import functools
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffvis_jax.core.windows import inside
from diffvis_jax.errors import PromptError
from diffvis_jax.language.config import DecoderConfig
from diffvis_jax.language.decoder import embed, forward, read_out
from diffvis_jax.language.kv_cache import KVCache, init_kv_cache
from diffvis_jax.language.sampling import Sampling, choose, seen_in
from diffvis_jax.towers.params import Params

# Prompts are padded to one of these, so that a session compiles a few prefills and no more. A
# FastVLM prompt is 256 tokens of image and at least 24 of text: 320.
PREFILL_LENGTHS = (
    *(32, 64, 128, 192, 256, 320, 384, 512, 768, 1024),
    *(1536, 2048, 3072, 4096, 6144, 8192),
)

# The buffer of new ids is a multiple of this, for the same reason.
_NEW_IDS = 64


def padded_length(length: int) -> int:
    """The smallest of the fixed lengths that holds a prompt; a multiple of the last beyond it."""
    longest = PREFILL_LENGTHS[-1]
    if length > longest:
        return -(-length // longest) * longest
    return next(padded for padded in PREFILL_LENGTHS if padded >= length)


def capacity_for(length: int, max_new_tokens: int) -> int:
    """Slots for a prompt of that length and an answer."""
    return padded_length(length) + kept_ids(max_new_tokens)


def kept_ids(max_new_tokens: int) -> int:
    """M for an answer of at most that many ids."""
    return -(-max_new_tokens // _NEW_IDS) * _NEW_IDS


def check_context(length: int, max_new_tokens: int, config: DecoderConfig) -> None:
    """Raises `PromptError` unless prompt and answer fit into the model's context."""
    if max_new_tokens < 1:
        raise PromptError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    if length + max_new_tokens > config.max_length:
        left = config.max_length - length
        raise PromptError(
            f"a prompt of {length} tokens and {max_new_tokens} new ones do not fit into a context "
            f"of {config.max_length}: "
            + (f"at most {left} new tokens do" if left > 0 else "the prompt alone is too long")
        )


# ---- the prompt -------------------------------------------------------------------------------


def prefill(
    params: Params,
    cache: KVCache,
    x: jax.Array,
    length: jax.Array,
    *,
    config: DecoderConfig,
    rotary: jax.Array | None = None,
    watch: bool = False,
) -> tuple[jax.Array, KVCache, jax.Array | None]:
    """Runs a whole prompt and fills the cache from its first slot on.

    Args:
      cache: of at least R slots; what it holds is overwritten.
      x: float32 `[B, R, D]`, embeddings; rows beyond a prompt's length do not matter.
      length: int32 `[B]`, of the prompts.
      rotary: int32 `[B, R, 3]` of a model with an `mrope_section`; else None.
      watch: whether the attention of the last position is wanted; static.

    Returns:
      logits of the last position, float32 `[B, V]`; the cache; its attention weights, float32
      `[B, L, H, R]`, or None.
    """
    rows = x.shape[1]
    last = length - 1
    positions = jnp.broadcast_to(jnp.arange(rows, dtype=jnp.int32), x.shape[:2])
    cache = dataclasses.replace(cache, rope_delta=rope_delta(rotary, length))
    hidden, cache, weights = forward(
        params,
        cache,
        x,
        positions,
        config=config,
        rotary=rotary,
        span=rows,
        watch=last if watch else None,
    )
    hidden = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
    cache = dataclasses.replace(cache, length=length.astype(jnp.int32))
    return read_out(params, hidden, config=config), cache, weights


def rope_delta(rotary: jax.Array | None, length: jax.Array) -> jax.Array:
    """What is added to the positions after a prompt, int32 `[B]`: text goes on after the largest
    rotary position of `[B, T, 3]`, not after the last slot."""
    if rotary is None:
        return jnp.zeros_like(length, jnp.int32)
    inside = jnp.arange(rotary.shape[1], dtype=jnp.int32)[None] < length[:, None]
    return jnp.where(inside, rotary.max(-1), -1).max(-1) + 1 - length.astype(jnp.int32)


def all_logits(
    params: Params, x: jax.Array, rotary: jax.Array | None = None, *, config: DecoderConfig
) -> jax.Array:
    """Logits of every position of `[B, R, D]`, float32 `[B, R, V]`; keeps no cache. `rotary`: as
    for `prefill`."""
    cache = init_kv_cache(config, *x.shape[:2])
    positions = jnp.broadcast_to(jnp.arange(x.shape[1], dtype=jnp.int32), x.shape[:2])
    hidden, _, _ = forward(params, cache, x, positions, config=config, rotary=rotary)
    return read_out(params, hidden, config=config)


# ---- the answer -------------------------------------------------------------------------------


@flax.struct.dataclass(kw_only=True)
class Generation:
    """An answer in the making.

    Attributes:
      cache: of prompt and answer; the last id chosen is not in it yet.
      ids: the answer so far; ids after a stop id are `fill`.
      count: ids of each stream, a stop id included.
      finished: whether a stop id was chosen.
      step: ids chosen, those after a stop id included.
      key: what chance hangs on; the choice of each step folds its number in.
      seen: the ids of prompt and answer so far; None unless there is a penalty on them.
    """

    cache: KVCache
    ids: jax.Array  # int32 [B, M]
    count: jax.Array  # int32 [B]
    finished: jax.Array  # bool [B]
    step: jax.Array  # int32 []
    key: jax.Array
    seen: jax.Array | None  # bool [B, V]


@flax.struct.dataclass(kw_only=True)
class Stops:
    """What ends an answer; made by `make_stops`.

    Attributes:
      ids: any of these ends it; -1 is none.
      fill: what stands after the end.
    """

    ids: jax.Array  # int32 [8]
    fill: jax.Array  # int32 []


def make_stops(config: DecoderConfig, ids: Sequence[int] | None = None) -> Stops:
    """Stop ids, None = the model's own; padded so that few compilations serve all numbers of them.

    Raises:
      PromptError: an id that the model does not have.
    """
    chosen = [i for i in config.eos_ids if i < config.vocabulary] if ids is None else list(ids)
    if bad := [i for i in chosen if not 0 <= i < config.vocabulary]:
        raise PromptError(f"stop ids {bad} are not among the {config.vocabulary} of the model")
    fill = config.pad_id if config.pad_id is not None else (*config.eos_ids, 0)[0]
    padded = np.full(-(-max(len(chosen), 1) // 8) * 8, -1, np.int32)
    padded[: len(chosen)] = chosen
    return Stops(ids=padded, fill=np.int32(fill))  # type: ignore[arg-type]


def start(
    logits: jax.Array,
    cache: KVCache,
    key: jax.Array,
    sampling: Sampling,
    stops: Stops,
    prompt: jax.Array | None,
    kept: int,
) -> Generation:
    """Chooses the first id after a prompt.

    Args:
      logits: float32 `[B, V]`, from the prefill.
      key: of `jax.random`.
      sampling, stops: how ids are chosen and what ends the answer.
      prompt: its ids, int32 `[B, T]`, see `Prompt`; needed if they are penalised.
      kept: M; static.
    """
    batch = len(logits)
    ids = jnp.broadcast_to(stops.fill, (batch, kept)).astype(jnp.int32)
    seen = None
    if sampling.repetition_penalty is not None:
        seen = seen_in(prompt, logits.shape[-1])
    generation = Generation(
        cache=cache,
        ids=ids,
        count=jnp.zeros((batch,), jnp.int32),
        finished=jnp.zeros((batch,), bool),
        step=jnp.int32(0),
        key=key,
        seen=seen,
    )
    return _take(generation, logits, sampling, stops)


def advance(
    params: Params,
    generation: Generation,
    until: jax.Array,
    sampling: Sampling,
    stops: Stops,
    *,
    config: DecoderConfig,
) -> Generation:
    """Goes on until that many ids are chosen, or every stream has ended.

    Args:
      generation: from `start` or `advance`.
      until: int32, at most M.
      sampling, stops: as given to `start`.
    """

    def more(generation: Generation) -> jax.Array:
        return (generation.step < until) & ~generation.finished.all()

    def step(generation: Generation) -> Generation:
        # Or XLA:CPU casts the whole embedding in front of the loop: 0.5 GB, for every id streamed.
        held = inside(params, generation.step)
        last = lax.dynamic_slice_in_dim(generation.ids, generation.step - 1, 1, axis=1)
        cache = generation.cache
        x, cache, _ = forward(held, cache, embed(held, last), cache.length[:, None], config=config)
        cache = dataclasses.replace(cache, length=cache.length + 1)
        logits = read_out(held, x[:, 0], config=config)
        return _take(dataclasses.replace(generation, cache=cache), logits, sampling, stops)

    return lax.while_loop(more, step, generation)


def _take(
    generation: Generation, logits: jax.Array, sampling: Sampling, stops: Stops
) -> Generation:
    """Chooses one more id of each stream that has not ended."""
    key = jax.random.fold_in(generation.key, generation.step)
    seen = generation.seen
    chosen = jnp.where(generation.finished, stops.fill, choose(logits, key, sampling, seen))
    if seen is not None:
        seen = seen.at[jnp.arange(len(chosen), dtype=jnp.int32), chosen].set(True)
    ids = lax.dynamic_update_slice(generation.ids, chosen[:, None], (jnp.int32(0), generation.step))
    return dataclasses.replace(
        generation,
        ids=ids,
        count=generation.count + (~generation.finished).astype(jnp.int32),
        finished=generation.finished | (chosen[:, None] == stops.ids[None]).any(-1),
        step=generation.step + 1,
        seen=seen,
    )


jit_prefill = functools.partial(
    jax.jit, static_argnames=("config", "watch"), donate_argnames="cache"
)(prefill)
jit_all_logits = functools.partial(jax.jit, static_argnames="config")(all_logits)
jit_start = functools.partial(jax.jit, static_argnames="kept", donate_argnames="cache")(start)
jit_advance = functools.partial(jax.jit, static_argnames="config", donate_argnames="generation")(
    advance
)
