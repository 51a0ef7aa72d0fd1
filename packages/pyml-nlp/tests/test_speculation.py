"""Speculation changes nothing but the number of runs."""

from __future__ import annotations

from typing import Any

import pytest
from fake_model import EOS, VOCAB, FakeTokenizer, calls, cycle, make

from pyml_core.errors import PymlError
from pyml_nlp.generation.draft_model import DraftModel, check_vocabulary
from pyml_nlp.generation.generator import Generator
from pyml_nlp.generation.speculation import MAX_DRAFT, Costs
from pyml_nlp.language_model import LanguageModel
from pyml_nlp.options import GenerationOptions


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs cost the same for any number of tokens: everything that can be drafted is drafted."""
    monkeypatch.setattr(Costs, "of", lambda self, tokens: 1.0)


def words(ids: list[int]) -> int:
    """Mostly periodic, with a change now and then."""
    return 97 + (len(ids) % 7 if len(ids) % 23 else 20)


RULES: list[dict[str, Any]] = [
    {}, {"temperature": 0.6, "seed": 3}, {"temperature": 1.5, "seed": 4, "top_k": 4}, {"repetition_penalty": 1.01},
]  # fmt: skip


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("following", [cycle, words, lambda ids: 97, lambda ids: EOS if len(ids) > 40 else words(ids)])
def test_the_same_steps_in_fewer_runs(following: Any, rules: dict[str, Any]) -> None:
    found, runs = [], []
    for speculate in (False, True):
        lm = make(following, context=300)
        steps = list(lm.generate("ab", max_tokens=100, logprobs=1, speculate=speculate, **rules))
        found.append(
            [(s.token, s.text, s.index, s.position, s.logprob, s.top_logprobs, s.finish_reason) for s in steps]
        )
        runs.append(len(calls(lm)))
    assert found[0] == found[1]
    assert runs[1] < runs[0]


def test_the_cache_is_that_of_the_text_at_every_step() -> None:
    lm = make(words, context=300)
    cache = lm.new_cache()
    generation = lm.generate("ab", max_tokens=100, cache=cache)
    for step in generation:
        assert cache.ids == [97, 98, *generation.tokens[:-1]]
        assert generation.tokens[-1] == step.token
    assert len(calls(lm)) < 60


def test_a_text_that_is_left_can_be_continued() -> None:
    whole = list(make(words, context=300).generate("ab", max_tokens=80, speculate=False))
    for end in range(1, 60, 7):
        lm = make(words, context=300)
        cache = lm.new_cache()
        for step in lm.generate("ab", max_tokens=80, cache=cache):
            if step.index == end:
                break
        rest = list(lm.generate([step.token], max_tokens=20, cache=cache))
        assert [step.token for step in rest] == [step.token for step in whole[end + 1 : end + 21]]


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 10, 33])
def test_no_token_too_many(max_tokens: int) -> None:
    lm = make(lambda ids: 97, context=300)
    generation = lm.generate("aaaaaaaa", max_tokens=max_tokens)
    assert len(list(generation)) == max_tokens
    assert generation.completion.cache.length == 8 + max_tokens - 1
    assert sum(len(ids) for call in calls(lm) for ids, _ in call) == 8 + max_tokens - 1  # nothing was run in vain


def test_the_end_of_the_context() -> None:
    lm = make(lambda ids: 97, context=20)
    generation = lm.generate("aaaaaaaa", max_tokens=50)
    assert len(list(generation)) == 13
    assert (generation.finish_reason, generation.completion.cache.length) == ("length", 20)


def test_cancelled_ahead() -> None:
    lm = make(lambda ids: 97, context=300)
    generation = lm.generate("aaaaaaaa", max_tokens=100)
    steps = []
    for step in generation:
        steps.append(step)
        if step.index == 5:
            generation.cancel()
    assert (len(steps), generation.text, generation.finish_reason) == (6, "aaaaaa", "cancelled")
    assert generation.completion.cache.length == 8 + 5


def test_a_batch() -> None:
    prompts = ["ab", "aaaa", "xyz", "abcabc"]
    alone = [make(words, context=300).generate_text(prompt, max_tokens=60, speculate=False) for prompt in prompts]
    lm = make(words, context=300)
    assert [completion.text for completion in lm.generate_batch(prompts, max_tokens=60)] == alone
    assert len(calls(lm)) < 50
    assert max(sum(len(ids) for ids, _ in call) for call in calls(lm)) <= len(prompts) + MAX_DRAFT


# ---- a draft model


def test_a_draft_model_writes_ahead() -> None:
    runs = []
    for following in (words, lambda ids: 120):  # one that is always right, and one that never is
        lm, small = make(words, context=300), make(following, context=300)
        steps = list(lm.generate("ab", max_tokens=60, speculate=False, draft_model=small))
        assert [step.token for step in steps] == [
            step.token for step in make(words, context=300).generate("ab", max_tokens=60)
        ]
        runs.append(len(calls(lm)))
    assert runs[0] < 25
    assert runs[1] <= 60


def test_a_draft_model_makes_up_for_what_it_missed() -> None:
    small = make(words, context=300)
    drafter = DraftModel(small.engine, GenerationOptions(), [97, 98], VOCAB)
    assert drafter.draft(3) == [words([0] * n) for n in (2, 3, 4)]
    for token in (99, 100, 101, 102):
        drafter.append(token)
    assert drafter.draft(2) == [words([0] * n) for n in (6, 7)]
    assert drafter._cache.ids[:6] == [97, 98, 99, 100, 101, 102]


def test_a_draft_model_with_a_shorter_context() -> None:
    lm, small = make(words, context=300), make(words, context=16)
    assert len(list(lm.generate("ab", max_tokens=40, speculate=False, draft_model=small))) == 40


def test_sampled_with_a_draft_model() -> None:
    rules: dict[str, Any] = {"temperature": 1.2, "seed": 8}
    alone = [step.token for step in make(words, context=300).generate("ab", max_tokens=60, speculate=False, **rules)]
    lm = make(words, context=300)
    drafted = [step.token for step in lm.generate("ab", max_tokens=60, draft_model=make(words, context=300), **rules)]
    assert drafted == alone
    assert len(calls(lm)) < 30  # equal noise leads to equal choices


def test_other_vocabularies_are_refused() -> None:
    class Other(FakeTokenizer):
        def token_bytes(self, token: int) -> bytes:
            return b"?" if token == 70 else super().token_bytes(token)

    class Larger(FakeTokenizer):
        vocab_size = 301

    lm = make()
    check_vocabulary(lm.engine, make().engine)
    for tokenizer, message in ((Other(), r"found b'\?' for token 70, which is b'F'"), (Larger(), "found one of 301")):
        other = LanguageModel(make().model, tokenizer, name="small")  # type: ignore[arg-type]
        for _ in range(2):
            with pytest.raises(PymlError, match=f"draft model small: expected the vocabulary of .*{message}"):
                Generator(lm, draft_model=other)
