"""The HTTP side: routes, limits, and OpenAI's form of answers. Computes nothing."""

import asyncio
import contextlib
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sse_starlette.sse import AppStatus, EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive

from diffvis_jax.language.events import Done, Text
from diffvis_jax.serve.answer import Target
from diffvis_jax.serve.metrics import Metrics
from diffvis_jax.serve.middleware import LATER, Middleware, told_of
from diffvis_jax.serve.prepare import Call
from diffvis_jax.serve.protocol import ApiError, chunk, completion, parse_request, usage
from diffvis_jax.serve.settings import Settings

log = logging.getLogger(__name__)

_PAGE = Path(__file__).with_name("page.html")
_NO_RETRY = {"x-should-retry": "false"}  # OpenAI's client tries everything from 500 on again


class Server:
    """The requests of one server, and what they have in common.

    Attributes:
      targets: what answers, by the name of the model; a router would be one of them.
      ready: set when everything usual is compiled.
      draining: whether new requests are refused, since the server is about to end.
    """

    def __init__(
        self,
        settings: Settings,
        targets: Mapping[str, Target],
        engine: Any,
        metrics: Metrics,
        *,
        keys: Sequence[str] = (),
        fingerprint: str = "",
        forget: Any = None,
    ):
        """Args:
        engine: whose beat is watched.
        keys: of clients; each is a tenant.
        fingerprint: of weights, policy and versions.
        forget: (tenant, key) -> a future of how many sessions were forgotten.
        """
        self._settings, self.targets, self._engine = settings, targets, engine
        self._metrics, self._fingerprint, self._forget = metrics, fingerprint, forget
        self._keys = keys
        self._active: dict[str, int] = {}  # requests by tenant
        self._started = int(time.time())
        self.ready = self.draining = False
        AppStatus.disable_automatic_graceful_drain()  # we drain ourselves

    def app(self) -> ASGIApp:
        """As ASGI."""
        routes = [
            Route("/", self._page),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/v1/models/{name:path}", self._models),
            Route("/v1/sessions/{key:path}", self._delete, methods=["DELETE"]),
            Route("/health", self._health),
            Route("/health/{what}", self._health),
            Route("/metrics", self._metrics_text),
        ]
        return Middleware(Starlette(routes=routes), self._settings.serve, self._metrics, self._keys)

    @property
    def active(self) -> int:
        """Requests that are being answered."""
        return sum(self._active.values())

    # ---- routes ---------------------------------------------------------------------------------

    async def _page(self, request: Request) -> Response:
        policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        policy += "img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'"
        return FileResponse(_PAGE, headers={"content-security-policy": policy})

    async def _health(self, request: Request) -> Response:
        what = request.path_params.get("what", "ready")
        if what not in ("live", "ready"):
            raise ApiError(404, "not_found", f"no such route: {request.url.path}")
        fine = what == "live" or self._is_ready()
        return JSONResponse({"status": "ok" if fine else "not ready"}, 200 if fine else 503)

    def _is_ready(self) -> bool:
        late = time.monotonic() - self._engine.beat > 30
        return self.ready and not (self.draining or self._engine.dead or late)

    async def _metrics_text(self, request: Request) -> Response:
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")

    async def _models(self, request: Request) -> Response:
        models = {
            name: {
                "id": name,
                "object": "model",
                "created": self._started,
                "owned_by": "diffvis_jax",
                "diffvis": target.describe(),
            }
            for name, target in self.targets.items()
        }
        if (name := request.path_params.get("name")) is None:
            return JSONResponse({"object": "list", "data": list(models.values())})
        if name not in models:
            raise _no_model(name)
        return JSONResponse(models[name])

    async def _delete(self, request: Request) -> Response:
        key = request.path_params["key"]
        if not await asyncio.wrap_future(self._forget(request.scope["tenant"], key)):
            raise ApiError(404, "session_not_found", "no such session")
        return JSONResponse({"id": key, "object": "session.deleted", "deleted": True})

    async def _chat(self, request: Request) -> Response:
        tenant = request.scope["tenant"]
        limits = self._settings.limits
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise ApiError(400, "invalid_request", "content-type must be application/json")
        if self.draining or not self.ready or self._engine.dead:
            raise ApiError(503, "overloaded", "the server is starting or ending", headers=LATER)
        if self._active.get(tenant, 0) >= limits.running_per_key:
            said = f"more than {limits.running_per_key} requests at a time"
            raise ApiError(429, "rate_limit_exceeded", said, headers=LATER)
        if self.active >= limits.queue + self._settings.serve.max_running:
            raise ApiError(503, "overloaded", "the queue is full", headers=LATER)
        self._active[tenant] = self._active.get(tenant, 0) + 1
        answer = self._answer(request, tenant)

        async def end() -> None:
            await answer.aclose()
            self._active[tenant] -= 1
            if not self._active[tenant]:
                del self._active[tenant]

        request.scope["end"] = end  # called however the response ends
        first = await anext(answer)
        if isinstance(first, Response):
            return first
        return EventSourceResponse(
            _stream(answer, first), ping=limits.ping_s, sep="\n", send_timeout=limits.send_timeout_s
        )

    async def _answer(self, request: Request, tenant: str) -> AsyncGenerator[Any, None]:
        """Either one response, or the chunks of a stream."""
        body = await self._body(request)
        asked = await asyncio.to_thread(parse_request, body)
        del body
        # Here a request is turned into events; a router is a target that has others.
        target = self.targets.get(asked.model)
        if target is None:
            raise _no_model(asked.model)
        session = request.headers.get("x-diffvis-session")
        if session is not None and not 1 <= len(session) <= 128:
            raise ApiError(400, "invalid_request", "X-Diffvis-Session: 1-128 characters")
        fresh = {"no-store", "no-cache"} & {
            each.strip().lower() for each in request.headers.get("cache-control", "").split(",")
        }
        call = Call(asked, tenant, session, bool(fresh), request.scope["arrived"])
        head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": asked.model,
            "system_fingerprint": self._fingerprint,
        }
        stream, pieces, first_token_s = bool(asked.stream), [], None
        # A stream has its own watcher, once it has begun.
        gone: asyncio.Task[None] | None = asyncio.create_task(_gone(request.receive))
        try:
            async with contextlib.aclosing(target.events(call)) as events:
                while not isinstance(event := await self._next(call, events, gone), Done):
                    if stream and gone is not None:
                        gone.cancel()
                        gone = None
                        yield chunk(head, {"role": "assistant", "content": ""})
                    if isinstance(event, Text):
                        if first_token_s is None:
                            first_token_s = time.perf_counter() - call.arrived
                            call.told["first_token_ms"] = 1e3 * first_token_s
                        pieces.append(event.text)
                        if stream and event.text:
                            yield chunk(head, {"content": event.text})
        except (asyncio.CancelledError, GeneratorExit, ClientDisconnect):
            self._metrics.cancelled.inc()
            raise
        finally:
            if gone is not None:
                gone.cancel()
        told, total = call.told, call.told["positions"]
        told["total_ms"] = 1e3 * (time.perf_counter() - call.arrived)
        self._metrics.answered(told, first_token_s or 0.0)
        counted = usage(total, len(event.ids), total - told["prefilled"])
        if told["compiled"]:
            log.warning("%d programs were compiled for a request", told["compiled"])
        told = {k: round(v, 2) if isinstance(v, float) else v for k, v in told.items()}
        if not stream:
            done = completion(head, "".join(pieces), event.reason, usage=counted, diffvis=told)
            yield JSONResponse(done)
            return
        yield chunk(head, {}, event.reason, diffvis=told)
        if asked.stream_options is not None and asked.stream_options.include_usage:
            yield chunk(head, None, usage=counted)

    async def _next(
        self, call: Call, events: AsyncIterator[Any], gone: asyncio.Task[None] | None
    ) -> Any:
        """The next event.

        Raises:
          ApiError: it does not come before the deadline.
          ClientDisconnect: the client is gone.
        """
        left = self._settings.limits.timeout_s - (time.perf_counter() - call.arrived)
        event = asyncio.ensure_future(anext(events))
        try:
            await asyncio.wait(
                [event] if gone is None else [event, gone],
                timeout=max(0.0, left),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if event.done():
                return event.result()
            if gone is not None and gone.done():
                raise ClientDisconnect
            self._metrics.cancelled.inc()
            said = f"no answer within {self._settings.limits.timeout_s:g} s"
            raise ApiError(504, "timeout", said, headers=_NO_RETRY)
        finally:
            if not event.done():
                event.cancel()
                await asyncio.wait([event])

    async def _body(self, request: Request) -> bytes:
        limits = self._settings.limits
        most, body, length = int(limits.body_mb * 1e6), bytearray(), 0
        try:
            async with asyncio.timeout(limits.body_timeout_s):
                async for part in request.stream():
                    length += len(part)
                    if length <= most:
                        body += part
        except TimeoutError:
            said = f"no whole body within {limits.body_timeout_s:g} s"
            raise ApiError(408, "request_timeout", said, headers=_NO_RETRY) from None
        if length > most:  # read to its end, or the client would not hear of it
            said = f"a body of more than {limits.body_mb:g} MB"
            raise ApiError(413, "request_too_large", said)
        return bytes(body)


async def _stream(
    answer: AsyncIterator[dict[str, Any]], first: dict[str, Any]
) -> AsyncIterator[dict[str, str]]:
    """As server-sent events."""
    try:
        yield {"data": json.dumps(first)}
        async for each in answer:
            yield {"data": json.dumps(each)}
        yield {"data": "[DONE]"}
    except Exception as error:
        if (told := told_of(error)).status == 500:
            log.error("a stream failed: %s", type(error).__name__, exc_info=error)
        yield {"data": told.body().decode()}


async def _gone(receive: Receive) -> None:
    """Until the client is."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _no_model(name: str) -> ApiError:
    return ApiError(404, "model_not_found", f"no model {name[:100]!r}", "model")
