"""The cost of a request in which nothing is generated, or one token."""

from __future__ import annotations

import socket
from statistics import median
from time import perf_counter
from typing import Any

from serving_client import request
from serving_loads import Asking
from serving_servers import Direct

REPEATS = 100


def empty(port: int, direct: Direct, asking: Asking) -> dict[str, Any]:
    """Milliseconds of /health on a connection that stays open, and of a completion of one token beyond ``submit``."""
    body = {"model": asking.model, "prompt": "a", "max_tokens": 1, "temperature": 0}
    with socket.create_connection(("127.0.0.1", port)) as connection:
        health = [_seconds(connection, "/health") for _ in range(REPEATS)]
        one = [_seconds(connection, "/v1/completions", body) for _ in range(REPEATS)]
    alone = direct.ask("submit", [body] * REPEATS)["taken"]
    found = {"health": median(health), "one_token": median(one), "submit": median(alone)}
    found["beyond"] = found["one_token"] - found["submit"]
    return {name: seconds * 1e3 for name, seconds in found.items()}


def _seconds(connection: socket.socket, path: str, body: dict[str, Any] | None = None) -> float:
    data = request(path, body).replace(b"Connection: close\r\n", b"", 1)
    begun = perf_counter()
    connection.sendall(data)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += _part(connection)
    head, _, rest = answer.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
    while len(rest) < length:
        rest += _part(connection)
    if b" 200 " not in head[:20]:
        raise RuntimeError(f"{path} was answered with {head!r} {rest!r}")
    return perf_counter() - begun


def _part(connection: socket.socket) -> bytes:
    part = connection.recv(65536)
    if not part:
        raise RuntimeError("the server has closed the connection")
    return part
