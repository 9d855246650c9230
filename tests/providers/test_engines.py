"""The clients against servers that speak each engine's protocol, and check what they are asked.

The models are the peers' own field lists, as of November 2026.
"""

import asyncio
import base64
import io
import json
import logging
import os
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from fake_engine import FakeEngine, Reply, chunk, error, event, said, stream
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from diffvis_jax.errors import ConfigError, PromptError
from diffvis_jax.providers import http
from diffvis_jax.providers.chat import (
    SEAL,
    Breaker,
    Chat,
    Cleared,
    Message,
    Picture,
    ProviderError,
    Text,
    Tokens,
    Wish,
    whole,
)
from diffvis_jax.providers.ollama_native import OllamaNative
from diffvis_jax.providers.openai_like import OpenAILike
from diffvis_jax.providers.vllm_tokens import VLLMTokens

pytestmark = pytest.mark.timeout(60)


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(Strict):
    type: Literal["text"]
    text: str


class ImageUrl(Strict):
    url: str


class ImagePart(Strict):
    type: Literal["image_url"]
    image_url: ImageUrl


class EmbedsPart(Strict):  # vllm/renderers/chat_utils.py
    type: Literal["prompt_embeds"]
    data: str


class ImageEmbedsPart(Strict):
    type: Literal["image_embeds"]
    image_embeds: str
    uuid: str


AnyPart = Annotated[
    TextPart | ImagePart | EmbedsPart | ImageEmbedsPart, Field(discriminator="type")
]


class Turn(Strict):
    role: Literal["system", "user", "assistant"]
    content: str | list[AnyPart]


class StreamOptions(Strict):
    include_usage: bool


class Completion(Strict):
    model: str
    messages: list[Turn]
    stream: Literal[True]
    stream_options: StreamOptions
    temperature: float
    top_p: float | None = None
    seed: int | None = None
    stop: list[str] | None = None


class OpenAI(Completion):
    max_completion_tokens: int
    store: Literal[False]


class Common(Completion):
    max_tokens: int


class VLLM(Common):
    cache_salt: str | None = None


class Provider(Strict):
    allow_fallbacks: Literal[False]
    data_collection: Literal["deny"]
    zdr: Literal[True]
    require_parameters: Literal[True]


class OpenRouter(Common):
    provider: Provider


class OllamaMessage(Strict):
    role: str
    content: str
    images: list[str] | None = None


class OllamaChat(Strict):  # ollama/api/types.go
    model: str
    messages: list[OllamaMessage]
    stream: Literal[True]
    options: dict[Literal["num_ctx", "num_predict", "temperature", "top_p", "seed", "stop"], Any]
    tools: list = Field(max_length=0)


SCHEMAS: dict[str, type[Completion]] = {
    "openai": OpenAI,
    "vllm": VLLM,
    "sglang": Common,
    "llamacpp": Common,
    "openrouter": OpenRouter,
}


def png(shade: int = 7) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 3), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


CHAT = Chat(
    (
        Message("system", (Text("be brief"),)),
        Message("user", (Picture(png(), (4, 3)), Text("SECRET-QUESTION"))),
    )
)


@pytest.fixture
def engine():
    with FakeEngine(lambda _: said("he", "llo")) as server:
        yield server


def run(provider, chat=CHAT, wish=None):
    async def ask():
        try:
            return await whole(provider, chat, wish or Wish(deadline_s=20))
        finally:
            await provider.aclose()

    return asyncio.run(ask())


def fails(provider, wish=None) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        run(provider, wish=wish)
    found = caught.value
    assert "SECRET" not in repr(found)
    assert found.__context__ is None  # whose text may quote the request
    assert found.__cause__ is None
    return found


@pytest.mark.parametrize("dialect", SCHEMAS)
def test_dialects(engine, dialect):
    provider = OpenAILike("e", f"{engine.url}/v1", "m", dialect=dialect, salt="5a17")
    wish = Wish(max_tokens=9, temperature=0.5, top_p=0.9, seed=3, stop=("\n",))
    answer = run(provider, wish=wish)
    (request,) = engine.requests
    assert request.path == "/v1/chat/completions"
    asked = SCHEMAS[dialect].model_validate_json(request.body)
    assert (asked.temperature, asked.top_p, asked.seed, asked.stop) == (0.5, 0.9, 3, ["\n"])
    assert getattr(asked, "max_tokens", None) == (None if dialect == "openai" else 9)
    assert getattr(asked, "cache_salt", None) == ("5a17" if dialect == "vllm" else None)
    system, user = asked.messages
    assert system.content == "be brief"
    picture, text = user.content
    assert base64.b64decode(picture.image_url.url.removeprefix("data:image/png;base64,")) == png()
    assert text.text == "SECRET-QUESTION"
    assert answer.text == "hello"
    usage = answer.usage
    assert (usage.finish, usage.prompt, usage.cached, usage.completion) == ("stop", 7, 5, 2)


@pytest.mark.parametrize("layout", ["prompt_embeds", "image_embeds"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_tokens_for_vllm(engine, layout, dtype):
    array = np.arange(12, dtype=dtype).reshape(3, 4)
    tokens, text = Tokens(array, "ab12"), Text("a <prompt_embeds> b")
    provider = VLLMTokens("e", f"{engine.url}/v1", "m", layout=layout)
    run(provider, Chat((Message("user", (tokens, text)),)))
    asked = VLLM.model_validate_json(engine.requests[0].body)
    part, words = asked.messages[0].content
    assert part.type == layout
    assert "<prompt_embeds>" not in words.text
    if layout == "prompt_embeds":
        return  # what is in it: test_torch_file.py
    assert part.uuid == "ab12"
    found = np.load(io.BytesIO(base64.b64decode(part.image_embeds)), allow_pickle=False)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, array)


def test_tokens_are_not_for_every_engine(engine):
    chat = Chat((Message("user", (Tokens(np.zeros((1, 2), np.float32), "00"),)),))
    for provider in (
        OpenAILike("e", f"{engine.url}/v1", "m"),
        OllamaNative("e", engine.url, "m"),
    ):
        with pytest.raises(ProviderError, match="refused the request"):
            run(provider, chat)
    assert not engine.requests


def ollama_lines(*texts, count=7, done=True) -> Reply:
    lines = [{"model": "m", "message": {"role": "assistant", "content": x}} for x in texts]
    end = {"model": "m", "message": {"role": "assistant", "content": ""}, "done": True}
    end |= {"done_reason": "stop", "prompt_eval_count": count, "eval_count": 2}
    return Reply(chunks=[json.dumps(x).encode() + b"\n" for x in [*lines, *[end] * done]])


def test_ollama(engine):
    engine.answer = lambda _: ollama_lines("he", "llo")
    answer = run(OllamaNative("o", engine.url, "m", context=4096), wish=Wish(max_tokens=9, seed=1))
    (request,) = engine.requests
    assert request.path == "/api/chat"
    asked = OllamaChat.model_validate_json(request.body)
    assert asked.options == {"num_ctx": 4096, "num_predict": 9, "temperature": 0.0, "seed": 1}
    assert base64.b64decode(asked.messages[1].images[0]) == png()
    assert answer.text == "hello"
    assert (answer.usage.finish, answer.usage.prompt, answer.usage.completion) == ("stop", 7, 2)


def test_ollama_says_when_it_has_cut_the_prompt(engine):
    engine.answer = lambda _: ollama_lines("hm", count=4096)
    assert fails(OllamaNative("o", engine.url, "m", context=4096)).kind == "request"


def test_pictures_are_bytes_and_no_paths(tmp_path):
    file = tmp_path / "secret.png"
    file.write_bytes(png())
    for wrong in (str(file), file, str(file).encode(), b"\xff\xd8\xff"):
        with pytest.raises(PromptError, match="bytes of a PNG"):
            Picture(wrong, (4, 3))


ERRORS = [
    # status, body, headers -> kind; the shapes of OpenAI, vLLM, SGLang, llama.cpp, OpenRouter,
    # FastAPI, proxies
    (401, {"error": {"message": "SECRET", "type": "x", "code": "invalid_api_key"}}, "auth"),
    (401, {"error": "Unauthorized"}, "auth"),
    (403, {"detail": "SECRET"}, "auth"),
    (404, {"error": {"message": "SECRET", "type": "NotFoundError", "code": 404}}, "model"),
    (400, {"error": {"code": "model_not_found", "message": "SECRET"}}, "model"),
    (400, {"object": "error", "message": "SECRET", "type": "BadRequestError"}, "request"),
    (400, {"error": {"code": 400, "type": "invalid_request_error"}}, "request"),
    (422, {"detail": [{"loc": ["body"], "msg": "SECRET"}]}, "request"),
    (402, {"error": {"code": 402, "message": "SECRET", "metadata": {}}}, "request"),
    (429, {"error": {"code": "insufficient_quota", "message": "SECRET"}}, "busy"),
    (408, "", "timeout"),
    (500, {"error": {"message": "SECRET", "type": "InternalServerError", "code": 500}}, "server"),
    (502, "<html>SECRET</html>", "server"),
    (503, {"error": {"message": "SECRET", "code": 503}}, "busy"),
    (504, "upstream SECRET", "timeout"),
    (500, [["SECRET"]], "server"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "kind"), ERRORS)
def test_errors(engine, status, body, kind):
    engine.answer = lambda _: error(status, body)
    found = fails(OpenAILike("e", f"{engine.url}/v1", "m", retries=0))
    assert (found.kind, found.status) == (kind, status)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, {"error": "model 'SECRET' not found"}, "model"),
        (400, {"error": "SECRET"}, "request"),
        (500, {"error": "SECRET"}, "server"),
        (503, "SECRET", "busy"),
    ],
)
def test_errors_of_ollama(engine, status, body, kind):
    engine.answer = lambda _: error(status, body)
    found = fails(OllamaNative("o", engine.url, "m"))
    assert (found.kind, found.status) == (kind, status)


BROKEN = [
    # an error within a stream, with a code as number, as text, or none
    ([chunk("a"), event({"error": {"message": "SECRET", "code": 503}})], "busy"),
    ([event({"error": {"type": "InternalServerError", "code": "500"}})], "server"),
    ([event({"error": "SECRET"})], "server"),
    ([chunk("a"), chunk(finish="error"), event("[DONE]")], "server"),
    # cut off between two events, and within one
    ([chunk("a")], "connection"),
    ([chunk("a"), event("[DONE]")], "connection"),
    # no such answer
    ([event("{SECRET")], "format"),
    ([event(["SECRET"])], "format"),
    ([event({"choices": [{"delta": {"content": ["SECRET"]}}]})], "format"),
    ([event({"choices": 5})], "format"),
    ([chunk("a", finish=7)], "format"),
    ([chunk(usage={"prompt_tokens": "SECRET"})], "format"),
    ([b"data: \xff\xfe\n\n"], "format"),
]  # fmt: skip


@pytest.mark.parametrize(("chunks", "kind"), BROKEN)
def test_broken_streams(engine, chunks, kind):
    engine.answer = lambda _: stream(*chunks)
    assert fails(OpenAILike("e", f"{engine.url}/v1", "m", retries=0)).kind == kind


def test_a_stream_cut_in_the_middle(engine):
    for provider, reply in (
        (OpenAILike("e", f"{engine.url}/v1", "m"), stream(chunk("a"), b"data: {", cut=True)),
        (OllamaNative("o", engine.url, "m"), ollama_lines("a", done=False)),
    ):
        engine.answer = lambda _, reply=reply: reply
        assert fails(provider).kind == "connection"


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        ([b'{"error": "SECRET"}\n'], "server"),
        ([b"{SECRET\n"], "format"),
        ([b"[1]\n"], "format"),
        ([b'{"message": {"role": "assistant", "content": 5}}\n'], "format"),
    ],
)
def test_broken_streams_of_ollama(engine, lines, kind):
    engine.answer = lambda _: Reply(chunks=lines)
    assert fails(OllamaNative("o", engine.url, "m")).kind == kind


def make(name, url, **options):
    if name == "ollama":
        return OllamaNative("e", url, "m", **options)
    return OpenAILike("e", f"{url}/v1", "m", **options)


@pytest.mark.parametrize("name", ["openai", "ollama"])
@pytest.mark.parametrize("newlines", [True, False])
def test_an_answer_of_a_gigabyte_is_not_read(engine, name, newlines):
    block = b"x" * (1 << 20)
    line = chunk("x" * 1000) if name == "openai" else b'{"message":{"role":"a","content":"x"}}\n'
    lots = line * ((1 << 20) // len(line))
    engine.answer = lambda _: Reply(chunks=(lots if newlines else block for _ in range(1024)))
    found = fails(make(name, engine.url, most_bytes=4 << 20))
    assert found.kind == "format"
    assert engine.sent < 64 << 20  # what was under way when the client left


def test_an_answer_that_unpacks_to_much_is_not_unpacked(engine):
    engine.answer = lambda _: Reply(200, ("content-encoding: gzip",), [b"\x1f\x8b"])
    for name in ("openai", "ollama"):
        assert fails(make(name, engine.url)).kind in ("format", "connection")
    assert {request.headers["accept-encoding"] for request in engine.requests} == {"identity"}


@pytest.mark.parametrize("name", ["openai", "ollama"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(engine, name, status):
    with FakeEngine(lambda _: said("x")) as other:
        engine.answer = lambda request: Reply(status, (f"location: {other.url}{request.path}",))
        found = fails(make(name, engine.url))
        assert (found.kind, found.status) == ("format", status)
        assert other.connections == 0


@pytest.mark.parametrize("name", ["openai", "ollama"])
def test_the_environment_adds_nothing(engine, name, monkeypatch):
    with FakeEngine(lambda _: said("x")) as proxy:
        for variable in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "https_proxy"):
            monkeypatch.setenv(variable, proxy.url)
        for variable in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT", "BASE_URL", "PROJECT_ID"):
            monkeypatch.setenv(f"OPENAI_{variable}", f"{proxy.url}/v1")
        monkeypatch.setenv("OPENAI_ORG_ID", "SECRET")
        monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "x-secret: SECRET")
        monkeypatch.setenv("OLLAMA_API_KEY", "SECRET")
        monkeypatch.setenv("OLLAMA_HOST", proxy.url)
        if name == "ollama":
            engine.answer = lambda _: ollama_lines("x")
        run(make(name, engine.url))
        run(make(name, engine.url, key="k"))
        assert proxy.connections == 0
    without, given = engine.requests
    assert "authorization" not in without.headers
    assert given.headers["authorization"] == "Bearer k"
    for request in engine.requests:
        assert b"SECRET" not in request.head
        assert not [header for header in request.headers if "stainless" in header]


def test_retry_after_is_waited_for(engine):
    replies = [error(429, {"error": {"message": "slow"}}, "retry-after: 0.2"), said("ok")]
    engine.answer = lambda _: replies.pop(0)
    assert run(OpenAILike("e", f"{engine.url}/v1", "m")).text == "ok"
    first, second = engine.requests
    assert first.body == second.body


def test_the_deadline_bounds_retries(engine):
    engine.answer = lambda _: error(429, {"error": "slow"}, "retry-after: 30")
    assert fails(OpenAILike("e", f"{engine.url}/v1", "m"), Wish(deadline_s=0.5)).kind == "timeout"
    found = fails(OpenAILike("e", f"{engine.url}/v1", "m", retries=0))
    assert (found.kind, found.retry_after) == ("busy", 30)


@pytest.mark.parametrize("name", ["openai", "ollama"])
def test_the_deadline_bounds_a_silent_engine(engine, name):
    engine.answer = lambda _: Reply(delay=30)
    assert fails(make(name, engine.url), Wish(deadline_s=0.3)).kind == "timeout"


@pytest.mark.parametrize("name", ["openai", "ollama"])
def test_an_engine_may_have_a_shorter_deadline(engine, name):
    engine.answer = lambda _: Reply(delay=30)
    assert fails(make(name, engine.url, timeout_s=0.3), Wish(deadline_s=20)).kind == "timeout"


@pytest.mark.parametrize("name", ["openai", "ollama"])
def test_no_engine_there(engine, name):
    engine.close()
    options = {"retries": 0} if name == "openai" else {}
    assert fails(make(name, engine.url, **options)).kind == "connection"
    engine.close = lambda: None


def test_models(engine):
    models = {"object": "list", "data": [{"id": "a"}, {"id": "b"}]}
    engine.answer = lambda _: error(200, models)
    assert asyncio.run(OpenAILike("e", f"{engine.url}/v1", "m").models()) == ("a", "b")
    engine.answer = lambda _: error(200, {"models": [{"model": "c"}]})
    assert asyncio.run(OllamaNative("e", engine.url, "m").models()) == ("c",)
    engine.answer = lambda _: Reply(delay=30)
    for name in ("openai", "ollama"):
        with pytest.raises(ProviderError, match="in time"):
            asyncio.run(make(name, engine.url, timeout_s=0.3).models())
    engine.answer = lambda _: error(401, {"error": "Unauthorized"})
    for name in ("openai", "ollama"):
        with pytest.raises(ProviderError, match="refused the key"):
            asyncio.run(make(name, engine.url).models())


def test_logs_hold_nothing_of_a_request(engine, caplog, monkeypatch):
    for name in ("", "openai", "openai._base_client", "httpx", "httpcore", "ollama"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.DEBUG)
    run(OpenAILike("e", f"{engine.url}/v1", "m"))
    engine.answer = lambda _: error(500, "SECRET")
    fails(OpenAILike("e", f"{engine.url}/v1", "m", retries=1))
    assert "SECRET" not in caplog.text
    assert not [r for r in caplog.records if r.name.split(".")[0] in ("openai", "httpx2")]


def test_nothing_shows_what_is_said():
    shown = repr(CHAT) + repr(Cleared(SEAL, CHAT, "e", {"<A_1>": "SECRET"}))
    assert "SECRET" not in shown
    assert "be brief" not in shown
    assert "PNG" not in shown


# ---- whose machine it is ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "beyond"),
    [
        ("http://127.0.0.1:8000/v1", False),
        ("http://127.8.9.1/v1", False),
        ("http://[::1]:8000/v1", False),
        ("unix:/run/engine.sock", False),
        ("http://gpu-box:8000/v1", False),  # trusted
        ("https://localhost:8000/v1", True),  # a name
        ("https://127.0.0.1.example.com/v1", True),
        ("https://api.example.com/v1", True),
        ("https://192.168.0.7/v1", True),
        ("https://[::ffff:7f00:1]/v1", True),
        ("https://2130706433/v1", True),
    ],
)
def test_what_is_beyond_this_machine(url, beyond):
    assert http.beyond(url, ["GPU-box"]) is beyond


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1@example.com/v1",
        "http://127.0.0.1\\@example.com/v1",
        "http://127.0.0.1 .example.com",
        "http://127.0.0.1\n",
        "http://127.0.0.1?@example.com",
        "http://127.0.0.1#@example.com",
        "http://\uff1127.0.0.1/v1",
        "127.0.0.1:11434",
        "ftp://127.0.0.1",
        "http://localhost:8000/v1",  # unencrypted, and a name
        "http://example.com/v1",
        "",
    ],
)
def test_addresses_that_are_refused(url):
    with pytest.raises(ConfigError):
        http.beyond(url)


def test_models_that_ollama_runs_elsewhere_are_remote(engine):
    assert not OllamaNative("o", engine.url, "llava:7b").remote
    assert OllamaNative("o", engine.url, "qwen3-vl:235b-cloud").remote
    assert OllamaNative("o", engine.url, "llava", remote=True).remote


def test_a_unix_socket_is_this_machine(tmp_path):
    received = []

    async def serve(reader, writer):
        received.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 404 x\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async def ask():
        path = os.path.relpath(tmp_path / "s.sock", "/")
        async with await asyncio.start_unix_server(serve, f"/{path}"):
            provider = OpenAILike("e", f"unix:/{path}", "m")
            assert not provider.remote
            with pytest.raises(ProviderError, match="does not have the model"):
                await whole(provider, CHAT, Wish())
            await provider.aclose()

    asyncio.run(ask())
    assert received[0].startswith(b"POST /v1/chat/completions")


def test_remote_engines_take_only_what_was_cleared_for_them(engine):
    def provider():
        return OpenAILike("cloud", f"{engine.url}/v1", "m", remote=True)

    with pytest.raises(TypeError, match="beyond this machine"):
        run(provider())
    with pytest.raises(TypeError, match="cleared for other"):
        run(provider(), Cleared(SEAL, CHAT, "other"))
    assert engine.connections == 0
    assert run(provider(), Cleared(SEAL, CHAT, "cloud")).text == "hello"
    with pytest.raises(TypeError, match="only the guard"):
        Cleared(None, CHAT, "cloud")


# ---- the circuit breaker ----------------------------------------------------------------------


def test_breaker():
    breaker = Breaker()
    for now in range(5):
        assert breaker.allows(now)
        breaker = breaker.after(False, now)
    assert not breaker.allows(4)
    assert not breaker.allows(33.9)
    assert breaker.allows(34)
    assert not breaker.after(False, 34).allows(35)  # the trial failed
    assert breaker.after(True, 34).allows(35)
    breaker = breaker.after(True, 34)
    assert breaker.after(False, 35).allows(35)  # counted from the start


def test_what_counts_as_a_failure():
    kinds = ("auth", "model", "request", "busy", "timeout", "connection", "server", "format")
    assert [ProviderError("e", kind).is_failure for kind in kinds] == [False] * 3 + [True] * 5
