"""Options at the ends of their ranges: a token that can stand, and no warning of NumPy's on stderr."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pyml_core.sampling.penalties import penalize_repetition, subtract
from pyml_nlp.options import SamplingOptions
from pyml_nlp.sampling import History, sample

SIZE = 3000
RANDOM = np.random.RandomState(5)
ROWS = {
    "usual": (RANDOM.standard_normal(SIZE) * 5).astype(np.float32),
    "large": (RANDOM.standard_normal(SIZE) * 1e30).astype(np.float32),
    "most out of play": np.where(RANDOM.rand(SIZE) < 0.9, -np.inf, RANDOM.standard_normal(SIZE)).astype(np.float32),
    "zeros": np.zeros(SIZE, np.float32),
    "the largest": np.full(SIZE, np.finfo(np.float32).max, np.float32),
}
SEEN = History([1, 2, 3], [5] * 9 + [6])
TEMPERATURES = (0.0, 1e-7, 1e-3, 1.0, 1e38, 1.7e308)
CUTS: list[dict[str, Any]] = [
    {}, {"top_k": 3}, {"top_p": 5e-324}, {"top_p": 0.5}, {"min_p": 5e-324}, {"min_p": 1.0}, {"typical_p": 1e-300},
]  # fmt: skip
CHANGES: list[dict[str, Any]] = [
    *({"repetition_penalty": value} for value in (5e-324, 1e-300, 1e-39, 1e38, 1e39, 1.7e308)),
    *({name: value} for name in ("frequency_penalty", "presence_penalty")
      for value in (5e-324, 1e39, 1.7e308, -1e38, -1.7e308)),
    *({"logit_bias": {5: value, 6: 0.5}} for value in (1e39, 1.7e308, -1e38, -1.7e308, -np.inf)),
    {"logit_bias": {5: 1.7e308}, "frequency_penalty": -1.7e308, "repetition_penalty": 1e-300},
]  # fmt: skip


@pytest.fixture(autouse=True)
def strict() -> Iterator[None]:
    with warnings.catch_warnings(), np.errstate(over="raise", invalid="raise", divide="raise"):
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("row", ROWS)
def test_extremes(row: str) -> None:
    logits = ROWS[row]
    few = np.flatnonzero(np.isfinite(logits))[::7]
    for temperature, cut, change in itertools.product(TEMPERATURES, CUTS, CHANGES):
        rules = SamplingOptions(temperature, seed=1, **cut, **change)
        chosen = sample(logits, rules, 0, 9, SEEN)
        assert np.isfinite(logits[chosen])
        assert sample(logits[few], rules, 0, 9, SEEN, ids=few) in few


def test_what_a_large_value_means() -> None:
    """A bias or penalty beyond float32 takes a token out of play, or puts it before all others."""
    logits = np.array([0.0, 1.0, 2.0, 3.0], np.float32)
    assert sample(logits, SamplingOptions(0.0, logit_bias={3: -1e300}), 0, 0) == 2
    assert sample(logits, SamplingOptions(0.0, logit_bias={1: 1e300}), 0, 0) == 1
    assert sample(logits, SamplingOptions(1.0, seed=0, logit_bias={1: 1e300}), 0, 0) == 1
    assert sample(logits, SamplingOptions(0.0, frequency_penalty=1e308), 0, 0, History([], [3, 3, 3])) == 2
    assert sample(logits, SamplingOptions(0.0, presence_penalty=-1e308), 0, 0, History([], [0])) == 0
    assert sample(logits, SamplingOptions(0.0, repetition_penalty=1e300), 0, 0, History([3], [])) == 2
    assert sample(logits, SamplingOptions(0.0, repetition_penalty=1e-300), 0, 0, History([1], [])) == 1


def test_what_a_usual_value_means_has_not_changed() -> None:
    """Bit-identical to the plain formulas in float32."""
    logits, seen = ROWS["usual"], np.arange(100)
    values = logits[:100]
    for penalty in (0.7, 1.1, 1.3):
        expected = np.where(values > 0, values / np.float32(penalty), values * np.float32(penalty))
        assert np.array_equal(penalize_repetition(logits, seen, penalty)[:100], expected)
        amounts = np.full(100, penalty)
        assert np.array_equal(subtract(logits, seen, amounts)[:100], (values - amounts).astype(np.float32))


def test_a_top_k_beyond_every_vocabulary_keeps_all_tokens() -> None:
    logits = np.array([0.1, 2.0, -1.0], np.float32)
    huge = SamplingOptions(temperature=1.0, top_k=10**500, seed=1)
    free = SamplingOptions(temperature=1.0, seed=1)
    assert [sample(logits, huge, 0, i) for i in range(50)] == [sample(logits, free, 0, i) for i in range(50)]
