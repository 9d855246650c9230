"""Compiles what requests usually need, before the first one comes: by answering some."""

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from diffvis_jax.images.anyres import TiledImage, make_frame, pixels_of
from diffvis_jax.language.answer import AnswerOptions
from diffvis_jax.language.generate import PREFILL_LENGTHS, kept_ids, padded_length
from diffvis_jax.language.prompt import IMAGE_TOKEN
from diffvis_jax.language.prompt_cache import init_prompt_cache, resize_prompt_cache
from diffvis_jax.language.splice import make_prompt
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
    """In the engine's thread; `make` makes sessions, and `answer` uses them."""
    start = time.monotonic()
    lane = Lane("", settings.model.policy)
    session = other = make(lane, None)
    if lane.policy != "off" and settings.serve.policy_override:  # the other way to encode
        other = make(Lane("", "exact" if session.encoder is None else "whole"), None)
    for screen in settings.serve.warm_screens:
        width, height = map(int, screen.split("x"))
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        first = _Screen(model, settings, pixels, b"first", answer)
        pixels[: height // 8, : width // 8] = 0
        second = _Screen(model, settings, pixels, b"second", answer)
        lengths = first.lengths()
        for padded in lengths:
            session.prompts.reset()
            first.ask(session, padded, 0)  # of which nothing is known
            first.ask(session, padded, 1)  # that differs at its end
            for kind in settings.serve.warm_sampling:
                first.ask(session, padded, 1, **_SAMPLING[kind])
            first.embed_several(session, padded)
        for padded in lengths[:1]:
            second.ask(session, padded, 0)  # a small change
            if other is not session:
                first.ask(other, padded, 0)
        if lengths and session.encoder is not None:  # an idle step
            session.encoder.encode(session.frame)
        config, room = model.language.config, kept_ids(settings.model.answer_tokens)
        for pair in itertools.pairwise(lengths):
            for old, new in (pair, pair[::-1]):
                cache = init_prompt_cache(config, 1, old, old + room)
                jax.block_until_ready(resize_prompt_cache(cache, new, new + room).length)
    log.info("ready after %.0f s", time.monotonic() - start)


class _Screen:
    """Questions about one picture."""

    def __init__(
        self, model: Model, settings: Settings, pixels: np.ndarray, digest: bytes, answer: Answer
    ):
        self._model, self._settings, self._answer = model, settings, answer
        frame = make_frame(Image.fromarray(pixels), model.config)
        self._picture = Picture(digest, frame, "known")
        tower = build(with_size(model.config, pixels_of(frame).shape[1:3]))
        self._grid = tower.token_grid
        self._count = len(frame.packing) if isinstance(frame, TiledImage) else tower.tokens

    def lengths(self) -> Sequence[int]:
        """Of prompts, padded, beginning with those of one picture."""
        longest = self._model.language.config.max_length - self._settings.model.answer_tokens
        shortest = padded_length(self._count + _TEXT)
        fitting = [length for length in PREFILL_LENGTHS if shortest <= length <= longest]
        return fitting[: self._settings.serve.warm_lengths]

    def ask(self, session: Session, length: int, last: int, **sampling: Any) -> None:
        """Two ids about a prompt of so many positions, whose last id is given."""
        options = AnswerOptions(
            max_new_tokens=self._settings.model.answer_tokens,
            vocabulary=len(self._model.language.tokenizer),
            **sampling,
        )
        ids = self._ids(1, length, last)
        ask = Ask(session.lane, None, ())
        prepared = Prepared(ask, ids, [self._picture], [self._grid], options, 2)
        request = ChatRequest.model_construct(model="", messages=[], stop=None)
        for _ in self._answer(Call(request), prepared, session):
            pass

    def embed_several(self, session: Session, length: int) -> None:
        """Prompts with more pictures, as far as they fit: they differ in how they are embedded."""
        tokens = session.pictures[self._picture.digest]
        most = min(self._settings.limits.images, (length - _TEXT) // self._count)
        for n in range(2, most + 1):
            ids, grids = self._ids(n, length, 0), [self._grid] * n
            make_prompt(self._model.language, [tokens] * n, ids, grids=grids, padded=length)

    def _ids(self, n: int, length: int, last: int) -> np.ndarray:
        """Of a prompt with n pictures."""
        text = [0] * (length - n * self._count - 2)
        return np.array([0, *[IMAGE_TOKEN] * n, *text, last], np.int32)
