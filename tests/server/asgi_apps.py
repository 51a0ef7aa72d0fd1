"""Small ASGI applications, and calls of applications without a server."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


async def respond(send: Send, body: bytes, status: int = 200, kind: bytes = b"application/json") -> None:
    """Send a response."""
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def body_of(receive: Receive) -> bytes | None:
    """The body of a request; None: the client has gone before its end."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


@dataclass
class Echo:
    """Answers with what it has received; ``/page`` is HTML, ``/stream`` goes on until the client is gone.

    Attributes:
        ended: paths of requests whose client has gone.
        seen: paths of all requests.
    """

    ended: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        self.seen.append(path)
        if path == "/page":
            await respond(send, b"<!doctype html>", kind=b"text/html; charset=utf-8")
        elif path == "/stream":
            await self._stream(path, receive, send)
        elif path == "/wait":
            await self._until_gone(path, receive)
        else:
            body = await body_of(receive)
            if body is None:
                self.ended.append(path)
                return
            state = scope.get("state", {})
            found = {"method": scope["method"], "path": path, "body": body.decode("latin-1"), **state}
            await respond(send, json.dumps(found).encode())

    async def _until_gone(self, path: str, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.ended.append(path)

    async def _stream(self, path: str, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(self._until_gone(path, receive))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        while not gone.done():
            await send({"type": "http.response.body", "body": b"x" * 4096, "more_body": True})
            await asyncio.sleep(0)
        await gone


@dataclass
class Result:
    """What an application has sent."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def call(
    app: ASGIApp,
    path: str = "/v1/models",
    method: str = "GET",
    body: bytes | list[bytes] = b"",
    *,
    headers: dict[str, str] | list[tuple[str, str]] | None = None,
    host: str | None = "localhost:8000",
    version: str = "1.1",
) -> Result:
    """Send one request to an application. A body that is a list arrives in parts, without its length."""
    pairs = list(headers.items()) if isinstance(headers, dict) else list(headers or [])
    if host is not None:
        pairs.insert(0, ("host", host))
    if isinstance(body, bytes) and body:
        pairs.append(("content-length", str(len(body))))
    elif isinstance(body, list):
        pairs.append(("transfer-encoding", "chunked"))
    parts = [body] if isinstance(body, bytes) else list(body)
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "http_version": version,
        "client": ("10.1.2.3", 5),
        "server": ("127.0.0.1", 8000),
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs],
    }
    sent: list[Message] = []

    async def receive() -> Message:
        if not parts:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(_call(app, scope, receive, send))
    start, *rest = sent
    found = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
    return Result(start["status"], found, b"".join(message.get("body", b"") for message in rest))


async def _call(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)
