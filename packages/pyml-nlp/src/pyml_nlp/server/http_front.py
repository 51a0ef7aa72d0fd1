"""The application that clients see at all times: while a model is loaded or replaced, and at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from .errors import RequestError
from .guard import PUBLIC
from .guard_answers import CLOSE, FIXED, error_answer, request_id

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


class State(Enum):
    """What a server does; the values are codes of errors."""

    LOADING = "loading"
    SERVING = "serving"
    DRAINING = "draining"
    DEAD = "engine_dead"


_MESSAGES = {
    State.LOADING: "the model is being loaded",
    State.DRAINING: "the server is about to end and takes no further requests",
    State.DEAD: "the engine has failed; the server is about to end",
}
_RETRY_SECONDS = {State.LOADING: 2, State.DRAINING: 5, State.DEAD: 10}


@dataclass(eq=False)
class Served:
    """A model that is served.

    Attributes:
        name: its name.
        app: its application.
        drain: refuse the requests that wait for a place.
        abort: end all texts; with True: because the engine has failed.
        alive: whether the engine works.
        close: free the model; called by another thread, when no request uses it.
        running: requests that it is answering.
        retired: whether another model has taken its place.
    """

    name: str
    app: ASGIApp
    drain: Callable[[], None]
    abort: Callable[[bool], None]
    alive: Callable[[], bool]
    close: Callable[[], None]
    running: int = 0
    retired: bool = False


class Front:
    """An application in front of that of a model. It belongs to one event loop.

    Attributes:
        state: what the server does.
    """

    def __init__(self) -> None:
        self.state = State.LOADING
        self._served: Served | None = None
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._running = 0

    @property
    def running(self) -> int:
        """Requests that are being answered, by any model. Those that only read (GET) do not count."""
        return self._running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let the model's application do so."""
        served = self._served
        if served is None or not self._passes(scope):
            await self._refuse(scope, send)
        elif scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await served.app(scope, receive, send)
        else:
            await self._count(served, scope, receive, send)

    def serve(self, served: Served) -> None:
        """Serve a model from now on. Requests that another one is answering are not disturbed."""
        before, self._served = self._served, served
        if self.state is State.LOADING:
            self.state = State.SERVING
        if before is not None:
            before.retired = True
            self._free(before)

    def drain(self) -> None:
        """Take no further requests."""
        self.state = State.DRAINING
        if self._served is not None:
            self._served.drain()

    def die(self) -> None:
        """Take no further requests: none could be answered."""
        self.state = State.DEAD
        if self._served is not None:
            self._served.abort(True)

    def alive(self) -> bool:
        """Whether the engine works."""
        return self._served is None or self._served.alive()

    def abort(self) -> None:
        """End all texts."""
        if self._served is not None:
            self._served.abort(False)

    async def quiet(self, seconds: float) -> bool:
        """Whether all requests have been answered within some seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._quiet.wait(), seconds)
        return not self._running

    def _passes(self, scope: Scope) -> bool:
        """Whether the application answers: at the end, to everything that asks for no work."""
        if self.state is State.DRAINING:
            return scope["method"] in ("GET", "HEAD", "OPTIONS") and scope["path"] != "/ready"
        return self.state is State.SERVING

    async def _refuse(self, scope: Scope, send: Send) -> None:
        seconds = {"retry-after": str(_RETRY_SECONDS[self.state])}
        error = RequestError(503, _MESSAGES[self.state], code=self.state.value, headers=seconds)
        headers, body = error_answer(error, scope["path"])
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), None)
        headers += [*FIXED, (b"x-request-id", request_id(given))]
        if scope["path"] not in PUBLIC:
            headers.append(CLOSE)  # its body is not read
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _count(self, served: Served, scope: Scope, receive: Receive, send: Send) -> None:
        served.running += 1
        self._running += 1
        self._quiet.clear()
        try:
            await served.app(scope, receive, send)
        finally:
            served.running -= 1
            self._running -= 1
            if not self._running:
                self._quiet.set()
            self._free(served)

    def _free(self, served: Served) -> None:
        if served.retired and not served.running:
            asyncio.get_running_loop().run_in_executor(None, served.close)
