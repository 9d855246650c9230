"""Every refusal: what is told, and the exception that OpenAI's client makes of it."""

import contextlib
import functools
import io
import socket
import struct
import time
import zlib

import httpx
import numpy as np
import openai
import pytest
from PIL import Image
from serving import NAME, assistant, client_of, data_url, png, serving, user
from vlm_files import screen

BODY = {"model": NAME, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}


def image(url: str) -> list:
    part = {"type": "image_url", "image_url": {"url": url}}
    return [{"role": "user", "content": [part, {"type": "text", "text": "?"}]}]


def bomb(width: int, height: int) -> bytes:
    """A PNG of that size by its header, with nothing behind it."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000))
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c))
              for c in (head, data, b"IEND")]  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def animated() -> bytes:
    file = io.BytesIO()
    frames = [Image.fromarray(screen(seed)) for seed in range(2)]
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:])
    return file.getvalue()


def jpeg(**options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(screen()).save(file, "JPEG", **options)
    return file.getvalue()


def gif() -> bytes:
    file = io.BytesIO()
    Image.fromarray(screen()).save(file, "GIF")
    return file.getvalue()


SCREEN = data_url(png(screen()))

REFUSED = {
    "no such model": ({"model": "other"}, openai.NotFoundError, "model_not_found", "model"),
    "no messages": ({"messages": []}, openai.BadRequestError, "invalid_request", "messages"),
    "no user at the end": (
        {"messages": [user("a"), assistant("b")]},
        openai.BadRequestError,
        "invalid_request",
        "messages",
    ),
    "unknown role": (
        {"messages": [{"role": "tool", "content": "a"}]},
        openai.BadRequestError,
        "invalid_request",
        "messages[0].role",
    ),
    "unknown part": (
        {"messages": [user("a"), {"role": "user", "content": [{"type": "input_audio"}]}]},
        openai.BadRequestError,
        "invalid_request",
        "messages[1].content[0]",
    ),
    "a number for a text": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]},
        openai.BadRequestError,
        "invalid_request",
        "messages[0].content[0].text",
    ),
    "unknown parameter": (
        {"tempreature": 1},
        openai.BadRequestError,
        "invalid_request",
        "tempreature",
    ),
    "a picture of the assistant": (
        {"messages": [user("a"), {**image(SCREEN)[0], "role": "assistant"}, user("b")]},
        openai.BadRequestError,
        "invalid_request",
        "messages",
    ),
    **{
        name: (
            {name: value},
            openai.BadRequestError,
            "unsupported_parameter",
            name,
        )
        for name, value in {
            "n": 2,
            "tools": [{"type": "function"}],
            "response_format": {"type": "json_object"},
            "logprobs": True,
            "logit_bias": {"1": 1},
            "presence_penalty": 0.5,
        }.items()
    },
    "five stops": ({"stop": list("abcde")}, openai.BadRequestError, "invalid_request", "stop"),
    "an empty stop string": ({"stop": ""}, openai.BadRequestError, "invalid_request", "stop[0]"),
    "too hot": ({"temperature": 3}, openai.BadRequestError, "invalid_request", "temperature"),
    "options of a stream without one": (
        {"stream_options": {"include_usage": True}},
        openai.BadRequestError,
        "invalid_request",
        "stream_options",
    ),
    "unknown policy": (
        {"diffvis": {"policy": "lazy"}},
        openai.BadRequestError,
        "invalid_request",
        "diffvis.policy",
    ),
    "a longer answer than the context": (
        {"max_tokens": 10**6},
        openai.BadRequestError,
        "context_length_exceeded",
        "messages",
    ),
    "a text that cannot fit": (
        {"messages": [user("x" * 10**6)]},
        openai.BadRequestError,
        "context_length_exceeded",
        "messages",
    ),
    "five pictures": (
        {"messages": image(SCREEN) * 5},
        openai.BadRequestError,
        "too_many_images",
        "messages",
    ),
    **{
        name: ({"messages": image(url)}, openai.BadRequestError, code, "messages[0].content[0]")
        for name, url, code in (
            ("an address", "https://example.com/a.png", "image_url_not_allowed"),
            ("a file", "file:///etc/passwd", "image_url_not_allowed"),
            ("not base64", "data:image/png,abc", "invalid_base64"),
            ("damaged base64", "data:image/png;base64,****", "invalid_base64"),
            ("cut base64", SCREEN[:-1], "invalid_base64"),
            ("no picture", data_url(b"hello"), "invalid_image"),
            ("an empty file", data_url(b""), "invalid_image"),
            ("a GIF", data_url(gif()), "invalid_image"),
            ("an animation", data_url(animated()), "invalid_image"),
            ("a truncated JPEG", data_url(jpeg()[:-500]), "invalid_image"),
            ("a bomb", data_url(bomb(30_000, 30_000)), "image_too_large"),
            ("a wide one", data_url(bomb(8193, 10)), "image_too_large"),
            ("17 megapixels", data_url(bomb(4200, 4200)), "image_too_large"),
            ("nothing behind the header", data_url(bomb(100, 100)), "invalid_image"),
            ("a large file", data_url(bytes(8_000_001)), "image_too_large"),
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(client, name):
    change, kind, code, param = REFUSED[name]
    with pytest.raises(kind) as error:
        client.post("/chat/completions", body=BODY | change, cast_to=object)
    assert (error.value.code, error.value.param) == (code, param)
    assert error.value.request_id
    assert type(error.value) is kind


def test_pictures_that_are_unusual_but_fine(client):
    grey = io.BytesIO()
    Image.fromarray(np.arange(200 * 100, dtype=np.uint16).reshape(100, 200)).save(grey, "PNG")
    cmyk = io.BytesIO()
    Image.fromarray(screen()).convert("CMYK").save(cmyk, "JPEG")
    webp = io.BytesIO()
    Image.fromarray(screen()).save(webp, "WEBP")
    for data in (grey, cmyk, webp):
        body = BODY | {"messages": image(data_url(data.getvalue()))}
        assert (
            client.post("/chat/completions", body=body, cast_to=httpx.Response).status_code == 200
        )


@pytest.mark.parametrize(
    ("content", "param"),
    [(b"", None), (b"{", None), (b"[]", None), (b"[" * 10**5, None), (b'{"model": NaN}', "model"),
     (b"\xff\xfe", None), (b'{"model": "\\ud800"}', None)],
)  # fmt: skip
def test_what_is_no_json(running, content, param):
    found = httpx.post(
        f"http://127.0.0.1:{running.port}/v1/chat/completions",
        content=content,
        headers={"content-type": "application/json"},
    )
    assert found.status_code == 400
    assert found.json()["error"]["code"] == "invalid_request"
    assert param is None or found.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/health/what", 404, "not_found"),
        ("DELETE", "/v1/sessions/none", 404, "session_not_found"),
    ],
)
def test_errors_of_the_framework_have_the_same_form(running, method, path, status, code):
    found = httpx.request(method, f"http://127.0.0.1:{running.port}{path}")
    assert found.status_code == status
    assert found.json()["error"].keys() == {"message", "type", "param", "code"}
    assert found.json()["error"]["code"] == code
    assert found.headers["x-request-id"]
    assert "server" not in found.headers


def test_a_page_of_another_site_cannot_use_it(running):
    url = f"http://127.0.0.1:{running.port}/v1/chat/completions"
    found = httpx.post(url, content=b"{}", headers={"content-type": "text/plain"})
    assert (found.status_code, found.json()["error"]["code"]) == (400, "invalid_request")
    found = httpx.get(url.replace("/chat/completions", "/models"), headers={"host": "evil.example"})
    assert (found.status_code, found.json()["error"]["code"]) == (403, "host_not_allowed")
    found = httpx.options(url, headers={"origin": "http://evil.example"})
    assert not any(name.startswith("access-control") for name in found.headers)


@pytest.fixture(scope="module")
def small(model):
    """A server of narrow limits, for two clients."""
    limits = {
        "running_per_key": 1,
        "queue": 1,
        "body_mb": 0.5,
        "body_timeout_s": 0.5,
        "timeout_s": 0.6,
    }
    serve = {"max_running": 1, "warm_lengths": 1, "policy_override": False}
    with serving(model, keys=["key-a", "key-b", "key-c"], serve=serve, limits=limits) as running:
        yield running


@pytest.fixture(scope="module")
def of(small):
    """A client by its key; all are closed in the end."""
    with contextlib.ExitStack() as stack:
        yield functools.cache(lambda key: stack.enter_context(client_of(small, key)))


def test_keys(small, of):
    with pytest.raises(openai.AuthenticationError) as error:
        of("wrong").models.list()
    assert error.value.code == "invalid_api_key"
    base = f"http://127.0.0.1:{small.port}"
    for path in ("/metrics", "/v1/models", "/nowhere", "/v1/sessions/a"):
        assert httpx.get(base + path).status_code == 401
        assert httpx.get(base + path, headers={"authorization": "Basic key-a"}).status_code == 401
    for path in ("/health/live", "/health", "/"):
        assert httpx.get(base + path).status_code == 200
    assert len(of("key-b").models.list().data) == 1


def test_a_body_that_is_too_large(small, of):
    with pytest.raises(openai.APIStatusError) as error:
        of("key-a").post("/chat/completions", body=BODY | {"user": "x" * 600_000}, cast_to=object)
    assert (error.value.status_code, error.value.code) == (413, "request_too_large")
    # Without a key it is not looked at, but the client hears why.
    with pytest.raises(openai.AuthenticationError):
        of("no").post("/chat/completions", body=BODY | {"user": "x" * 10**7}, cast_to=object)


def test_a_body_that_does_not_come(small):
    with socket.create_connection(("127.0.0.1", small.port), timeout=10) as peer:
        peer.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n"
            b"authorization: Bearer key-a\r\ncontent-type: application/json\r\n\r\n{"
        )
        told = b""
        while b"}}" not in told:
            part = peer.recv(4096)
            assert part
            told += part
    assert told.startswith(b"HTTP/1.1 408")
    assert b"x-should-retry: false" in told
    assert b"request_timeout" in told


def test_a_policy_that_clients_may_not_choose(small, of):
    with pytest.raises(openai.BadRequestError) as error:
        of("key-a").post(
            "/chat/completions", body=BODY | {"diffvis": {"policy": "fast"}}, cast_to=object
        )
    assert error.value.param == "diffvis.policy"


def test_too_many_requests_too_long_answers_and_no_room(small, monkeypatch, of):
    """One client at a time, one waits; the third is too much; none takes longer than it may."""
    from concurrent.futures import ThreadPoolExecutor

    from diffvis_jax.language.prompt_session import PromptSession

    stream = PromptSession.stream

    def slow(self):
        for identity in stream(self):
            yield identity
            time.sleep(0.1)

    monkeypatch.setattr(PromptSession, "stream", slow)
    # Its own connections: the two that are kept are no part of what is measured.
    body = BODY | {"max_tokens": 30}

    def post(key, wait=0.0, **more):
        time.sleep(wait)
        try:
            return of(key).post("/chat/completions", body=body | more, cast_to=httpx.Response)
        except openai.APIStatusError as error:
            return error

    with ThreadPoolExecutor(5) as pool:
        first, second, same, third = pool.map(
            post, ("key-a", "key-b", "key-a", "key-c"), (0, 0.15, 0.3, 0.3)
        )
    assert isinstance(first, openai.InternalServerError)
    assert (first.status_code, first.code) == (504, "timeout")
    assert first.response.headers["x-should-retry"] == "false"
    assert isinstance(same, openai.RateLimitError)
    assert same.response.headers["retry-after"] == "1"
    assert isinstance(third, openai.InternalServerError)
    assert (third.status_code, third.code) == (503, "overloaded")
    assert second.status_code == 504  # it waited, and its time was over
    # In a stream that runs there is no other status: the error comes as an event.
    with (
        pytest.raises(openai.APIError, match="no answer within"),
        of("key-a").chat.completions.create(**body, stream=True) as chunks,
    ):
        list(chunks)


def test_while_it_ends(small, of):
    small.server.draining = True
    try:
        with pytest.raises(openai.InternalServerError) as error:
            of("key-a").chat.completions.create(**BODY)
        assert error.value.status_code == 503
        base = f"http://127.0.0.1:{small.port}"
        assert httpx.get(f"{base}/health/ready").status_code == 503
    finally:
        small.server.draining = False


def test_no_text_of_ours_is_told(client, monkeypatch):
    from diffvis_jax.serve.prepare import Preparer

    def broken(self, call):
        raise KeyError("/secret/path")

    monkeypatch.setattr(Preparer, "prepare", broken)
    with pytest.raises(openai.InternalServerError) as error:
        client.chat.completions.create(**BODY)
    assert (error.value.status_code, error.value.code) == (500, "server_error")
    assert "secret" not in str(error.value)
