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
import serving_report
from serving_client import Answer, Question, Response, ask, read
from serving_figures import figures_of, mixed_figures
from serving_own import decode_rate
from serving_prefix import warm_prefix
from serving_tables import markdown

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
    """Four clients, each with two tokens every 20 ms; what comes before counting begins is not counted."""

    async def main() -> loads.Load:
        async with streaming(0.02, 20) as port:
            return await loads.closed(port, loads.streams(loads.Asking(False, 0), 1), 4, loads.Span(1.2, 5))

    load = asyncio.run(main())
    assert not [one.error for one in load.answers if one.error]
    assert load.tokens_per_event == 2
    assert 150 < load.tokens_per_second <= 410
    assert 4 <= load.requests_per_second <= 10.5
    assert load.goodput(10, 10) == pytest.approx(load.requests_per_second)
    assert load.goodput(10, 1e-6) == 0
    assert min(time for one in load.answers for time in one.times) <= load.begun + 0.03  # counted from the first texts
    figures = figures_of(load)
    assert figures["gap"]["p50"] >= 19
    assert figures["ttft"]["max"] >= figures["ttft"]["p50"] >= 19
    assert figures["prompt_tokens"] == 7


def test_long_answers_are_cut() -> None:
    """They count for tokens, of which each event has at least one, but not for requests."""

    async def main() -> loads.Load:
        async with streaming(0.05, 1000) as port:
            return await loads.closed(port, loads.streams(loads.Asking(False, 0), 1), 2, loads.Span(0.5))

    load = asyncio.run(main())
    assert [(one.cut, one.error) for one in load.answers] == [(True, None)] * 2
    assert load.requests_per_second == 0
    assert 10 < load.tokens_per_second <= 41
    assert all(one.text.startswith("word ") for one in load.answers)


def answer(kind: str, begun: float, times: list[float], ended: float, tokens: int = 0, *, cut: bool = False) -> Answer:
    question = Question("/v1/completions", {"seed": 1}, kind)
    return Answer(question, begun, ended, cut, None, 200, times, "text", tokens)


def test_only_the_counted_time_counts() -> None:
    early = answer("", 0.0, [1.0, 2.0, 11.0], 11.0, 6)
    late = answer("", 9.0, [12.0, 12.0005, 14.0, 25.0], 25.0, 4)
    cut = answer("", 13.0, [], 20.0, cut=True)
    load = loads.Load(10.0, 10.0, [early, late, cut], 0.0)
    assert load.tokens_per_second == pytest.approx((2 * 1 + 1 * 3) / 10)
    assert load.tokens == 10
    assert load.requests_per_second == 0.1  # the early one ends within it
    assert load.ttfts() == [3.0, 7.0]  # of what was cut, the time until then
    assert load.gaps() == [(2.0, 11.0), (12.0, 14.0)]  # events that come together are one


def test_gaps_next_to_a_long_prompt() -> None:
    stream = answer(loads.STREAM, 0.0, [1.0, 1.1, 1.2, 1.5, 1.8, 1.9, 2.0], 2.0, 7)
    long = answer(loads.LONG, 1.25, [1.75, 1.95], 1.95, 2)
    figures = mixed_figures(loads.Load(3.0, 0.5, [stream, long], 0.0))
    assert figures["gap_alone"]["max"] == pytest.approx(100)
    assert figures["gap_during"]["p50"] == pytest.approx(300)  # 1.2 to 1.5, and 1.5 to 1.8
    assert figures["p99_of_alone"] == pytest.approx(3)
    assert figures["p99_of_median"] == pytest.approx(1)
    assert figures["long_ttft"]["p50"] == pytest.approx(500)
    assert mixed_figures(loads.Load(3.0, 0.5, [stream], 0.0))["p99_of_alone"] is None


def test_the_rate_of_texts_side_by_side() -> None:
    first = answer("", 0.0, [1.0, 2.0, 3.0, 4.0], 4.0, 8)
    second = answer("", 0.0, [2.0, 3.0, 3.5, 5.0, 6.0], 6.0, 5)
    assert decode_rate(loads.Load(6.0, 0.0, [first, second], 0.0)) == pytest.approx((2 * 2 + 2) / 2)


def test_a_prefix_is_asked_for_twice() -> None:
    """Both questions of a pair have it, and no other pair has."""
    prompts: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        body = json.loads(await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0])))
        known = any(prompt[:4000] == body["prompt"][:4000] for prompt in prompts)
        prompts.append(body["prompt"])
        await asyncio.sleep(0.005 if known else 0.1)
        writer.write(HEAD + chunk(words("word ")[0]) + chunk(USAGE + DONE) + b"0\r\n\r\n")
        writer.close()

    async def main() -> dict[str, Any]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await asyncio.to_thread(warm_prefix, port, loads.Asking(False, 0), 3)

    found = asyncio.run(main())
    assert len(set(prompts)) == len(prompts) == 10
    assert len({prompt[:4000] for prompt in prompts}) == 5
    assert found["cold"] >= 100 > found["warm"]
    assert 0 < found["ratio"] < 0.6


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
    assert found["models"][str(tiny_ggufs["llama"])]["level"] in markdown(found)


def result(server: str, load: str, size: float, turn: int = 0, **figures: Any) -> dict[str, Any]:
    none = dict.fromkeys(("requests_per_second", "goodput", "tokens_per_event", "cpu_per_1000", "peak_mib"), 1.0)
    about = {"model": "m", "server": server, "load": load, "size": size, "round": turn, "load_average": 0.5}
    return {**about, **none, "errors": 0, "ttft": None, "gap": None, **figures}


def test_a_page_tells_what_is_missing(tmp_path: Path) -> None:
    """Ratios to the best peer, goals that are reached or not, and cells that nobody measured."""
    rates = {"pyml": (300, 320), "llama-server": (100, 80), "openvino": (90, 100)}
    chats = [
        result(server, "chat", 8, turn, tokens_per_second=rate)
        for server, both in rates.items()
        for turn, rate in enumerate(both)
    ]
    found = {
        "machine": {"cpu": "CPU", "cores": 2, "memory_gib": 8}, "date": "today", "command": "python serving.py",
        "threads": 2, "places": 16, "context": 64, "temperature": 0.8, "seconds": 20.0, "rounds": 2,
        "servers": [*rates, "ik-server"], "notes": {"pyml": "a note"}, "total_seconds": 90,
        "cases": [["chat", 8], ["warm", 1]], "errors": {"m, ik-server": "cannot be built"},
        "models": {"m": {"settings": {"pyml": {"setting": "default", "tried": {}, "ready": 1}}, "level": "avx2"}},
        "results": [*chats, result("pyml", "empty", 1, health=2.0)],
    }  # fmt: skip
    (tmp_path / "serving.json").write_text(json.dumps(found))
    serving_report.main([str(tmp_path), "--docs", str(tmp_path)])
    lines = (tmp_path / "serving-performance.md").read_text().splitlines()
    assert "| tokens/s, 8 clients | m | >= 3 | **3.27** | openvino |" in lines  # 300 / 90 and 320 / 100
    assert "| tokens/s, 1 client | m | >= 1 | *not measured* |  |" in lines
    assert "| an empty request, ms | m | <= 1 | 2.00 |  |" in lines
    assert "Not measured: ik-server." in lines
    assert "- m, ik-server: cannot be built" in lines
    assert lines[lines.index("### Time to the first text, one client: 1 000 tokens that are new, and again") + 2] == (
        "*not measured*"
    )
