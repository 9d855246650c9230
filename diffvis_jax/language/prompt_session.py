"""The stateful wrapper for scripts: one prompt after another, prefilled differentially."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.errors import ConfigError, PromptError
from diffvis_jax.language import answer, generate
from diffvis_jax.language.answer import AnswerOptions
from diffvis_jax.language.config import DecoderConfig
from diffvis_jax.language.differential_prefill import jit_prefill_fresh, prefill_next
from diffvis_jax.language.generate import Generation
from diffvis_jax.language.kv_cache import KVCache
from diffvis_jax.language.language_model import Language
from diffvis_jax.language.layer_keep import LayerKeep, image_tokens, jit_prefill_kept
from diffvis_jax.language.positions import Grid
from diffvis_jax.language.prefill_policy import PrefillPolicy, PrefillReport, describe_prefill
from diffvis_jax.language.prompt_cache import (
    Prompt,
    PromptCache,
    init_prompt_cache,
    resize_prompt_cache,
)
from diffvis_jax.language.splice import Ids, make_prompt
from diffvis_jax.language.tuning import PrefillTuning

_COUNTS = ("prompts", "full", "partial", "reuse", "prefilled_total", "tokens_total")


@dataclasses.dataclass(frozen=True)
class Prefilled:
    """What a prefill gave.

    Attributes:
      logits: of the last position, float32 `[V]`.
      report: path ("reuse", "partial" or "full"), prefilled, total, changed, first, refreshed; see
        `PrefillReport`.
      attention: what the last position attends to among the image tokens, float32
        `[L, H, n N]` for L layers, H heads and n images of N tokens; None unless asked for.
    """

    logits: jax.Array
    report: dict[str, Any]
    attention: np.ndarray | None


class PromptSession:
    """Answers prompts that resemble each other, such as one question about frame after frame.

    A prompt that is padded to another length than the last, or an answer that needs more room, has
    its cache copied to another size; what fits is kept.

    Attributes:
      policy: what a prefill may leave out; may be replaced.
      options: how answers are made; may be replaced.
    """

    def __init__(
        self,
        language: Language,
        policy: PrefillPolicy | None = None,
        options: AnswerOptions | None = None,
        *,
        differential: bool = True,
        attention: bool = False,
        tuning: PrefillTuning | None = None,
        layer_keep: LayerKeep | None = None,
    ):
        """Args:
        policy: what a prefill may leave out; None = `PrefillPolicy()`, which is exact.
        options: how answers are made; None = `AnswerOptions()`.
        differential: whether anything is reused; False = every prefill is a fresh one.
        attention: whether prefills tell what the last position attends to.
        tuning: how prefills are laid out; None = as suits the platform.
        layer_keep: which image tokens go no deeper; None = all go through all layers. With it every
          prompt is read afresh.

        Raises:
          ConfigError: `layer_keep` together with `differential` or `attention`.
        """
        if layer_keep is not None and (differential or attention):
            raise ConfigError(
                "layer_keep reads every prompt afresh, and tells no attention: it needs "
                "differential=False and attention=False"
            )
        self._layer_keep = layer_keep
        self.policy = PrefillPolicy() if policy is None else policy
        self.options = AnswerOptions() if options is None else options
        self._language, self._attention = language, attention
        self._differential, self._tuning = differential, tuning
        self.reset()

    @property
    def config(self) -> DecoderConfig:
        """Of the language model."""
        return self._language.config

    @property
    def nbytes(self) -> int:
        """Bytes that are kept from one prompt to the next."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves((self._cache, self._ids)))

    def reset(self) -> None:
        """Forgets the prompts, and the statistics."""
        self._cache: PromptCache | None = None
        self._ids: jax.Array | None = None  # of the last prompt
        self._generation: Generation | None = None
        self._stats = dict.fromkeys((*_COUNTS, "resized"), 0)

    def prefill(
        self,
        tokens: Any,
        input_ids: Ids,
        grids: Sequence[Grid] | None = None,
        *,
        padded: int | None = None,
    ) -> Prefilled:
        """Reads a prompt.

        Args:
          tokens: vision tokens `[n, N, P]`, from a full or a differential encode, or a list of
            `[N, P]`; None = no images.
          input_ids: int `[L]`, -200 where an image goes.
          grids: (rows, columns) of each image's tokens (see `make_prompt`).
          padded: positions that the prompt is padded to, for prompts that grow; None = the
            smallest of the fixed lengths.

        Raises:
          PromptError: `input_ids` are no integers, there is not one image for each -200, there are
            several prompts, or prompt and answer do not fit into the context.
        """
        params, config = self._language.params, self._language.config
        prompt = make_prompt(self._language, tokens, input_ids, grids=grids, padded=padded)
        if len(prompt.length) != 1:
            raise PromptError(f"a session takes one prompt at a time, got {len(prompt.length)}")
        generate.check_context(int(prompt.length[0]), self.options.max_new_tokens, config)
        cache = self._fitting_cache(prompt.embeddings.shape[1])
        # The donated cache is gone if the step fails: forget it first, keep the new one after.
        self._cache = None
        if self._layer_keep is not None:
            cache, report = self._read_kept(cache, prompt, self._layer_keep)
        elif self._differential:
            cache, report = prefill_next(
                params, cache, prompt, self.policy, config=config, tuning=self._tuning
            )
        else:
            cache, report = jit_prefill_fresh(params, cache, prompt, config=config)
        self._cache, self._ids = cache, prompt.ids
        described = describe_prefill(report)[0]
        self._count(described)
        attention = None
        if cache.attention is not None:
            attention = np.asarray(cache.attention[0])[..., np.asarray(prompt.image[0])]
        return Prefilled(cache.logits[0], described, attention)

    def _read_kept(
        self, cache: PromptCache, prompt: Prompt, keep: LayerKeep
    ) -> tuple[PromptCache, PrefillReport]:
        logits, kv = jit_prefill_kept(
            self._language.params,
            dataclasses.replace(cache.kv, dropped=None),
            prompt.embeddings,
            prompt.image,
            prompt.length,
            config=self._language.config,
            keep=keep,
            images=image_tokens(np.asarray(prompt.image)),
            rotary=prompt.rotary,
        )
        none = jnp.zeros_like(prompt.length)
        report = PrefillReport(
            prefilled=prompt.length,
            total=prompt.length,
            changed=prompt.length,
            first=none,
            refreshed=none > 0,
        )
        length = jnp.copy(prompt.length)
        return dataclasses.replace(cache, kv=kv, logits=logits, length=length), report

    def _fitting_cache(self, padded: int) -> PromptCache:
        capacity = padded + self.options.kept
        cache = self._take_back()
        if cache is not None:
            if cache.reference.shape[1] == padded and cache.kv.capacity >= capacity:
                return cache
            self._stats["resized"] += 1
            return resize_prompt_cache(cache, padded, capacity)
        return init_prompt_cache(
            self._language.config, 1, padded, capacity, attention=self._attention
        )

    def _take_back(self) -> PromptCache | None:
        """The cache, its keys and values out of the answer that was made with them."""
        if self._generation is not None and self._cache is not None:
            self._cache = dataclasses.replace(self._cache, kv=self._generation.cache)
        self._generation = None
        return self._cache

    def stream(self) -> Iterator[int]:
        """The ids of the answer to the last prompt, as they are chosen.

        The next `prefill` ends it.

        Raises:
          PromptError: there is no prompt, or `options` want a search, which cannot be streamed.
        """
        if self.options.num_beams > 1:
            raise PromptError("beam search knows its answer at the end only: use generate()")
        return self._stream(self._begin())

    def _stream(self, generation: Generation) -> Iterator[int]:
        params, config, options = self._language.decoding, self._language.config, self.options
        for number in range(options.max_new_tokens):
            yield int(np.asarray(generation.ids)[0, number])
            if self._generation is not generation:
                raise PromptError("this answer was given up: the session has another prompt")
            if bool(generation.finished[0]) or number + 1 == options.max_new_tokens:
                return
            cache, self._cache = self._cache, None  # as in prefill
            self._generation = generation = answer.advance(
                params, generation, number + 2, options, config=config
            )
            self._cache = cache

    def _begin(self) -> Generation:
        kv, logits = self._prompt()
        cache, self._cache = self._cache, None  # as in prefill
        self._generation = answer.first_id(
            logits, kv, self.options, config=self._language.config, prompt=self._ids
        )
        self._cache = cache
        return self._generation

    def _prompt(self) -> tuple[KVCache, jax.Array]:
        cache = self._take_back()
        if cache is None:
            raise PromptError("nothing to answer: prefill a prompt first")
        room = cache.kv.capacity - cache.reference.shape[1]
        if self.options.kept > room:
            raise PromptError(
                f"the prompt was read with room for an answer of {room} tokens, not of "
                f"{self.options.max_new_tokens}: set the options before prefill"
            )
        # An answer that was made before has moved the end of the keys and values.
        return dataclasses.replace(cache.kv, length=jnp.copy(cache.length)), cache.logits

    def generate(self) -> np.ndarray:
        """The whole answer to the last prompt, int32 `[n]`, the stop id that ended it included.

        Raises:
          PromptError: there is no prompt.
        """
        if self.options.num_beams == 1:
            return np.array(list(self.stream()), np.int32)
        kv, logits = self._prompt()
        params, config = self._language.decoding, self._language.config
        return answer.search(params, logits, kv, self.options, config=config, prompt=self._ids)[0]

    def get_stats(self) -> dict[str, float]:
        """Counts since the last reset.

        prompts, of them full, partial, reuse; prefilled_total of tokens_total, and their share
        avg_prefilled; how often the cache was resized.
        """
        share = self._stats["prefilled_total"] / max(1, self._stats["tokens_total"])
        return {**self._stats, "avg_prefilled": share}

    def _count(self, report: dict[str, Any]) -> None:
        stats = self._stats
        stats["prompts"] += 1
        stats[report["path"]] += 1
        stats["prefilled_total"] += report["prefilled"]
        stats["tokens_total"] += report["total"]
