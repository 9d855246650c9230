"""Prefill that recomputes only what follows from what changed since the last prompt.

A cache remembers which embedding the keys and values of every position were computed from: its
*reference*. A new prompt is compared with it, position by position; what is selected is compacted
and run through the decoder in chunks, in a loop with a dynamic trip count, as the vision towers do
it (`core/windows.py`). Two rules select:

  exact    everything from the first position on that differs: keys and values before it depend on
           nothing that changed. The result is that of a fresh prefill, to rounding.
  bounded  image tokens that differ, and the text after the first of them. Image tokens between them
           keep keys and values that were computed against the old picture, until a refresh. An
           approximation: measure it (`compare`).

Nothing is assumed about the prompt: a new question, another number of images or a shorter prompt
are positions that differ. The answer that was decoded lies beyond the prompt and is overwritten.

B streams, T positions of the padded prompt, C positions of a chunk, D width, L layers, H heads,
V vocabulary rows.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax

from diffvis_jax.core import windows
from diffvis_jax.errors import CacheError
from diffvis_jax.language.config import DecoderConfig
from diffvis_jax.language.decoder import forward, read_out
from diffvis_jax.language.generate import prefill, rope_delta
from diffvis_jax.language.kv_cache import KVCache
from diffvis_jax.language.prefill_policy import PrefillPolicy, PrefillReport
from diffvis_jax.language.prompt_cache import Prompt, PromptCache
from diffvis_jax.language.tuning import ACCELERATOR, CPU, PrefillTuning
from diffvis_jax.towers.params import Params


def prefill_fresh(
    params: Params, cache: PromptCache, prompt: Prompt, *, config: DecoderConfig
) -> tuple[PromptCache, PrefillReport]:
    """Runs the whole prompt in one dense pass; what the cache holds does not matter.

    Copies, here and below, because a donated cache must not hold a buffer twice, and jit hands
    arguments through to results.
    """
    _check(cache, prompt)
    logits, kv, weights = prefill(
        params,
        cache.kv,
        prompt.embeddings,
        prompt.length,
        config=config,
        rotary=prompt.rotary,
        watch=cache.attention is not None,
    )
    none = jnp.zeros_like(prompt.length)
    cache = PromptCache(
        kv=dataclasses.replace(kv, length=jnp.copy(prompt.length)),
        reference=jnp.copy(prompt.embeddings),
        rotary=None if prompt.rotary is None else jnp.copy(prompt.rotary),
        length=jnp.copy(prompt.length),
        exact=jnp.copy(prompt.length),
        steps=none,
        logits=logits,
        attention=weights,
    )
    report = PrefillReport(
        prefilled=prompt.length,
        total=prompt.length,
        changed=prompt.length,
        first=none,
        refreshed=none > 0,
    )
    return cache, report


def prefill_step(
    params: Params,
    cache: PromptCache,
    prompt: Prompt,
    policy: PrefillPolicy,
    *,
    config: DecoderConfig,
    tuning: PrefillTuning | None = None,
) -> tuple[PromptCache, PrefillReport]:
    """Makes the cache that of a new prompt, recomputing only what the policy asks for.

    Pure; jit it with `config` and `tuning` static and the cache donated (`jit_prefill_step`).

    Args:
      params: of the language model.
      cache: from `init_prompt_cache`, `prefill_fresh` or the last step; its `kv` may have been
        decoded into meanwhile.
      prompt: padded to the cache's T.
      policy: what may be left out.
      config: of the language model; static.
      tuning: how the work is laid out; static. None = as suits the platform it is lowered for.

    Raises:
      CacheError: a prompt of another batch or padding than the cache.
    """
    select, cache, report = plan_prefill(cache, prompt, policy)
    operands = params, cache, prompt, select, report.prefilled

    def tuned(tuning: PrefillTuning):
        return functools.partial(_run_selected, config=config, chunk=tuning.chunk)

    if tuning is not None:
        return tuned(tuning)(*operands), report
    return lax.platform_dependent(*operands, cpu=tuned(CPU), default=tuned(ACCELERATOR)), report


def _run_selected(
    params: Params,
    cache: PromptCache,
    prompt: Prompt,
    select: jax.Array,
    prefilled: jax.Array,
    *,
    config: DecoderConfig,
    chunk: int,
) -> PromptCache:
    """Runs the selected positions through the decoder, at most `chunk` at a time.

    Args:
      select: bool `[B, T]`.
      prefilled: int32 `[B]`, how many those are.
    """
    chunk = min(chunk, select.shape[1])
    capacity, last = cache.kv.capacity, prompt.length - 1
    # Selected positions in order; the places left over name a slot that is not there.
    padding = -select.shape[1] % chunk
    order = jnp.where(select, jnp.arange(select.shape[1], dtype=jnp.int32)[None], capacity)
    order = jnp.pad(jnp.sort(order, axis=-1), ((0, 0), (0, padding)), constant_values=capacity)
    hidden = jnp.zeros((len(last), prompt.embeddings.shape[-1]), jnp.float32)

    def run(i: jax.Array, carry: tuple[KVCache, jax.Array, jax.Array | None]):
        kv, hidden, weights = carry
        positions = lax.dynamic_slice_in_dim(order, i * chunk, chunk, axis=1)
        inside = jnp.minimum(positions, select.shape[1] - 1)
        x = jnp.take_along_axis(prompt.embeddings, inside[..., None], axis=1)
        rotary = prompt.rotary
        if rotary is not None:
            rotary = jnp.take_along_axis(rotary, inside[..., None], axis=1)
        at_last = positions == last[:, None]
        row, there = at_last.argmax(-1), at_last.any(-1)
        x, kv, watched = forward(
            windows.inside(params, i),
            kv,
            x,
            positions,
            config=config,
            rotary=rotary,
            scattered=True,
            span=select.shape[1],
            watch=None if weights is None else row,
        )
        x = jnp.take_along_axis(x, row[:, None, None], axis=1)[:, 0]
        hidden = jnp.where(there[:, None], x, hidden)
        if weights is not None and watched is not None:
            weights = jnp.where(there[:, None, None, None], watched, weights)
        return kv, hidden, weights

    chunks = windows.quotient(prefilled.max() + chunk - 1, chunk)
    kv, hidden, weights = lax.fori_loop(0, chunks, run, (cache.kv, hidden, cache.attention))
    moved = (prefilled > 0)[:, None]

    def head(i: jax.Array, logits: jax.Array) -> jax.Array:
        return jnp.where(moved, read_out(windows.inside(params, i), hidden, config=config), logits)

    # A loop of one trip or none: reading the head costs as much as a few layers.
    logits = lax.fori_loop(0, moved.any().astype(jnp.int32), head, cache.logits)
    delta = rope_delta(prompt.rotary, prompt.length)
    kv = dataclasses.replace(kv, length=jnp.copy(prompt.length), rope_delta=delta)
    return dataclasses.replace(cache, kv=kv, logits=logits, attention=weights)


def plan_prefill(
    cache: PromptCache, prompt: Prompt, policy: PrefillPolicy
) -> tuple[jax.Array, PromptCache, PrefillReport]:
    """Compares a prompt with the reference and decides; computes no keys and values.

    Returns:
      bool `[B, T]`, the positions to recompute; the cache with its books brought up to date; what
      will have been done.
    """
    _check(cache, prompt)
    positions = jnp.arange(prompt.embeddings.shape[1], dtype=jnp.int32)[None]
    length = prompt.length[:, None]
    inside = positions < length
    unknown = positions >= cache.length[:, None]
    difference = jnp.abs(prompt.embeddings - cache.reference).max(-1)
    scale = jnp.sqrt(jnp.square(cache.reference).mean(-1))
    # Differences may underflow, bits do not.
    differs = (prompt.embeddings != cache.reference).any(-1)
    differs &= (policy.tolerance == 0) | (difference > policy.tolerance * scale)
    rotary = cache.rotary
    if prompt.rotary is not None and rotary is not None:
        # An image of another size moves all that follows it.
        differs |= (prompt.rotary != rotary).any(-1)
    changed = inside & (differs | unknown)
    first = jnp.where(changed, positions, length).min(-1)

    due = (policy.refresh_every > 0) & (cache.steps + 1 >= policy.refresh_every)
    due &= cache.exact < prompt.length
    whole = due | ~jnp.asarray(policy.bounded)
    begin = jnp.where(whole, jnp.minimum(first, cache.exact), first)[:, None]
    after = inside & (positions >= begin)
    select = jnp.where(whole[:, None], after, changed | (after & ~prompt.image))
    # The answer begins at the last position: it follows whatever moves before it, and a prompt
    # that was cut short ends at another one.
    moved = select.any(-1) | (cache.length != prompt.length)
    select |= moved[:, None] & (positions == length - 1)

    if prompt.rotary is not None and rotary is not None:
        rotary = jnp.where(select[..., None], prompt.rotary, rotary)
    stale = inside & ~select & (positions > first[:, None])
    # A run of recomputed positions that begins where all before it is exact is exact, too.
    exact = jnp.where(
        first <= cache.exact, jnp.where(stale, positions, length).min(-1), cache.exact
    )
    exact = jnp.where(whole, prompt.length, exact)
    cache = dataclasses.replace(
        cache,
        reference=jnp.where(select[..., None], prompt.embeddings, cache.reference),
        rotary=rotary,
        length=jnp.copy(prompt.length),
        exact=exact,
        steps=jnp.where(exact < prompt.length, cache.steps + 1, 0),
    )
    report = PrefillReport(
        prefilled=select.sum(-1, dtype=jnp.int32),
        total=prompt.length,
        changed=changed.sum(-1, dtype=jnp.int32),
        first=first,
        refreshed=due & jnp.asarray(policy.bounded),
    )
    return select, cache, report


def _check(cache: PromptCache, prompt: Prompt) -> None:
    if (cache.rotary is None) != (prompt.rotary is None):
        raise CacheError("a prompt of another model: one of the two rotates by rows and columns")
    if cache.reference.shape != prompt.embeddings.shape:
        raise CacheError(
            f"a prompt of {list(prompt.embeddings.shape)} for a cache of "
            f"{list(cache.reference.shape)}: make another with init_prompt_cache"
        )


jit_prefill_fresh = jax.jit(prefill_fresh, static_argnames="config", donate_argnames="cache")
jit_prefill_step = jax.jit(
    prefill_step, static_argnames=("config", "tuning"), donate_argnames="cache"
)


@functools.partial(jax.jit, static_argnames="tuning")
def _jit_compare(
    cache: PromptCache, prompt: Prompt, policy: PrefillPolicy, *, tuning: PrefillTuning | None
) -> tuple[PrefillReport, jax.Array]:
    """What a step will do, and whether a dense pass is faster, bool []."""
    report = plan_prefill(cache, prompt, policy)[2]
    share = (report.prefilled / report.total).max()

    def above(tuning: PrefillTuning):
        return lambda share: share > tuning.full_above

    if tuning is not None:
        return report, above(tuning)(share)
    return report, lax.platform_dependent(share, cpu=above(CPU), default=above(ACCELERATOR))


def prefill_next(
    params: Params,
    cache: PromptCache,
    prompt: Prompt,
    policy: PrefillPolicy,
    *,
    config: DecoderConfig,
    tuning: PrefillTuning | None = None,
) -> tuple[PromptCache, PrefillReport]:
    """`prefill_step`, or a dense pass where that is faster; not inside jit, for it looks first.

    Arguments and results are those of `prefill_step`; the cache is donated.
    """
    planned, dense = _jit_compare(cache, prompt, policy, tuning=tuning)
    if not dense:
        return jit_prefill_step(params, cache, prompt, policy, config=config, tuning=tuning)
    cache, report = jit_prefill_fresh(params, cache, prompt, config=config)
    seen = {name: getattr(planned, name) for name in ("changed", "first", "refreshed")}
    return cache, dataclasses.replace(report, **seen)
