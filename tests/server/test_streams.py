"""Streams of events: chunks from templates, pings, errors, and clients that leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from pyml_core.errors import Cancelled
from pyml_nlp.openai.answers import Head
from pyml_nlp.server import sse
from pyml_nlp.server.bodies import compact
from pyml_nlp.server.chunks import Chunks
from pyml_nlp.server.sse import EventStream

TEXTS = ["", "plain", 'a "quoted" \\ line\n\t', "\x00\x1f\x7f\u2028", "żółć 中文 \U0001f600", '"choices":[]']
HEAD = Head("chat.completion", 'name "choices":[] of a model', "pyml")


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("usage", [False, True])
def test_chunks_are_those_of_json(text: str, usage: bool) -> None:
    """The template gives what the JSON encoder gives."""
    same = {"logprobs": None, "finish_reason": None}
    choices: list[dict[str, Any]] = [
        {"index": 0, "delta": {"content": text}, **same},
        {"index": 11, "text": text, **same},
        {"index": 1, "delta": {"role": "assistant", "content": text}, **same},
        {"index": 1, "delta": {"reasoning_content": text}, **same},
        {"index": 1, "delta": {"content": text}, **same, "logprobs": {"content": []}},
        {"index": 1, "delta": {"content": text}, **same, "finish_reason": "stop"},
        {"index": 1, "text": text, **same, "finish_reason": "length"},
        {"index": 2, "delta": {}, **same},
    ]
    more = {"usage": None} if usage else {}
    expected = b"".join(b"data: " + compact(HEAD.chunk([choice], **more)) + b"\n\n" for choice in choices)
    assert Chunks(HEAD, usage)(choices) == expected
    assert Chunks(HEAD, usage)([]) == b""


def test_the_last_chunk_has_the_counts() -> None:
    data = Chunks(HEAD, True).usage({"total_tokens": 3})
    assert json.loads(data.removeprefix(b"data: "))["usage"] == {"total_tokens": 3}


class Exchange:
    """A client and what it has been sent."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.left = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def ended(self) -> bool:
        return self.sent[-1].get("more_body") is False


async def run(stream: EventStream, exchange: Exchange) -> None:
    service = SimpleNamespace(service=SimpleNamespace(refusal=None))
    scope = {"type": "http", "path": "/v1/chat/completions", "app": SimpleNamespace(state=service), "state": {}}
    await asyncio.wait_for(stream(scope, exchange.receive, exchange.send), 20)


def test_pings_fill_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ping comes only where nothing else has come for a while."""
    monkeypatch.setattr(sse, "PING_SECONDS", 0.1)

    async def events() -> AsyncIterator[bytes]:
        for _ in range(20):
            await asyncio.sleep(0.01)
            yield b"a"
        await asyncio.sleep(0.35)
        yield b"b"

    async def main() -> None:
        exchange = Exchange()
        await run(EventStream(events(), ping=b"."), exchange)
        assert exchange.ended
        before, _, after = exchange.body.partition(b".")
        assert before == b"a" * 20
        assert 1 <= after.count(b".") + 1 <= 3
        assert exchange.body.replace(b".", b"") == b"a" * 20 + b"b"
        silent = Exchange()
        await run(EventStream(events(), ping=b""), silent)
        assert silent.body == b"a" * 20 + b"b"

    asyncio.run(main())


def test_an_error_ends_a_stream() -> None:
    async def events() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        raise Cancelled("the request's time is over")

    async def main() -> None:
        exchange = Exchange()
        await run(EventStream(events()), exchange)
        assert exchange.ended
        first, last, rest = exchange.body.split(b"\n\n")
        assert (first, rest) == (b"data: 1", b"")
        assert set(json.loads(last.removeprefix(b"data: "))) == {"error"}

    asyncio.run(main())


@pytest.mark.parametrize("ping", [b"", b": ping\n\n"])
def test_the_source_is_closed_when_the_client_leaves(ping: bytes) -> None:
    closed = []

    async def events() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"a"
                await asyncio.sleep(0.001)
        finally:
            closed.append(True)

    async def main() -> None:
        exchange = Exchange()
        asyncio.get_running_loop().call_later(0.05, exchange.left.set)
        await run(EventStream(events(), ping=ping), exchange)
        assert closed
        assert not exchange.ended
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
