"""An application that lets other processes answer: the door of several servers, each with a model of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, Protocol

from .. import logs
from ..text_files import parse_json
from .affinity import prompt_key
from .bodies import IN_THE_LOOP, too_deep
from .errors import RequestError, body_of
from .forwarding import LINE, Forwarded, Page, forwarded, merged_metrics
from .guard_answers import error_answer
from .line_log import LineLog
from .sse import event

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

START_SECONDS = 30.0
"""How long a request waits for a server that takes it."""

_LINE_SECONDS = 1.0


class Busy(Exception):
    """All servers have as many requests as they take."""


class Lost(Exception):
    """The server that was answering has ended, or has failed."""


class Answering(Protocol):
    """A response that is being made; the first frame is empty and says that a server has taken the request."""

    def __aiter__(self) -> AsyncIterator[list[Message]]:
        """The messages of ASGI, some at a time; raises :class:`Busy` or :class:`Lost`."""

    def cancel(self) -> None:
        """The client has left."""


class Servers(NamedTuple):
    """The servers behind an application.

    Attributes:
        answer: passes a request on.
        ready: whether there is a server.
        metrics: of each server.
    """

    answer: Callable[[Forwarded], Answering]
    ready: Callable[[], bool]
    metrics: Callable[[], Awaitable[list[Page]]]


class Forwarder:
    """Passes on requests that a guard has admitted.

    Args:
        servers: where to.
        log: form of the lines for requests that no server has answered, as of :class:`.ServeOptions`.
        start_seconds: how long a request waits for a server that takes it.
    """

    def __init__(self, servers: Servers, log: str = "text", start_seconds: float = START_SECONDS) -> None:
        self._servers = servers
        self._form = log
        self._start_seconds = start_seconds
        self._log = LineLog(logs.serve)

    def close(self) -> None:
        """Write the lines of the log that wait."""
        self._log.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of ASGI."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        try:
            await self._answer(scope, receive, send)
        except RequestError as error:
            self._tell(scope, error)
            headers, body = error_answer(error, scope["path"])
            await _send_whole(send, error.status, headers, b"" if scope["method"] == "HEAD" else body)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, ready = scope["path"], self._servers.ready()
        if path == "/health" or (path == "/ready" and ready):
            await _send_whole(send, 200, _type("application/json"), b'{"status":"ok"}')
        elif path == "/ready":
            raise _unavailable("no replica is ready", "loading", 2)
        elif path == "/metrics" and scope["method"] == "GET":
            pages = await self._servers.metrics()
            text = merged_metrics(pages) + _replicas(len(pages))
            await _send_whole(send, 200, _type("text/plain; version=0.0.4; charset=utf-8"), text.encode())
        elif path == "/admin/reload":
            raise RequestError(501, "a server on Ray cannot load another model", code="not_supported")
        else:
            await self._forward(scope, receive, send)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _whole_body(receive)
        if body is None:
            return
        key = ""
        if scope["method"] == "POST":
            client = scope["state"]["client"]
            long = len(body) > IN_THE_LOOP
            key = await asyncio.to_thread(_key, body, client) if long else _key(body, client)
        response = _Response(send, scope)
        answering = self._servers.answer(forwarded(scope, body, key))
        sending = asyncio.ensure_future(self._send(answering, response))
        leaving = asyncio.ensure_future(_until_left(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            if response.ended:  # the line of the log may follow
                await asyncio.wait((sending,), timeout=_LINE_SECONDS)
            if sending.done():
                sending.result()
        finally:
            if not sending.done():
                answering.cancel()
            for task in (sending, leaving):
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task

    async def _send(self, answering: Answering, response: _Response) -> None:
        frames = aiter(answering)
        try:
            async with asyncio.timeout(self._start_seconds):
                await anext(frames)
            async for frame in frames:
                for message in frame:
                    if message["type"] == LINE:
                        self._log.write(message["line"])
                    else:
                        await response.send(message)
        except TimeoutError:
            answering.cancel()
            raise _unavailable("no replica has taken the request", "loading", 5) from None
        except Busy:
            raise _unavailable("all replicas have as many requests as they take", "queue_full", 1) from None
        except (Lost, StopAsyncIteration):
            error = _unavailable("the replica that was answering has ended", "replica_lost", 1)
            if response.started and not response.ended:
                self._tell(response.scope, error)
            await response.fail(error)

    def _tell(self, scope: Scope, error: RequestError) -> None:
        """Log a request that a server has not answered, or not completely."""
        state = scope["state"]
        facts = {
            "id": state["request_id"],
            "client": state["client"],
            "route": scope["path"][:80],
            "status": error.status,
            "code": error.code,
        }
        if self._form == "json":
            self._log.write(json.dumps(facts, separators=(",", ":")))
        elif self._form == "text":
            self._log.write(" ".join(f"{name}={json.dumps(value)}" for name, value in facts.items()).replace('"', ""))


class _Response:
    """A response on its way to the client."""

    def __init__(self, send: Send, scope: Scope) -> None:
        self._send = send
        self.scope = scope
        self._type = b""
        self.started = self.ended = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self._type = dict(message["headers"]).get(b"content-type", b"")
        else:
            self.ended = not message.get("more_body", False)
        await self._send(message)

    async def fail(self, error: RequestError) -> None:
        """End the response with an error: as its status, else as the last part of a stream."""
        if not self.started:
            raise error
        if self.ended:
            return
        path = self.scope["path"]
        body = body_of(error, path)
        if self._type.startswith(b"text/event-stream"):
            data = event(body, "error" if path.endswith("/messages") else None)
        elif self._type.startswith(b"application/x-ndjson"):
            data = json.dumps(body).encode() + b"\n"
        else:
            raise error  # a part of it has been sent: the connection is closed
        await self._send({"type": "http.response.body", "body": data, "more_body": False})


def _key(body: bytes, client: str) -> str:
    """The key of a request; that of an invalid one is empty: the server that gets it says what is wrong."""
    if not body or too_deep(body):
        return ""
    try:
        return prompt_key(parse_json(body.decode()), client)
    except ValueError:
        return ""


def _unavailable(message: str, code: str, seconds: int) -> RequestError:
    return RequestError(503, message, code=code, headers={"retry-after": str(seconds)})


def _replicas(count: int) -> str:
    return f"# HELP pyml_replicas Replicas that answer.\n# TYPE pyml_replicas gauge\npyml_replicas {count}\n"


def _type(content_type: str) -> list[tuple[bytes, bytes]]:
    return [(b"content-type", content_type.encode())]


async def _send_whole(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    headers = [item for item in headers if item[0] != b"content-length"]
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _whole_body(receive: Receive) -> bytes | None:
    """The body, which the guard bounds; None: the client has left."""
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _lifespan(receive: Receive, send: Send) -> None:
    while (message := await receive())["type"] != "lifespan.shutdown":
        await send({"type": f"{message['type']}.complete"})
    await send({"type": "lifespan.shutdown.complete"})
