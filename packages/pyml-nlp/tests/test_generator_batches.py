"""Several texts at a time in one generator."""

from __future__ import annotations

import time
from typing import Any

import pytest
from fake_model import EOS, calls, cycle, make, request

from pyml_core.errors import OutOfMemoryError
from pyml_nlp.generation.generator import Generator
from pyml_nlp.generation.request import Request
from pyml_nlp.generation.scheduler import Scheduler
from pyml_nlp.language_model import LanguageModel
from pyml_nlp.options import GenerationOptions, SamplingOptions
from pyml_nlp.structured.grammar import Grammar

PROMPTS = [list(text.encode()) for text in ("ab", "xyz", "a longer one", "q", "hello")]


def run_all(prompts: list[list[int]], together: int, **rules: Any) -> dict[int, tuple[str, str | None]]:
    lm = make(lambda ids: EOS if sum(ids) % 11 == 0 else cycle(ids))
    generator = Generator(lm)
    requests = [request(prompt, 20, SamplingOptions(**{"temperature": 0.0, **rules})) for prompt in prompts]
    found = {c.sequence: (c.text, c.finish_reason) for c in Scheduler(generator, requests, together)}
    assert generator.running == []
    assert len(found) == len(prompts)
    return found


@pytest.mark.parametrize("together", [1, 2, 3, 8])
@pytest.mark.parametrize("rules", [{}, {"temperature": 4.0, "seed": 9}], ids=["greedy", "sampled"])
def test_texts_do_not_depend_on_their_neighbours(together: int, rules: dict[str, Any]) -> None:
    assert run_all(PROMPTS, together, **rules) == run_all(PROMPTS, 5, **rules)


def test_a_batch_runs_together_and_refills() -> None:
    lm = make(lambda ids: EOS if len(ids) > 6 else cycle(ids))
    list(Scheduler(Generator(lm), [request([97], 20)] * 5, max_batch_size=2))
    sizes = [len(call) for call in calls(lm)]
    assert max(sizes) == 2
    assert sizes.count(2) > sizes.count(1) - 5  # five prefills alone, nearly everything else in pairs


def test_cancelling_a_batch_ends_every_text() -> None:
    lm = make()
    generator = Generator(lm)
    lm.model.before = lambda: generator.cancel() if len(calls(lm)) == 6 else None  # type: ignore[attr-defined]
    found = list(Scheduler(generator, [request(prompt, 20) for prompt in PROMPTS], max_batch_size=2))
    assert sorted(c.sequence for c in found) == [0, 1, 2, 3, 4]
    assert {c.finish_reason for c in found} == {"cancelled"}
    assert [bool(c.text) for c in sorted(found, key=lambda c: c.sequence)] == [True, True, False, False, False]


class Failing:
    """Lets one of the runs of several texts fail after all of their tokens have been chosen."""

    def __init__(self, lm: LanguageModel, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = number
        self._sample = lm.model._sample  # type: ignore[attr-defined]
        monkeypatch.setattr(lm.model, "_sample", self)

    def __call__(self, batch: Any, want: Any) -> Any:
        found = self._sample(batch, want)
        self.left -= len(batch) > 1
        if len(batch) > 1 and self.left == 0:
            raise OutOfMemoryError("the keys and values do not fit")
        return found


@pytest.mark.parametrize("number", [1, 2, 3])
def test_tokens_of_a_run_that_fails_are_not_counted(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by penalties, nor by a grammar: the texts are those without the error."""
    pytest.importorskip("llguidance")
    rules = SamplingOptions(temperature=1.5, seed=3, frequency_penalty=1.0)
    requests = [
        Request([98], GenerationOptions(12, rules)),
        Request([99], GenerationOptions(12, rules, grammar=Grammar("regex", "(ab|ba|ca|x)*y"))),
        Request([100], GenerationOptions(12, rules)),
    ]

    def texts(lm: LanguageModel) -> list[list[int]]:
        ended = sorted(Scheduler(Generator(lm), requests, 3), key=lambda one: one.sequence)
        assert all(one.error is None for one in ended)
        return [one.tokens for one in ended]

    expected, other = texts(make()), make()
    failing = Failing(other, number, monkeypatch)
    assert texts(other) == expected
    assert failing.left <= 0


def test_times() -> None:
    lm = make()
    lm.model.before = lambda: time.sleep(0.01)  # type: ignore[attr-defined]
    generation = lm.generate("ab", max_tokens=4)
    steps = list(generation)
    assert generation.completion.prefill_ms >= 10
    assert generation.completion.decode_ms >= 30
    assert steps[0].model_ms == 0
    assert all(step.model_ms >= 10 for step in steps[1:])
    assert all(step.sample_ms > 0 for step in steps)
