"""What is asked of an engine and what it answers, whichever engine it is.

Everything said is a frozen value, and no `repr` shows it: logs and exceptions quote values.
"""

import asyncio
import contextlib
import dataclasses
import math
from collections.abc import AsyncGenerator, Callable
from typing import Literal, Protocol, TypeAlias

import numpy as np

from diffvis_jax.errors import DiffvisError, PromptError


@dataclasses.dataclass(frozen=True)
class Text:
    """A piece of text."""

    text: str = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture; raises PromptError for something else than the bytes of a PNG file."""

    png: bytes = dataclasses.field(repr=False)  # never a path, which a client library may open
    size: tuple[int, int]  # (width, height) in pixels

    def __post_init__(self):
        if not isinstance(self.png, bytes) or not self.png.startswith(b"\x89PNG\r\n\x1a\n"):
            raise PromptError("a picture is given as the bytes of a PNG file")


@dataclasses.dataclass(frozen=True, eq=False)
class Tokens:
    """A picture as its projected vision tokens, as wide as the embeddings of their decoder.

    `digest`: hex, over pixels, state of the encoder, weights and policy: the same pixels reached
    over another history are other tokens.
    """

    array: np.ndarray = dataclasses.field(repr=False)  # float [N, D]
    digest: str


Part: TypeAlias = Text | Picture | Tokens


@dataclasses.dataclass(frozen=True)
class Message:
    """What one side said, in order."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[Part, ...]


@dataclasses.dataclass(frozen=True)
class Chat:
    """A conversation, up to where the model answers."""

    messages: tuple[Message, ...]

    @property
    def parts(self) -> list[Part]:
        """All parts, in order."""
        return [part for message in self.messages for part in message.parts]


SEAL = object()  # `route/guard.py` alone hands it to `Cleared`


@dataclasses.dataclass(frozen=True)
class Cleared:
    """A conversation that may leave this machine, for one provider; made by the guard alone.

    `marks`: what stands in texts for what was found there -> the original; they stay here.
    """

    seal: dataclasses.InitVar[object]
    chat: Chat  # masked, as it is sent
    target: str  # name of the provider it was cleared for
    marks: dict[str, str] = dataclasses.field(default_factory=dict, repr=False)
    share_masked: float = 0.0  # of all pixels, 0-1

    def __post_init__(self, seal: object):
        if seal is not SEAL:
            raise TypeError("only the guard clears a conversation: diffvis_jax.route.guard.clear")


@dataclasses.dataclass(frozen=True)
class Wish:
    """How the answer is to be; None = as the engine does it."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    deadline_s: float = 120.0  # for all of it, retries included


@dataclasses.dataclass(frozen=True)
class Usage:
    """How an answer ended, and counts of tokens; None where the engine does not tell."""

    finish: str  # "stop", "length"
    prompt: int | None = None
    cached: int | None = None  # of the prompt, those whose keys and values were kept
    completion: int | None = None


Piece: TypeAlias = Text | Usage


@dataclasses.dataclass(frozen=True)
class Answer:
    """A whole answer."""

    text: str = dataclasses.field(repr=False)
    usage: Usage


Kind = Literal["auth", "model", "request", "busy", "timeout", "connection", "server", "format"]
_SAID: dict[Kind, str] = {
    "auth": "refused the key",
    "model": "does not have the model",
    "request": "refused the request",
    "busy": "is busy",
    "timeout": "did not answer in time",
    "connection": "cannot be reached, or broke off",
    "server": "failed",
    "format": "answered what is no answer, or too much",
}


class ProviderError(DiffvisError, RuntimeError):
    """An engine did not answer. Holds nothing of what was asked or answered.

    `status`: of HTTP, None = there was none; `retry_after`: seconds after which the engine wants to
    be asked again, None = it did not say.
    """

    def __init__(
        self, name: str, kind: Kind, status: int | None = None, retry_after: float | None = None
    ):
        self.kind, self.status, self.retry_after = kind, status, retry_after
        super().__init__(f"{name} {_SAID[kind]}" + (f" (status {status})" if status else ""))

    @property
    def is_failure(self) -> bool:
        """Whether it speaks against the engine, rather than against what it was asked."""
        return self.kind not in ("auth", "model", "request")


class Provider(Protocol):
    """An engine."""

    name: str  # how rules call it
    remote: bool  # whether what it is given leaves this machine; then it takes `Cleared` only
    takes: frozenset[type]  # the parts that it understands

    def generate(self, chat: Chat | Cleared, wish: Wish) -> AsyncGenerator[Piece, None]:
        """Pieces of text, then one `Usage`; raises ProviderError."""
        ...

    async def models(self) -> tuple[str, ...]: ...
    async def aclose(self) -> None: ...


async def whole(provider: Provider, chat: Chat | Cleared, wish: Wish) -> Answer:
    """The answer in one piece; raises ProviderError."""
    text, usage = "", Usage("")
    async with contextlib.aclosing(provider.generate(chat, wish)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Text):
                text += piece.text
            else:
                usage = piece
    return Answer(text, usage)


def admitted(provider: Provider, chat: Chat | Cleared) -> Chat:
    """What a provider may be given.

    Raises:
      TypeError: something uncleared for a remote provider, or cleared for another one.
      ProviderError: parts that it does not understand.
    """
    if isinstance(chat, Cleared):
        if chat.target != provider.name:
            raise TypeError(f"cleared for {chat.target}, given to {provider.name}")
        chat = chat.chat
    elif provider.remote:
        raise TypeError(f"{provider.name} is beyond this machine: it takes what the guard cleared")
    if {type(part) for part in chat.parts} - provider.takes:
        raise ProviderError(provider.name, "request")
    return chat


async def timely(
    name: str,
    source: AsyncGenerator[Piece, None],
    deadline_s: float,
    told: Callable[[Exception], ProviderError],
) -> AsyncGenerator[Piece, None]:
    """The pieces of `source` until a deadline; whatever it raises becomes a ProviderError, without
    the error that it came from, which may quote the request."""
    end = asyncio.get_running_loop().time() + deadline_s
    async with contextlib.aclosing(source):
        while True:
            try:
                async with asyncio.timeout_at(end):
                    piece = await anext(source)
            except StopAsyncIteration:
                return
            except TimeoutError:
                problem = ProviderError(name, "timeout")
            except Exception as error:
                problem = told(error)
            else:
                yield piece
                continue
            raise problem  # here, where no other error is its context


@dataclasses.dataclass(frozen=True)
class Breaker:
    """Stops asking an engine that keeps failing: pure, the time is an argument."""

    limit: int = 5  # failures in a row that open it
    pause_s: float = 30.0  # it stays open; after it the next failure opens it again at once
    failures: int = 0
    failed_at: float = -math.inf

    def allows(self, now: float) -> bool:
        """Whether the engine may be asked."""
        return self.failures < self.limit or now >= self.failed_at + self.pause_s

    def after(self, ok: bool, now: float) -> "Breaker":
        """The breaker after an answer, or a failure."""
        if ok:
            return dataclasses.replace(self, failures=0)
        return dataclasses.replace(self, failures=self.failures + 1, failed_at=now)
