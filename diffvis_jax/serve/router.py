"""The router as something that answers requests: `auto` decides, other names ask for one engine."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import numpy as np

from diffvis_jax.errors import ConfigError
from diffvis_jax.language.events import Done, Event, Text
from diffvis_jax.providers import chat as said
from diffvis_jax.reuse.keys import digest
from diffvis_jax.route.audit import Audit
from diffvis_jax.route.classify import classify
from diffvis_jax.route.decide import Decision, decide
from diffvis_jax.route.labels import Complexity, Region, Screen, Sensitivity, StaysHere, Task
from diffvis_jax.route.marks import make_finder
from diffvis_jax.route.regions import write_png
from diffvis_jax.route.routed import Routed
from diffvis_jax.route.settings import make_provider
from diffvis_jax.serve.answer import Here, Target
from diffvis_jax.serve.images import ImageLimits, PictureReader
from diffvis_jax.serve.prepare import Call
from diffvis_jax.serve.protocol import ApiError, Hints, ScreenHint, TextPart, parse_request
from diffvis_jax.serve.settings import Settings

OWN, AUTO = "here", "auto"
_STATUS = {"busy": (503, "overloaded"), "timeout": (504, "timeout"), "auth": (502, "engine_failed")}
_NO_RETRY = {"x-should-retry": "false"}


@dataclasses.dataclass(frozen=True)
class OwnChat(said.Chat):
    """A conversation with the call that it came from, which our own model answers as it is."""

    call: Call = dataclasses.field(kw_only=True, repr=False)


class OwnModel:
    """The model of this server as a provider."""

    remote = False
    takes = frozenset({said.Text, said.Picture})

    def __init__(self, name: str, target: Target):
        """Args: name: how rules call it."""
        self.name, self._target = name, target

    async def generate(
        self, chat: said.Chat | said.Cleared, wish: said.Wish
    ) -> AsyncGenerator[said.Piece, None]:
        """Pieces of text, then a `Usage`. The call says how the answer is to be, not the wish.

        Raises:
          ApiError: the request cannot be answered.
        """
        assert isinstance(chat, OwnChat)
        async with contextlib.aclosing(self._target.events(chat.call)) as events:
            async for event in events:
                if isinstance(event, Text):
                    yield said.Text(event.text)
                elif isinstance(event, Done):
                    told = chat.call.told
                    cached = told["positions"] - told["prefilled"]
                    yield said.Usage(event.reason, told["positions"], cached, len(event.ids))

    async def models(self) -> tuple[str, ...]:
        return (self.name,)

    async def aclose(self) -> None:
        """Nothing is open."""


class OwnTokens:
    """An engine of this machine that reads our tokens in the place of pictures, as a provider that
    takes pictures: they are encoded here, in the sessions of this server."""

    remote = False
    takes = frozenset({said.Text, said.Picture})

    def __init__(self, engine: said.Provider, here: Here):
        """Raises: ConfigError: an engine beyond this machine; tokens hold all of a picture."""
        if engine.remote:
            raise ConfigError(
                f"{engine.name}: tokens hold all that a picture shows: such an engine must be on "
                "this machine, or a trusted host"
            )
        self.name, self._engine, self._here = engine.name, engine, here

    async def generate(
        self, chat: said.Chat | said.Cleared, wish: said.Wish
    ) -> AsyncGenerator[said.Piece, None]:
        """As the engine's."""
        assert isinstance(chat, OwnChat)
        arrays = iter(await self._here.tokens(chat.call))
        messages = []
        for message in chat.messages:
            parts = tuple(
                _tokens(next(arrays)) if isinstance(part, said.Picture) else part
                for part in message.parts
            )
            messages.append(said.Message(message.role, parts))
        given = said.Chat(tuple(messages))
        async with contextlib.aclosing(self._engine.generate(given, wish)) as pieces:
            async for piece in pieces:
                yield piece

    async def models(self) -> tuple[str, ...]:
        return await self._engine.models()

    async def aclose(self) -> None:
        await self._engine.aclose()


def _tokens(array: np.ndarray) -> said.Tokens:
    return said.Tokens(array, digest(array).hex())


def router_targets(settings: Settings, here: Here) -> dict[str, "RouterTarget"]:
    """The router ("auto"), and every engine by its name.

    Raises:
      ConfigError: rules that send away what they should not, an engine without its key.
    """
    base = Path()
    providers: dict[str, said.Provider] = {OWN: OwnModel(OWN, here)}
    for name, each in settings.providers.items():
        if name in (OWN, AUTO):
            raise ConfigError(f"providers: {name!r} is a name of the router's own")
        engine = make_provider(name, each, base)
        providers[name] = OwnTokens(engine, here) if each.kind == "vllm_tokens" else engine
    routing = settings.routing
    rules = routing.make_rules(settings.providers, OWN)
    remote = any(provider.remote for provider in providers.values())
    audit = Audit(Path(routing.audit.file)) if remote else None
    routed = Routed(routing, rules, providers, audit)
    limits = settings.limits
    reader = PictureReader(
        here.config, ImageLimits(limits.image_mb, limits.image_megapixels, limits.image_side)
    )
    names = (AUTO, *providers)
    return {name: RouterTarget(name, routed, reader, limits.timeout_s) for name in names}


class RouterTarget:
    """Requests that may be answered elsewhere."""

    def __init__(self, ask: str, routed: Routed, reader: PictureReader, deadline_s: float):
        """Args:
        ask: "auto", or the name of a provider.
        reader: opens pictures, within the limits.
        deadline_s: of an answer.
        """
        self._ask, self._routed, self._reader = ask, routed, reader
        self._deadline_s = deadline_s

    async def aclose(self) -> None:
        """Closes the connections of all engines."""
        for provider in self._routed.providers.values():
            await provider.aclose()

    def describe(self) -> dict[str, Any]:
        rules = self._routed.rules
        return {"router": self._ask, "providers": dict(rules.providers), "local": rules.local}

    async def events(self, call: Call) -> AsyncGenerator[Event, None]:
        told: dict[str, Any] = call.told
        chat, task = await asyncio.to_thread(chat_of, call, self._reader)
        request = call.request
        wish = said.Wish(
            max_tokens=request.limit or 256,
            temperature=0.0 if request.temperature is None else request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            stop=tuple(request.stop or ()),
            deadline_s=self._deadline_s,
        )

        def decided(decision: Decision) -> None:
            told["route"] = {"target": decision.target, "reasons": list(decision.reasons)}

        start, usage = time.perf_counter(), said.Usage("stop")
        try:
            answer = self._routed.generate(chat, task, wish, ask=self._ask, told=decided)
            async with contextlib.aclosing(answer) as pieces:
                async for piece in pieces:
                    if isinstance(piece, said.Text):
                        yield Text(piece.text)
                    else:  # the outcome is written down before anybody is told of the end
                        usage = piece
        except StaysHere as error:
            raise ApiError(403, "confidential_stays_local", str(error), "model") from None
        except said.ProviderError as error:
            status, code = _STATUS.get(error.kind, (502, "engine_failed"))
            raise ApiError(status, code, str(error), headers=_NO_RETRY) from None
        told.setdefault("positions", usage.prompt or 0)
        told.setdefault("prefilled", (usage.prompt or 0) - (usage.cached or 0))
        told.setdefault("compiled", 0)
        took = 1e3 * (time.perf_counter() - start)
        ids = np.zeros(usage.completion or 0, np.int32)  # nobody tells which
        yield Done(ids, "length" if usage.finish == "length" else "stop", (), took)


def explain(settings: Settings, body: bytes) -> str:
    """Where a request would go, and why; needs neither a model nor keys.

    Raises:
      ApiError: no such request.
      ConfigError: rules that send away what they should not.
    """
    request = parse_request(body)
    task = task_of(request.diffvis, len(list(request.images())))
    texts = [p.text for m in request.messages for p in m.content if isinstance(p, TextPart)]
    task = dataclasses.replace(task, text="\n".join(texts))
    routing = settings.routing
    rules = routing.make_rules(settings.providers, OWN)
    find = make_finder(routing.guard.presidio, routing.guard.recognizers)
    judged = classify(task, routing.make_words(), find)
    decision = decide(judged, task.operation, rules, {})
    lines = {
        "sensitivity": judged.sensitivity.name.lower(),
        "complexity": judged.complexity.name.lower(),
        "operation": task.operation,
        "target": decision.target,
        "sent": decision.send,
        "if that fails": ", ".join(decision.then) or "an error",
        "because": "; ".join(decision.reasons),
    }
    return "\n".join(f"{name:<14}{value}" for name, value in lines.items())


def chat_of(call: Call, reader: PictureReader) -> tuple[OwnChat, Task]:
    """A request as the router takes it.

    Raises:
      ApiError: a picture that cannot be read, or labels for another number of pictures.
    """
    request, messages, count = call.request, [], 0
    for i, message in enumerate(request.messages):
        parts: list[said.Part] = []
        for j, part in enumerate(message.content):
            if isinstance(part, TextPart):
                parts.append(said.Text(part.text))
                continue
            pixels = reader.open(part.image_url.url, f"messages[{i}].content[{j}]")
            count += 1
            parts.append(said.Picture(write_png(pixels), (pixels.shape[1], pixels.shape[0])))
        messages.append(said.Message(message.role, tuple(parts)))
    return OwnChat(tuple(messages), call=call), task_of(request.diffvis, count)


def task_of(hints: Hints, pictures: int) -> Task:
    """The labels of a request with so many pictures."""
    if hints.screens is not None and len(hints.screens) != pictures:
        problem = f"{len(hints.screens)} lists of regions for {pictures} pictures"
        raise ApiError(400, "invalid_request", problem, "diffvis.screens")
    screens = [
        Screen(
            None
            if each.regions is None
            else tuple(Region(_four(r.box), r.kind, r.label, r.source) for r in each.regions),
            None if each.viewport is None else (each.viewport[0], each.viewport[1]),
        )
        for each in hints.screens or [ScreenHint()] * pictures
    ]
    stated, complexity = hints.sensitivity, hints.complexity
    return Task(
        operation=hints.operation,
        stated=None if stated is None else Sensitivity[stated.upper()],
        complexity=None if complexity is None else Complexity[complexity.upper()],
        titles=tuple(hints.window_titles),
        screens=tuple(screens),
    )


def _four(box: list[float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = box
    return left, top, right, bottom
