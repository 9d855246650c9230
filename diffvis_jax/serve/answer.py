"""Our own model as something that answers requests: from a checked request to events."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import jax
import numpy as np

import diffvis_jax
from diffvis_jax.language.events import Done, Event, Text
from diffvis_jax.model import Model
from diffvis_jax.reuse.answers import AnswerCache, Kept
from diffvis_jax.reuse.keys import answer_key
from diffvis_jax.serve.engine import Engine, EngineDown
from diffvis_jax.serve.jobs import Jobs
from diffvis_jax.serve.prepare import Call, Prepared, Preparer
from diffvis_jax.serve.settings import Settings


class Target(Protocol):
    """What answers the requests for a model."""

    def describe(self) -> dict[str, Any]:
        """For the list of models."""
        ...

    def events(self, call: Call) -> AsyncGenerator[Event, None]:
        """`Started`, `Text`, ..., `Done`; closing it ends the answer.

        Raises:
          ApiError: the request cannot be answered.
        """
        ...


class Here:
    """The model in this process.

    Attributes:
      engine: whose thread alone computes.
      jobs: what it computes, and the sessions.
      answers: that were given before; None = they are not kept.
      fingerprint: of weights, policy and versions.
    """

    def __init__(self, model: Model, settings: Settings, **on: Any):
        """Args: on: see `Engine`."""
        self._model, self._settings = model, settings
        self._preparer = Preparer(model, settings)
        self._pool = ThreadPoolExecutor(settings.serve.decode_threads, "serve-pictures")
        self.fingerprint = fingerprint(model, settings)
        self.jobs = jobs = Jobs(model, settings, self.fingerprint)
        self.answers: AnswerCache | None = None
        if (kept := settings.reuse.answers).enabled:
            self.answers = AnswerCache(
                kept.file,
                ttl_s=kept.ttl_s,
                max_entries=kept.max_entries,
                max_repeats=kept.max_repeats,
            )
        most = settings.serve.max_running
        self.engine = Engine(max_running=most, idle=jobs.idle, on_restart=jobs.restart, **on)

    def start(self) -> Future:
        """Begins; the future is done when everything usual is compiled."""
        self.engine.start()
        return self.engine.call(self.jobs.warm)

    @property
    def config(self) -> Any:
        """Of the tower."""
        return self._model.config

    def describe(self) -> dict[str, Any]:
        settings, config = self._settings.model, self._model.language.config
        return {
            "policy": settings.policy,
            "prefill": settings.prefill,
            "images": settings.images,
            "max_images": self._settings.limits.images,
            "context": config.max_length,
        }

    def forget(self, tenant: str, key: str) -> Future:
        """Forgets a session; how many that were."""
        return self.engine.call(lambda: self.jobs.store.forget(tenant, key))

    def close(self, drain_s: float = 0.0) -> None:
        """Ends the engine; running answers have so long."""
        self.engine.stop(drain_s)
        self._pool.shutdown(cancel_futures=True)
        if self.answers is not None:
            self.answers.close()

    async def events(self, call: Call) -> AsyncGenerator[Event, None]:
        loop = asyncio.get_running_loop()
        prepared = await loop.run_in_executor(self._pool, self._preparer.prepare, call)
        kept, key, found = self.answers, self._answer_key(call, prepared), None
        if kept is not None and key is not None:  # a file is read: not in the loop
            found = await loop.run_in_executor(self._pool, kept.get, key)
        if found is not None:
            call.told.update(
                path="answer",
                answer={"age_s": found.age_s, "settled": found.settled},
                positions=found.prompt_tokens,
                prefilled=0,
                compiled=0,
            )
            yield Text(found.text)
            yield Done(np.zeros(found.completion_tokens, np.int32), found.finish, (), 0.0)
            return
        pieces = []
        async with contextlib.aclosing(self._submitted(call, prepared)) as events:
            async for event in events:
                if isinstance(event, Text):
                    pieces.append(event.text)
                elif isinstance(event, Done) and kept is not None and key is not None:
                    settled, total = call.told["settled"], call.told["positions"]
                    made = Kept("".join(pieces), event.reason, total, len(event.ids), settled)
                    await loop.run_in_executor(self._pool, kept.put, key, made)
                yield event

    async def tokens(self, call: Call) -> list[np.ndarray]:
        """The projected tokens of every picture of a request, float32 `[N, D]` each, for an engine
        that reads them in the place of this one.

        Raises:
          ApiError: the request cannot be answered.
        """
        loop = asyncio.get_running_loop()
        prepared = await loop.run_in_executor(self._pool, self._preparer.prepare, call)
        async for made in self._submitted(call, prepared, tokens_alone=True):
            return [np.asarray(each.tokens)[each.packing] for each in made]
        raise EngineDown

    def _answer_key(self, call: Call, prepared: Prepared) -> bytes | None:
        """Of an answer that may be given again; None = it may not."""
        lane, options = prepared.ask.lane, prepared.options
        if call.no_store or lane.policy == "off" or options.temperature > 0:
            return None
        sampling = (lane.policy, prepared.limit, *(call.request.stop or ()))
        pictures = [picture.digest for picture in prepared.pictures]
        return answer_key(lane.tenant, self.fingerprint, prepared.ids, pictures, sampling)

    async def _submitted(
        self, call: Call, prepared: Prepared, *, tokens_alone: bool = False
    ) -> AsyncGenerator[Any, None]:
        """What the engine makes of it, to the last event."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Any] = asyncio.Queue()
        submitted = time.perf_counter()
        jobs = self.jobs
        job = jobs.encode if tokens_alone else jobs.answer

        def begin() -> Iterator[Any] | None:
            return jobs.begin(call, prepared, submitted, job)

        def emit(event: Any) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, event)

        ticket = self.engine.submit(begin, emit)
        try:
            while True:
                event = await queue.get()
                if isinstance(event, Exception):
                    raise event
                if last := isinstance(event, Done | list):
                    call.told["compiled"] = ticket.compiled
                yield event
                if last:
                    return
        finally:
            ticket.cancel()


def fingerprint(model: Model, settings: Settings) -> str:
    """Of weights, policy and versions."""
    found = hashlib.blake2b(digest_size=8)
    directory = model.language.directory
    manifest = None if directory is None else directory / "manifest.json"
    if manifest is not None and manifest.is_file():
        found.update(manifest.read_bytes())
    said = settings.model.model_dump_json(exclude={"path", "name"})
    found.update(f"{said} {diffvis_jax.__version__} {jax.__version__}".encode())
    return f"fp_{found.hexdigest()}"
