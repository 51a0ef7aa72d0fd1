"""A context that is full: an error or an end by default, or a context shift."""

from __future__ import annotations

from typing import Any

import pytest
from fake_model import calls, make

from pyml_core.errors import PymlError
from pyml_nlp.generation.context_shift import retained
from pyml_nn import ContextOverflowError


def counting(ids: list[int]) -> int:
    """The next letter, of which each tells its position in the text."""
    return 97 + (ids[-1] - 96) % 26


def test_what_stays() -> None:
    assert retained(range(10), 2, 10) == [0, 1, 6, 7, 8, 9]
    assert retained(range(10), 0, 10) == [5, 6, 7, 8, 9]
    assert retained(range(100), 4, 10) == [0, 1, 2, 3, 97, 98, 99]
    assert retained(range(10), 5, 10) == [0, 1, 2, 3, 4, 8, 9]


def reference(lm: Any, prompt: list[int], count: int, keep: int, limit: int, **rules: Any) -> list[int]:
    """Token by token, each from a fresh cache of the context's tokens."""
    held, found = list(prompt), []
    if len(held) > limit:
        held = retained(held, keep, limit)
    for _ in range(count):
        if len(held) > limit:
            held = retained(held, keep, limit)
        logits = lm.logits(held, [-1])[0]
        token = int(logits.argmax())
        found.append(token)
        held.append(token)
    return found


@pytest.mark.parametrize("speculate", [False, True])
@pytest.mark.parametrize("keep", [0, 1, 5])
@pytest.mark.parametrize("prompt", ["ab", "abcdefghijklmnop", "abcdefghijklmnopqrstuvwxyzabcdefg"])
def test_shifts_as_if_computed_afresh(prompt: str, keep: int, speculate: bool) -> None:
    words = lambda ids: 97 + (sum(ids) + len(ids)) % 9  # noqa: E731
    lm = make(words, context=16)
    generation = lm.generate(prompt, max_tokens=60, overflow="shift", n_keep=keep, speculate=speculate)
    steps = list(generation)
    assert generation.tokens == reference(make(words, context=16), lm.ids(prompt), 60, keep, 16)
    assert generation.finish_reason == "length"
    assert [step.position for step in steps] == list(range(len(prompt), len(prompt) + 60))
    assert generation.completion.cache.length <= 16


def test_runs_of_a_shifted_context() -> None:
    lm = make(counting, context=8)
    list(lm.generate("abcdef", max_tokens=8, overflow="shift", n_keep=2, speculate=False))
    fed = [ids for call in calls(lm) for ids, _ in call]
    # "abcdefgh" is full when "i" is to be fed: "ab" stays, and of the rest the last three run again.
    assert [bytes(ids) for ids in fed] == [b"abcdef", b"g", b"h", b"ghi", b"j", b"k", b"l", b"klm"]


def test_the_default_keeps_the_beginning_of_sequence_token() -> None:
    lm = make(counting, context=8)
    lm.tokenizer.bos_id = 97
    assert lm.generate("abc", max_tokens=4, overflow="shift").completion.n_keep == 1
    assert lm.generate("bcd", max_tokens=4, overflow="shift").completion.n_keep == 0


def test_errors() -> None:
    lm = make(counting, context=8)
    with pytest.raises(ContextOverflowError, match="max=8, actual=9"):
        lm.generate("a" * 9)
    with pytest.raises(PymlError, match="n_keep: expected at most 4, half of the context, got 5"):
        lm.generate("a", overflow="shift", n_keep=5)
    with pytest.raises(PymlError, match="overflow must be one of error, shift, got 'wrap'"):
        lm.generate("a", overflow="wrap")  # type: ignore[arg-type]
    with pytest.raises(PymlError, match="n_keep must be >= 0, got -1"):
        lm.generate("a", n_keep=-1)
    assert calls(lm) == []


def test_a_cache_of_ones_own_is_shifted_too() -> None:
    lm = make(counting, context=8)
    cache = lm.new_cache()
    list(lm.generate("abc", max_tokens=3, cache=cache))
    generation = lm.generate("xyzabc", max_tokens=4, cache=cache, overflow="shift", n_keep=1)
    list(generation)
    assert generation.tokens == list(b"defg")
    assert cache.length <= 8
    assert cache.ids[0] == 97
