"""``benchmarks/serving.py``: what is counted, not how long it takes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import serving
import serving_loads as loads
from serving_client import Answer, Question, Response, ask, read
from serving_report import markdown

QUESTION = Question("/v1/completions", {"prompt": "a"})
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(**data: Any) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def words(*texts: str) -> list[bytes]:
    return [event(choices=[{"text": text}]) for text in texts]


USAGE = event(choices=[], usage={"completion_tokens": 5, "prompt_tokens": 7})
DONE = b"data: [DONE]\n\n"


def test_events_have_the_times_of_their_last_bytes() -> None:
    """Wherever the bytes are cut, and whatever chunks they come in."""
    first, second = words("one ", "two")
    ping = b": ping\n\n"
    chunks = [first[:9], first[9:] + ping, second, USAGE + DONE]
    stream = HEAD + b"".join(map(chunk, chunks)) + b"0\r\n\r\n"
    ends = [stream.index(ping) + len(ping), stream.index(second) + len(second)]
    for cut in range(1, len(stream)):
        answer = read(Response(QUESTION, 0.5, 3.0, parts=[(1.0, stream[:cut]), (2.0, stream[cut:])]))
        assert (answer.text, answer.tokens, answer.prompt_tokens, answer.error) == ("one two", 5, 7, None)
        assert answer.times == [1.0 if cut >= end else 2.0 for end in ends]


def test_failures_are_errors() -> None:
    def of(raw: bytes, **more: Any) -> Answer:
        return read(Response(QUESTION, 0.0, 1.0, parts=[(0.5, raw)] if raw else [], **more))

    (first,) = words("one")
    assert "503" in str(of(b"HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\n{}").error)
    assert "status 0" in str(of(b"").error)
    assert "no end" in str(of(HEAD + chunk(first)).error)
    assert "broken" in str(of(HEAD + chunk(event(error={"message": "broken"}) + DONE)).error)
    cut = of(HEAD + chunk(first) + b"99\r\nda", cut=True)
    assert (cut.error, cut.text) == (None, "one")
    assert of(b"", cut=True).error is None


def test_prompts_differ_and_have_their_lengths() -> None:
    asking = loads.Asking(chat=False, temperature=0.8)
    found = list(islice(loads.short_chats(asking, 3), 200))
    lengths = [len(one.body["prompt"]) / loads.CHARACTERS for one in found]
    assert 18 <= min(lengths) < 40
    assert 500 < max(lengths) <= 900
    assert {16 <= one.body["max_tokens"] <= 256 for one in found} == {True}
    assert len({one.body["prompt"][:12] for one in found}) > 195
    assert [one.body for one in islice(loads.short_chats(asking, 3), 5)] == [one.body for one in found[:5]]
    shared = [one.body["prompt"] for one in islice(loads.shared_prefix(asking, 3), 3)]
    assert len({prompt[:4000] for prompt in shared}) == 1
    assert len(set(shared)) == 3


@asynccontextmanager
async def streaming(pause: float, count: int) -> AsyncIterator[int]:
    """A server that streams words; yields its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        for _ in range(count):
            await asyncio.sleep(pause)
            writer.write(chunk(words("word ")[0]))
        writer.write(chunk(USAGE.replace(b"5", str(2 * count).encode()) + DONE) + b"0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def test_rates_are_those_of_the_server() -> None:
    """Four clients, each with two tokens every 20 ms."""

    async def main() -> loads.Load:
        async with streaming(0.02, 20) as port:
            return await loads.closed(port, loads.streams(loads.Asking(False, 0), 1), 4, 1.2)

    load = asyncio.run(main())
    assert not [one.error for one in load.answers if one.error]
    assert load.tokens_per_event == 2
    assert 150 < load.tokens_per_second <= 410
    assert 4 <= load.requests_per_second <= 10.5
    assert load.goodput(10, 10) == pytest.approx(len(load.whole) / 1.2)
    assert load.goodput(10, 1e-6) == 0
    figures = serving.figures_of(load, None)
    assert figures["gap"]["p50"] >= 19
    assert figures["ttft"]["max"] >= figures["ttft"]["p50"] >= 19


def test_long_answers_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """They count for tokens, but not for requests, and their servers are left at once."""
    monkeypatch.setattr(loads, "GRACE", 0.1)

    async def main() -> loads.Load:
        async with streaming(0.05, 1000) as port:
            return await loads.closed(port, loads.streams(loads.Asking(False, 0), 1), 2, 0.5)

    load = asyncio.run(main())
    assert [(one.cut, one.error) for one in load.answers] == [(True, None)] * 2
    assert load.requests_per_second == 0
    assert all(one.text.startswith("word ") for one in load.answers)


def test_refused_connections_are_errors() -> None:
    async def main() -> Answer:
        async with streaming(0, 1) as port:
            pass
        return read(await ask(port, QUESTION, 5))

    assert asyncio.run(main()).error


def test_a_server_and_its_report(
    tiny_ggufs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """pyml's server starts, answers, and ends; the file has what the table shows."""
    file = tmp_path / "found.json"
    options = ["--servers", "pyml", "--loads", "empty", "--rounds", "2", "--context", "64", "--warm-up", "0.1"]
    serving.main(
        ["--models", str(tiny_ggufs["llama"]), *options, "--threads", "1", "--envs", str(tmp_path), "--json", str(file)]
    )
    found = json.loads(file.read_text())
    assert capsys.readouterr().out == markdown(found) + "\n"
    assert [one["round"] for one in found["results"]] == [0, 1]
    for one in found["results"]:
        assert 0 < one["health"] < one["one_token"]
        assert one["beyond"] == pytest.approx(one["one_token"] - one["submit"])
