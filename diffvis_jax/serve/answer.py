"""Our own model as something that answers requests: from a checked request to events.

Pictures that stand in the conversation already keep the tokens that they were shown with, so their
keys and values hold; new ones are encoded, the oldest first; the prompt is read from the first
position on that differs.
"""

import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

import diffvis_jax
from diffvis_jax.core.policy import Policy
from diffvis_jax.core.report import combine, describe
from diffvis_jax.core.step import jit_encode
from diffvis_jax.encoder import DifferentialVisionEncoder
from diffvis_jax.images.anyres import Frame, TiledImage, pixels_of
from diffvis_jax.language.differential_prefill import PrefillPolicy
from diffvis_jax.language.events import Done, Event, Started, Text, answer_events
from diffvis_jax.language.prompt_session import PromptSession
from diffvis_jax.language.splice import PackedTokens, project
from diffvis_jax.model import Model
from diffvis_jax.reuse.answers import AnswerCache, Kept
from diffvis_jax.reuse.features import FeatureCache
from diffvis_jax.reuse.keys import answer_key, digest
from diffvis_jax.serve.engine import Engine, EngineDown
from diffvis_jax.serve.prepare import Call, Prepared, Preparer
from diffvis_jax.serve.sessions import Lane, Session, SessionStore
from diffvis_jax.serve.settings import Settings
from diffvis_jax.towers import build, with_size

log = logging.getLogger(__name__)

_SLICE_S = 0.05  # of settling, for which a request may have to wait


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


@functools.partial(jax.jit, static_argnames="config")
def _projected(params: Any, tokens: jax.Array, *, config: Any) -> jax.Array:
    return project(params, tokens, config=config)


class Here:
    """The model in this process.

    Attributes:
      engine: whose thread alone computes.
      store: its sessions.
      max_bytes: of sessions.
      features, answers: what was computed before; None = answers are not kept.
      fingerprint: of weights, policy and versions.
    """

    def __init__(self, model: Model, settings: Settings, **on: Any):
        """Args: on: see `Engine`."""
        self._model, self._settings = model, settings
        self._language = model.language
        self._preparer = Preparer(model, settings)
        self._pool = ThreadPoolExecutor(settings.serve.decode_threads, "serve-pictures")
        serve = settings.serve
        self.max_bytes = int((serve.memory_mb or _free_mb() / 4) * 1e6)
        self._settle = 0.02  # share of a full encode that is made up in a slice
        self.fingerprint = fingerprint(model, settings)
        self.features = FeatureCache(0)  # nothing is known while everything is compiled
        self.answers: AnswerCache | None = None
        if (kept := settings.reuse.answers).enabled:
            self.answers = AnswerCache(
                kept.file,
                ttl_s=kept.ttl_s,
                max_entries=kept.max_entries,
                max_repeats=kept.max_repeats,
            )
        self.engine = Engine(
            max_running=serve.max_running, idle=self._idle, on_restart=self._restart, **on
        )
        self._restart()

    def _restart(self) -> None:
        """Without sessions."""
        serve = self._settings.serve
        self.store = SessionStore(
            self.session,
            max_bytes=self.max_bytes,
            ttl_s=serve.session_ttl_s,
            per_tenant=serve.max_sessions_per_key,
        )

    def start(self) -> Future:
        """Begins; the future is done when everything usual is compiled."""
        self.engine.start()
        return self.engine.call(self._warm)

    def _warm(self) -> None:
        from diffvis_jax.serve.warm import warm_up

        warm_up(self._model, self._settings, self.session, self.answer)
        self.features = FeatureCache(int(self._settings.reuse.features_mb * 1e6))

    @property
    def config(self) -> Any:
        """Of the tower."""
        return self._model.config

    def describe(self) -> dict[str, Any]:
        settings, config = self._settings.model, self._language.config
        return {
            "policy": settings.policy,
            "prefill": settings.prefill,
            "images": settings.images,
            "max_images": self._settings.limits.images,
            "context": config.max_length,
        }

    def forget(self, tenant: str, key: str) -> Future:
        """Forgets a session; how many that were."""
        return self.engine.call(lambda: self.store.forget(tenant, key))

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
        job = self.encode if tokens_alone else self.answer

        def begin() -> Iterator[Any] | None:
            return self._begin(call, prepared, submitted, job)

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

    # ---- in the engine's thread -----------------------------------------------------------------

    def session(self, lane: Lane, key: str | None) -> Session:
        """An empty one."""
        encoder, bounded = None, False
        if lane.policy in ("exact", "faithful", "fast"):
            policy = getattr(Policy, lane.policy)()
            encoder = DifferentialVisionEncoder(self._model, policy)
            bounded = lane.policy != "exact" and self._settings.model.prefill == "bounded"
        prefill = PrefillPolicy.approximate() if bounded else PrefillPolicy.exact()
        prompts = PromptSession(self._language, prefill, differential=lane.policy != "off")
        return Session(lane, key, encoder, prompts)

    def _begin(
        self, call: Call, prepared: Prepared, submitted: float, job: Callable[..., Iterator[Any]]
    ) -> Iterator[Any] | None:
        ask = prepared.ask
        why, session = "off", None
        if ask.lane.policy != "off":
            choice = self.store.take(ask, build(self._model.config).patch)
            if choice is None:
                return None
            why, session = choice.why, choice.session
        session = session or self.session(ask.lane, None)
        call.told.update(
            session=session.key or session.id,
            session_choice=why,
            queue_ms=1e3 * (time.perf_counter() - submitted),
        )
        events = job(call, prepared, session)
        next(events)
        return events

    def encode(self, call: Call, prepared: Prepared, session: Session) -> Iterator[Any]:
        """The job whose one event is the list of the pictures' tokens; otherwise as `answer`."""
        try:
            yield None
            images = yield from self._images(call.told, prepared, session)
            session.chain = prepared.ask.chain
        except Exception:
            self.store.drop(session)
            raise
        finally:
            self.store.give_back(session)
        yield images

    def answer(self, call: Call, prepared: Prepared, session: Session) -> Iterator[Event | None]:
        """The job; its first step does nothing, after it the session is given back in the end."""
        ours = True
        try:
            yield None
            images = yield from self._images(call.told, prepared, session)
            session.prompts.options = prepared.options
            for event in answer_events(
                session.prompts,
                images or None,
                prepared.ids,
                prepared.grids,
                tokenizer=self._language.tokenizer,
                limit=prepared.limit,
                stop=call.request.stop or (),
            ):
                if isinstance(event, Started):
                    session.chain = prepared.ask.chain
                    report = event.prefilled.report
                    call.told.update(
                        prefill=report["path"],
                        prefilled=report["prefilled"],
                        positions=report["total"],
                        prefill_ms=event.prefill_ms,
                    )
                elif isinstance(event, Done):
                    # Before anybody knows: the next turn may come at once, and take it.
                    self.store.give_back(session)
                    ours = False
                    call.told["first_id_ms"] = event.times_ms[0]
                yield event
        except Exception:
            self.store.drop(session)  # what it keeps may be gone, or half done
            raise
        finally:
            if ours:
                self.store.give_back(session)

    def _images(self, told: dict[str, Any], prepared: Prepared, session: Session) -> Iterator[None]:
        """The tokens of every picture; lets others take their turn after each encode."""
        images, reports, encode_ms, reused = [], [], 0.0, 0
        for picture in prepared.pictures:
            tokens, whole = session.pictures.get(picture.digest), None
            keeps = session.lane.policy != "off" and not isinstance(picture.frame, TiledImage)
            if tokens is None and keeps:
                whole = digest("features", session.lane.tenant, picture.digest, self.fingerprint)
                tokens = self._kept(whole)
                reused += tokens is not None
            if tokens is None:
                start = time.perf_counter()
                tokens, report = self._encode(session, picture.frame)
                encode_ms += 1e3 * (time.perf_counter() - start)
                reports.append(report)
                encoder = session.encoder
                left = report["pending"] or report["skipped"]
                if left or (encoder is not None and _skips(encoder)):
                    session.unsettled.add(picture.digest)
                elif whole is not None:
                    self.features.put(whole, np.asarray(tokens.tokens))
                yield None
            session.keep(picture.digest, tokens, self._settings.limits.images)
            images.append(tokens)
        done = combine(reports) if reports else {}
        told.update(
            path=done.get("path", "known"),
            encoded=len(reports),
            features_reused=reused,
            settled=session.unsettled.isdisjoint(p.digest for p in prepared.pictures),
            changed_patches=done.get("changed_patches", 0),
            total_patches=done.get("total_patches", 0),
            recomputed=done.get("recomputed", 0.0),
            pending=done.get("pending", 0.0),
            encode_ms=encode_ms,
        )
        return images

    def _kept(self, key: bytes) -> PackedTokens | None:
        """Tokens of a picture that was encoded for another session, whole."""
        rows = self.features.get(key)
        if rows is None:
            return None
        return PackedTokens(jnp.asarray(rows), np.arange(len(rows), dtype=np.int32), projected=True)

    def _encode(self, session: Session, frame: Frame) -> tuple[PackedTokens, dict[str, Any]]:
        """The tokens of a picture, ready and projected, and what was done."""
        pixels = pixels_of(frame)
        config = with_size(self._model.config, pixels.shape[1:3])
        if session.encoder is None:
            tokens = jit_encode(self._model.params, pixels, config=config)
            report = dict(_FULL, total_patches=build(config).cells * len(pixels))
        else:
            tokens = session.encoder.encode(frame)
            assert session.encoder.report is not None
            report = combine(describe(session.encoder.report))
            session.settled = report["pending"] == 0
        session.frame = frame
        assert isinstance(tokens, jax.Array)
        params = {"projector": self._language.params.get("projector", {})}
        rows = tokens.reshape(-1, tokens.shape[-1])
        rows = jax.block_until_ready(_projected(params, rows, config=self._language.config))
        packing = frame.packing if isinstance(frame, TiledImage) else np.arange(len(rows))
        return PackedTokens(rows, packing.astype(np.int32), projected=True), report

    def _idle(self) -> bool:
        """Between requests, makes up a slice of what encodes left out; whether there is more."""
        self.store.expire()
        if not self._settings.serve.settle_idle:
            return False
        left = [s for s in self.store.sessions if not (s.busy or s.settled) and s.maps_nbytes]
        if not left:
            return False
        session = max(left, key=lambda s: s.last_used)
        encoder = session.encoder
        assert encoder is not None
        policy, start = encoder.policy, time.perf_counter()
        try:
            encoder.policy = dataclasses.replace(policy, settle=self._settle)
            encoder.encode(session.frame)
            assert encoder.report is not None
            session.settled = not float(np.asarray(encoder.report.pending).sum())
        except Exception as error:
            log.error("settling failed: %s", type(error).__name__, exc_info=error)
            self.store.drop(session)
            return True
        encoder.policy = policy
        took = time.perf_counter() - start
        self._settle = min(0.25, max(0.001, self._settle * min(2.0, max(0.5, _SLICE_S / took))))
        return True


_FULL = {
    "path": "full",
    "changed_patches": 0,  # nobody looked
    "skipped": False,
    "recomputed": 1.0,
    "pending": 0.0,
    "oldest_age": 0,
    "waiting_patches": 0,
    "margin_share": 1.0,
    "moved_patches": 0,
}


def _skips(encoder: DifferentialVisionEncoder) -> bool:
    """Whether it takes patches that differ a little for unchanged."""
    return bool(np.any(np.asarray(encoder.policy.change_threshold) > 0))


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


def _free_mb() -> float:
    """Memory for arrays that is free, in 10^6 bytes."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return (stats["bytes_limit"] - stats.get("bytes_in_use", 0)) / 1e6
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":") for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024 / 1e6
    except (OSError, KeyError):  # not Linux
        return 16e3
