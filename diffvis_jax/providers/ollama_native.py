"""Ollama through its own API: its OpenAI-compatible one ignores `num_ctx`, and cuts prompts to the
default of 4096 without a word."""

import contextlib
import math
from collections.abc import AsyncGenerator, Collection
from typing import Any

from diffvis_jax.providers import http
from diffvis_jax.providers.chat import Message, Picture, Piece, Text, Usage, Wish


class OllamaNative(http.Client):
    """A client of one model; an answer ends in an error where the prompt has filled the context."""

    def __init__(
        self,
        name: str,
        base_url: str,
        model: str,
        *,
        context: int = 16384,
        key: str | None = None,
        trusted_hosts: Collection[str] = (),
        remote: bool = False,
        most_bytes: int = http.MOST_BYTES,
        timeout_s: float = math.inf,
    ):
        """Args:
          base_url: such as http://127.0.0.1:11434.
          context: positions that the model is loaded with (`num_ctx`); another one loads it anew.
          remote: as for `OpenAILike`, as all others; models called "..cloud", which Ollama passes
            on, are taken for remote without it.

        Raises:
          ConfigError: no such address.
          ImportError: the extra `providers` is not installed.
        """
        beyond = http.beyond(base_url, trusted_hosts) or model.endswith("cloud")
        super().__init__(name, model, beyond or remote, timeout_s)
        self._context, self._ollama = context, http.library("ollama")
        self.client = self._ollama.AsyncClient(
            host=base_url,
            follow_redirects=False,
            trust_env=False,
            event_hooks=http.hooks(http.library("httpx"), key, most_bytes),
        )

    async def _models(self) -> tuple[str, ...]:
        return tuple(str(model.model) for model in (await self.client.list()).models)

    def _message(self, message: Message) -> dict[str, Any]:
        texts = [part.text for part in message.parts if isinstance(part, Text)]
        # Bytes: of a string the library would open the file of that name.
        images = [self._ollama.Image(value=p.png) for p in message.parts if isinstance(p, Picture)]
        return {"role": message.role, "content": "\n".join(texts), "images": images or None}

    async def _pieces(self, messages: list, wish: Wish) -> AsyncGenerator[Piece, None]:
        options = self._ollama.Options(
            num_ctx=self._context,
            num_predict=wish.max_tokens,
            temperature=wish.temperature,
            top_p=wish.top_p,
            seed=wish.seed,
            stop=list(wish.stop) or None,
        )
        stream = await self.client.chat(
            model=self.model, messages=messages, stream=True, options=options
        )
        async with contextlib.aclosing(stream):
            async for part in stream:
                if text := part.message.content:
                    yield Text(text)
                if part.done:
                    if (part.prompt_eval_count or 0) >= self._context:
                        raise self.error("request")
                    finish, read = part.done_reason or "stop", part.prompt_eval_count
                    yield Usage(finish, prompt=read, completion=part.eval_count)
                    return
        raise self.error("connection")
