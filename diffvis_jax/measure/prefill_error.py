"""Compares a prefill with a fresh one, for benchmarks: logits, and the text that follows.

B prompts.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.language import generate
from diffvis_jax.language.answer import AnswerOptions, answers
from diffvis_jax.language.config import DecoderConfig
from diffvis_jax.language.kv_cache import KVCache, init_kv_cache
from diffvis_jax.language.prompt_cache import Prompt, PromptCache
from diffvis_jax.towers.params import Params


@dataclasses.dataclass(frozen=True)
class PrefillError:
    """One entry per prompt.

    Attributes:
      logit_error: RMS of the difference of the logits over the standard deviation of the right
        ones; 0 = exact.
      divergence: Kullback-Leibler divergence of the next id's distribution from the right one.
      same_first: whether the likeliest next id is the same.
      agreement: share of the greedy answer before it first differs; 1 = all of it.
      same_text: whether the greedy answers are the same.
    """

    logit_error: np.ndarray  # float32 [B]
    divergence: np.ndarray  # float32 [B]
    same_first: np.ndarray  # bool [B]
    agreement: np.ndarray  # float32 [B]
    same_text: np.ndarray  # bool [B]


def compare_prefill(
    params: Params,
    cache: PromptCache,
    prompt: Prompt,
    *,
    config: DecoderConfig,
    new_tokens: int = 32,
    stop_ids: tuple[int, ...] | None = None,
) -> PrefillError:
    """Compares a cache with a fresh prefill of its prompt, and the greedy answers to both.

    Args:
      params: of the language model.
      cache: of this prompt; stays as it is.
      prompt: what is prefilled.
      config: of the language model.
      new_tokens: ids of the answers that are compared; the cache must have room for them.
      stop_ids: what ends them; None = the model's own.
    """
    batch = len(prompt.length)
    empty = init_kv_cache(config, batch, cache.kv.capacity)
    logits, kv, _ = generate.jit_prefill(
        params, empty, prompt.embeddings, prompt.length, config=config, rotary=prompt.rotary
    )
    options = AnswerOptions(max_new_tokens=new_tokens, stop_ids=stop_ids)

    def greedy(logits: jax.Array, kv: KVCache) -> list[np.ndarray]:
        return answers(params, logits, kv, options, config=config, prompt=prompt.ids)[0]

    copied = dataclasses.replace(jax.tree.map(jnp.copy, cache.kv), length=jnp.copy(prompt.length))
    expected, actual = greedy(logits, kv), greedy(cache.logits, copied)
    agreement = [_agreement(*pair) for pair in zip(actual, expected, strict=True)]
    cached, fresh = np.asarray(cache.logits, np.float64), np.asarray(logits, np.float64)
    error = np.sqrt(np.square(cached - fresh).mean(-1)) / fresh.std(-1)
    log_cached, log_fresh = (np.asarray(jax.nn.log_softmax(x)) for x in (cache.logits, logits))
    return PrefillError(
        logit_error=error,
        divergence=(np.exp(log_fresh) * (log_fresh - log_cached)).sum(-1),
        same_first=cached.argmax(-1) == fresh.argmax(-1),
        agreement=np.array(agreement),
        same_text=np.array(agreement) == 1,
    )


def _agreement(actual: np.ndarray, expected: np.ndarray) -> float:
    length = min(len(actual), len(expected))
    same = actual[:length] == expected[:length]
    first = length if same.all() else int(same.argmin())
    return first / max(len(actual), len(expected))
