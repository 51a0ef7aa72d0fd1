"""A client for loads: HTTP/1.1 on a socket, without a library, so that it takes little of the processors.

While a load runs it does nothing but note when bytes came; they are read as events afterwards.
"""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from time import perf_counter
from typing import Any, NamedTuple

Body = dict[str, Any]
TOGETHER = 1e-3
"""Seconds within which events come together."""


class Question(NamedTuple):
    """A request of a load: its path and body, and a name for its kind."""

    path: str
    body: Body
    kind: str = ""


@dataclass
class Response:
    """A response as it came; times are of :func:`time.perf_counter`.

    Attributes:
        question: the request.
        begun: when it was sent.
        ended: when the connection was closed.
        parts: when bytes came, and the bytes.
        cut: whether the client left before the end.
        error: what went wrong; None: nothing did.
    """

    question: Question
    begun: float
    ended: float = 0.0
    cut: bool = False
    parts: list[tuple[float, bytes]] = field(default_factory=list)
    error: str | None = None


@dataclass
class Answer:
    """What a response says.

    Attributes:
        question, begun, ended, cut, error: as of its :class:`Response`.
        status: of HTTP; 0: there was no response.
        times: when text came, one for each event that has text.
        text: of the answer.
        tokens: of the answer, as the server counted; as many as events if it does not count.
        prompt_tokens: of the prompt, as the server counted.
    """

    question: Question
    begun: float
    ended: float
    cut: bool
    error: str | None
    status: int = 0
    times: list[float] = field(default_factory=list)
    text: str = ""
    tokens: int = 0
    prompt_tokens: int = 0

    @property
    def ttft(self) -> float:
        """Seconds until the first text; of an answer that was cut before it, until then."""
        return (self.times[0] if self.times else self.ended) - self.begun

    @property
    def arrivals(self) -> list[float]:
        """When text came: the first time of the events that came together."""
        found: list[float] = []
        for time in self.times:
            if not found or time - found[-1] > TOGETHER:
                found.append(time)
        return found

    @property
    def gaps(self) -> list[tuple[float, float]]:
        """Begin and end of the time between one arrival of text and the next."""
        return list(pairwise(self.arrivals))

    @property
    def token_seconds(self) -> float:
        """Seconds a token after the first one."""
        return (self.times[-1] - self.times[0]) / max(self.tokens - 1, 1)


class Connection(asyncio.Protocol):
    """One request on a connection of its own."""

    def __init__(self, data: bytes) -> None:
        self.parts: list[tuple[float, bytes]] = []
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._data = data

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._data)

    def data_received(self, data: bytes) -> None:
        """Note it."""
        self.parts.append((perf_counter(), data))

    def connection_lost(self, error: Exception | None) -> None:
        """The response is complete, or will not be."""
        if not self.ended.done():
            self.ended.set_result(None)


def request(path: str, body: Body | None = None) -> bytes:
    """A request as bytes; None: a GET."""
    content = b"" if body is None else json.dumps(body).encode()
    method, kind = ("GET", "") if body is None else ("POST", "Content-Type: application/json\r\n")
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{kind}"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


async def ask(port: int, question: Question, patience: float) -> Response:
    """Send a request and wait for the end of the response, at most ``patience`` seconds."""
    response = Response(question, perf_counter())
    await fill(response, port, patience)
    return response


async def fill(response: Response, port: int, patience: float) -> None:
    """Send the request of a response and wait for its end, at most ``patience`` seconds. A cancelled one is cut."""
    loop, question = asyncio.get_running_loop(), response.question
    data = request(question.path, question.body)
    transport: asyncio.Transport | None = None
    try:
        transport, connection = await loop.create_connection(lambda: Connection(data), "127.0.0.1", port)
        response.parts = connection.parts
        await asyncio.wait_for(connection.ended, patience)
    except asyncio.CancelledError:
        response.cut = True
    except OSError as error:  # a TimeoutError is one
        response.error = str(error) or f"no end within {patience:.0f} s"
    finally:
        if transport is not None:
            transport.abort()
    response.ended = perf_counter()


def read(response: Response) -> Answer:
    """What the bytes of a response say."""
    answer = Answer(response.question, response.begun, response.ended, response.cut, response.error)
    raw = b"".join([data for _, data in response.parts])
    head, _, body = raw.partition(b"\r\n\r\n")
    answer.status = int(head.split(b" ", 2)[1]) if raw.startswith(b"HTTP/1.") else 0
    if not raw and answer.cut:
        return answer
    if answer.status != 200 or b"transfer-encoding: chunked" not in head.lower():
        answer.error = answer.error or f"status {answer.status}: {body[:300]!r}"
        return answer
    ends = list(accumulate(len(data) for _, data in response.parts))
    done = False
    for place, data in _events(raw, len(head) + 4):
        done = done or data == b"[DONE]"
        if not done:
            _take(answer, json.loads(data), response.parts[bisect_right(ends, place)][0])
    if not done and not answer.cut:
        answer.error = answer.error or "the stream has no end"
    answer.tokens = answer.tokens or len(answer.times)  # llama-cpp-python's server counts none
    return answer


def _take(answer: Answer, event: Any, time: float) -> None:
    if "error" in event:
        answer.error = str(event["error"])
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        text = choice.get("text") or delta.get("content") or delta.get("reasoning_content")
        if text:
            answer.text += text
            answer.times.append(time)
    if usage := event.get("usage"):
        answer.tokens, answer.prompt_tokens = usage["completion_tokens"], usage["prompt_tokens"]


def _events(raw: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    """The data of each event, and the last place of its chunk in ``raw``."""
    rest = b""
    while start < len(raw):
        line = raw.find(b"\r\n", start)
        size = int(raw[start:line], 16) if line > start else 0
        place = line + 2 + size
        if not size or place > len(raw):
            return
        *whole, rest = (rest + raw[line + 2 : place].replace(b"\r\n", b"\n")).split(b"\n\n")
        for event in whole:
            _, found, data = event.partition(b"data: ")
            if found:
                yield place - 1, data
        start = place + 2
