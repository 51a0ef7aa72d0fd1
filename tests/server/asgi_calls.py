"""Requests to an application in the running event loop, several at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .asgi_apps import Result

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message


async def ask(
    app: ASGIApp,
    path: str,
    body: bytes = b"",
    method: str = "POST",
    leave: Callable[[bytes], bool] | None = None,
) -> Result:
    """Send a request and wait for the end of the response.

    Args:
        app: the application.
        path, body, method: the request.
        leave: whether the client leaves now, by what it has been sent; None: it stays.
    """
    headers = [(b"host", b"localhost:8000"), (b"content-length", str(len(body)).encode())]
    if body or method == "POST":
        headers.append((b"content-type", b"application/json"))
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
        "root_path": "", "scheme": "http", "http_version": "1.1", "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 8000), "headers": headers,
    }  # fmt: skip
    sent, left, result = False, asyncio.Event(), Result(0, {}, b"")

    async def receive() -> Message:
        nonlocal sent
        if sent:
            await left.wait()
            return {"type": "http.disconnect"}
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            result.status = message["status"]
            result.headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
        else:
            result.body += message.get("body", b"")
        if leave is not None and leave(result.body):
            left.set()

    await app(scope, receive, send)
    return result
