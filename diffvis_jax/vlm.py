"""The vision-language model: from frames and ids to logits and text.

`PromptSession` (`language/prompt_session.py`) does the same from frame to frame, and keeps what did
not change. B prompts, n images, L positions of the longest prompt, V vocabulary rows.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.core.step import jit_encode
from diffvis_jax.images.anyres import TiledImage
from diffvis_jax.language import generate
from diffvis_jax.language.answer import AnswerOptions, answers
from diffvis_jax.language.kv_cache import init_kv_cache
from diffvis_jax.language.positions import Grid
from diffvis_jax.language.prompt_session import PromptSession
from diffvis_jax.language.splice import Ids, make_prompt, packed
from diffvis_jax.model import Model
from diffvis_jax.towers import build, with_size


def logits(model: Model, frames: Any, input_ids: Ids) -> jax.Array:
    """What the model says of every position of the spliced prompts.

    Args:
      model: from `load`, with a language side.
      frames: `uint8 [n, H, W, 3]`, the images in the order of their places, or where the tower
        takes several sizes a list of `[H, W, 3]`, or of `TiledImage` for a model that cuts images
        into tiles; None = there are none.
      input_ids: `[L]` or `[B, L]`, or a list of prompts; -200 where an image goes, or
        the id that the tokenizer gives `<image>`, as often as the image has tokens. Prompts longer
        than the context are cut, as LLaVA does it.

    Returns:
      float32 `[B, L, V]`; L is the longest spliced prompt. What lies beyond the end of a
      shorter one is of its padding, and means nothing.

    Raises:
      PromptError: `input_ids` are no integers, or there is not one image for each -200.
      CheckpointError: the model has no language side.
    """
    language = model.language
    tokens, grids = _tokens(model, frames)
    prompt = make_prompt(language, tokens, input_ids, grids=grids, cut=True)
    found = generate.jit_all_logits(
        language.params, prompt.embeddings, prompt.rotary, config=language.config
    )
    return found[:, : int(prompt.length.max())]


def generate_ids(
    model: Model,
    frames: Any,
    input_ids: Ids,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    *,
    top_p: float | None = None,
    top_k: int | None = None,
    num_beams: int = 1,
    seed: int = 0,
    stop_ids: Sequence[int] | None = None,
    vocabulary: int | None = None,
    repetition_penalty: float | None = None,
) -> np.ndarray:
    """The model's answers.

    Args:
      model, frames, input_ids: as for `logits`, but prompts that are too long are an error.
      max_new_tokens, temperature, top_p, top_k, num_beams, seed, stop_ids, vocabulary,
        repetition_penalty: see `AnswerOptions`.

    Returns:
      int32 `[n]` new ids, the stop id that ended them included; `[B, n]` where `input_ids` are
      several, with padding after an end.

    Raises:
      PromptError: `input_ids` are no integers, there is not one image for each -200, or prompt
        and answer do not fit into the context.
      ConfigError: an option out of range.
      CheckpointError: the model has no language side.
    """
    options = AnswerOptions(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        num_beams=num_beams,
        seed=seed,
        stop_ids=stop_ids,
        vocabulary=vocabulary,
        repetition_penalty=repetition_penalty,
    )
    language, config = model.language, model.language.config
    tokens, grids = _tokens(model, frames)
    prompt = make_prompt(language, tokens, input_ids, grids=grids)
    longest = int(prompt.length.max())
    generate.check_context(longest, max_new_tokens, config)
    capacity = generate.capacity_for(longest, max_new_tokens)
    cache = init_kv_cache(config, len(prompt.length), capacity)
    last, cache, _ = generate.jit_prefill(
        language.params,
        cache,
        prompt.embeddings,
        prompt.length,
        config=config,
        rotary=prompt.rotary,
    )
    found, _ = answers(language.decoding, last, cache, options, config=config, prompt=prompt.ids)
    if len(found) == 1 and not _is_batch(input_ids):
        return found[0]
    fill = generate.make_stops(config, stop_ids).fill
    longest = max(len(answer) for answer in found)
    return np.stack([np.pad(a, (0, longest - len(a)), constant_values=int(fill)) for a in found])


def stream_ids(
    model: Model, frames: Any, input_ids: Ids, options: AnswerOptions | None = None
) -> Iterator[int]:
    """The ids of one answer as they are chosen; arguments and errors are those of `generate_ids`,
    which come before the first id."""
    session = PromptSession(model.language, options=options)
    tokens, grids = _tokens(model, frames)
    session.prefill(tokens, input_ids, grids)
    return session.stream()


def _tokens(model: Model, frames: Any) -> tuple[Any, list[Grid]]:
    """Vision tokens `[n, N, P]`, or a list of `[N, P]` where sizes differ or of `PackedTokens`; and
    the grids."""
    if frames is None or not len(frames):
        return None, []
    if isinstance(frames, list | tuple):
        if isinstance(frames[0], TiledImage):
            return [packed(_encoded(model, x.frames), x.packing) for x in frames], []
        if len({x.shape for x in frames}) > 1:
            tokens = [_encoded(model, x[None])[0] for x in frames]
            return tokens, [_token_grid(model, x.shape[:2]) for x in frames]
        frames = jnp.stack(frames)
    tokens = _encoded(model, frames)
    return tokens, [_token_grid(model, frames.shape[1:3])] * len(frames)


def _token_grid(model: Model, size: tuple[int, int]) -> Grid:
    return build(with_size(model.config, size)).token_grid


def _encoded(model: Model, frames: Any) -> jax.Array:
    tokens = jit_encode(model.params, jnp.asarray(frames), config=model.config)
    assert isinstance(tokens, jax.Array)
    return tokens


def _is_batch(input_ids: Ids) -> bool:
    return np.ndim(input_ids[0]) == 1
