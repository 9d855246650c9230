"""How far a prefill is from a fresh one, for benchmarks: logits, and the text that follows.

B prompts.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.language import generate
from diffvis_jax.language.answer import AnswerOptions, answers
from diffvis_jax.language.config import QwenConfig
from diffvis_jax.language.differential_prefill import Prompt, PromptCache
from diffvis_jax.language.kv_cache import KVCache, init_kv_cache
from diffvis_jax.towers.params import Params


@dataclasses.dataclass(frozen=True)
class PrefillError:
    """One entry per prompt.

    Attributes:
      logit_error: RMS of the difference of the logits over the standard deviation of the right
        ones; 0 = exact.
      divergence: Kullback-Leibler divergence of the next id's distribution from the right one.
      same_first: whether the likeliest next id is the right one.
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
    config: QwenConfig,
    new_tokens: int = 32,
    stop_ids: tuple[int, ...] | None = None,
) -> PrefillError:
    """Compares a cache with a fresh prefill of its prompt, and the greedy answers to both.

    Args:
      params: of the language model.
      cache: of this prompt; stays as it is.
      prompt: what it should be of.
      config: of the language model.
      new_tokens: ids of the answers that are compared; the cache must have room for them.
      stop_ids: what ends them; None = the model's own.
    """
    batch = len(prompt.length)
    empty = init_kv_cache(config, batch, cache.kv.capacity)
    logits, kv, _ = generate.jit_prefill(
        params, empty, prompt.embeddings, prompt.length, config=config
    )
    options = AnswerOptions(max_new_tokens=new_tokens, stop_ids=stop_ids)

    def greedy(logits: jax.Array, kv: KVCache) -> list[np.ndarray]:
        return answers(params, logits, kv, options, config=config)[0]

    copied = dataclasses.replace(jax.tree.map(jnp.copy, cache.kv), length=jnp.copy(prompt.length))
    right, found = greedy(logits, kv), greedy(cache.logits, copied)
    agreement = [_agreement(*pair) for pair in zip(found, right, strict=True)]
    mine, theirs = np.asarray(cache.logits, np.float64), np.asarray(logits, np.float64)
    error = np.sqrt(np.square(mine - theirs).mean(-1)) / theirs.std(-1)
    log_mine, log_theirs = (np.asarray(jax.nn.log_softmax(x)) for x in (cache.logits, logits))
    return PrefillError(
        logit_error=error,
        divergence=(np.exp(log_theirs) * (log_theirs - log_mine)).sum(-1),
        same_first=mine.argmax(-1) == theirs.argmax(-1),
        agreement=np.array(agreement),
        same_text=np.array([a.tolist() == b.tolist() for a, b in zip(found, right, strict=True)]),
    )


def _agreement(found: np.ndarray, right: np.ndarray) -> float:
    length = min(len(found), len(right))
    same = found[:length] == right[:length]
    first = length if same.all() else int(same.argmin())
    return first / max(len(found), len(right))
