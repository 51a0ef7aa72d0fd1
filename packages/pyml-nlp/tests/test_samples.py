"""Several texts of one prompt."""

from __future__ import annotations

from typing import Any

import pytest
from fake_model import calls, make

from pyml_nlp.errors import ArgumentError
from pyml_nlp.generation.samples import mean_logprob

PROMPT = list(b"the quick brown fox jumps")
RULES: dict[str, Any] = {"temperature": 3.0, "seed": 5, "max_tokens": 12}


def test_texts_of_one_seed() -> None:
    lm = make(context=100)
    found = lm.generate_samples(PROMPT, 4, sample_index=2, **RULES)
    alone = [
        [step.token for step in make(context=100).generate(PROMPT, sample_index=index, **RULES)]
        for index in range(2, 6)
    ]
    assert [completion.tokens for completion in found] == alone
    assert len({tuple(tokens) for tokens in alone}) == 4
    assert [completion.reused for completion in found] == [0] + 3 * [len(PROMPT) - 1]
    assert sum(len(ids) for call in calls(lm) for ids, _ in call) == len(PROMPT) + 3 + 4 * 11


def test_the_best_ones() -> None:
    lm = make(context=100)
    all_of_them = lm.generate_samples(PROMPT, 9, logprobs=0, **RULES)
    found = lm.generate_samples(PROMPT, 3, best_of=9, **RULES)
    expected = sorted(all_of_them, key=mean_logprob, reverse=True)[:3]
    assert [completion.tokens for completion in found] == [completion.tokens for completion in expected]
    assert [len(completion.logprobs) for completion in found] == 3 * [12]


def test_a_random_seed_is_one_of_all() -> None:
    found = make(context=100).generate_samples(PROMPT, 3, temperature=3.0, max_tokens=12)
    assert len({completion.options.sampling.seed for completion in found}) == 1
    assert len({tuple(completion.tokens) for completion in found}) == 3


def test_texts_without_a_token_are_the_last() -> None:
    found = make(context=100).generate_samples(PROMPT, 1, best_of=2, max_tokens=0)
    assert [mean_logprob(completion) for completion in found] == [float("-inf")]


@pytest.mark.parametrize(
    ("n", "best_of", "message"),
    [
        (0, None, "n must be > 0, got 0"),
        ("2", None, "n must be a whole number, got '2'"),
        (3, 2, "best_of must be >= 3, got 2"),
    ],
)
def test_refused(n: Any, best_of: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{message}$"):
        make().generate_samples(PROMPT, n, best_of=best_of)
