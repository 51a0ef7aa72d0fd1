"""HTTP connections with deadlines: uvicorn's protocol on h11, which has none of its own.

A client has a limited time for the headers, the body, and to read the response; see :class:`.Limits`. Deadlines are
checked for all connections together, twice a second, so that a request costs no timers.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from contextlib import suppress
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, cast

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from .errors import RequestError
from .guard import PUBLIC
from .guard_answers import CLOSE, FIXED, error_answer, request_id
from .http_limits import Limits
from .http_parser import StrictConnection
from .http_transport import LingeringTransport

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope
    from uvicorn.config import Config
    from uvicorn.server import ServerState

_PIPELINED_BYTES = 64 << 10  # of further requests, which wait until the present one is answered


class Protocol(H11Protocol):
    """One connection.

    Attributes:
        waits: whether the server waits for the client: for the rest of a request, or for the next one.
        since: the time from which it waits.
    """

    def __init__(self, config: Config, state: ServerState, limits: Limits) -> None:
        super().__init__(config, state, {})
        self.conn = StrictConnection(h11.SERVER, limits.head_bytes)
        self.waits = True
        self.since = monotonic()
        self._limits = limits
        self._deadline = inf
        self._write_deadline = inf
        self._in_body = False
        self._in_head = False

    # ---- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request, if there are not too many connections."""
        limits = self._limits
        own = LingeringTransport(cast("asyncio.Transport", transport), self._unread, self._on_close)
        super().connection_made(own)
        cast("asyncio.Transport", transport).set_write_buffer_limits(high=limits.buffered_bytes)
        self.since = monotonic()
        self._deadline = self.since + limits.head_seconds
        if len(self.connections) > limits.connections and not self._make_room():
            if len(self.connections) > limits.connections + limits.reserved:
                own.abort()
            else:
                self.app = self._serve_reserved

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application, if it is still answering."""
        self._deadline = self._write_deadline = inf
        self.waits = False
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take up a part of a request. After the end of the connection it is dropped."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if not self.transport.is_closing():
            self._look()

    def pause_writing(self) -> None:
        """The client does not read as fast as the response is made."""
        super().pause_writing()
        self._write_deadline = monotonic() + self._limits.write_seconds

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        self._write_deadline = inf

    # ---- uvicorn

    def on_response_complete(self) -> None:
        """Wait for the next request, or take up the one that has already come."""
        super().on_response_complete()
        if not self.transport.is_closing():
            self._look()

    def shutdown(self) -> None:
        """End the connection, after the response that is being sent."""
        if not self.transport.is_closing():
            with suppress(h11.LocalProtocolError):
                super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP; called while h11's error is handled."""
        hint = getattr(sys.exception(), "error_status_hint", 400)
        if hint == 431 and not self._in_body:
            self._end(RequestError(431, "the headers are too large", code="headers_too_large"))
        else:
            self._end(RequestError(400, "invalid HTTP request", code="invalid_request"))

    # ---- deadlines

    def check(self, now: float) -> None:
        """End the connection if a deadline has passed."""
        if now >= self._write_deadline or (now >= self._deadline and self.transport.is_closing()):
            self.drop()
        elif now >= self._deadline:
            self.time_out()

    def drop(self) -> None:
        """End the connection at once; to the application the client is gone."""
        self._leave_request()
        self.transport.abort()

    def time_out(self) -> None:
        """End a connection whose client keeps the server waiting."""
        if self._in_head or self._in_body:
            part = "body" if self._in_body else "headers"
            self._end(RequestError(408, f"the {part} did not arrive in time", code="request_timeout"))
        else:
            self.transport.close()

    def _look(self) -> None:
        """See which part of a request is awaited now."""
        their, limits = self.conn.their_state, self._limits
        if their is h11.SEND_BODY:
            if not self._in_body:
                self._wait(limits.body_seconds)
                self._in_body, self._in_head = True, False
        elif their is h11.IDLE:
            begun = bool(self.conn.trailing_data[0])
            if self._in_body or begun > self._in_head or not self.waits:
                self._wait(limits.head_seconds if begun else limits.idle_seconds)
            self._in_body, self._in_head = False, begun
        else:
            self.waits, self._in_body, self._in_head = False, False, False
            self._deadline = inf
            if self.flow.read_paused:  # for a further request: the end of the connection would not be seen
                if len(self.conn.trailing_data[0]) > _PIPELINED_BYTES:
                    self.drop()
                else:
                    self.flow.resume_reading()

    def _wait(self, seconds: float) -> None:
        self.waits = True
        self.since = monotonic()
        self._deadline = self.since + seconds

    def _make_room(self) -> bool:
        """Close the connection that has waited for its client longest."""
        others = [one for one in cast("Iterable[Protocol]", self.connections) if one is not self and one.waits]
        if not others:
            return False
        oldest = min(others, key=lambda one: one.since)
        oldest.time_out()
        return True

    async def _serve_reserved(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """The application of a connection beyond the limit: the health, or else an error."""
        assert self.cycle is not None
        self.cycle.keep_alive = False
        if scope["type"] == "http" and scope["path"] in PUBLIC:
            await self.config.loaded_app(scope, receive, send)
        else:
            self._end(RequestError(503, "too many connections", code="queue_full", headers={"retry-after": "1"}))

    # ---- the end

    def _unread(self) -> bool:
        """Whether the client may still be sending."""
        return self.conn.their_state in (h11.SEND_BODY, h11.ERROR)

    def _on_close(self, lingering: bool) -> None:
        """From now on the client has a limited time to read the rest of the response."""
        self.waits = False
        self._deadline = monotonic() + (self._limits.linger_seconds if lingering else self._limits.write_seconds)

    def _leave_request(self) -> None:
        """Tell the application that the client is gone."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            self.flow.resume_writing()

    def _end(self, error: RequestError) -> None:
        """Answer with an error if no response has begun, and close the connection."""
        running = self.cycle is not None and not self.cycle.response_complete
        answered = running and self.cycle.response_started
        self._leave_request()
        if answered or self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        headers, body = error_answer(error, self.scope["path"] if running else "")
        headers = [*FIXED, (b"x-request-id", request_id()), *headers, CLOSE]
        response = h11.Response(status_code=error.status, headers=headers, reason=STATUS_PHRASES[error.status])
        for event in (response, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
