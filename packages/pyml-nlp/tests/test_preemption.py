"""Texts that lose their places for a while: memory within its limit, and the same texts."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_model import FakeModel, calls, cycle, make, request
from server_cases import ONE, PATIENCE, Gate, text
from test_server import REQUESTS, outcome

from pyml_core.errors import OutOfMemoryError
from pyml_nlp import memory
from pyml_nlp.generation.completion import Completion
from pyml_nlp.generation.generator import Generator
from pyml_nlp.generation.prefix_cache import PrefixCache
from pyml_nlp.generation.scheduler import Scheduler
from pyml_nlp.generation.speculation import Costs
from pyml_nlp.generation.text_stream import TextStream
from pyml_nlp.language_model import LanguageModel

PAGE = FakeModel.kv_layout.page_bytes


@pytest.fixture
def lm() -> Iterator[LanguageModel]:
    """A model that writes the alphabet on and on."""
    with make(cycle, context=4000) as made:
        yield made


def preempt_often(monkeypatch: pytest.MonkeyPatch, choose: Callable[[list[Any]], Any]) -> list[int]:
    """Before runs, take the place of a text that a function chooses, if it returns one; the numbers of their tokens."""
    admit, counts = Scheduler.admit, list[int]()

    def admit_after(scheduler: Scheduler) -> None:
        batch = scheduler.batch
        chosen = choose(batch) if batch and not scheduler._generator.has_steps else None
        if chosen is not None and not chosen.cache_given:
            counts.append(len(chosen.tokens))
            scheduler.preempt(chosen)
        admit(scheduler)

    monkeypatch.setattr(Scheduler, "admit", admit_after)
    monkeypatch.setattr(Costs, "ms", 15.0)  # so that a call of the model has few runs
    return counts


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("prefixes", [0, 1 << 28])
def test_texts_are_the_same(seed: int, prefixes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampled, penalised, with log probabilities, stop strings and drafts; at any point of prompts and texts."""
    alone = []
    for options in REQUESTS:
        generation = make(cycle, context=4000).generate(**options)
        list(generation)
        alone.append(outcome(generation.completion))
    rng = random.Random(seed)
    counts = preempt_often(monkeypatch, lambda batch: rng.choice(batch) if rng.random() < 0.3 else None)
    with make(cycle, context=4000, prefill_chunk=48) as lm:
        lm.prefix_cache = PrefixCache(prefixes)
        lm.server.max_batch_size = rng.choice([2, 3, 8])
        order = [rng.randrange(len(REQUESTS)) for _ in range(12)]
        streams = [lm.submit(**REQUESTS[number]) for number in order]
        for number, stream in zip(order, streams, strict=True):
            assert outcome(stream.result(PATIENCE)) == alone[number]
            steps = list(stream)
            assert [step.token for step in steps] == stream.tokens
            assert [step.index for step in steps] == list(range(len(steps)))
        assert lm.server.n_preempted == len(counts)
    assert len([count for count in counts if count]) > 5


def test_a_shifted_context(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"max_tokens": 150, "temperature": 2.0, "seed": 3, "overflow": "shift"}
    expected = make(cycle, context=64).generate_text("hello", **options)
    counter = iter(range(10**6))
    counts = preempt_often(monkeypatch, lambda batch: batch[0] if next(counter) % 7 == 3 else None)
    with make(cycle, context=64) as lm:
        assert text(lm.submit("hello", **options)) == expected
    assert max(counts) > 64


def test_texts_share_little_memory(lm: LanguageModel) -> None:
    """Six texts that grow to eight pages each, where there are twelve: some lose their places, and all are right."""
    alone = [make(cycle, context=4000).generate_text([number + 1] * 10, max_tokens=490, **ONE) for number in range(6)]
    lm.server.kv_bytes = 12 * PAGE
    streams = [lm.submit([number + 1] * 10, max_tokens=490, **ONE) for number in range(6)]
    seen: list[int] = []
    lm.server.observers.append(lambda stats: seen.append(lm.server.running_kv_bytes + lm.server.prefix_kv_bytes))
    assert [text(stream) for stream in streams] == alone
    assert max(seen) <= 12 * PAGE
    assert lm.server.n_preempted > 0
    assert max(len(call) for call in calls(lm)) == 2  # of 266 positions each at first


def test_what_has_come_furthest_stays(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[int] = []
    preempt = Scheduler.preempt

    def watched(scheduler: Scheduler, one: Completion) -> None:
        lost.append(one.sequence)
        preempt(scheduler, one)

    monkeypatch.setattr(Scheduler, "preempt", watched)
    lm.server.kv_bytes = 11 * PAGE
    gate = Gate(lm)
    streams = [lm.submit([1] * 10, max_tokens=500, priority=0, **ONE), lm.submit([2] * 10, max_tokens=500, **ONE)]
    gate.wait()
    gate.open()
    for stream in streams:
        assert len(text(stream)) == 500
    assert set(lost) == {1}
    lost.clear()
    gate = Gate(lm)
    streams = [lm.submit([1] * 10, max_tokens=500, **ONE), lm.submit([2] * 10, max_tokens=500, priority=1, **ONE)]
    gate.wait()
    gate.open()
    for stream in streams:
        assert len(text(stream)) == 500
    assert set(lost) == {2}


def test_a_text_that_lost_its_place_is_cancelled(lm: LanguageModel) -> None:
    lm.server.kv_bytes = 11 * PAGE
    streams = [lm.submit([number + 1] * 10, max_tokens=500, **ONE) for number in range(2)]
    done: list[bool] = []

    def look(stats: Any) -> None:
        if lm.server.n_preempted and not done:
            done.append(streams[1].completion.placed)
            streams[1].cancel()

    lm.server.observers.append(look)
    assert len(text(streams[0])) == 500
    one = streams[1].result(PATIENCE)
    assert done == [False]
    assert one.finish_reason == "cancelled"
    assert 0 < len(one.tokens) < 500
    assert (lm.server.n_running, lm.server.n_waiting) == (0, 0)


def test_what_never_fits_is_refused_at_once(lm: LanguageModel) -> None:
    lm.server.kv_bytes = 4 * PAGE
    with pytest.raises(OutOfMemoryError) as caught:
        lm.submit([1] * 10, max_tokens=1000)
    sizes = f"needs {16 * PAGE / 1e6:.1f} MB of memory, at most {4 * PAGE / 1e6:.1f} MB are allowed"
    assert str(caught.value) == f"a KV cache of 1010 positions {sizes} (kv_bytes)"
    assert len(text(lm.submit([1] * 10, max_tokens=246, **ONE))) == 246


def test_kept_prefixes_make_way(lm: LanguageModel) -> None:
    lm.prefill([1] * 640)
    assert lm.server.prefix_kv_bytes == 10 * PAGE
    lm.server.kv_bytes = 12 * PAGE
    text(lm.submit([2] * 10, max_tokens=246, **ONE))  # four pages
    assert lm.server.prefix_kv_bytes <= 12 * PAGE
    assert lm.prefix_cache.fork([1] * 100) is not None  # its beginning is left
    assert lm.server.n_preempted == 0


def test_memory_that_becomes_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a limit of their own, texts have what is free; others may take of it."""
    lm = make(cycle, context=4000)
    lm.prefix_cache = PrefixCache(0)
    generator = Generator(lm, speculate=False)
    free = [40]
    monkeypatch.setattr(
        memory,
        "available_memory",
        lambda: max(0, free[0] * PAGE - sum(one.cache.nbytes for one in generator._admitted)),
    )
    scheduler = Scheduler(generator, [request([number + 1] * 10, 600) for number in range(4)])
    found = []
    for step in range(10**5):
        scheduler.admit()
        found += scheduler.step()[1]
        if step == 200:
            free[0] = 14
        if not scheduler.busy and len(found) == 4:
            break
    assert [len(one.tokens) for one in found] == [600] * 4
    assert scheduler.n_preempted > 0


def test_texts_reserve_what_others_took(lm: LanguageModel) -> None:
    """With long texts before them, further ones reserve more."""
    lm.server.kv_bytes = 64 * PAGE
    at_once = []

    def run() -> None:
        before = len(calls(lm))
        streams = [lm.submit([number + 1] * 10, max_tokens=1000, **ONE) for number in range(8)]
        for stream in streams:
            assert len(text(stream)) == 1000
        at_once.append(max(len(call) for call in calls(lm)[before : before + 40]))

    run()
    run()
    assert at_once[0] == 8  # 266 positions each
    assert at_once[1] < 8


def test_a_callers_cache_stays(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    lm.server.kv_bytes = 11 * PAGE
    cache = lm.new_cache()
    given: TextStream = lm.submit([1] * 10, max_tokens=400, cache=cache, **ONE)
    other = lm.submit([2] * 10, max_tokens=500, **ONE)
    assert len(text(given)) == 400
    assert len(text(other)) == 500
    assert cache.length == 409
