"""Answers as streams of server-sent events, and answers that end when the client has left.

Source: the HTML standard, section "Server-sent events"; data without ``event:`` as OpenAI's API writes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from pyml_core.errors import PymlError

from .bodies import compact
from .errors import RequestError, body_of, error_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

T = TypeVar("T")

PING_SECONDS = 15.0
"""A comment is sent when nothing else has been for so long: proxies close silent connections."""

DONE = b"data: [DONE]\n\n"


class ClientGone(Exception):
    """The client has closed the connection."""


def event(data: Any, name: str | None = None) -> bytes:
    """One event: JSON data, and the event's name if there is one."""
    if name is None:
        return b"data: " + compact(data) + b"\n\n"
    return b"event: " + name.encode() + b"\ndata: " + compact(data) + b"\n\n"


class EventStream:
    """A response of events, whose source is closed when the client leaves. It is an ASGI application.

    Args:
        events: encoded events. A :class:`PymlError` or :class:`RequestError` of it ends the stream with an error.
        error_name: name of the event of an error; None: it has none.
        content_type: of the stream.
        headers: further headers.
        ping: what is sent after :data:`PING_SECONDS` of silence; empty: nothing is.
    """

    def __init__(
        self,
        events: AsyncIterator[bytes],
        error_name: str | None = None,
        content_type: str = "text/event-stream",
        headers: Mapping[str, str] | None = None,
        ping: bytes = b": ping\n\n",
    ) -> None:
        self._events = events
        self._error_name = error_name
        self._ping = ping
        self._sent_at = 0.0
        self._headers = {
            "content-type": content_type, "cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {}),
        }  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end or the client leaves."""
        sending = asyncio.ensure_future(self._send(scope, send))
        leaving = asyncio.ensure_future(_until_left(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for task in (leaving, sending):
                await _cancelled(task)

    async def _send(self, scope: Scope, send: Send) -> None:
        headers = [(key.encode(), value.encode("latin-1")) for key, value in self._headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        self._sent_at = monotonic()
        pinging = asyncio.ensure_future(self._send_pings(send)) if self._ping else None
        last = b""
        try:
            async for data in self._events:
                await send({"type": "http.response.body", "body": data, "more_body": True})
                self._sent_at = monotonic()
        except (PymlError, RequestError) as error:
            last = event(body_of(error_of(error, scope), scope["path"]), self._error_name)
        finally:
            if pinging is not None:
                await _cancelled(pinging)
            await self._events.aclose()  # type: ignore[attr-defined]  # an async generator
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _send_pings(self, send: Send) -> None:
        """Send a ping whenever nothing has been sent for a while."""
        while True:
            await asyncio.sleep(max(self._sent_at + PING_SECONDS - monotonic(), 0))
            if monotonic() >= self._sent_at + PING_SECONDS:
                await send({"type": "http.response.body", "body": self._ping, "more_body": True})
                self._sent_at = monotonic()


async def _cancelled(task: asyncio.Future[Any]) -> None:
    """Cancel a task, and wait for its end."""
    task.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await task


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(request: Request, answer: Coroutine[Any, Any, T]) -> T:
    """The result of ``answer``, which is cancelled if the client leaves before it is there.

    Raises:
        ClientGone: the client has left.
    """
    answering = asyncio.ensure_future(answer)
    leaving = asyncio.ensure_future(_until_left(request.receive))
    try:
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            return answering.result()
        raise ClientGone
    finally:
        for task in (leaving, answering):
            await _cancelled(task)
