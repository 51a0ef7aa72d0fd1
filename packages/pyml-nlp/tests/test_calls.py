"""Several tokens in one call of the model change nothing but the number of calls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fake_model import EOS, GREEDY, FakeTokenizer, calls, make

from pyml_core.errors import PymlError
from pyml_core.want import ALL_LOGITS, Sample, Want
from pyml_nlp.generation.request import Request
from pyml_nlp.generation.speculation import Costs
from pyml_nlp.generation.stop_tokens import KEPT, stop_tokens
from pyml_nlp.language_model import LanguageModel
from pyml_nlp.options import GenerationOptions


class Calls:
    """Counts the runs that each call after a prompt was asked for, and those that it made."""

    def __init__(self, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: list[tuple[int, int]] = []
        run: Any = lm.model.forward

        def counted(batch: Any, want: Want = ALL_LOGITS) -> Any:
            results = run(batch, want)
            if isinstance(want, Sample) and want.count > 1:
                self.found.append((want.count, max(sum(one.ms > 0 for one in each) for each in results)))
            return results

        monkeypatch.setattr(lm.model, "forward", counted)


def endless(ids: list[int]) -> int:
    """Never repeats three tokens."""
    return 33 + len(ids) * len(ids) % 89


@pytest.fixture
def _fast_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Costs, "ms", 1.0)


@pytest.mark.usefixtures("_fast_runs")
def test_many_tokens_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = make(endless, context=300)
    several = Calls(lm, monkeypatch)
    generation = lm.generate("ab", max_tokens=60)
    cache = generation.completion.cache
    steps = []
    for step in generation:
        steps.append(step)
        assert cache.ids == [97, 98, *generation.tokens[:-1]]
    alone = list(make(endless, context=300).generate("ab", max_tokens=60, stop="\x00"))
    for one, other in zip(steps, alone, strict=True):
        assert replace(one, model_ms=0, sample_ms=0) == replace(other, model_ms=0, sample_ms=0)
    assert several.found == [(32, 32), (27, 27)]
    assert all(step.model_ms > 0 for step in steps[1:])
    assert generation.completion.decode_ms >= sum(step.model_ms for step in steps)


@pytest.mark.usefixtures("_fast_runs")
def test_a_call_ends_where_something_can_be_drafted(monkeypatch: pytest.MonkeyPatch) -> None:
    def following(ids: list[int]) -> int:
        return endless(ids) if len(ids) < 30 else ids[len(ids) - 20]

    lm = make(following, context=300)
    several = Calls(lm, monkeypatch)
    steps = list(lm.generate("ab", max_tokens=60))
    assert [step.token for step in steps] == [
        step.token for step in make(following, context=300).generate("ab", max_tokens=60, speculate=False)
    ]
    assert several.found == [(32, 30)]  # the last three have been there
    assert len(calls(lm)) < 45


@pytest.mark.usefixtures("_fast_runs")
@pytest.mark.parametrize("ends", [{}, {"stop_ids": [33 + 12 * 12 % 89]}])
def test_a_call_ends_with_the_text(ends: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def following(ids: list[int]) -> int:
        return EOS if not ends and len(ids) == 12 else endless(ids)

    lm = make(following, context=300)
    several = Calls(lm, monkeypatch)
    generation = lm.generate("ab", max_tokens=60, **ends)
    assert len(list(generation)) == 11
    assert (generation.finish_reason, generation.completion.cache.length) == ("stop", 12)
    assert several.found == [(32, 10)]
    assert len(calls(lm)) == 11  # nothing was run in vain


@pytest.mark.usefixtures("_fast_runs")
@pytest.mark.parametrize(
    "options",
    [
        {"stop": "\x00"},
        {"logprobs": 2},
        {"temperature": 1.0, "seed": 1},
        {"temperature": 0.8, "top_p": 0.9, "seed": 1, "logprobs": 1},
        {"repetition_penalty": 1.1},
        {"logit_bias": {40: 9.0}, "presence_penalty": 2.0},
    ],
)
def test_every_kind_of_text(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    lm = make(endless, context=300)
    several = Calls(lm, monkeypatch)
    steps = list(lm.generate("ab", max_tokens=40, **options))
    monkeypatch.setattr(Costs, "ms", None)  # so that a call has one run
    alone = list(make(endless, context=300).generate("ab", max_tokens=40, speculate=False, **options))
    for one, other in zip(steps, alone, strict=True):
        assert replace(one, model_ms=0, sample_ms=0) == replace(other, model_ms=0, sample_ms=0)
    assert several.found[0][0] == 32


def test_slow_runs_are_shown_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Costs, "ms", 21.0)
    lm = make(endless, context=300)
    several = Calls(lm, monkeypatch)
    assert len(list(lm.generate("ab", max_tokens=20))) == 20
    assert not several.found


@pytest.mark.usefixtures("_fast_runs")
def test_texts_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    options: list[dict[str, Any]] = [
        {"max_tokens": 20}, {"max_tokens": 33, "temperature": 1.0, "seed": 4}, {"max_tokens": 9, "logprobs": 1},
    ]  # fmt: skip
    lm = make(endless, context=300)
    several = Calls(lm, monkeypatch)
    requests = [Request([97, 98], GenerationOptions(sampling=GREEDY).replace(**each)) for each in options]
    found = [completion.tokens for completion in lm.generate_batch(requests)]
    assert found == [_tokens(each) for each in options]
    assert several.found


def _tokens(options: dict[str, Any]) -> list[int]:
    return [step.token for step in make(endless, context=300).generate("ab", **options)]


@pytest.mark.usefixtures("_fast_runs")
def test_left_in_the_middle_of_a_call() -> None:
    whole = list(make(endless, context=300).generate("ab", max_tokens=60))
    for end in range(1, 40, 5):
        lm = make(endless, context=300)
        cache = lm.new_cache()
        for step in lm.generate("ab", max_tokens=60, cache=cache):
            if step.index == end:
                break
        rest = list(lm.generate([step.token], max_tokens=15, cache=cache))
        assert [step.token for step in rest] == [step.token for step in whole[end + 1 : end + 16]]


@pytest.mark.usefixtures("_fast_runs")
def test_a_logit_that_is_not_finite() -> None:
    lm = make(endless, context=300)
    fake: Any = lm.model
    logits = fake._logits

    def broken(ids: list[int]) -> Any:
        row = logits(ids)
        if len(ids) == 4:
            row[60] = float("nan")
        return row

    fake._logits = broken
    generation = lm.generate("ab", max_tokens=60)
    with pytest.raises(PymlError, match="not finite: logit nan for token 60 at position 4"):
        list(generation)
    assert len(generation.tokens) == 2


@pytest.mark.usefixtures("_fast_runs")
@pytest.mark.parametrize("known", [True, False])
def test_stop_strings_end_calls(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """At their own tokens, and at those at which they have ended a text before."""
    if not known:
        monkeypatch.setattr(FakeTokenizer, "encode", lambda self, text, **options: [])
    whole = make(endless, context=300).generate_text("ab", max_tokens=60)
    stop = whole[20:22]
    lm = make(endless, context=300)
    runs = []
    for _ in range(2):
        before = len(calls(lm))
        generation = lm.generate("ab", max_tokens=60, stop=stop)
        assert len(list(generation)) == 22
        assert (generation.text, generation.finish_reason) == (whole[:20], "stop")
        assert generation.completion.cache.length == 2 + 21
        runs.append(len(calls(lm)) - before)
    assert runs == ([22, 22] if known else [1 + 32, 22])
    other = make(endless, context=300)  # nothing is known of another tokenizer
    list(other.generate("ab", max_tokens=60, stop=stop))
    assert len(calls(other)) == (22 if known else 1 + 32)


def test_few_sets_of_stop_strings_are_remembered() -> None:
    tokenizer: Any = FakeTokenizer()
    first = stop_tokens(tokenizer, ["a"], 300)
    assert stop_tokens(tokenizer, ["a"], 300) is first
    assert stop_tokens(tokenizer, (), 300) is None
    for number in range(KEPT):
        stop_tokens(tokenizer, [f"{number}b"], 300)
    assert stop_tokens(tokenizer, ["a"], 300) is not first
