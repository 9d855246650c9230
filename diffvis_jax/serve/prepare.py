"""From a request to what the engine takes: pictures read, texts as ids, limits checked."""

import dataclasses
import hashlib
import threading
import time
from typing import Any

import numpy as np

from diffvis_jax.errors import PromptError
from diffvis_jax.images.anyres import Frame, TiledImage, pixels_of
from diffvis_jax.language.answer import AnswerOptions
from diffvis_jax.language.chat import Message, render
from diffvis_jax.language.positions import Grid
from diffvis_jax.model import Model
from diffvis_jax.serve.images import ImageLimits, Picture, PictureReader
from diffvis_jax.serve.protocol import ApiError, ChatRequest, TextPart
from diffvis_jax.serve.sessions import Ask, Lane, chain_of
from diffvis_jax.serve.settings import Settings
from diffvis_jax.towers import build, with_size

_CHARACTERS = 16  # of text for a position of the context: more cannot fit


@dataclasses.dataclass
class Call:
    """A request on its way.

    Attributes:
      request: checked.
      tenant: whose it is.
      session: by a header.
      no_store: whether answers of before are not wanted.
      arrived: of `time.perf_counter`.
      told: what became of it, for the answer's `diffvis`; complete with `Done`.
    """

    request: ChatRequest
    tenant: str = ""
    session: str | None = None
    no_store: bool = False
    arrived: float = dataclasses.field(default_factory=time.perf_counter)
    told: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A request as the engine takes it.

    Attributes:
      ids: int32 `[L]`, -200 for each picture.
      grids: (rows, columns) of each picture's tokens.
      limit: ids of the answer at most; `options` have room for them.
    """

    ask: Ask
    ids: np.ndarray
    pictures: list[Picture]
    grids: list[Grid]
    options: AnswerOptions
    limit: int


class Preparer:
    """Prepares requests; may be called from several threads."""

    def __init__(self, model: Model, settings: Settings):
        """Raises: PromptError: an unknown template, or one that the tokenizer does not fit."""
        self._settings, self._config = settings, model.config
        self._language, self._tokenizer = model.language, model.language.tokenizer
        self._template = settings.model.conversation or model.language.config.conversation
        limits = settings.limits
        self._reader = PictureReader(
            model.config,
            ImageLimits(limits.image_mb, limits.image_megapixels, limits.image_side),
            kept_mb=settings.serve.frames_mb,
        )
        self._rendering = threading.Lock()  # a tokenizer has a mode
        render([Message("user", "Hi")], self._tokenizer, conversation=self._template)

    def prepare(self, call: Call) -> Prepared:
        """Reads pictures and texts.

        Raises:
          ApiError: they are too large, damaged, or do not make sense.
        """
        request, settings = call.request, self._settings
        policy = request.diffvis.policy or settings.model.policy
        if policy != settings.model.policy and not settings.serve.policy_override:
            said = f"this server answers under the policy {settings.model.policy!r} alone"
            raise ApiError(400, "unsupported_parameter", said, "diffvis.policy")
        places = list(request.images())
        if len(places) > settings.limits.images:
            said = f"{len(places)} pictures, of at most {settings.limits.images}"
            raise ApiError(400, "too_many_images", said, "messages")
        texts = [p.text for m in request.messages for p in m.content if isinstance(p, TextPart)]
        context = self._language.config.max_length
        if (length := sum(map(len, texts))) > _CHARACTERS * context:
            said = f"a text of {length} characters does not fit into a context of {context} tokens"
            raise ApiError(400, "context_length_exceeded", said, "messages")
        if settings.model.images == "latest":
            places = places[-1:]
        key = request.diffvis.session or call.session or request.prompt_cache_key
        hint = key or hashlib.blake2b("".join(texts[:1]).encode(), digest_size=8).digest()
        shown = {
            place: self._reader.read(image.url, place, call.tenant, hint) for place, image in places
        }
        messages, links, opening = [], [], 0
        for i, message in enumerate(request.messages):
            parts: list[str | None] = []
            link: list[str | bytes] = []
            for j, part in enumerate(message.content):
                if isinstance(part, TextPart):
                    parts.append(part.text)
                    link.append(part.text)
                elif picture := shown.get(f"messages[{i}].content[{j}]"):
                    parts.append(None)
                    link.append(picture.digest)
            messages.append(Message(message.role, parts))
            links.append((message.role, link))
            opening = opening or (i + 1 if message.role == "user" else 0)
        pictures = list(shown.values())
        ids = self._ids(messages)
        towers = [self._tower(picture.frame) for picture in pictures]
        counts = [
            len(picture.frame.packing) if isinstance(picture.frame, TiledImage) else tower.tokens
            for picture, tower in zip(pictures, towers, strict=True)
        ]
        options, limit = self._options(request, len(ids) + sum(counts) - len(counts))
        ask = Ask(
            Lane(call.tenant, policy),
            key,
            chain_of(links),
            opening,
            tuple(picture.digest for picture in pictures),
            pictures[-1].frame if pictures else None,
        )
        known = [picture.source for picture in pictures]
        call.told.update(
            pictures={name: known.count(name) for name in ("known", "same", "resized")},
            decode_ms=sum(picture.decode_ms for picture in pictures),
            resize_ms=sum(picture.resize_ms for picture in pictures),
        )
        grids = [tower.token_grid for tower in towers]
        return Prepared(ask, ids, pictures, grids, options, limit)

    def _ids(self, messages: list[Message]) -> np.ndarray:
        try:
            with self._rendering:
                return render(messages, self._tokenizer, conversation=self._template)
        except PromptError as error:
            raise ApiError(400, "invalid_request", str(error), "messages") from None

    def _options(self, request: ChatRequest, length: int) -> tuple[AnswerOptions, int]:
        """How a prompt of so many positions is answered, and the answer's longest length."""
        settings, config = self._settings.model, self._language.config
        left = config.max_length - length
        limit = request.limit or max(1, min(settings.answer_tokens, left))
        if limit > left:
            said = (
                f"a prompt of {length} tokens and {limit} new ones do not fit into a context of "
                f"{config.max_length}"
            )
            raise ApiError(400, "context_length_exceeded", said, "messages")
        room = -(-limit // settings.answer_tokens) * settings.answer_tokens
        temperature = request.temperature
        options = AnswerOptions(
            max_new_tokens=min(room, left),  # of few sizes, for each is a compilation
            temperature=settings.temperature if temperature is None else temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            seed=(request.seed or 0) % 2**31,
            vocabulary=len(self._tokenizer),
        )
        return options, limit

    def _tower(self, frame: Frame) -> Any:
        return build(with_size(self._config, pixels_of(frame).shape[1:3]))
