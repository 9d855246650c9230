"""What clients of engines have in common: whose machine it is, what a request may carry, how much
of an answer is read, and what an error means.

httpx (ollama) and its successor httpx2 (openai) have the same hooks.
"""

import asyncio
import dataclasses
import importlib
import ipaddress
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from typing import Any

from diffvis_jax.errors import ConfigError
from diffvis_jax.providers.chat import (
    Chat,
    Cleared,
    Kind,
    Message,
    Picture,
    Piece,
    ProviderError,
    Text,
    Wish,
    admitted,
    timely,
)

MOST_BYTES = 16 << 20  # of one answer
_URL = re.compile(r"(https?)://(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::\d{1,5})?(?:/[\w./~-]*)?", re.ASCII)
# Client libraries add more of their own: the user's organisation, the machine, the environment.
_HEADERS = {"host", "accept", "content-type", "content-length", "connection", "transfer-encoding"}
_LOGGERS = {"openai", "httpx", "httpx2", "httpcore", "httpcore2", "ollama"}


class TooLarge(Exception):
    """An answer that is not read to its end."""


class Client:
    """What the clients of engines share; each is a provider (see `chat.Provider`).

    Attributes:
      client: of the engine's own library.
    """

    takes: frozenset[type] = frozenset({Text, Picture})
    client: Any
    _message: Callable[[Message], dict[str, Any]]
    _pieces: Callable[[list, Wish], AsyncGenerator[Piece, None]]
    _models: Callable[[], Awaitable[tuple[str, ...]]]

    def __init__(self, name: str, model: str, remote: bool, timeout_s: float):
        self.name, self.model, self.remote, self.timeout_s = name, model, remote, timeout_s

    def generate(self, chat: Chat | Cleared, wish: Wish) -> AsyncGenerator[Piece, None]:
        """See `chat.Provider`."""
        quiet()
        messages = [self._message(message) for message in admitted(self, chat).messages]
        wish = dataclasses.replace(wish, deadline_s=min(wish.deadline_s, self.timeout_s))
        return timely(self.name, self._pieces(messages, wish), wish.deadline_s, self._told)

    async def models(self) -> tuple[str, ...]:
        """Names of the models that it has; raises ProviderError."""
        try:
            async with asyncio.timeout(min(30, self.timeout_s)):
                return await self._models()
        except Exception as error:
            problem = self._told(error)
        raise problem

    async def aclose(self) -> None:
        """Closes its connections."""
        await self.client.close()

    def error(self, kind: Kind) -> ProviderError:
        """What is raised for a reason of the client's own."""
        return ProviderError(self.name, kind)

    def _told(self, error: Exception) -> ProviderError:
        """An error of openai, ollama, httpx or httpx2, whose classes have the same names."""
        if isinstance(error, ProviderError):
            return error
        names = {kind.__name__ for kind in type(error).__mro__}
        if names & {"APITimeoutError", "TimeoutException", "TimeoutError"}:
            return self.error("timeout")
        if names & {"APIConnectionError", "TransportError", "ConnectionError"}:
            return self.error("connection")
        if not names & {"APIError", "ResponseError"}:
            return self.error("format")
        status = getattr(error, "status_code", -1)
        headers = getattr(getattr(error, "response", None), "headers", {})
        body = getattr(error, "body", getattr(error, "error", None))
        return error_of(self.name, status if status > 0 else None, body, headers.get("retry-after"))


def library(name: str) -> Any:
    """A module of the extra `providers`; raises ImportError with what to install."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError('engines need the extra: pip install "diffvis_jax[providers]"') from None


def beyond(url: str, trusted: Collection[str] = ()) -> bool:
    """Whether what is sent to `url` leaves this machine.

    It does not for a Unix socket (`unix:/path`), a literal loopback address, and the hosts in
    `trusted`. A name such as localhost is only a name.

    Raises:
      ConfigError: no such address, or http to a host beyond.
    """
    if re.fullmatch(r"unix:/[^\0?#]+", url):
        return False
    if not (parts := _URL.fullmatch(url)):  # strict, so that no two parsers disagree on the host
        raise ConfigError(
            f"base_url must be like http://127.0.0.1:8000/v1 or unix:/run/engine.sock, got {url!r}"
        )
    scheme, host = parts[1], parts[2].strip("[]").lower()
    if host in {name.lower() for name in trusted}:
        return False
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local and scheme == "http":
        raise ConfigError(
            f"{url} would carry screenshots unencrypted: use https, a literal loopback address "
            "(127.0.0.1, not localhost), or list the host under trusted_hosts"
        )
    return not local


def hooks(library: Any, key: str | None, most_bytes: int = MOST_BYTES) -> dict[str, list]:
    """`event_hooks` of a client of httpx or httpx2 (`library`): requests carry nothing but the
    usual headers and `key`, answers are cut off after `most_bytes`."""

    async def bare(request: Any) -> None:
        for name in set(request.headers) - _HEADERS:
            del request.headers[name]
        request.headers["accept-encoding"] = "identity"  # a few bytes may unpack to gigabytes
        request.headers["user-agent"] = "diffvis_jax"
        if key:
            request.headers["authorization"] = f"Bearer {key}"

    async def bounded(response: Any) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise TooLarge
        response.stream = _bounded(library, response.stream, most_bytes)

    return {"request": [bare], "response": [bounded]}


def _bounded(library: Any, stream: Any, left: int) -> Any:
    class Bounded(library.AsyncByteStream):
        async def __aiter__(self):
            nonlocal left
            async for chunk in stream:
                left -= len(chunk)
                if left < 0:
                    raise TooLarge
                yield chunk

        async def aclose(self) -> None:
            await stream.aclose()

    return Bounded()


def quiet() -> None:
    """Client libraries log requests at the level DEBUG, whose bodies are screenshots."""
    for name in (*_LOGGERS, *list(logging.root.manager.loggerDict)):
        if name.split(".")[0] in _LOGGERS:
            logger = logging.getLogger(name)
            if logger.getEffectiveLevel() < logging.WARNING:
                logger.setLevel(logging.WARNING)


_STATUS: dict[int, Kind] = {401: "auth", 403: "auth", 404: "model", 408: "timeout", 429: "busy"}
_STATUS |= {503: "busy", 504: "timeout", 529: "busy"}
_NAMES: dict[str, Kind] = {
    "unauthorized": "auth",
    "invalid_api_key": "auth",
    "authentication_error": "auth",
    "model_not_found": "model",
    "notfounderror": "model",
    "badrequesterror": "request",
    "invalid_request_error": "request",
    "context_length_exceeded": "request",
    "rate_limit_exceeded": "busy",
    "insufficient_quota": "busy",
    "overloaded_error": "busy",
}


def error_of(
    name: str, status: int | None, body: Any, retry_after: str | None = None
) -> ProviderError:
    """What an engine's error means.

    Args:
      status: of the answer; None = the error came within a stream.
      body: its JSON, in any of the shapes there are: `{"error": {"code": ..}}`, `{"error": ".."}`,
        the value of `error` alone, or fields without it. `code` may be a number.
    """
    if isinstance(body, dict):
        body = body.get("error", body)
    fields = [body.get("code"), body.get("type")] if isinstance(body, dict) else [body]
    kind: Kind | None = None
    for field in map(str, fields):
        kind = kind or _NAMES.get(field.lower())
        if status is None and re.fullmatch("[45][0-9][0-9]", field):
            status = int(field)
    if kind is None:
        fallback: Kind = "request" if 400 <= (status or 0) < 500 else "server"
        kind = "format" if 300 <= (status or 0) < 400 else _STATUS.get(status or 0, fallback)
    wait = re.fullmatch(r"\d{1,6}(\.\d+)?", retry_after or "")
    return ProviderError(name, kind, status, float(wait[0]) if wait else None)
