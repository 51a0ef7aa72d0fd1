"""Texts that are submitted while others run: on a scripted model, whose runs say what happens when."""

from __future__ import annotations

import asyncio
import gc
import math
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_model import GREEDY, FakeModel, calls, cycle, make, request

from pyml_core import CancelToken
from pyml_core.errors import OutOfMemoryError, PymlError
from pyml_nlp import memory
from pyml_nlp.errors import ArgumentError
from pyml_nlp.generation import server as server_module
from pyml_nlp.generation.prefix_cache import PrefixCache
from pyml_nlp.generation.request import Request
from pyml_nlp.generation.scheduler import PREFILL_TOKENS
from pyml_nlp.generation.text_stream import TextStream
from pyml_nlp.language_model import LanguageModel
from pyml_nlp.options import GenerationOptions, SamplingOptions

PATIENCE = 60.0
ONE: dict[str, Any] = {"temperature": 0, "speculate": False, "stop": "\0"}
"""Options of a text with a token a run: Python looks for a stop string in each."""


def at_runs(lm: LanguageModel, actions: dict[int, Callable[[], object]], held: bool = False) -> threading.Event:
    """Do something in the thread of the server before its run of this number, the first being 0.

    ``held``: the runs begin when the event that is returned is set.
    """
    model: Any = lm.model
    go = threading.Event()
    if not held:
        go.set()

    def before() -> None:
        assert go.wait(PATIENCE)
        actions.pop(len(calls(lm)), lambda: None)()

    model.before = before
    return go


class Gate:
    """Holds the runs of a model until they are let go.

    Args:
        lm: the model.
        free: how many runs pass before the first is held.
    """

    def __init__(self, lm: LanguageModel, free: int = 0) -> None:
        self.held = threading.Event()
        self._open = threading.Event()
        self._free = free
        model: Any = lm.model
        model.before = self._hold

    def _hold(self) -> None:
        self._free -= 1
        if self._free < 0 and not self._open.is_set():
            self.held.set()
            assert self._open.wait(PATIENCE)

    def wait(self) -> None:
        """Until a run is held."""
        assert self.held.wait(PATIENCE)

    def open(self) -> None:
        """Let every run go, from now on."""
        self._open.set()


@pytest.fixture
def lm() -> Iterator[LanguageModel]:
    """A model that writes the alphabet on and on."""
    with make(cycle, context=4000) as made:
        yield made


def text(stream: TextStream) -> str:
    return stream.result(PATIENCE).text


# ---- reading


def test_steps_are_those_of_generate(lm: LanguageModel) -> None:
    expected = list(lm.generate("ab", max_tokens=6, temperature=0, logprobs=1))
    stream = lm.submit("ab", max_tokens=6, temperature=0, logprobs=1)
    steps = list(stream)
    assert [(step.token, step.text, step.index, step.position, step.logprob) for step in steps] == [
        (step.token, step.text, step.index, step.position, step.logprob) for step in expected
    ]
    assert stream.text == "cdefgh" == text(stream)
    assert stream.tokens == list(b"cdefgh")
    assert stream.finish_reason == steps[-1].finish_reason == "length"
    assert list(stream) == []
    assert stream.completion.cache.length == 0  # its memory is free


def test_the_end_can_be_waited_for_without_reading(lm: LanguageModel) -> None:
    gate = Gate(lm)
    stream = lm.submit("ab", max_tokens=4, temperature=0)
    gate.wait()
    assert stream.finish_reason is None
    with pytest.raises(TimeoutError, match=r"the text has not ended within 0\.01 seconds"):
        stream.result(0.01)
    gate.open()
    assert text(stream) == "cdef"
    assert "".join(step.text for step in stream) == "cdef"


def test_an_unread_stream_does_not_block_others(lm: LanguageModel) -> None:
    unread = lm.submit("ab", max_tokens=50, temperature=0)
    assert text(lm.submit("xa", max_tokens=60, temperature=0)) == lm.generate_text("xa", max_tokens=60, temperature=0)
    assert text(unread) == lm.generate_text("ab", max_tokens=50, temperature=0)
    assert len(unread._job.steps) == 50  # its own text, and no more


def test_a_dropped_stream_ends_its_text(lm: LanguageModel) -> None:
    gate = Gate(lm, 3)
    stream = lm.submit("ab", max_tokens=1000, temperature=0)
    other = lm.submit("xa", max_tokens=20, temperature=0)
    gate.wait()
    completion = stream.completion
    del stream
    gc.collect()
    gate.open()
    assert len(text(other)) == 20
    assert completion.finish_reason == "cancelled"
    assert len(completion.tokens) < 10


def test_an_exception_of_a_reader_is_its_own(lm: LanguageModel) -> None:
    def read() -> None:
        for step in lm.submit("ab", max_tokens=1000, temperature=0):
            if step.index == 3:
                raise ZeroDivisionError

    other = lm.submit("xa", max_tokens=20, temperature=0)
    with pytest.raises(ZeroDivisionError):
        read()
    assert text(other) == lm.generate_text("xa", max_tokens=20, temperature=0)


# ---- one running batch


def test_texts_that_arrive_join_the_batch(lm: LanguageModel) -> None:
    late: list[TextStream] = []
    at_runs(lm, {3: lambda: late.append(lm.submit("xa", max_tokens=5, **ONE))})
    first = lm.submit("ab", max_tokens=20, **ONE)
    assert len(text(first)) == 20
    assert len(text(late[0])) == 5
    sizes = [len(call) for call in calls(lm)]
    assert sizes[:4] == [1] * 4
    assert sizes[4:9] == [2] * 5  # the prompt, and four tokens


def test_running_texts_do_not_wait_for_a_whole_prompt(lm: LanguageModel) -> None:
    late: list[TextStream] = []
    at_runs(lm, {3: lambda: late.append(lm.submit([7] * 1500, max_tokens=2, temperature=0))})
    list(lm.submit("ab", max_tokens=40, **ONE))
    text(late[0])
    mixed = [call for call in calls(lm) if len(call) == 2]
    assert len(mixed) > 1500 // PREFILL_TOKENS
    assert all(len(ids) == 1 for (ids, _), _ in mixed)
    assert max(len(ids) for _, (ids, _) in mixed) == PREFILL_TOKENS


def test_a_batch_has_a_size(lm: LanguageModel) -> None:
    for size, message in ((0, "max_batch_size must be > 0, got 0"), ("2", "must be a whole number, got '2'")):
        with pytest.raises(ArgumentError, match=message):
            lm.server.max_batch_size = size  # type: ignore[assignment]
    assert lm.server.max_batch_size == 8


def test_places_are_given_in_the_order_of_arrival(lm: LanguageModel) -> None:
    lm.server.max_batch_size = 2
    gate = Gate(lm)
    streams = [lm.submit([number], max_tokens=4, **ONE) for number in range(1, 8)]
    gate.wait()
    gate.open()
    for stream in streams:
        text(stream)
    assert max(len(call) for call in calls(lm)) == 2
    prompts = [ids[0] for call in calls(lm) for ids, _ in call if ids[0] < 8]
    assert prompts == list(range(1, 8))


def test_as_many_as_memory_allows(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of two pages each where there are four, and one that never fits."""
    lm.prefix_cache = PrefixCache(0)
    page = FakeModel.kv_layout.page_bytes
    streams: list[TextStream] = []
    monkeypatch.setattr(
        memory, "available_memory", lambda: 4 * page - sum(one.completion.cache.nbytes for one in streams)
    )
    gate = Gate(lm)
    lengths = [60, 60, 1000, 60, 60]
    for number, length in enumerate(lengths):
        prompt = [number + 1] * 10
        streams.append(lm.submit(prompt, max_tokens=length, **ONE))
    gate.wait()
    gate.open()
    for stream, length in zip(streams, lengths, strict=True):
        if length == 60:
            assert len(stream.result(PATIENCE).tokens) == 60
        else:
            with pytest.raises(OutOfMemoryError, match="a KV cache of 1010 positions"):
                stream.result(PATIENCE)
            assert stream.finish_reason == "error"
    assert max(len(call) for call in calls(lm)) == 2


REQUESTS: list[dict[str, Any]] = [
    {"prompt": "ab", "max_tokens": 30, "temperature": 0.0},
    {"prompt": "hello", "max_tokens": 25, "temperature": 4.0, "seed": 5},
    {"prompt": "xyz", "max_tokens": 40, "temperature": 0.0, "stop": ["mn"]},
    {"prompt": "a" * 300, "max_tokens": 12, "temperature": 2.0, "seed": 6, "top_k": 40},
    {"prompt": "ab", "max_tokens": 20, "temperature": 3.0, "seed": 7, "logprobs": 2},
    {"prompt": "abcabcabc", "max_tokens": 30, "temperature": 0.0, "repetition_penalty": 1.5},
    {"prompt": "q" * 200, "max_tokens": 1, "temperature": 0.0},
    {"prompt": "b", "max_tokens": 0},
    {"prompt": "a" * 299 + "b", "max_tokens": 8, "temperature": 0.0, "speculate": False},
]


def outcome(completion: Any) -> tuple[Any, ...]:
    return completion.tokens, completion.text, completion.finish_reason, completion.logprobs, completion.stopped_by


@pytest.mark.parametrize("seed", range(12))
def test_texts_do_not_depend_on_arrivals_and_cancels(seed: int) -> None:
    """Texts arrive and are cancelled before chosen runs; those that are left are the same as alone."""
    rng = random.Random(seed)
    alone = []
    for options in REQUESTS:
        generation = make(cycle, context=4000).generate(**options)
        list(generation)
        alone.append(outcome(generation.completion))
    with make(cycle, context=4000) as lm:
        lm.server.max_batch_size = rng.choice([1, 2, 3, 8])
        order = [rng.randrange(len(REQUESTS)) for _ in range(20)]
        streams: dict[int, TextStream] = {}
        cancelled = set(rng.sample(range(20), 5))
        actions: dict[int, Callable[[], object]] = {}

        def submit(number: int) -> None:
            streams[number] = lm.submit(**REQUESTS[order[number]])

        def cancel(number: int) -> None:
            if number in streams:
                streams[number].cancel()

        def both(one: Callable[[], object], call: Callable[[int], object], number: int) -> Callable[[], object]:
            return lambda: (one(), call(number))

        for number in range(1, 20):
            run = rng.randrange(0, 30)
            actions[run] = both(actions.get(run, lambda: None), submit, number)
        for number in cancelled:
            run = rng.randrange(5, 40)
            actions[run] = both(actions.get(run, lambda: None), cancel, number)
        at_runs(lm, actions)
        submit(0)
        streams[0].result(PATIENCE)
        more = True
        while more:  # the runs of further texts are those of the actions that are left, and one lets the last one end
            more = bool(actions)
            lm.submit("zz", max_tokens=60, **ONE).result(PATIENCE)
        for number, stream in streams.items():
            completion = stream.result(PATIENCE)
            tokens, whole, reason, logprobs, stopped = alone[order[number]]
            if number in cancelled and completion.finish_reason == "cancelled":
                assert completion.tokens == tokens[: len(completion.tokens)]
            else:
                assert outcome(completion) == (tokens, whole, reason, logprobs, stopped)
        assert len(streams) == 20


def test_many_threads_and_coroutines_at_once(lm: LanguageModel) -> None:
    alone = {}
    for number, options in enumerate(REQUESTS):
        generation = make(cycle, context=4000).generate(**options)
        list(generation)
        alone[number] = generation.text
    wrong: list[object] = []

    def read(start: int) -> None:
        for number in range(start, start + 6):
            stream = lm.submit(**REQUESTS[number % len(REQUESTS)])
            found = "".join(step.text for step in stream) if number % 2 else text(stream)
            if stream.text != alone[number % len(REQUESTS)] or found not in stream.text:
                wrong.append((number, found))

    async def main() -> None:
        async def one(number: int) -> None:
            stream = lm.agenerate(**REQUESTS[number % len(REQUESTS)])
            if number % 2:
                async for _ in stream:
                    await asyncio.sleep(0)
            if await stream.read() != alone[number % len(REQUESTS)]:
                wrong.append((number, stream.text))

        await asyncio.gather(*(one(number) for number in range(30)))

    threads = [threading.Thread(target=read, args=(start,)) for start in range(6)]
    threads += [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert wrong == []


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
    monkeypatch.setattr(server_module, "IDLE_SECONDS", 0.01)
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
