"""HTTP requests on connections of their own, which may be cut at any point."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
from dataclasses import dataclass
from typing import Any

PATIENCE = 120.0


@dataclass
class Response:
    """A response. Status 0: there was none."""

    status: int
    body: bytes

    @property
    def text(self) -> str:
        """The text of an answer to a chat or completion, streamed or not."""
        if not self.body.startswith(b"data: "):
            return _text(json.loads(self.body))
        *events, done, rest = self.body.split(b"\n\n")
        if (done, rest) != (b"data: [DONE]", b""):
            raise ValueError(f"a stream ends with {self.body[-200:]!r}")
        return "".join([_text(json.loads(event.removeprefix(b"data: "))) for event in events if event != b": ping"])


def _text(data: dict[str, Any]) -> str:
    texts = []
    for choice in data["choices"]:
        message = choice.get("delta") or choice.get("message") or {}
        texts.append(choice.get("text") or message.get("content") or "")
    return "".join(texts)


def request(path: str, body: bytes | None) -> bytes:
    """A request as bytes; None: a GET."""
    head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + (body or b"")


async def ask(port: int, path: str, body: bytes | None = None) -> Response:
    """Send a request and read the response.

    Raises:
        OSError: the connection was refused or lost.
        TimeoutError: the response takes too long.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request(path, body))
        raw = await asyncio.wait_for(reader.read(), PATIENCE)
    finally:
        writer.transport.abort()
    head, _, rest = raw.partition(b"\r\n\r\n")
    status = int(head.split()[1]) if raw.startswith(b"HTTP/1.") else 0
    return Response(status, _joined(rest) if b"transfer-encoding: chunked" in head.lower() else rest)


def _joined(raw: bytes) -> bytes:
    """A body without the frames of its chunks.

    Raises:
        ValueError: it is not complete.
    """
    parts, start = list[bytes](), 0
    while True:
        line = raw.index(b"\r\n", start)
        size = int(raw[start:line], 16)
        if not size:
            return b"".join(parts)
        parts.append(raw[line + 2 : line + 2 + size])
        start = line + 2 + size + 2


async def leave(port: int, path: str, body: bytes, rng: random.Random) -> None:
    """Send a request, or part of it, and leave: after some time, or some of the answer, in order or with a reset."""
    data = request(path, body)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    own: socket.socket = writer.get_extra_info("socket")
    try:
        whole = rng.random() < 0.9
        writer.write(data if whole else data[: rng.randrange(len(data))])
        await writer.drain()
        if not whole or rng.random() < 0.5:
            await asyncio.sleep(rng.choice([0, 0.001, 0.01, 0.05, 0.2]))
        else:
            await asyncio.wait_for(reader.read(rng.randrange(1, 2000)), PATIENCE)
        if rng.random() < 0.5:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    finally:
        writer.transport.abort()
