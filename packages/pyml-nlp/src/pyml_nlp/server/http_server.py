"""Serves an ASGI application with uvicorn's protocol, within the limits of :mod:`.http_limits`."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Sequence
from email.utils import formatdate
from typing import TYPE_CHECKING, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from .http_limits import Limits
from .http_protocol import Protocol
from .http_sockets import BACKLOG

if TYPE_CHECKING:
    from starlette.types import ASGIApp

CHECK_SECONDS = 0.5
"""How often deadlines of connections are checked."""

_ACCEPTED = 64  # connections that are accepted at a time, before the first of them is counted


class HttpServer:
    """Serves an application on sockets; all methods belong to one event loop.

    Args:
        app: the application. It is not told of start and end.
        sockets: to listen on. They are closed by :meth:`close`.
        limits: of connections.
    """

    def __init__(self, app: ASGIApp, sockets: Sequence[socket.socket], limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._sockets = sockets
        self._state = ServerState()
        self._servers: list[asyncio.Server] = []
        self._checking: asyncio.Task[None] | None = None
        self._config = Config(
            app,
            interface="asgi3",
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            h11_max_incomplete_event_size=self._limits.head_bytes,
            timeout_keep_alive=24 * 3600,  # the protocol's own deadline comes before
        )
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # no line for each invalid request

    async def start(self) -> None:
        """Begin to accept connections."""
        self._config.load()
        self._set_date()
        loop = asyncio.get_running_loop()
        for one in self._sockets:
            self._servers.append(await loop.create_server(self._protocol, sock=one, backlog=_ACCEPTED))
            one.listen(BACKLOG)  # which the line above has reduced
        self._checking = loop.create_task(self._check())

    def stop_accepting(self) -> None:
        """Close the sockets. Those that another process has too collect connections for it."""
        for server in self._servers:
            server.close()

    async def close(self, grace: float = 1.0) -> None:
        """Accept no further connections, and close all after the responses that are being sent.

        Args:
            grace: seconds for that. Requests that take longer are cancelled.
        """
        self.stop_accepting()
        for connection in self._connections():
            connection.shutdown()
        if await self._closed(grace):
            self._stop_checking()
            return
        for connection in self._connections():
            connection.drop()
        if not await self._closed(grace):
            for task in list(self._state.tasks):
                task.cancel()
        self._stop_checking()

    def _protocol(self) -> Protocol:
        return Protocol(self._config, self._state, self._limits)

    def _connections(self) -> list[Protocol]:
        return list(cast("set[Protocol]", self._state.connections))

    async def _closed(self, seconds: float) -> bool:
        """Whether all connections and requests end within some seconds."""
        end = time.monotonic() + seconds
        while (self._state.connections or self._state.tasks) and time.monotonic() < end:
            await asyncio.sleep(0.01)
        return not (self._state.connections or self._state.tasks)

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            self._set_date()
            now = time.monotonic()
            for connection in self._connections():
                connection.check(now)

    def _stop_checking(self) -> None:
        if self._checking is not None:
            self._checking.cancel()

    def _set_date(self) -> None:
        self._state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
