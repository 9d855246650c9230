"""A server in a thread of the test, and what is sent to it."""

import base64
import contextlib
import io
import threading

import numpy as np
import openai
from PIL import Image

from diffvis_jax.serve.run import Running
from diffvis_jax.serve.settings import Settings

NAME = "tiny"
SERVE = {
    "port": 0,
    "warm_lengths": 3,
    "warm_sampling": ["greedy", "temperature"],
    "warm_screens": ["320x180"],
    "memory_mb": 200.0,
    "drain_s": 5.0,
}
LIMITS = {"running_per_key": 16, "images": 4}


def png(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue()


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def picture(pixels: np.ndarray) -> dict:
    return {"type": "image_url", "image_url": {"url": data_url(png(pixels))}}


def user(*parts) -> dict:
    """Of texts, and arrays that are screens."""
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else picture(part) for part in parts
    ]
    return {"role": "user", "content": content}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


@contextlib.contextmanager
def serving(model, *, keys=(), serve=None, limits=None, more=None, **of_model):
    """A server in a thread; it is ready. Features are not kept, but where `more` says so."""
    settings = Settings.model_validate(
        {
            "reuse": {"features_mb": 0.0},
            **(more or {}),
            "model": {"path": NAME, "policy": "exact", "answer_tokens": 64, **of_model},
            "serve": SERVE | (serve or {}),
            "limits": LIMITS | (limits or {}),
        }
    )
    running, ready = Running(model, settings, keys), threading.Event()
    thread = threading.Thread(target=running.run, args=(ready.set,))
    thread.start()
    try:
        assert ready.wait(300), "not ready"
        yield running
    finally:
        running.drain()
        thread.join(60)
        assert not thread.is_alive()


def client_of(running, key="none", **options) -> openai.OpenAI:
    base = f"http://127.0.0.1:{running.port}/v1"
    return openai.OpenAI(base_url=base, api_key=key, max_retries=0, timeout=60, **options)
