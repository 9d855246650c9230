"""From a prefilled prompt to an answer, for callers outside of jit.

B prompts, V vocabulary rows.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from diffvis_jax.errors import ConfigError
from diffvis_jax.language import generate
from diffvis_jax.language.beam import beam_search
from diffvis_jax.language.config import DecoderConfig
from diffvis_jax.language.generate import Generation
from diffvis_jax.language.kv_cache import KVCache
from diffvis_jax.language.sampling import Sampling, make_sampling
from diffvis_jax.towers.params import Params


@dataclasses.dataclass(frozen=True)
class AnswerOptions:
    """How an answer is made.

    Attributes:
      max_new_tokens: ids of an answer at most.
      temperature: 0 = the likeliest id always.
      top_p, top_k: see `make_sampling`.
      num_beams: above 1: beam search, which knows no chance.
      length_penalty: beams are compared by score / length ** penalty.
      seed: of chance.
      stop_ids: ids that end an answer; None = the model's own.
      vocabulary: ids at and beyond this one are never chosen; None = all rows may be.
      repetition_penalty: see `make_sampling`; None = the model's own.

    Raises:
      ConfigError: beams with a temperature.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    num_beams: int = 1
    length_penalty: float = 1.0
    seed: int = 0
    stop_ids: Sequence[int] | None = None
    vocabulary: int | None = None
    repetition_penalty: float | None = None

    def __post_init__(self):
        if self.num_beams < 1:
            raise ConfigError(f"num_beams must be at least 1, got {self.num_beams}")
        if self.num_beams > 1 and self.temperature:
            raise ConfigError(
                f"beam search knows no chance: {self.num_beams} beams need temperature 0, got "
                f"{self.temperature}"
            )

    def sampling(self, config: DecoderConfig) -> Sampling:
        """The same, as the decoding loop takes it."""
        rows = config.vocabulary
        limit = rows if self.vocabulary is None else min(self.vocabulary, rows)
        penalty = self.repetition_penalty
        return make_sampling(
            self.temperature,
            self.top_p,
            self.top_k,
            vocabulary=limit,
            repetition_penalty=config.repetition_penalty if penalty is None else penalty,
        )

    @property
    def kept(self) -> int:
        """Ids that there must be room for."""
        return generate.kept_ids(self.max_new_tokens)


def first_id(
    logits: jax.Array,
    cache: KVCache,
    options: AnswerOptions,
    *,
    config: DecoderConfig,
    prompt: jax.Array | None = None,
) -> Generation:
    """An answer of one id, to be advanced; takes the cache over.

    Args:
      logits: float32 `[B, V]`, from the prefill.
      cache: from the prefill, with room for `options.kept` more; donated.
      prompt: its ids, int32 `[B, T]`, see `Prompt`; needed if they are penalised.
    """
    return generate.jit_start(
        logits,
        cache,
        jax.random.key(options.seed),
        options.sampling(config),
        generate.make_stops(config, options.stop_ids),
        prompt,
        kept=options.kept,
    )


def advance(
    params: Params,
    generation: Generation,
    until: int,
    options: AnswerOptions,
    *,
    config: DecoderConfig,
) -> Generation:
    """Goes on until that many ids are chosen, or every answer has ended.

    `generation` is taken over, and gone afterwards.
    """
    return generate.jit_advance(
        params,
        generation,
        np.int32(until),
        options.sampling(config),
        generate.make_stops(config, options.stop_ids),
        config=config,
    )


def search(
    params: Params,
    logits: jax.Array,
    cache: KVCache,
    options: AnswerOptions,
    *,
    config: DecoderConfig,
    prompt: jax.Array | None = None,
) -> list[np.ndarray]:
    """The best answers by beam search, int32 `[n]` each; the cache stays as it is."""
    stops = generate.make_stops(config, options.stop_ids)
    found = beam_search(
        params,
        logits,
        cache,
        np.int32(options.max_new_tokens),
        options.sampling(config),
        stops,
        prompt,
        np.float32(options.length_penalty),
        config=config,
        beams=options.num_beams,
        kept=options.kept,
    )
    answers = np.asarray(found)[:, : options.max_new_tokens]
    ends = np.isin(answers, stops.ids)
    lengths = np.where(ends.any(1), ends.argmax(1) + 1, options.max_new_tokens)
    return [answer[:n] for answer, n in zip(answers, lengths, strict=True)]


def answers(
    params: Params,
    logits: jax.Array,
    cache: KVCache,
    options: AnswerOptions,
    *,
    config: DecoderConfig,
    prompt: jax.Array | None = None,
) -> tuple[list[np.ndarray], KVCache]:
    """B whole answers after a prefill (its logits are float32 `[B, V]`, its cache is donated unless
    there are beams), int32 `[n]` each, with the stop id that ended it; and the cache. `prompt`: as
    for `first_id`."""
    if options.num_beams > 1:
        return search(params, logits, cache, options, config=config, prompt=prompt), cache
    generation = first_id(logits, cache, options, config=config, prompt=prompt)
    generation = advance(params, generation, options.max_new_tokens, options, config=config)
    ids, counts = np.asarray(generation.ids), np.asarray(generation.count)
    return [row[:n] for row, n in zip(ids, counts, strict=True)], generation.cache
