"""Engines behind an OpenAI-compatible endpoint: OpenAI, vLLM, SGLang, llama.cpp, OpenRouter."""

import base64
import contextlib
import math
from collections.abc import AsyncGenerator, Collection
from typing import Any

from diffvis_jax.errors import ConfigError
from diffvis_jax.providers import http
from diffvis_jax.providers.chat import Message, Part, Picture, Piece, Text, Usage, Wish

# What requests have beyond the common fields.
DIALECTS: dict[str, dict[str, Any]] = {
    "openai": {"store": False},
    "vllm": {},
    "sglang": {},
    "llamacpp": {},
    # Its own defaults let providers keep what they are sent, and pass it on to others.
    "openrouter": {
        "provider": {
            "allow_fallbacks": False,
            "data_collection": "deny",
            "zdr": True,
            "require_parameters": True,
        }
    },
}


class OpenAILike(http.Client):
    """A client of one model behind one address."""

    def __init__(
        self,
        name: str,
        base_url: str,
        model: str,
        *,
        dialect: str = "openai",
        key: str | None = None,
        trusted_hosts: Collection[str] = (),
        remote: bool = False,
        salt: str | None = None,
        most_bytes: int = http.MOST_BYTES,
        retries: int = 2,
        timeout_s: float = math.inf,
    ):
        """Args:
          base_url: up to and including `/v1`, or `unix:/path` of a socket.
          dialect: one of `DIALECTS`.
          trusted_hosts: names and addresses that count as this machine.
          remote: True where a server on this machine passes requests on to another.
          salt: digest of a tenant, for engines that keep prefixes.
          most_bytes: of an answer.
          retries: how often the client tries again what failed, within the deadline.
          timeout_s: the longest deadline of an answer.

        Raises:
          ConfigError: no such dialect, or no such address.
          ImportError: the extra `providers` is not installed.
        """
        if dialect not in DIALECTS:
            raise ConfigError(f"no dialect {dialect!r}: there are {', '.join(DIALECTS)}")
        super().__init__(name, model, http.beyond(base_url, trusted_hosts) or remote, timeout_s)
        self._dialect, self._salt = dialect, salt
        httpx = http.library("httpx2")
        socket = base_url.removeprefix("unix:") if base_url.startswith("unix:") else None
        self.client = http.library("openai").AsyncOpenAI(
            api_key=key or "none",  # given, or the client takes one from the environment
            base_url="http://socket/v1" if socket else base_url,
            max_retries=retries,
            http_client=httpx.AsyncClient(
                follow_redirects=False,  # the client's own default sends pictures on to anywhere
                trust_env=False,
                transport=httpx.AsyncHTTPTransport(uds=socket) if socket else None,
                event_hooks=http.hooks(httpx, key, most_bytes),
            ),
        )

    async def _models(self) -> tuple[str, ...]:
        return tuple(str(model.id) for model in (await self.client.models.list()).data)

    def _message(self, message: Message) -> dict[str, Any]:
        parts = [self._part(part) for part in message.parts]
        alone = len(parts) == 1 and isinstance(message.parts[0], Text)
        return {"role": message.role, "content": parts[0]["text"] if alone else parts}

    def _part(self, part: Part) -> dict[str, Any]:
        if isinstance(part, Text):
            return {"type": "text", "text": part.text}
        assert isinstance(part, Picture)
        data = base64.b64encode(part.png).decode()
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}

    async def _pieces(self, messages: list, wish: Wish) -> AsyncGenerator[Piece, None]:
        length = "max_completion_tokens" if self._dialect == "openai" else "max_tokens"
        fields = {
            length: wish.max_tokens,
            "temperature": wish.temperature,
            "top_p": wish.top_p,
            "seed": wish.seed,
            "stop": list(wish.stop) or None,
            "cache_salt": self._salt if self._dialect == "vllm" else None,
        }
        body = {name: value for name, value in fields.items() if value is not None}
        stream = await self.client.chat.completions.create(
            model=self.model,
            messages=messages,
            stream=True,
            stream_options={"include_usage": True},
            timeout=wish.deadline_s,
            extra_body=body | DIALECTS[self._dialect],
        )
        finish, counts = "", {}
        try:
            async with contextlib.aclosing(stream):
                async for chunk in stream:
                    for choice in chunk.choices or ():
                        if text := choice.delta.content:
                            yield Text(_of(str, text))
                        finish = _of(str, choice.finish_reason or finish)
                    if usage := chunk.usage:
                        details = getattr(usage, "prompt_tokens_details", None)
                        counts = {
                            "prompt": _of(int, usage.prompt_tokens),
                            "completion": _of(int, usage.completion_tokens),
                            "cached": getattr(details, "cached_tokens", None),
                        }
        finally:
            # It refers to itself: left early it would be collected in whatever thread comes by,
            # while the loop still closes its generators.
            vars(stream).clear()
        if finish in ("", "error"):
            raise self.error("server" if finish else "connection")
        yield Usage(finish, **counts)


def _of(kind: type, value: Any) -> Any:
    """A value of the answer; the client library checks no types."""
    if type(value) is not kind:
        raise ValueError("an answer of another type")
    return value
