"""A machine that routes conversations full of canaries, a cloud that keeps every byte it gets, and
what may not be found there.

Each scenario is played twice, with other canaries and other pixels under the masks: what was sent
must be the same, to the byte.
"""

import asyncio
import base64
import contextlib
import dataclasses
import io
import json
import logging
import random
import socket
import time
import traceback
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from fake_engine import FakeEngine, Reply, Request, chunk, error, said, stream
from PIL import Image, PngImagePlugin

from diffvis_jax.providers import chat as c
from diffvis_jax.providers.ollama_native import OllamaNative
from diffvis_jax.providers.openai_like import OpenAILike
from diffvis_jax.route.audit import Audit
from diffvis_jax.route.labels import Region, Screen, Sensitivity, StaysHere, Task
from diffvis_jax.route.masked_tokens import MaskedTokens
from diffvis_jax.route.routed import Routed
from diffvis_jax.route.settings import ProviderSettings, RoutingSettings

RED = 60  # canaries alone are redder; a mask is black
# Two of each, for the two plays.
VALUES = {
    "card": ("4111 1111 1111 1111", "5555-5555-5555-4444"),
    "iban": ("DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432"),
    "email": ("canary.one@example.com", "zwei+canary@xn--e-1ga.example"),
}
TITLES = ("KeePass CANARYTITLEONE", "KeePass CANARYTITLETWO")
HIDDEN = ("CANARYLABELONE", "CANARYLABELTWO")


@dataclasses.dataclass(frozen=True)
class Shot:
    """A screenshot: boxes in CSS pixels, with their kind and source."""

    boxes: tuple[tuple[tuple[int, int, int, int], str, str], ...]
    seed: int


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A conversation, what is said of it, and how the cloud behaves."""

    scale: float
    viewport: tuple[int, int]
    shots: tuple[Shot, ...]
    texts: tuple[tuple[str, ...], ...]  # kinds of values in each
    stated: Sensitivity | None
    title: str  # "boxed", "loose", "none"
    what: str
    cloud: str
    client: str
    ask: str
    margin: int
    alpha: bool
    leave_early: bool
    local: str


def scenario_of(seed: int) -> Scenario:
    """One of all scenarios, each choice alike likely: a strategy would repeat the simplest."""
    rng = random.Random(seed)
    viewport = rng.choice([40, 64]), rng.choice([32, 48])

    def box() -> tuple[int, int, int, int]:
        left, top = rng.randrange(viewport[0] - 3), rng.randrange(viewport[1] - 3)
        right, bottom = left + rng.randint(1, 20), top + rng.randint(1, 12)
        return left, top, min(right, viewport[0]), min(bottom, viewport[1])

    kinds, sources = ("password", "field", "text", "user", "window"), ("dom", "user", "title")
    shots: list[Shot] = []
    for _ in range(rng.randint(1, 3)):
        if shots and rng.random() < 0.4:
            shots.append(shots[-1])  # only what is hidden changes
            continue
        boxes = [(box(), rng.choice(kinds), rng.choice(sources)) for _ in range(rng.randint(0, 3))]
        shots.append(Shot(tuple(boxes), rng.randrange(2)))
    texts = (tuple(rng.choices(sorted(VALUES), k=rng.randint(0, 3))) for _ in range(2 * len(shots)))
    return Scenario(
        scale=rng.choice([1, 1.25, 2]),
        viewport=viewport,
        shots=tuple(shots),
        texts=tuple(texts),
        stated=rng.choice([*Sensitivity, *Sensitivity, Sensitivity.PUBLIC, None]),
        title=rng.choice(["boxed", "none", "none", "loose"]),
        what=rng.choice(["masked", "changes"]),
        cloud=rng.choice(["ok", "ok", "cut", "retry", "busy", "echo", "redirect"]),
        client=rng.choice(["openai", "ollama", "tokens"]),
        ask=rng.choice(["auto", "auto", "cloud"]),
        margin=rng.choice([0, 1, 4]),
        alpha=rng.choice([True, False]),
        leave_early=rng.choice([True, False, False]),
        local=rng.choice(["ok", "ok", "echo", "open"]),
    )


def screenshot(
    shot: Shot, scenario: Scenario, play: int, number: int
) -> tuple[bytes, tuple[int, int], Screen]:
    """The PNG, its size, and its labels; what lies under the labels is another in each play, and in
    the second one another in each picture."""
    width, height = (round(side * scenario.scale) for side in scenario.viewport)
    public = np.random.default_rng(shot.seed)
    secret = np.random.default_rng([play, shot.seed, play * number])
    pixels = np.empty((height, width, 4), np.uint8)
    pixels[:] = (public.integers(0, RED), 200, 90, 255)
    for _ in range(3):
        y, x = public.integers(0, height - 6), public.integers(0, width - 6)
        pixels[y : y + 6, x : x + 6, :3] = public.integers(0, RED, 3)
    regions = []
    boxes = list(shot.boxes)
    if scenario.title == "boxed":
        boxes.append(((4, 4, 14, 12), "window", "dom"))
    for box, kind, source in boxes:
        at = np.array(box) * scenario.scale
        left, top = np.floor(at[:2]).astype(int)
        right, bottom = np.ceil(at[2:]).astype(int)
        where = pixels[top:bottom, left:right]
        where[:] = secret.integers(0, 256, where.shape)
        where[..., 0] = 255
        label = TITLES[play] if kind == "window" else HIDDEN[play]
        edges = box if source == "dom" else (int(left), int(top), int(right), int(bottom))
        regions.append(Region(edges, kind, label, source))
    file, notes = io.BytesIO(), PngImagePlugin.PngInfo()
    notes.add_text("Comment", HIDDEN[play])
    image = Image.fromarray(pixels if scenario.alpha else pixels[..., :3])
    image.save(file, "PNG", pnginfo=notes, compress_level=1)
    return file.getvalue(), (width, height), Screen(tuple(regions), scenario.viewport)


def conversation(scenario: Scenario, play: int) -> tuple[c.Chat, Task]:
    messages, screens = [], []
    words = iter(scenario.texts)

    def text() -> c.Text:
        values = (VALUES[kind][play] for kind in next(words))
        return c.Text(f"write {' and '.join(values)} there")

    for number, shot in enumerate(scenario.shots):
        png, size, screen = screenshot(shot, scenario, play, number)
        screens.append(screen)
        messages.append(c.Message("user", (c.Picture(png, size), text())))
        if number + 1 < len(scenario.shots):
            messages.append(c.Message("assistant", (text(),)))
    ends = {"none": (), "boxed": ("",), "loose": (" of nobody's box",)}
    titles = tuple(TITLES[play] + end for end in ends[scenario.title])
    task = Task("grounding", stated=scenario.stated, titles=titles, screens=tuple(screens))
    return c.Chat(tuple(messages)), task


class Stale:
    """An encoder whose tokens hold something of the last frames until it begins anew."""

    def __init__(self):
        self.before: np.ndarray | None = None

    def reset(self) -> None:
        self.before = None

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        small = pixels[: pixels.shape[0] // 8 * 8, : pixels.shape[1] // 8 * 8]
        rows, columns = small.shape[0] // 8, small.shape[1] // 8
        now = small.reshape(rows, 8, columns, 8, 3).mean((1, 3)).reshape(-1, 3).astype(np.float32)
        before = self.before
        self.before = now if before is None or before.shape != now.shape else (before + now) / 2
        return self.before


class Machine:
    """The router with its providers, the cloud, and another server that nobody should ask."""

    def __init__(self, folder: Path):
        self.cloud = FakeEngine(lambda _: said("ok"))
        self.here = FakeEngine(lambda _: said("here"))
        self.other = FakeEngine(lambda _: said("other"))
        self.loop = asyncio.new_event_loop()
        url = self.cloud.url
        self.clients: dict[str, Any] = {
            "openai": OpenAILike("cloud", f"{url}/v1", "m", remote=True, retries=1),
            "ollama": OllamaNative("cloud", url, "m", remote=True),
            "tokens": _tokens("cloud", f"{url}/v1", "m", remote=True, retries=1),
        }
        self.local = OpenAILike("here", f"{self.here.url}/v1", "m", retries=0)
        self.file = folder / "audit.jsonl"
        self.audit = Audit(self.file)
        self.written, self.sent = 0, 0
        self.logged = io.StringIO()
        self._real = socket.socket.connect

    def close(self) -> None:
        for client in (*self.clients.values(), self.local):
            self.loop.run_until_complete(client.aclose())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        for engine in (self.cloud, self.here, self.other):
            engine.close()
        self.audit.close()

    def check(self, scenario: Scenario) -> None:
        """Plays it twice; raises AssertionError for a leak."""
        one, two = (self._play(scenario, play) for play in (0, 1))
        assert [r.body for r in one] == [r.body for r in two], "what is sent depends on secrets"
        self.sent += bool(one)

    def _play(self, scenario: Scenario, play: int) -> list[Request]:
        chat, task = conversation(scenario, play)
        self.cloud.answer = _Cloud(scenario, self.other.url)
        self.here.answer = _echo if scenario.local == "echo" else lambda _: said("here")
        for engine in (self.cloud, self.here, self.other):
            engine.requests.clear()
            engine.connections = 0
        shown = self._run(scenario, chat, task)
        assert self.other.connections == 0, "a redirect was followed"
        if scenario.stated in (None, Sensitivity.CONFIDENTIAL) or scenario.title == "loose":
            assert self.cloud.connections == 0, "confidential, and left"
        written = self.file.read_text()[self.written :]
        self.written += len(written)
        secrets = [values[play] for values in VALUES.values()] + [TITLES[play], HIDDEN[play]]
        secrets += ["CANARY", TITLES[play].split()[-1]]
        for place, text in {
            "shown": shown,
            "audit": written,
            "logs": self.logged.getvalue(),
        }.items():
            for secret in secrets:
                assert secret.lower() not in text.lower(), f"a canary in {place}"
        for request in self.cloud.requests:
            find_canaries(request, secrets)
        intents = [json.loads(line) for line in written.splitlines() if '"intent"' in line]
        assert bool(self.cloud.requests) <= bool(intents), "sent before it was written down"
        return list(self.cloud.requests)

    def _run(self, scenario: Scenario, chat: c.Chat, task: Task) -> str:
        settings = RoutingSettings.model_validate(
            {
                "rules": [
                    {
                        "when": {"sensitivity": ["public", "internal"]},
                        "send": {"to": "cloud", "what": scenario.what},
                    }
                ],
                "guard": {"margin_px": scenario.margin},  # with Presidio where there is one
            }
        )
        cloud = ProviderSettings(kind="openai", base_url="https://cloud.example", model="m")
        providers = {"here": self.local, "cloud": self.clients[scenario.client]}
        routed = Routed(settings, settings.make_rules({"cloud": cloud}), providers, self.audit)
        if scenario.local == "open":
            routed._breakers["here"] = c.Breaker(failures=5, failed_at=time.monotonic())
        encoder = Stale()
        tokens = MaskedTokens(encoder.encode, encoder.reset)
        shown: list[str] = []

        async def ask() -> None:
            pieces = routed.generate(
                chat,
                task,
                c.Wish(deadline_s=20),
                ask=scenario.ask,
                stream=tokens if scenario.client == "tokens" else None,
                told=lambda decision: shown.append(repr(decision)),
            )
            try:
                async with contextlib.aclosing(pieces):
                    async for piece in pieces:
                        shown.append(repr(piece))
                        if scenario.leave_early:
                            return
            finally:  # what client libraries have begun to close
                while others := asyncio.all_tasks() - {asyncio.current_task()}:
                    await asyncio.wait(others, timeout=1)

        allowed = {engine.url.rsplit(":", 1)[1] for engine in (self.cloud, self.here, self.other)}

        def connect(this: socket.socket, address: Any) -> Any:
            assert address[0] == "127.0.0.1", "a connection that nobody asked for"
            assert str(address[1]) in allowed, "a connection that nobody asked for"
            return self._real(this, address)

        root, handler = logging.getLogger(), logging.StreamHandler(self.logged)
        self.logged.seek(0)
        self.logged.truncate()
        level = root.level
        root.addHandler(handler)
        root.setLevel(logging.DEBUG)
        socket.socket.connect = connect  # type: ignore[method-assign]
        try:
            self.loop.run_until_complete(ask())
        except (c.ProviderError, StaysHere) as problem:
            shown += [repr(problem), *traceback.format_exception(problem)]
        finally:
            socket.socket.connect = self._real  # type: ignore[method-assign]
            root.setLevel(level)
            root.removeHandler(handler)
        return "\n".join(shown)


def _tokens(*args, **options):
    from diffvis_jax.providers.vllm_tokens import VLLMTokens

    return VLLMTokens(*args, layout="image_embeds", **options)


class _Cloud:
    """How the cloud answers one play."""

    def __init__(self, scenario: Scenario, other: str):
        self.scenario, self.other, self.asked = scenario, other, 0

    def __call__(self, request: Request) -> Reply:
        self.asked += 1
        mode, soon = self.scenario.cloud, "retry-after-ms: 1"
        if mode == "redirect":
            return Reply(307, (f"location: {self.other}{request.path}",))
        if mode == "echo":
            return error(400, {"error": {"message": request.body.decode()}})
        if mode in ("retry", "busy") and self.asked == 1:
            return error(500 if mode == "retry" else 429, request.body.decode(), soon)
        if self.scenario.client == "ollama":
            line = b'{"message": {"role": "assistant", "content": "<EMAIL_1> <CARD"}}\n'
            end = b'{"message": {"role": "assistant", "content": ""}, "done": true}\n'
            return Reply(chunks=[line, *[end] * (mode != "cut")])
        if mode == "cut":
            return stream(chunk("<EMAIL_1>"), b"data: {", cut=True)
        return said("<EMAIL_1> <CAR", "D_2>")


def _echo(request: Request) -> Reply:
    return error(400, {"error": {"message": request.body.decode()}})


def find_canaries(request: Request, secrets: list[str]) -> None:
    """Raises AssertionError where a canary is in a request, in any of its spellings."""
    whole = (request.head + request.body).decode("latin-1").lower()
    for secret in secrets:
        for form in _spellings(secret):
            assert form.lower() not in whole, "a canary in a request"
    pictures, texts = [], []
    _collect(json.loads(request.body), pictures, texts)
    plain = "".join(x for text in texts for x in text if x.isalnum()).lower()
    for secret in secrets:
        bare = "".join(x for x in secret if x.isalnum()).lower()
        assert bare not in plain, "a canary in a text, spelt otherwise"
    for png in pictures:
        assert _chunks(png) <= {b"IHDR", b"IDAT", b"IEND"}, "metadata in a picture"
        image = Image.open(io.BytesIO(png))
        assert image.mode == "RGB", "a picture with more than colours"
        assert np.asarray(image)[..., 0].max(initial=0) <= RED, "canary pixels"


def _spellings(secret: str) -> list[str]:
    raw = secret.encode()
    encoded = [base64.b64encode(b" " * n + raw)[4 if n else 0 : -4].decode() for n in range(3)]
    percent = "".join(f"%{x:02x}" for x in raw)
    return [secret, *encoded, percent, "".join(f"\\u{x:04x}" for x in raw)]


def _collect(value: Any, pictures: list[bytes], texts: list[str]) -> None:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            _collect(each, pictures, texts)
    elif isinstance(value, str):
        data = value.removeprefix("data:image/png;base64,")
        with contextlib.suppress(ValueError):
            found = base64.b64decode(data, validate=True)
            if found.startswith(b"\x89PNG"):
                pictures.append(found)
                return
            if found.startswith(b"\x93NUMPY"):
                tokens = np.load(io.BytesIO(found))
                assert tokens[:, 0].max(initial=0) <= RED, "canary pixels in tokens"
                return
        texts.append(value)


def _chunks(png: bytes) -> set[bytes]:
    kinds, at = set(), 8
    while at < len(png):
        length, kind = int.from_bytes(png[at : at + 4], "big"), png[at + 4 : at + 8]
        assert zlib.crc32(png[at + 4 : at + 8 + length]) == int.from_bytes(
            png[at + 8 + length : at + 12 + length], "big"
        )
        kinds.add(kind)
        at += 12 + length
    return kinds
