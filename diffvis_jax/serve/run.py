"""A whole server: model, engine and HTTP put together, its beginning and its end."""

import asyncio
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import uvicorn

from diffvis_jax.errors import ConfigError
from diffvis_jax.model import Model, load
from diffvis_jax.serve.answer import Here, Target
from diffvis_jax.serve.app import Server
from diffvis_jax.serve.metrics import Metrics
from diffvis_jax.serve.settings import ServeSettings, Settings

log = logging.getLogger(__name__)


class Running:
    """A server that can be started and stopped, from any thread.

    Attributes:
      here: the model.
      server: the HTTP side.
      status: of the exit.
    """

    def __init__(
        self,
        model: Model,
        settings: Settings,
        keys: Sequence[str] = (),
        listening: socket.socket | None = None,
    ):
        """Args: listening: from `listen`; None = as the settings say."""
        self.settings, self.status = settings, 0
        self.metrics = metrics = Metrics()
        self.here = here = Here(model, settings, on_death=self._die)
        name = settings.model.name or model.name
        self.server = Server(
            settings,
            self._targets(name),
            here.engine,
            metrics,
            keys=keys,
            fingerprint=here.fingerprint,
            forget=here.forget,
        )
        for tier, size in (("all", "nbytes"), ("maps", "maps_nbytes")):
            of = _total(here, size)
            metrics.gauge(f"session_{tier}_bytes", f"Bytes of sessions: {tier}", of)
        metrics.gauge("sessions", "Sessions", lambda: len(here.jobs.store.sessions))
        metrics.gauge("waiting", "Requests that wait", lambda: here.engine.waiting)
        metrics.gauge("engine_restarts", "Failures of the engine", lambda: here.engine.restarts)
        self.socket = listen(settings.serve) if listening is None else listening
        config = uvicorn.Config(
            self.server.app(),
            log_config=None,
            access_log=False,  # paths hold the keys of sessions
            server_header=False,
            limit_concurrency=settings.limits.connections,
            timeout_keep_alive=75,  # an agent acts for seconds between its turns
            timeout_graceful_shutdown=5,
            lifespan="off",
            http="h11",
            ws="none",
        )
        self._uvicorn = _Uvicorn(config, self.drain)
        self._loop: asyncio.AbstractEventLoop | None = None

    def _targets(self, name: str) -> dict[str, Target]:
        """What answers, by the name of the model: this one, and where there are rules or other
        engines the router, and each of them.

        Raises:
          ConfigError: rules that send away what they should not, or engines without their keys.
        """
        settings, here = self.settings, self.here
        targets: dict[str, Target] = {name: here}
        self._close_engines: Callable[[], Awaitable[None]] = _nothing
        if not (settings.providers or settings.routing.rules):
            return targets
        from diffvis_jax.serve.router import router_targets

        router = router_targets(settings, here)
        if name in router:
            raise ConfigError(f"model.name: {name!r} is what the router calls something else")
        self._close_engines = next(iter(router.values())).aclose  # each closes all of them
        return {**targets, **router}

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.socket.getsockname()[1]

    def run(self, on_ready: Callable[[], Any] = lambda: None) -> int:
        """Serves until it is told to end; the exit status."""
        asyncio.run(self._run(on_ready))
        return self.status

    async def _run(self, on_ready: Callable[[], Any]) -> None:
        self._loop = asyncio.get_running_loop()
        warm = asyncio.ensure_future(asyncio.wrap_future(self.here.start()))

        def warmed(_: Any) -> None:
            if warm.cancelled():
                return
            if error := warm.exception():
                log.error("the warm-up failed", exc_info=error)
                self._die()
                return
            self.server.ready = True
            on_ready()

        warm.add_done_callback(warmed)
        try:
            await self._uvicorn.serve(sockets=[self.socket])
        finally:
            warm.cancel()
            await asyncio.to_thread(self.here.close)
            await self._close_engines()

    def drain(self) -> None:
        """Ends: no new requests; those that run have `drain_s`."""
        if self._loop is not None and not (self.server.draining or self._loop.is_closed()):
            self.server.draining = True
            asyncio.run_coroutine_threadsafe(self._drain(), self._loop)

    async def _drain(self) -> None:
        ends = self._loop.time() + self.settings.serve.drain_s  # type: ignore[union-attr]
        while self.server.active and self._loop.time() < ends:  # type: ignore[union-attr]
            await asyncio.sleep(0.05)
        await asyncio.to_thread(self.here.close)  # the rest are told that it is over
        for _ in range(40):
            if not self.server.active:
                break
            await asyncio.sleep(0.05)
        self._uvicorn.should_exit = True

    def _die(self) -> None:
        """A supervisor has to start another process."""
        self.status = 1
        self._uvicorn.should_exit = True


class _Uvicorn(uvicorn.Server):
    """Drains at the first signal, ends at the second."""

    def __init__(self, config: uvicorn.Config, drain: Callable[[], None]):
        super().__init__(config)
        self._drain_first, self._told = drain, threading.Event()

    def handle_exit(self, sig: int, frame: Any) -> None:
        if self._told.is_set():
            super().handle_exit(sig, frame)
        self._told.set()
        self._drain_first()


def serve(settings: Settings, keys: Sequence[str], *, say: Callable[[str], Any]) -> int:
    """Loads the model and serves; the exit status."""
    from diffvis_jax.cli.models import find_model

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("jax").setLevel(logging.WARNING)
    path = find_model(settings.model.path, language=True)
    listening = listen(settings.serve)  # before a minute of loading
    dtype, decode = settings.model.dtype, settings.model.decode_dtype
    running = Running(load(path, dtype, decode_dtype=decode), settings, keys, listening)
    address = f"http://{settings.serve.host}:{running.port}"
    megabytes = running.here.jobs.max_bytes / 1e6
    say(f"{address}: compiling; {megabytes:.0f} MB for sessions")
    return running.run(
        lambda: say(f"{address}: ready, for the model {next(iter(running.server.targets))}")
    )


async def _nothing() -> None:
    pass


def listen(settings: ServeSettings) -> socket.socket:
    """A socket of its address.

    Raises:
      ConfigError: it is taken, or is none of this machine's.
    """
    host, port = settings.host, settings.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio turns Nagle's algorithm off: it costs 40 ms a response.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"serve.host, serve.port: cannot listen at {host}:{port} ({error.strerror})"
        ) from None
    return listening


def _total(here: Here, name: str) -> Callable[[], float]:
    return lambda: sum(getattr(session, name) for session in list(here.jobs.store.sessions))
