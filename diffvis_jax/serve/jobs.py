"""The work of the engine's thread: a request's pictures become tokens, its prompt an answer.

Pictures that stand in the conversation already keep the tokens that they were shown with, so their
keys and values hold; new ones are encoded, the oldest first; the prompt is read from the first
position on that differs.
"""

import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.core.policy import Policy
from diffvis_jax.core.report import combine, describe
from diffvis_jax.core.step import jit_encode
from diffvis_jax.encoder import DifferentialVisionEncoder
from diffvis_jax.images.anyres import Frame, TiledImage, pixels_of
from diffvis_jax.language.events import Done, Event, Started, answer_events
from diffvis_jax.language.prefill_policy import PrefillPolicy
from diffvis_jax.language.prompt_session import PromptSession
from diffvis_jax.language.splice import PackedTokens, project
from diffvis_jax.model import Model
from diffvis_jax.reuse.features import FeatureCache
from diffvis_jax.reuse.keys import digest
from diffvis_jax.serve.prepare import Call, Prepared
from diffvis_jax.serve.sessions import Lane, Session, SessionStore
from diffvis_jax.serve.settings import Settings
from diffvis_jax.serve.warm import warm_up
from diffvis_jax.towers import build, with_size

log = logging.getLogger(__name__)

Job = Callable[[Call, Prepared, Session], Iterator[Any]]

_SLICE_S = 0.02  # of settling, for which a request may have to wait
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


class Jobs:
    """What the engine runs, and what it keeps between requests.

    Attributes:
      store: the sessions.
      max_bytes: of them.
      features: tokens of pictures that were encoded whole.
    """

    def __init__(self, model: Model, settings: Settings, fingerprint: str):
        """Args: fingerprint: of weights, policy and versions."""
        self._model, self._settings, self._fingerprint = model, settings, fingerprint
        self._language = model.language
        self.max_bytes = int((settings.serve.memory_mb or _free_mb() / 4) * 1e6)
        self._settle = 0.02  # share of a full encode that is made up in a slice
        self.features = FeatureCache(0)  # nothing is known while everything is compiled
        self.restart()

    def restart(self) -> None:
        """Without sessions."""
        serve = self._settings.serve
        self.store = SessionStore(
            self.session,
            max_bytes=self.max_bytes,
            ttl_s=serve.session_ttl_s,
            per_tenant=serve.max_sessions_per_key,
        )

    def warm(self) -> None:
        """Compiles everything usual."""
        warm_up(self._model, self._settings, self.session, self.answer)
        self.features = FeatureCache(int(self._settings.reuse.features_mb * 1e6))

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

    def begin(
        self, call: Call, prepared: Prepared, submitted: float, job: Job
    ) -> Iterator[Any] | None:
        """A job with its session, after its first step; None = the session is busy."""
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
                whole = digest("features", session.lane.tenant, picture.digest, self._fingerprint)
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

    def idle(self) -> bool:
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


@functools.partial(jax.jit, static_argnames="config")
def _projected(params: Any, tokens: jax.Array, *, config: Any) -> jax.Array:
    return project(params, tokens, config=config)


def _skips(encoder: DifferentialVisionEncoder) -> bool:
    """Whether it takes patches that differ a little for unchanged."""
    return bool(np.any(np.asarray(encoder.policy.change_threshold) > 0))


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
