"""The middleware that observes requests: each gets a record, which ends with its response."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

from .observation import Observation
from .request_record import RequestRecord, set_current

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

TICK = 0.25
"""Seconds between two looks at the delay of the event loop, while a request runs."""

_FORGET = 0.95  # a delay counts this much less at the next look

_RECORD = "pyml.record"


class Observed:
    """An application whose requests are observed. It may be wrapped once more, outside of a guard.

    Args:
        app: the application.
        observation: takes the records.
    """

    def __init__(self, app: ASGIApp, observation: Observation) -> None:
        self._app = app
        self._observation = observation
        self._ticking: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of ASGI."""
        if scope["type"] != "http" or _RECORD in scope:
            await self._app(scope, receive, send)
            return
        observation = self._observation
        record = RequestRecord(scope, observation.options.request_traces > 0)
        scope[_RECORD] = record
        set_current(record)
        observation.begin(record)
        if self._ticking is None or self._ticking.done():
            self._ticking = asyncio.ensure_future(self._tick())

        async def observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = message.get("headers", ())
                if not any(name.lower() == b"x-request-id" for name, _ in headers):
                    message = {**message, "headers": [*headers, (b"x-request-id", record.id.encode())]}
            await send(message)

        try:
            await self._app(scope, receive, observed)
        except Exception:
            record.status = record.status or 500
            raise
        finally:
            record.route = route_of(scope)
            observation.end(record)

    async def _tick(self) -> None:
        """Measure the delay of the event loop while requests run."""
        observation = self._observation
        while observation.running:
            start = monotonic()
            await asyncio.sleep(TICK)
            lag = max(0.0, monotonic() - start - TICK)
            observation.loop_lag = max(lag, observation.loop_lag * _FORGET)
        observation.loop_lag = 0.0


def route_of(scope: Scope) -> str:
    """The pattern of a request's path: a few in all, whatever clients ask for."""
    endpoint = scope.get("endpoint")
    for route in scope["app"].routes if endpoint is not None else ():
        if getattr(route, "endpoint", None) is endpoint and route.path_regex.match(scope["path"]):
            path: str = route.path
            return path.replace(":path}", "}")
    return "other"
