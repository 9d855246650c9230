"""What every request goes through: an id, who asks, counts, and errors in OpenAI's form.

Plain ASGI: behind Starlette's `BaseHTTPMiddleware` nobody learns that a client left.
"""

import asyncio
import contextlib
import hashlib
import hmac
import logging
import time
import uuid
from collections.abc import Mapping, Sequence

from sse_starlette.sse import SendTimeoutError
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffvis_jax.serve.engine import EngineDown
from diffvis_jax.serve.metrics import Metrics
from diffvis_jax.serve.protocol import ApiError
from diffvis_jax.serve.settings import ServeSettings

log = logging.getLogger(__name__)

LATER = {"retry-after": "1"}
_OPEN = ("/", "/health", "/health/live", "/health/ready")  # to those without a key
_EVERYWHERE = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))
_LINGER_S = 5.0  # for which the rest of a request is read that is refused


class Middleware:
    """Around the routes: every request has its `tenant` and when it `arrived` in its scope."""

    def __init__(
        self, app: ASGIApp, settings: ServeSettings, metrics: Metrics, keys: Sequence[str] = ()
    ):
        """Args: keys: of clients; each is a tenant. Without any, all are one."""
        self._app, self._settings, self._metrics = app, settings, metrics
        self._keys = [hashlib.sha256(key.encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request_id = uuid.uuid4().hex
        begun, plain, more_body = False, 0, True

        async def heard() -> Message:
            nonlocal more_body
            message = await receive()
            more_body = message.get("more_body", False)
            return message

        async def told(message: Message) -> None:
            nonlocal begun, plain
            if message["type"] == "http.response.start":
                kind = dict(message["headers"]).get(b"content-type", b"")
                if message["status"] >= 400 and kind.startswith(b"text/plain"):
                    plain = message["status"]  # the framework's own words, said again below
                    return
                begun = True
                self._metrics.requests.labels(str(message["status"])).inc()
                more = ((b"x-request-id", request_id.encode()), *_EVERYWHERE)
                message = {**message, "headers": [*message["headers"], *more]}
            elif not begun:
                return
            await send(message)

        error = None
        scope["arrived"] = time.perf_counter()
        try:
            scope["tenant"] = self._tenant_of(scope["path"], dict(scope["headers"]))
            await self._app(scope, heard, told)
            error = _plain(plain) if plain else None
        except (ClientDisconnect, SendTimeoutError):
            log.info("request %s: the client left", request_id)
        except Exception as raised:
            error = told_of(raised)
            if error.status == 500:
                name = type(raised).__name__
                log.error("request %s failed: %s", request_id, name, exc_info=raised)
        finally:
            if "end" in scope:
                await scope["end"]()
        if error is None or begun:
            return
        if error.status != 408:
            with contextlib.suppress(TimeoutError):  # or the client may not hear of it
                async with asyncio.timeout(_LINGER_S):
                    while more_body:
                        await heard()
        headers = {"content-type": "application/json", **error.headers}
        await Response(error.body(), error.status, headers)(scope, receive, told)

    def _tenant_of(self, path: str, headers: Mapping[bytes, bytes]) -> str:
        """Whose request it is.

        Raises:
          ApiError: without a valid key, or for another host.
        """
        host = headers.get(b"host", b"").decode("latin-1")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        known = ("localhost", "127.0.0.1", "[::1]", self._settings.host, *self._settings.hosts)
        if name not in known:
            raise ApiError(403, "host_not_allowed", "this server is not known by that name")
        if not self._keys or path in _OPEN:
            return ""
        given = headers.get(b"authorization", b"")
        scheme, _, key = given.partition(b" ")
        digest = hashlib.sha256(key.strip()).digest()
        found = [hmac.compare_digest(digest, each) for each in self._keys]  # all of them
        if scheme.lower() != b"bearer" or not any(found):
            self._metrics.failed_logins.inc()
            raise ApiError(401, "invalid_api_key", "no valid API key was given")
        return digest.hex()[:16]


def _plain(status: int) -> ApiError:
    codes = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}
    words = {404: "no such route", 405: "not with this method"}
    return ApiError(status, codes.get(status, "invalid_request"), words.get(status, "refused"))


def told_of(error: Exception) -> ApiError:
    """What a client is told of an exception: of ours nothing but that it was one."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, EngineDown):
        return ApiError(503, "overloaded", "the engine is being started again", headers=LATER)
    return ApiError(500, "server_error", "an error of the server; see x-request-id")
