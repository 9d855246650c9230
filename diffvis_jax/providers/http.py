"""What clients of engines have in common: whose machine it is, what a request may carry, how much
of an answer is read, and what an error means. httpx (ollama) and httpx2 (openai) have one form."""

import asyncio
import contextlib
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


class Client:
    """What the clients of engines share; each is a provider (see `chat.Provider`)."""

    takes: frozenset[type] = frozenset({Text, Picture})
    client: Any  # of the engine's own library
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
    with contextlib.suppress(ValueError):  # a name
        if ipaddress.ip_address(host).is_loopback:
            return False
    if scheme == "http":
        raise ConfigError(
            f"{url} would carry screenshots unencrypted: use https, a literal loopback address "
            "(127.0.0.1, not localhost), or list the host under trusted_hosts"
        )
    return True


def hooks(library: Any, key: str | None, most_bytes: int) -> dict[str, list]:
    """`event_hooks` of a client of httpx or httpx2 (`library`): requests carry nothing but the
    usual headers and `key`, answers are cut off after `most_bytes` (ValueError)."""

    class Bounded(library.AsyncByteStream):
        def __init__(self, stream: Any):
            self.stream, self.left = stream, most_bytes

        async def __aiter__(self):
            async for chunk in self.stream:
                self.left -= len(chunk)
                if self.left < 0:
                    raise ValueError("a larger answer than is read")
                yield chunk

        async def aclose(self) -> None:
            await self.stream.aclose()

    async def bare(request: Any) -> None:
        for name in set(request.headers) - _HEADERS:
            del request.headers[name]
        request.headers["accept-encoding"] = "identity"  # a few bytes may unpack to gigabytes
        request.headers["user-agent"] = "diffvis_jax"
        if key:
            request.headers["authorization"] = f"Bearer {key}"

    async def bounded(response: Any) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise ValueError("an answer that was not asked for packed")
        response.stream = Bounded(response.stream)

    return {"request": [bare], "response": [bounded]}


def quiet() -> None:
    """Client libraries log requests at the level DEBUG, whose bodies are screenshots."""
    for name in (*_LOGGERS, *list(logging.root.manager.loggerDict)):
        if name.split(".")[0] in _LOGGERS:
            logger = logging.getLogger(name)
            if logger.getEffectiveLevel() < logging.WARNING:
                logger.setLevel(logging.WARNING)


_STATUS: dict[int, Kind] = {3: "format", 4: "request", 5: "server"}  # 3xx, and so on
_STATUS |= {401: "auth", 403: "auth", 404: "model", 408: "timeout", 429: "busy"}
_STATUS |= {503: "busy", 504: "timeout", 529: "busy"}
_NAMES: dict[Kind, str] = {
    "auth": "unauthorized invalid_api_key authentication_error",
    "model": "model_not_found notfounderror",
    "request": "badrequesterror invalid_request_error context_length_exceeded",
    "busy": "rate_limit_exceeded insufficient_quota overloaded_error",
}
_KINDS: dict[str, Kind] = {name: kind for kind, names in _NAMES.items() for name in names.split()}


def error_of(name: str, status: int | None, body: Any, retry_after: str | None) -> ProviderError:
    """What an engine's error means; `status` None = it came within a stream.

    There are bodies `{"error": {"code": ..}}`, `{"error": ".."}`, the value of `error` alone, and
    fields without it. `code` may be a number.
    """
    if isinstance(body, dict):
        body = body.get("error", body)
    fields = [body.get("code"), body.get("type")] if isinstance(body, dict) else [body]
    kind: Kind | None = None
    for field in map(str, fields):
        kind = kind or _KINDS.get(field.lower())
        if status is None and re.fullmatch("[45][0-9][0-9]", field):
            status = int(field)
    number = status or 0
    kind = kind or _STATUS.get(number) or _STATUS.get(number // 100, "server")
    wait = re.fullmatch(r"\d{1,6}(\.\d+)?", retry_after or "")
    return ProviderError(name, kind, status, float(wait[0]) if wait else None)
