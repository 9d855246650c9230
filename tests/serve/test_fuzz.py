"""Bodies that are nearly right: none makes the server fail, or hang, or grow."""

import json
import os

import httpx
import pytest
from fuzzing import fuzz, json_texts
from hypothesis import given
from serving import NAME, data_url, png
from vlm_files import screen

IMAGE = {
    "type": "image_url",
    "image_url": {"url": data_url(png(screen()[:8, :8])), "detail": "low"},
}
REQUEST = {
    "model": NAME,
    "messages": [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [IMAGE, {"type": "text", "text": "a"}], "name": "b"},
        {"role": "assistant", "content": "c", "refusal": None},
        {"role": "user", "content": "d"},
    ],
    "max_tokens": 1,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 3,
    "seed": 1,
    "stop": ["a", "b"],
    "stream": True,
    "stream_options": {"include_usage": True},
    "prompt_cache_key": "k",
    "diffvis": {"policy": "exact", "session": "s"},
    "metadata": {"a": "b"},
    "n": 1,
    "user": "u",
}
BATCH = {"model": NAME, "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}


@pytest.fixture(scope="module")
def post(running):
    """Bodies go to one server, over one connection."""
    url = f"http://127.0.0.1:{running.port}/v1/chat/completions"
    with httpx.Client(timeout=60) as client:

        def post(body):
            found = client.post(url, content=body, headers={"content-type": "application/json"})
            assert found.status_code in (200, 400, 404), (found.status_code, body[:500])
            if found.status_code != 200:
                error = found.json()["error"]
                assert error.keys() == {"message", "type", "param", "code"}
                assert error["code"] not in ("server_error", None)
            elif found.headers["content-type"].startswith("text/event-stream"):
                assert b'"error"' not in found.content
                assert found.content.endswith(b"data: [DONE]\n\n")
            return found.status_code

        yield post


def test_the_bodies_that_are_changed_are_right(post):
    for body in (REQUEST, BATCH):
        assert post(json.dumps(body).encode()) == 200
        for name in body.keys() - {"model", "messages", "diffvis", "stream"}:
            assert post(json.dumps(BATCH | {name: None}).encode()) == 200  # not said


@fuzz(few=200)
@given(body=json_texts(REQUEST, BATCH))
def test_any_body_is_answered_or_refused(post, body):
    post(body)


def memory_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.thorough
def test_ten_thousand_bodies(post):
    from random import Random

    from fuzzing import _text

    random = Random(0)
    for _ in range(1000):
        post(_text(random.choice([REQUEST, BATCH]), random))
    before = memory_mb()
    for _ in range(9000):
        post(_text(random.choice([REQUEST, BATCH]), random))
    assert memory_mb() - before < 30
