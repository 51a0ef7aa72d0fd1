"""Which texts run together: places, memory, pieces of prompts, common beginnings."""

from __future__ import annotations

import math
from typing import Any

import pytest
from fake_model import GREEDY, FakeModel, calls, cycle, make, request

from pyml_core.errors import OutOfMemoryError, PymlError
from pyml_nlp import memory
from pyml_nlp.generation.generator import Generator
from pyml_nlp.generation.prefill_budget import FEWEST, PrefillCosts
from pyml_nlp.generation.prefix_cache import PrefixCache
from pyml_nlp.generation.scheduler import Scheduler
from pyml_nlp.options import SamplingOptions


def different(number: int, length: int) -> list[int]:
    """A prompt that begins like no other."""
    return [number, *([97 + number % 26] * (length - 1))]


def test_texts_under_way_wait_for_no_whole_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = make(cycle, context=2000)
    first, long = (
        request(different(1, 3), 80),
        request(different(2, 1500), 4),
    )
    monkeypatch.setattr(PrefillCosts, "decode_ms", lambda *_: 0.0)
    lm.engine.prefill_costs.learn(0, 1000, 1, 600.0)
    scheduler = Scheduler(Generator(lm, speculate=False), [first, long], max_batch_size=2, chunk=3)
    scheduler.max_gap = 1e-6  # no run can be so short: the pieces are as small as they get
    found = list(scheduler)
    assert [completion.sequence for completion in found] == [1, 0]
    mixed = [call for call in calls(lm) if len(call) == 2]
    assert len(mixed) > 1500 // FEWEST
    assert all(len(ids) == 1 for (ids, _), _ in mixed)  # the first text goes on in every one of them
    assert max(len(ids) for _, (ids, _) in mixed) == FEWEST


def test_prompts_start_together_where_nothing_is_under_way() -> None:
    lm = make(cycle, context=100)
    requests = [request(different(number, 10), 3) for number in range(4)]
    list(Scheduler(Generator(lm), requests, max_batch_size=4, chunk=512))
    assert [len(ids) for ids, _ in calls(lm)[0]] == [10, 10, 10, 10]


def test_a_common_beginning_runs_once() -> None:
    lm = make(cycle, context=200)
    common = different(1, 64)
    requests = [request([*common, number], 2) for number in range(6)]
    found = list(Scheduler(Generator(lm), requests, max_batch_size=6, chunk=512))
    assert sum(len(ids) for call in calls(lm) for ids, _ in call if len(ids) > 1) == 65
    assert sorted(completion.reused for completion in found) == [0, 64, 64, 64, 64, 64]


def test_nothing_kept_nothing_shared() -> None:
    lm = make(cycle, context=200)
    lm.prefix_cache = PrefixCache(0)
    requests = [request([*different(1, 64), number], 2) for number in range(3)]
    found = list(Scheduler(Generator(lm), requests, max_batch_size=3, chunk=512))
    assert [completion.reused for completion in found] == [0, 0, 0]
    assert [len(ids) for ids, _ in calls(lm)[0]] == [65, 65, 65]


@pytest.mark.parametrize("pages", [3, 4, 6, 100])
def test_as_many_as_memory_allows(pages: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of two pages each; free memory shrinks as they are filled."""
    lm = make(cycle, context=1000)
    lm.prefix_cache = PrefixCache(0)
    generator = Generator(lm, speculate=False)
    page = FakeModel.kv_layout.page_bytes

    def available() -> int:
        return pages * page - sum(completion.cache.nbytes for completion in generator._admitted)

    monkeypatch.setattr(memory, "available_memory", available)
    requests = [request(different(number, 10), 60) for number in range(5)]
    found = list(Scheduler(generator, requests, max_batch_size=8, chunk=512))
    assert sorted(completion.sequence for completion in found) == [0, 1, 2, 3, 4]
    assert max(len(call) for call in calls(lm)) == min(5, pages // 2)


def test_texts_that_get_places_together_share_a_look_at_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs as much as the choice of many tokens. A later text has a look of its own."""
    lm = make(cycle, context=200)
    looks: list[int] = []

    def available() -> int:
        looks.append(len(calls(lm)))
        return 1 << 40

    monkeypatch.setattr(memory, "available_memory", available)
    requests = [request(different(number, 10), 3 if number < 8 else 2) for number in range(9)]
    assert len(list(Scheduler(Generator(lm, speculate=False), requests, max_batch_size=8))) == 9
    assert len(looks) == 2
    assert looks[0] == 0 < looks[1]


def test_one_text_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = make(cycle, context=1000)
    monkeypatch.setattr(memory, "available_memory", lambda: FakeModel.kv_layout.page_bytes)
    requests = [
        request(different(1, 10), 490),
        request(different(2, 10), 3),
    ]
    refused, made = Scheduler(Generator(lm), requests)
    assert (refused.sequence, refused.finish_reason, refused.text) == (0, "error", "")
    assert isinstance(refused.error, OutOfMemoryError)
    assert (made.sequence, made.finish_reason, len(made.tokens)) == (1, "length", 3)
    with pytest.raises(OutOfMemoryError, match="a KV cache of 500 positions"):
        list(lm.generate_batch(requests))


def test_kept_prefixes_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = make(cycle, context=1000)
    lm.prefill(different(1, 300))
    kept, page = lm.prefix_cache.nbytes, FakeModel.kv_layout.page_bytes
    assert kept == 5 * page
    monkeypatch.setattr(memory, "available_memory", lambda: 6 * page - lm.prefix_cache.nbytes)
    assert len(lm.generate_text(different(2, 10), max_tokens=100)) == 100
    assert lm.prefix_cache.fork([*different(1, 300), 5]) is None


def test_results_as_they_end() -> None:
    lm = make(cycle, context=200)
    requests = [
        request(different(1, 5), 30),
        request(different(2, 5), 3),
        request(different(3, 5), 3),
    ]
    order: list[Any] = [
        completion.sequence for completion in lm.generate_batch(requests, ordered=False, max_batch_size=2)
    ]
    assert order == [1, 2, 0]
    assert [completion.sequence for completion in lm.generate_batch(requests, max_batch_size=2)] == [0, 1, 2]


def test_errors_of_batches() -> None:
    lm = make(cycle, context=8)
    with pytest.raises(PymlError, match="prompt 1: Sequence length exceeded: max=8, actual=9"):
        lm.generate_batch(["fine", "a" * 9])
    with pytest.raises(PymlError, match="prompt 0: the prompt is empty"):
        lm.generate_batch([""])
    with pytest.raises(PymlError, match="max_batch_size must be > 0, got 0"):
        lm.generate_batch(["a"], max_batch_size=0)
    with pytest.raises(PymlError, match=r"did you mean .temperature."):
        lm.generate_batch(["a"], temprature=1.0)  # type: ignore[call-arg]
    assert list(lm.generate_batch([])) == []
    assert calls(lm) == []


def test_the_error_of_a_text_is_its_own() -> None:
    """A bias that leaves nothing shows when the first token is chosen; the others go on as if they were alone."""
    lm = make(cycle, context=100)
    nothing = SamplingOptions(0.0, logit_bias=dict.fromkeys(range(FakeModel.vocab_size), -math.inf))
    requests = [request(different(number, 5), 4, nothing if number in (1, 3) else GREEDY) for number in range(5)]
    for together in (1, 2, 5):
        found = {text.sequence: text for text in Scheduler(Generator(lm), requests, max_batch_size=together)}
        assert sorted(found) == [0, 1, 2, 3, 4]
        for number, text in found.items():
            if number in (1, 3):
                assert (text.finish_reason, text.tokens) == ("error", [])
                assert str(text.error) == "logit_bias leaves no token that could stand at position 5"
            else:
                assert (text.finish_reason, text.error) == ("length", None)
                assert text.text == lm.generate_text(requests[number].prompt, max_tokens=4)
    batch, made = lm.generate_batch(requests), []
    for number in range(5):
        if number in (1, 3):
            with pytest.raises(PymlError, match="logit_bias leaves no token"):
                next(batch)
        else:
            made.append(next(batch).sequence)
    assert made == [0, 2, 4]
    assert list(batch) == []


def test_the_error_of_one_text_is_raised() -> None:
    lm = make(cycle)
    nothing: Any = {"logit_bias": dict.fromkeys(range(FakeModel.vocab_size), -math.inf)}
    generation = lm.generate("ab", max_tokens=4, **nothing)
    with pytest.raises(PymlError, match="logit_bias leaves no token that could stand at position 2"):
        list(generation)
    assert (generation.finish_reason, generation.text) == ("error", "")
    assert list(generation) == []
    assert lm.generate_text("ab", max_tokens=4) == "cdef"
