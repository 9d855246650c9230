"""A server on loopback that keeps every byte it gets, and answers what a test says."""

import asyncio
import dataclasses
import json
import threading
from collections.abc import Callable, Iterable


@dataclasses.dataclass(frozen=True)
class Request:
    """What arrived: the head as it is, and the body."""

    head: bytes
    body: bytes

    @property
    def path(self) -> str:
        return self.head.split(b" ", 2)[1].decode()

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {k.lower(): v for k, _, v in (line.partition(": ") for line in lines) if k}

    @property
    def json(self) -> dict:
        return json.loads(self.body)


@dataclasses.dataclass(frozen=True)
class Reply:
    """What is answered.

    Attributes:
      chunks: of the body; the connection ends after them, in order or, if `cut`, not.
    """

    status: int = 200
    headers: tuple[str, ...] = ()
    chunks: Iterable[bytes] = ()
    cut: bool = False
    delay: float = 0.0


def error(status: int, body: object, *headers: str) -> Reply:
    """An error in JSON, or in text."""
    text = body if isinstance(body, str) else json.dumps(body)
    return Reply(status, ("content-type: application/json", *headers), (text.encode(),))


def event(document: object) -> bytes:
    """One event of a stream."""
    text = document if isinstance(document, str) else json.dumps(document)
    return f"data: {text}\n\n".encode()


def chunk(text: str | None = None, finish: str | None = None, **fields) -> bytes:
    """One `chat.completion.chunk`."""
    delta = {} if text is None else {"content": text}
    choices = [] if "usage" in fields else [{"index": 0, "delta": delta, "finish_reason": finish}]
    document = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m"}
    return event(document | {"choices": choices} | fields)


USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 2,
    "total_tokens": 9,
    "prompt_tokens_details": {"cached_tokens": 5},
}


def stream(*chunks: bytes, cut: bool = False) -> Reply:
    """Server-sent events."""
    return Reply(200, ("content-type: text/event-stream",), chunks, cut)


def said(*texts: str) -> Reply:
    """An answer as OpenAI streams it."""
    pieces = [chunk(text) for text in texts]
    return stream(*pieces, chunk(finish="stop"), chunk(usage=USAGE), event("[DONE]"))


class FakeEngine:
    """Runs in a thread; `answer` may be replaced at any time.

    Attributes:
      requests: what arrived, in order.
      connections: how many were made.
      sent: bytes of bodies that were written.
    """

    def __init__(self, answer: Callable[[Request], Reply]):
        self.answer = answer
        self.requests: list[Request] = []
        self.connections = self.sent = 0
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 26)
        )
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = Request(head, b"").headers.get("content-length", "0")
            request = Request(head, await reader.readexactly(int(length)))
            self.requests.append(request)
            reply = self.answer(request)
            await asyncio.sleep(reply.delay)
            lines = (f"HTTP/1.1 {reply.status} x", "connection: close", *reply.headers)
            chunked = "transfer-encoding: chunked"
            writer.write("\r\n".join([*lines, chunked, "", ""]).encode())
            for data in reply.chunks:
                writer.write(b"%x\r\n%s\r\n" % (len(data), data))
                await writer.drain()
                self.sent += len(data)
            if not reply.cut:
                writer.write(b"0\r\n\r\n")
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has left
        finally:
            writer.close()

    def close(self) -> None:
        """Ends the thread."""

        async def end() -> None:
            self._server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def __enter__(self) -> "FakeEngine":
        return self

    def __exit__(self, *_) -> None:
        self.close()
