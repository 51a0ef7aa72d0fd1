"""Texts that are submitted while others run: on a scripted model, whose runs say what happens when."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_model import FakeModel, calls, cycle, make
from server_cases import ONE, PATIENCE, Gate, at_runs, text

from pyml_core.errors import OutOfMemoryError
from pyml_nlp import memory
from pyml_nlp.errors import ArgumentError
from pyml_nlp.generation.prefill_budget import FEWEST, PrefillCosts
from pyml_nlp.generation.prefix_cache import PrefixCache
from pyml_nlp.generation.speculation import Costs
from pyml_nlp.generation.text_stream import TextStream
from pyml_nlp.language_model import LanguageModel


@pytest.fixture
def lm() -> Iterator[LanguageModel]:
    """A model that writes the alphabet on and on."""
    with make(cycle, context=4000) as made:
        yield made


@pytest.mark.parametrize("event", ["submitted", "cancelled"])
def test_a_call_ends_early_for_what_has_changed(lm: LanguageModel, event: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of many runs ends after the run in which another text is submitted, or one of its texts is cancelled."""
    monkeypatch.setattr(Costs, "ms", 0.1)
    streams = [lm.submit(prompt, max_tokens=400, temperature=0, speculate=False) for prompt in ("ab", "mn")]
    run, done = 0, threading.Event()

    def act() -> None:
        nonlocal run
        run = len(calls(lm))
        if event == "submitted":
            streams.append(lm.submit("xyz", max_tokens=3, temperature=0))
        else:
            streams[0].cancel()
        done.set()

    at_runs(lm, {len(calls(lm)) + 50: act})
    assert done.wait(PATIENCE)
    streams[-1 if event == "submitted" else 0].result(PATIENCE)
    while len(calls(lm)) < run + 2:
        assert not streams[1].finish_reason
    assert len(calls(lm)[run + 1]) == (3 if event == "submitted" else 1)
    for stream in streams:
        stream.cancel()


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


def test_running_texts_do_not_wait_for_a_whole_prompt(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    late: list[TextStream] = []
    at_runs(lm, {3: lambda: late.append(lm.submit([7] * 1500, max_tokens=2, temperature=0))})
    monkeypatch.setattr(PrefillCosts, "decode_ms", lambda *_: 0.0)
    lm.engine.prefill_costs.learn(0, 1000, 1, 600.0)
    lm.server.max_gap = 1e-6  # no run can be so short: the pieces are as small as they get
    list(lm.submit("ab", max_tokens=80, **ONE))
    text(late[0])
    mixed = [call for call in calls(lm) if len(call) == 2]
    assert len(mixed) > 1500 // FEWEST
    assert all(len(ids) == 1 for (ids, _), _ in mixed)
    assert max(len(ids) for _, (ids, _) in mixed) == FEWEST


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
