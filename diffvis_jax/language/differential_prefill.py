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
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffvis_jax.core import windows
from diffvis_jax.errors import CacheError
from diffvis_jax.language.config import DecoderConfig
from diffvis_jax.language.decoder import forward, read_out
from diffvis_jax.language.generate import PREFILL_LENGTHS, prefill, rope_delta
from diffvis_jax.language.kv_cache import KVCache, init_kv_cache
from diffvis_jax.language.tuning import ACCELERATOR, CPU, PrefillTuning
from diffvis_jax.towers.params import Params
from diffvis_jax.utils.validation import checked, unchecked


@flax.struct.dataclass(kw_only=True)
class Prompt:
    """A spliced prompt: text and images as the decoder sees them.

    Attributes:
      embeddings: zero beyond `length`.
      image: which positions are image tokens.
      length: positions that count.
      rotary: by what keys are rotated (`positions.py`); None unless the model has an
        `mrope_section`.
      ids: those of the text, and of image tokens `image_token_id`; -1 = none. What is penalised
        as a repetition; None = nothing can be.
    """

    embeddings: jax.Array  # float32 [B, T, D]
    image: jax.Array  # bool [B, T]
    length: jax.Array  # int32 [B]
    rotary: jax.Array | None = None  # int32 [B, T, 3]
    ids: jax.Array | None = None  # int32 [B, T]


@flax.struct.dataclass(kw_only=True)
class PromptCache:
    """What is kept of the last prompt.

    Attributes:
      kv: keys and values; T slots for the prompt, and more for an answer.
      reference, rotary: what the keys and values of each position were computed from.
      length: of the last prompt; 0 = there was none.
      exact: from this position on keys and values may be those of an approximation.
      steps: steps since all of them were exact.
      logits: of the last position of the prompt.
      attention: what that position attended to, in every layer; None if nobody wants to know.
    """

    kv: KVCache
    reference: jax.Array  # float32 [B, T, D]
    rotary: jax.Array | None  # int32 [B, T, 3]
    length: jax.Array  # int32 [B]
    exact: jax.Array  # int32 [B]
    steps: jax.Array  # int32 [B]
    logits: jax.Array  # float32 [B, V]
    attention: jax.Array | None  # float32 [B, L, H, T]


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class PrefillPolicy:
    """What a prefill may leave out. All traced: one compilation serves all policies.

    Attributes:
      bounded: whether unchanged image tokens after a changed one are kept; False = exact.
      tolerance: how far an embedding may be from its reference, its largest difference relative to
        the reference's RMS, and still count as unchanged; 0 = the same bits.
      refresh_every: after so many steps that left something out, everything that may be wrong is
        recomputed; 0 = never.
    """

    bounded: Any = False
    tolerance: Any = 0.0
    refresh_every: Any = 0

    def __post_init__(self):
        for name, dtype in (
            ("bounded", np.bool_),
            ("tolerance", np.float32),
            ("refresh_every", np.int32),
        ):
            object.__setattr__(self, name, checked(name, getattr(self, name), dtype))

    def tree_flatten_with_keys(self):
        names = [field.name for field in dataclasses.fields(self)]
        return [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in names], names

    @classmethod
    def tree_unflatten(cls, names, leaves):
        return unchecked(cls, dict(zip(names, leaves, strict=True)))

    @classmethod
    def exact(cls) -> "PrefillPolicy":
        """The default: equal to a fresh prefill, to rounding."""
        return cls()

    @classmethod
    def approximate(cls, refresh_every: int = 10) -> "PrefillPolicy":
        """Bounded, and exact again at least every so many steps."""
        return cls(bounded=True, refresh_every=refresh_every)


@flax.struct.dataclass(kw_only=True)
class PrefillReport:
    """What a prefill did, one entry per stream.

    Attributes:
      prefilled: positions recomputed.
      total: positions of the prompt.
      changed: positions whose embedding differs from its reference.
      first: the first of them; `total` if there is none.
      refreshed: whether this was a refresh.
    """

    prefilled: jax.Array  # int32 [B]
    total: jax.Array  # int32 [B]
    changed: jax.Array  # int32 [B]
    first: jax.Array  # int32 [B]
    refreshed: jax.Array  # bool [B]


def describe_prefill(report: PrefillReport) -> list[dict[str, Any]]:
    """The report as plain Python, one dict per stream; `path` is reuse, partial or full."""
    host = jax.tree.map(np.asarray, report)
    found = []
    for b in range(len(host.total)):
        done, total = int(host.prefilled[b]), int(host.total[b])
        found.append(
            {
                "path": "full" if done == total else "partial" if done else "reuse",
                "prefilled": done,
                "total": total,
                "changed": int(host.changed[b]),
                "first": int(host.first[b]),
                "refreshed": bool(host.refreshed[b]),
            }
        )
    return found


def init_prompt_cache(
    config: DecoderConfig, batch: int, padded: int, capacity: int, *, attention: bool = False
) -> PromptCache:
    """An empty cache; the first prefill with it recomputes everything.

    Args:
      config: of the language model.
      batch: B.
      padded: T, as `Prompt` is padded.
      capacity: slots for prompt and answer.
      attention: whether the attention of the last position is kept.
    """
    if capacity < padded:
        raise CacheError(f"{capacity} slots do not hold a prompt padded to {padded}")

    def count() -> jax.Array:
        return jnp.zeros((batch,), jnp.int32)

    shape = batch, config.layers, config.heads, padded
    weights = jnp.zeros(shape, jnp.float32) if attention else None
    return PromptCache(
        kv=init_kv_cache(config, batch, capacity),
        reference=jnp.zeros((batch, padded, config.width), jnp.float32),
        rotary=jnp.zeros((batch, padded, 3), jnp.int32) if config.mrope_section else None,
        length=count(),
        exact=count(),
        steps=count(),
        logits=jnp.zeros((batch, config.vocabulary), jnp.float32),
        attention=weights,
    )


def resize_prompt_cache(cache: PromptCache, padded: int, capacity: int) -> PromptCache:
    """The same cache for prompts of another padding: what fits is kept.

    Args:
      padded: T of the prompts to come; positions beyond it are forgotten.
      capacity: slots for prompt and answer.

    Raises:
      CacheError: fewer slots than positions.
    """
    if capacity < padded:
        raise CacheError(f"{capacity} slots do not hold a prompt padded to {padded}")
    old = cache.reference.shape[1]
    # By way of the usual lengths between the two: few compilations then serve all pairs.
    between = [n for n in PREFILL_LENGTHS if min(old, padded) < n < max(old, padded)]
    for length in (*(between if old < padded else reversed(between)), padded):
        cache = _resized(cache, length, length + capacity - padded)
    return cache


@functools.partial(jax.jit, static_argnums=(1, 2))
def _resized(cache: PromptCache, padded: int, capacity: int) -> PromptCache:
    def fitted(x: jax.Array, axis: int, size: int) -> jax.Array:
        x = lax.slice_in_dim(x, 0, min(size, x.shape[axis]), axis=axis)
        room = [(0, size - x.shape[axis]) if i == axis else (0, 0) for i in range(x.ndim)]
        return jnp.pad(x, room)

    kv, rotary, attention = cache.kv, cache.rotary, cache.attention
    length = jnp.minimum(cache.length, padded)
    return dataclasses.replace(
        cache,
        kv=dataclasses.replace(
            kv,
            keys=tuple(fitted(x, 2, capacity) for x in kv.keys),
            values=tuple(fitted(x, 2, capacity) for x in kv.values),
            length=jnp.minimum(kv.length, padded),
        ),
        reference=fitted(cache.reference, 1, padded),
        rotary=None if rotary is None else fitted(rotary, 1, padded),
        length=length,
        exact=jnp.minimum(cache.exact, length),
        attention=None if attention is None else fitted(attention, 3, padded),
    )


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
