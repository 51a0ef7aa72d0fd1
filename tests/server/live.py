"""A server in a thread of the tests' process, and clients that write on a socket what no library would."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pyml_nlp.server.http_limits import Limits
from pyml_nlp.server.http_server import HttpServer
from pyml_nlp.server.http_sockets import listening

if TYPE_CHECKING:
    from starlette.types import ASGIApp

PATIENCE = 60.0


class Live:
    """A running server.

    Attributes:
        port: of the server, at 127.0.0.1.
        loop: of the server.
        server: the server.
    """

    def __init__(self, app: ASGIApp, limits: Limits | None) -> None:
        self._app = app
        self._limits = limits
        self._stop: asyncio.Event
        self._started = threading.Event()
        self.loop: asyncio.AbstractEventLoop
        self.server: HttpServer
        self.errors: list[dict[str, Any]] = []
        sockets = listening("127.0.0.1", 0)
        self.port: int = sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(sockets)), daemon=True)

    async def _serve(self, sockets: list[socket.socket]) -> None:
        self.loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.loop.set_exception_handler(lambda loop, context: self.errors.append(context))
        self.server = HttpServer(self._app, sockets, self._limits)
        await self.server.start()
        self._started.set()
        await self._stop.wait()
        await self.server.close()

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()
        assert self._started.wait(PATIENCE)

    def stop(self) -> None:
        """End the server. No callback of its event loop may have failed."""
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        assert not self.errors

    def client(self, receive_buffer: int | None = None) -> Client:
        """Connect to the server."""
        return Client(self.port, receive_buffer)

    def get(self, path: str, **headers: str) -> Answer:
        """Ask for a path on a connection of its own."""
        with self.client() as client:
            lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
            client.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\r\n")
            return client.answer()


class Answer:
    """A response as it was read from a socket.

    Attributes:
        status: of the response; 0: the connection was closed without one.
        headers: of the response, by name in lower case.
        body: of the response, not decoded from chunks.
    """

    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        self.status = int(lines[0].split()[1]) if data.startswith(b"HTTP/1.") else 0
        pairs = [line.decode("latin-1").partition(":") for line in lines[1:]]
        self.headers = {name.lower(): value.strip() for name, _, value in pairs}

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Client:
    """A connection."""

    def __init__(self, port: int, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(("127.0.0.1", port))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: str | bytes) -> None:
        """Send something, which need not be HTTP."""
        self.socket.sendall(data if isinstance(data, bytes) else data.encode("latin-1"))

    def read(self) -> bytes:
        """All that comes until the server closes the connection."""
        data = bytearray()
        while part := self.socket.recv(65536):
            data += part
        return bytes(data)

    def answer(self) -> Answer:
        """The response, when the server has closed the connection."""
        return Answer(self.read())

    def next_answer(self) -> Answer:
        """The next response of a connection that stays open; one without a content-length has no body."""
        data = b""
        while b"\r\n\r\n" not in data:
            part = self.socket.recv(1)
            if not part:
                return Answer(data)
            data += part
        answer = Answer(data)
        length = int(answer.headers.get("content-length", "0"))
        while len(answer.body) < length:
            answer.body += self.socket.recv(length - len(answer.body))
        return answer

    def closed(self) -> bool:
        """Whether the server closes the connection, without a further byte."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True


@contextmanager
def live(app: ASGIApp, limits: Limits | None = None) -> Iterator[Live]:
    """A server of an application, for a block."""
    running = Live(app, limits)
    running.start()
    try:
        yield running
    finally:
        running.stop()
