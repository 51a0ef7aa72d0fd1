"""Logits that a function of the user's changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fake_model import EOS, GREEDY, VOCAB, make

from pyml_core.errors import PymlError
from pyml_nlp.generation.request import Request
from pyml_nlp.options import GenerationOptions

F32Array = npt.NDArray[np.float32]


def only_even(ids: list[int], logits: F32Array) -> F32Array:
    logits[1::2] = -np.inf
    return logits


def test_ids_and_logits() -> None:
    seen: list[list[int]] = []

    def processor(ids: list[int], logits: F32Array) -> F32Array:
        assert f"{logits.dtype} {logits.shape}" == f"float32 ({VOCAB},)"
        seen.append(list(ids))
        ids.clear()  # its own
        return only_even(ids, logits)

    lm = make(context=300)
    cache = lm.new_cache()
    list(lm.generate("xy", max_tokens=2, cache=cache))
    generation = lm.generate("ab", max_tokens=30, cache=cache, logits_processor=processor)
    list(generation)
    assert all(token % 2 == 0 for token in generation.tokens)
    start = [120, 121, 122, 97, 98]
    assert seen == [[*start, *generation.tokens[:count]] for count in range(30)]


@pytest.mark.parametrize("rules", [{}, {"temperature": 0.9, "seed": 2}, {"repetition_penalty": 1.3, "logprobs": 2}])
def test_one_that_changes_nothing(rules: dict[str, Any]) -> None:
    plain, processed = (
        list(make(context=300).generate("ab", max_tokens=50, logits_processor=processor, **rules))
        for processor in (None, lambda ids, logits: logits.astype(np.float64))
    )
    for one, other in zip(plain, processed, strict=True):
        assert (one.token, one.text, one.logprob, one.top_logprobs) == (
            other.token, other.text, other.logprob, other.top_logprobs,
        )  # fmt: skip


def test_log_probabilities_are_those_after_it() -> None:
    steps = list(make().generate("ab", max_tokens=4, logprobs=3, logits_processor=only_even))
    assert all(token % 2 == 0 for step in steps for token, _ in step.top_logprobs or ())


def test_a_batch() -> None:
    options = GenerationOptions(20, GREEDY)
    requests = [Request([97, 98], options), Request([97, 98], options.replace(logits_processor=only_even))]
    plain, even = make(context=300).generate_batch(requests)
    assert plain.tokens == [step.token for step in make(context=300).generate("ab", max_tokens=20)]
    assert all(token % 2 == 0 for token in even.tokens)


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (lambda ids, logits: 1 // 0, "logits_processor: ZeroDivisionError: integer division or modulo by zero"),
        (lambda ids, logits: None, "logits_processor: expected an array of 300 numbers, got None"),
        (lambda ids, logits: logits[1:], r"logits_processor: expected an array of 300 numbers, got float32 \(299,\)"),
        (lambda ids, logits: logits > 0, r"logits_processor: expected an array of 300 numbers, got bool \(300,\)"),
        (lambda ids, logits: logits * np.nan, "logits_processor: expected logits below infinity, found nan"),
        (lambda ids, logits: logits + np.inf, "logits_processor: expected logits below infinity, found inf"),
        (lambda ids, logits: logits - np.inf, "logits_processor: no token is left"),
        ("f", "logits_processor must be a function of token ids and logits, got 'f'"),
    ],
)
def test_errors_end_their_text(processor: Any, message: str) -> None:
    lm = make(context=300)
    with pytest.raises(PymlError, match=f"^{message}$"):
        list(lm.generate("ab", max_tokens=5, logits_processor=processor))
    if callable(processor):
        options = GenerationOptions(20, GREEDY)
        requests = [Request([97, 98], options.replace(logits_processor=processor)), Request([97, 98], options)]
        batch = lm.generate_batch(requests)
        with pytest.raises(PymlError, match=message):
            next(batch)
        assert len(next(batch).tokens) == 20


def test_the_end_of_a_text() -> None:
    def ends(ids: list[int], logits: F32Array) -> F32Array:
        if len(ids) == 6:
            logits[EOS] = 100.0
        return logits

    generation = make().generate("ab", max_tokens=50, logits_processor=ends)
    assert len(list(generation)) == 5
    assert generation.finish_reason == "stop"
