"""Ends of texts that are submitted: cancelled, out of time, in error, closed; on a scripted model."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator

import pytest
from fake_model import GREEDY, FakeModel, calls, cycle, make, request
from server_cases import ONE, PATIENCE, Gate, at_runs, text

from pyml_core import CancelToken
from pyml_core.errors import OutOfMemoryError, PymlError
from pyml_nlp.errors import ArgumentError
from pyml_nlp.generation import worker as worker_module
from pyml_nlp.generation.request import Request
from pyml_nlp.generation.text_stream import TextStream
from pyml_nlp.language_model import LanguageModel
from pyml_nlp.options import GenerationOptions, SamplingOptions


@pytest.fixture
def lm() -> Iterator[LanguageModel]:
    """A model that writes the alphabet on and on."""
    with make(cycle, context=4000) as made:
        yield made


# ---- ends from outside


def test_cancelling_frees_the_place_within_a_step(lm: LanguageModel) -> None:
    lm.server.max_batch_size = 1
    streams: list[TextStream] = []
    go = at_runs(lm, {5: lambda: streams[0].cancel()}, held=True)
    streams.append(lm.submit("ab", max_tokens=1000, **ONE))
    streams.append(lm.submit("xa", max_tokens=3, **ONE))
    go.set()
    assert text(streams[1]) == "bcd"
    assert streams[0].result(PATIENCE).finish_reason == "cancelled"
    assert len(calls(lm)) <= 5 + 3  # the run at which it was cancelled never came


def test_cancelling_within_a_prompt(lm: LanguageModel) -> None:
    streams: list[TextStream] = []
    at_runs(lm, {3: lambda: streams.append(lm.submit([7] * 2000, max_tokens=5)), 6: lambda: streams[0].cancel()})
    running = lm.submit("ab", max_tokens=30, **ONE)
    assert text(running) == lm.generate_text("ab", max_tokens=30, temperature=0)
    assert streams[0].result(PATIENCE).finish_reason == "cancelled"
    assert streams[0].tokens == []
    assert sum(len(call) == 2 for call in calls(lm)) == 3  # the run in progress is the last one it is in


def test_cancelling_what_waits(lm: LanguageModel) -> None:
    lm.server.max_batch_size = 1
    gate = Gate(lm, 2)
    first = lm.submit("ab", max_tokens=5, **ONE)
    waiting = [lm.submit("xa", max_tokens=3, temperature=0) for _ in range(3)]
    gate.wait()
    waiting[1].cancel()
    gate.open()
    assert [text(stream) for stream in (first, *waiting)] == ["cdefg", "bcd", "", "bcd"]
    assert waiting[1].finish_reason == "cancelled"


def test_the_last_text_of_a_run_stops_it(lm: LanguageModel) -> None:
    """The scripted model looks at the token within its runs, as the real one does."""
    streams: list[TextStream] = []

    def cancel() -> None:
        for stream in streams:
            stream.cancel()

    go = at_runs(lm, {4: cancel}, held=True)
    streams += [lm.submit(prompt, max_tokens=500, **ONE) for prompt in ("ab", "xa")]
    go.set()
    for stream in streams:
        assert stream.result(PATIENCE).finish_reason == "cancelled"
    assert len(calls(lm)) == 4


def test_a_deadline_is_that_of_its_text(lm: LanguageModel) -> None:
    """The text that is late ends, between two runs or within the one that it has alone."""
    streams: list[TextStream] = []
    wanted = Request(list(b"ab"), GenerationOptions(500, GREEDY, stop=["\0"]))

    def wait(number: int) -> None:
        while len(streams) <= number or not streams[number].completion.stop_token.expired:
            threading.Event().wait(0.005)

    at_runs(lm, {4: lambda: wait(0)})
    streams.append(lm.server.submit(wanted, timeout=1.0, speculate=False))
    other = lm.submit("xa", max_tokens=30, **ONE)
    assert streams[0].result(PATIENCE).finish_reason == "timeout"
    assert text(other) == lm.generate_text("xa", max_tokens=30, temperature=0)
    assert len(streams[0].tokens) < 10

    at_runs(lm, {len(calls(lm)) + 2: lambda: wait(1)})
    streams.append(lm.server.submit(wanted, timeout=1.0, speculate=False))
    assert streams[1].result(PATIENCE).finish_reason == "timeout"
    assert len(streams[1].tokens) <= 2


def test_the_model_is_cancelled(lm: LanguageModel) -> None:
    streams = [lm.submit(prompt, max_tokens=500, temperature=0) for prompt in ("ab", "xa")]
    next(streams[0])
    lm.cancel()
    assert streams[0].result(PATIENCE).finish_reason == "cancelled"
    assert text(lm.submit("ab", max_tokens=3, temperature=0)) == "cde"


def test_a_cancelled_task_ends_its_text(lm: LanguageModel) -> None:
    gate = Gate(lm, 3)

    async def main() -> None:
        stream = lm.agenerate("ab", max_tokens=1000, temperature=0)
        other = lm.agenerate("xa", max_tokens=10, temperature=0)
        task = asyncio.create_task(stream.read())
        await asyncio.to_thread(gate.wait)
        task.cancel()
        await asyncio.sleep(0)
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert stream.finish_reason == "cancelled"
        async for _ in stream:
            pass
        assert await other.read() == "bcdefghijk"

    asyncio.run(main())


def test_a_loop_that_is_closed_with_its_texts_running(lm: LanguageModel) -> None:
    async def main() -> list[TextStream]:
        streams = [lm.agenerate(prompt, max_tokens=100, temperature=0) for prompt in ("ab", "xa")]
        await streams[0].__anext__()
        return streams

    streams = asyncio.run(main())
    assert [len(text(stream)) for stream in streams] == [100, 100]


def test_a_wait_ends_with_the_token_of_its_thread(lm: LanguageModel) -> None:
    gate = Gate(lm)
    stream = lm.submit("ab", max_tokens=3, temperature=0)
    with CancelToken(0.01), pytest.raises(PymlError, match="the run was cancelled"):
        stream.result()
    gate.open()
    assert text(stream) == "cde"


# ---- errors


def test_what_is_wrong_is_told_at_once(lm: LanguageModel) -> None:
    for options, message in (
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": "a", "max_tokens": -1}, "max_tokens must be >= 0, got -1"),
        ({"prompt": "a", "timeout": 0}, "timeout must be > 0"),
        ({"prompt": [1] * 4001}, "max=4000, actual=4001"),
        ({"prompt": "a", "draft_model": "x"}, "draft_model must be a model"),
        ({"prompt": "a", "cache": 5}, "cache must be a KVCache"),
    ):
        with pytest.raises(PymlError, match=message):
            lm.submit(**options)
    assert calls(lm) == []


def test_the_error_of_a_text_is_its_own(lm: LanguageModel) -> None:
    nothing = SamplingOptions(0.0, logit_bias=dict.fromkeys(range(FakeModel.vocab_size), -math.inf))
    streams = [lm.submit([number + 1] * 5, max_tokens=20, temperature=0) for number in range(3)]
    bad = lm.server.submit(request([5] * 5, 20, nothing))
    steps = iter(bad)
    with pytest.raises(PymlError, match="logit_bias leaves no token"):
        next(steps)
    assert list(bad) == []
    assert bad.finish_reason == "error"
    with pytest.raises(PymlError, match="logit_bias leaves no token"):
        bad.result()
    assert [len(text(stream)) for stream in streams] == [20] * 3


def test_an_error_of_a_run_is_that_of_the_text_that_causes_it() -> None:
    def following(ids: list[int]) -> int:
        if ids[0] == 120 and len(ids) > 10:
            raise PymlError("broken")
        return cycle(ids)

    with make(following, context=4000) as lm:
        alone = make(cycle, context=4000)
        streams = [lm.submit(prompt, max_tokens=30, temperature=0) for prompt in ("ab", "xab", "hello")]
        with pytest.raises(PymlError, match="broken"):
            streams[1].result(PATIENCE)
        assert 0 < len(streams[1].text) < 10
        for prompt, stream in (("ab", streams[0]), ("hello", streams[2])):
            assert text(stream) == alone.generate_text(prompt, max_tokens=30, temperature=0)


def test_memory_that_a_run_does_not_get() -> None:
    def following(ids: list[int]) -> int:
        if ids[0] == 120 and len(ids) > 10:
            raise MemoryError
        return cycle(ids)

    with make(following, context=4000) as lm:
        bad, good = (lm.submit(prompt, max_tokens=30, temperature=0) for prompt in ("xab", "ab"))
        with pytest.raises(OutOfMemoryError):
            bad.result(PATIENCE)
        assert len(text(good)) == 30


def test_a_fault_ends_the_texts_and_not_the_server() -> None:
    def following(ids: list[int]) -> int:
        if len(ids) == 9:
            raise KeyError(0)
        return cycle(ids)

    with make(following, context=4000) as lm:
        streams = [lm.submit(prompt, max_tokens=30, temperature=0) for prompt in ("ab", "xa")]
        for stream in streams:
            with pytest.raises(PymlError, match=r"a fault ended the text: KeyError\(0\)") as caught:
                stream.result(PATIENCE)
            assert isinstance(caught.value.__cause__, KeyError)
            assert stream.finish_reason == "error"
        assert text(lm.submit("ab", max_tokens=3, temperature=0)) == "cde"


def test_a_cache_is_used_by_one_text_at_a_time(lm: LanguageModel) -> None:
    gate, cache = Gate(lm), lm.new_cache()
    stream = lm.submit("abc", max_tokens=4, temperature=0, cache=cache)
    gate.wait()
    with pytest.raises(ArgumentError, match="cache is in use by a text that has not ended"):
        lm.submit("abc", max_tokens=4, cache=cache)
    gate.open()
    first = text(stream)
    assert cache.ids == list(b"abcdef")
    rest = text(lm.submit([stream.tokens[-1]], max_tokens=4, temperature=0, cache=cache))
    assert first + rest == lm.generate_text("abc", max_tokens=8, temperature=0)


# ---- the thread


def test_closing_ends_what_runs_and_what_waits(lm: LanguageModel) -> None:
    lm.server.max_batch_size = 2
    gate = Gate(lm, 4)
    streams = [lm.submit([number + 1], max_tokens=500, temperature=0) for number in range(5)]
    gate.wait()
    closer = threading.Thread(target=lm.close)
    closer.start()
    while not lm.engine._closed:
        threading.Event().wait(0.001)
    gate.open()
    closer.join(PATIENCE)
    assert not closer.is_alive()
    for stream in streams:
        with pytest.raises(PymlError, match="it is closed"):
            stream.result(PATIENCE)
    with pytest.raises(PymlError, match="it is closed"):
        lm.submit("ab")


def test_the_thread_ends_when_there_is_nothing_to_do(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "IDLE_SECONDS", 0.01)
    assert text(lm.submit("ab", max_tokens=3, temperature=0)) == "cde"
    worker = lm.server._worker
    assert worker is not None
    worker.thread.join(PATIENCE)
    assert not worker.thread.is_alive()
    assert text(lm.submit("ab", max_tokens=3, temperature=0)) == "cde"
    assert lm.server._worker is not worker


def test_one_thread_for_all(lm: LanguageModel) -> None:
    gate = Gate(lm)
    streams = [lm.submit("ab", max_tokens=3, temperature=0) for _ in range(20)]
    gate.wait()
    assert sum(thread.name == "pyml-server" and thread.is_alive() for thread in threading.enumerate()) >= 1
    assert {stream._cancel.__self__ for stream in streams} == {lm.server._worker}  # type: ignore[attr-defined]
    gate.open()
    assert {text(stream) for stream in streams} == {"cde"}


def test_submitting_from_within_a_run_and_generating_meanwhile(lm: LanguageModel) -> None:
    """Direct generation has a generator of its own, and takes turns with the server's runs."""
    stream = lm.submit("ab", max_tokens=200, temperature=0)
    expected = make(cycle, context=4000).generate_text("xa", max_tokens=50, temperature=0)
    for _ in range(5):
        assert lm.generate_text("xa", max_tokens=50, temperature=0) == expected
    assert len(text(stream)) == 200
