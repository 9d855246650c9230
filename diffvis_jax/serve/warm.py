"""Compiles what requests usually need, before the first one comes: by answering some."""

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from PIL import Image

from diffvis_jax.images.anyres import TiledImage, make_frame, pixels_of
from diffvis_jax.language.answer import AnswerOptions
from diffvis_jax.language.differential_prefill import init_prompt_cache, resize_prompt_cache
from diffvis_jax.language.generate import PREFILL_LENGTHS, kept_ids, padded_length
from diffvis_jax.language.prompt import IMAGE_TOKEN
from diffvis_jax.model import Model
from diffvis_jax.serve.images import Picture
from diffvis_jax.serve.prepare import Call, Prepared
from diffvis_jax.serve.protocol import ChatRequest
from diffvis_jax.serve.sessions import Ask, Lane, Session
from diffvis_jax.serve.settings import Settings
from diffvis_jax.towers import build, with_size

log = logging.getLogger(__name__)

Answer = Callable[[Call, Prepared, Session], Iterator[Any]]

_TEXT = 24  # positions around the pictures of the shortest prompt
_SAMPLING = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 1.0},
    "sorted": {"temperature": 1.0, "top_p": 0.5},
}


def warm_up(
    model: Model,
    settings: Settings,
    make: Callable[[Lane, str | None], Session],
    answer: Answer,
) -> None:
    """In the engine's thread."""
    start = time.monotonic()
    for screen in settings.serve.warm_screens:
        width, height = map(int, screen.split("x"))
        _warm_screen(model, settings, make, answer, (height, width))
    log.info("ready after %.0f s", time.monotonic() - start)


def _warm_screen(
    model: Model,
    settings: Settings,
    make: Callable[[Lane, str | None], Session],
    answer: Answer,
    size: tuple[int, int],
) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (*size, 3), np.uint8)
    frames = []
    for number in range(settings.limits.images):
        pixels[: size[0] // 8, : size[1] // 8] = number  # a small change after each
        frames.append(make_frame(Image.fromarray(pixels), model.config))
    tower = build(with_size(model.config, pixels_of(frames[0]).shape[1:3]))
    first = frames[0]
    count = len(first.packing) if isinstance(first, TiledImage) else tower.tokens
    policy = settings.model.policy
    session = make(Lane("", policy), None)
    if policy != "off" and settings.serve.policy_override:  # the other way to encode
        other = make(Lane("", "exact" if session.encoder is None else "whole"), None)
    else:
        other = session

    def ask(n: int, length: int, last: int, session: Session, **sampling: Any) -> None:
        """Two ids about n pictures in a prompt of so many positions, whose last id is given."""
        ids = [0, *[IMAGE_TOKEN] * n, *[0] * (length - n * count - 2), last]
        prepared = Prepared(
            Ask(session.lane, None, ()),
            np.array(ids, np.int32),
            [Picture(bytes([i]), frame, "known") for i, frame in enumerate(frames[:n])],
            [tower.token_grid] * n,
            AnswerOptions(
                max_new_tokens=settings.model.answer_tokens,
                vocabulary=len(model.language.tokenizer),
                **sampling,
            ),
            2,
        )
        request = ChatRequest.model_construct(model="", messages=[], stop=None)
        for _ in answer(Call(request), prepared, session):
            pass

    longest = model.language.config.max_length - settings.model.answer_tokens
    begin = PREFILL_LENGTHS.index(min(padded_length(count + _TEXT), PREFILL_LENGTHS[-1]))
    lengths = PREFILL_LENGTHS[begin:][: settings.serve.warm_lengths]
    lengths = [length for length in lengths if length <= longest]
    for number, padded in enumerate(lengths):
        for n in range(1, min(len(frames), (padded - _TEXT) // count) + 1):
            ask(n, padded, 0, other if number == 0 else session)
            ask(n, padded, 1, session)  # and a prompt that differs at its end
        for kind in settings.serve.warm_sampling:
            ask(1, padded, 0, session, **_SAMPLING[kind])
        other.prompts.reset()
        ask(1, padded, 0, other)  # and one of which nothing is known
    config, room = model.language.config, kept_ids(settings.model.answer_tokens)
    for old, new in itertools.permutations(lengths, 2):
        cache = init_prompt_cache(config, 1, old, old + room)
        jax.block_until_ready(resize_prompt_cache(cache, new, new + room).length)
    if session.encoder is not None and session.frame is not None:  # an idle step
        session.encoder.encode(session.frame)
