"""A short soak of the server; and faults that the soak must see."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from os import getpid

import pytest

from tests.server.hostile import Hostile
from tests.soak import malformed
from tests.soak.client import Response
from tests.soak.serving import Sample, Soak, main


def test_a_short_soak(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--seconds", "4", "--clients", "8"])
    said = capsys.readouterr().out
    assert code == 0, said
    assert "compared" in said
    assert "FAULT" not in said


def test_some_malformed_requests(capsys: pytest.CaptureFixture[str]) -> None:
    code = malformed.main(["--requests", "400", "--seed", "7"])
    said = capsys.readouterr().out
    assert code == 0, said
    assert "400 malformed requests" in said
    assert "; 0 unhandled" in said


@pytest.mark.parametrize(
    ("path", "response", "wrong"),
    [
        ("/v1/completions", Response(400, b'{"error": {"message": "n: must be > 0"}}'), ""),
        ("/v1/completions", Response(200, b"{}"), ""),
        ("/v1/completions", Response(500, b'{"error": {"message": "x"}}'), "status 500"),
        ("/v1/completions", Response(504, b'{"error": {"message": "x"}}'), "status 504"),
        ("/v1/completions", Response(400, b"Bad Request"), "not an error"),
        ("/api/chat", Response(400, b'{"error": {"message": "x"}}'), "not a readable"),
        ("/v1/completions", Response(0, b""), "no answer"),
    ],
)
def test_unhandled_requests_are_noticed(path: str, response: Response, wrong: str) -> None:
    assert malformed.unhandled(Hostile(path, b"{}"), response).startswith(wrong)
    assert bool(malformed.unhandled(Hostile(path, b"{}"), response)) == bool(wrong)


@asynccontextmanager
async def answering(response: bytes) -> AsyncIterator[int]:
    """A server with the same answer to everything; yields its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize(
    ("response", "fault"),
    [
        (b'HTTP/1.1 200 OK\r\n\r\n{"choices": [{"text": "another"}]}', "another text"),
        (b"HTTP/1.1 500 Error\r\n\r\n{}", "status 500"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata:", "ValueError"),
        (b'HTTP/1.1 200 OK\r\n\r\ndata: {"choices": []}\n\n', "a stream ends"),
    ],
)
def test_wrong_answers_are_faults(response: bytes, fault: str) -> None:
    async def run() -> Soak:
        async with answering(response) as port:
            soak = Soak(port, getpid(), time.monotonic() + 20, 200, 1)
            await soak._client(1, [("/v1/completions", b"{}")] * 40, ["text"] * 40)
            return soak

    faults = asyncio.run(run()).faults
    assert any(fault in one for one in faults), faults


@pytest.mark.parametrize(
    ("last", "fault"), [(Sample(1100, 5, 3), "memory"), (Sample(1000, 6, 3), "files"), (Sample(1000, 5, 4), "threads")]
)
def test_growth_is_a_fault(last: Sample, fault: str) -> None:
    soak = Soak(0, getpid(), 0, 0, 1, samples=[Sample(1000, 5, 3)] * 24 + [last] * 6)
    soak.judge(memory=True)
    assert [fault in one for one in soak.faults] == [True]
    even = Soak(0, getpid(), 0, 0, 1, samples=[Sample(1000, 5, 3)] * 30)
    even.judge(memory=True)
    assert not even.faults


def test_answers_are_read() -> None:
    stream = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n: ping\n\ndata: {"choices": [{"text": "b"}]}\n\n'
    assert Response(200, stream + b"data: [DONE]\n\n").text == "ab"
    assert Response(200, b'{"choices": [{"message": {"content": "x"}}, {"text": "y"}]}').text == "xy"
