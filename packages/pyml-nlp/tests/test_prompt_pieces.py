"""Which prompts have pieces in a run: the shortest rest first, and each in its turn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_model import calls, cycle, make, request

from pyml_nlp.generation.completion import Completion
from pyml_nlp.generation.generator import Generator
from pyml_nlp.generation.prefill_budget import PrefillCosts
from pyml_nlp.generation.scheduler import AGEING_TOKENS, MAX_PARTS, Scheduler
from pyml_nlp.language_model import LanguageModel

ROOM = 64


@pytest.fixture
def lm(monkeypatch: pytest.MonkeyPatch) -> Iterator[LanguageModel]:
    """A model whose runs have 64 tokens of prompts, next to other texts or not."""
    monkeypatch.setattr(PrefillCosts, "tokens", lambda *_: ROOM)
    with make(cycle, context=4000, prefill_chunk=ROOM) as made:
        yield made


def scheduler_of(lm: LanguageModel, *texts: tuple[int, int]) -> tuple[Scheduler, list[Completion]]:
    """Texts of (prompt, tokens) with one running text next to them; it began before."""
    generator = Generator(lm, speculate=False)
    scheduler = Scheduler(generator, max_batch_size=8, chunk=ROOM)
    made = [generator.prepare(request([9], 1000))]
    scheduler.waiting.add(made[0])
    step(scheduler)
    for number, (length, count) in enumerate(texts):
        made.append(generator.prepare(request([number + 1] * length, count)))
        scheduler.waiting.add(made[-1])
    return scheduler, made[1:]


def step(scheduler: Scheduler) -> None:
    scheduler.admit()
    while scheduler._generator.has_steps:
        scheduler.step()
    scheduler.step()


def pieces(lm: LanguageModel, number: int) -> list[int]:
    """Lengths of the pieces of a text's prompt, by the run, 0 where it had none."""
    return [sum(len(ids) for ids, _ in call if ids[0] == number + 1) for call in calls(lm)[1:]]


def test_a_short_prompt_overtakes_a_long_one(lm: LanguageModel) -> None:
    scheduler, (long, short) = scheduler_of(lm, (1000, 2), (30, 2))
    step(scheduler)
    assert (len(long.tokens), len(short.tokens)) == (0, 1)
    assert len(long.pending) == 1000 - (ROOM - 30)  # what the short one has left of the run


def test_the_running_text_is_in_every_run(lm: LanguageModel) -> None:
    scheduler, texts = scheduler_of(lm, (1000, 2), (700, 2), (30, 2))
    while not all(text.finish_reason for text in texts):
        step(scheduler)
    assert all(any(ids[0] >= 97 for ids, _ in call) for call in calls(lm)[1:])
    assert all(sum(len(ids) for ids, _ in call if ids[0] < 97) <= ROOM for call in calls(lm)[1:])


def test_a_long_prompt_gets_its_turn(lm: LanguageModel) -> None:
    """Although a shorter one that fills the run arrives before every run."""
    scheduler, (long,) = scheduler_of(lm, (600, 1))
    generator = scheduler._generator
    for number in range(200):
        short = generator.prepare(request([20 + number % 70] * ROOM, 1))
        scheduler.waiting.add(short)
        step(scheduler)
        if long.finish_reason:
            break
    assert long.finish_reason == "length"
    gaps = "".join("x" if piece else "." for piece in pieces(lm, 0)).strip(".").split("x")
    assert max(map(len, gaps)) <= 600 // AGEING_TOKENS + 1


def test_two_prompts_in_parts_at_most(lm: LanguageModel) -> None:
    """A third long one waits without a place; a short one of another client does not wait for it."""
    scheduler, texts = scheduler_of(lm, (900, 1), (800, 1), (700, 1))
    step(scheduler)
    assert [text.placed for text in texts] == [True, True, False]
    assert len(scheduler._prompts) == MAX_PARTS
    other = scheduler._generator.prepare(request([50] * 20, 1))
    other.client = "other"
    scheduler.waiting.add(other)
    step(scheduler)
    assert other.finish_reason == "length"
    assert not texts[2].placed
    while not all(text.finish_reason for text in texts):
        step(scheduler)
    assert [text.finish_reason for text in texts] == ["length"] * 3


def test_short_prompts_run_together(lm: LanguageModel) -> None:
    scheduler, texts = scheduler_of(lm, *[(12, 1)] * 5)
    step(scheduler)
    assert [text.finish_reason for text in texts] == ["length"] * 5
