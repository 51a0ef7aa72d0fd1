"""Texts for a seed are those of the rules as they were: a frozen copy in float64 chooses the same tokens."""

from __future__ import annotations

from typing import Any

import frozen_rules
import numpy as np
import pytest
from sampling_cases import random_logits

from pyml_core.sampling import History, Sampler, SamplingRules

DRAWS = 10_000
SIZE = 500
RULES: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 0.8},
    "hot": {"temperature": 1.9},
    "top_k": {"temperature": 0.9, "top_k": 40},
    "top_p": {"temperature": 0.8, "top_p": 0.95},
    "top_k, top_p": {"temperature": 1.0, "top_k": 64, "top_p": 0.9},
    "top_p, min_p": {"temperature": 1.2, "top_p": 0.95, "min_p": 0.05},
    "min_p": {"temperature": 1.5, "min_p": 0.02},
    "typical_p": {"temperature": 1.1, "typical_p": 0.9},
    "typical_p, top_k": {"typical_p": 0.8, "top_k": 20},
    "top_p, temperature": {"top_p": 0.7, "temperature": 1.8},
    "penalties": {"repetition_penalty": 1.2, "frequency_penalty": 0.2, "presence_penalty": 0.1, "temperature": 0.8},
    "bias, top_p": {"logit_bias": ((3, 4.0), (9, -np.inf)), "temperature": 0.8, "top_p": 0.9},
}
SEEN = list(range(0, SIZE, 5)), list(range(0, SIZE, 11)) * 2


def rows() -> list[np.ndarray]:
    """As of models: peaked, broad, of few values, nearly flat; and with tokens that are excluded."""
    random = np.random.RandomState(7)
    peaked = (random.standard_normal(SIZE) * 2.5 - 8).astype(np.float32)
    peaked[random.randint(0, SIZE, 20)] = random.uniform(2, 12, 20)
    excluded = random_logits(5, SIZE, 3.0)
    excluded[::2] = -np.inf
    return [
        peaked, random_logits(1, SIZE, 3.5), random_logits(2, SIZE, 5.0), random_logits(3, SIZE, 2.0, ties=True),
        random_logits(4, SIZE, 0.01), excluded, random_logits(6, SIZE, 1.0) * np.float32(30),
    ]  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_tokens_are_those_of_the_rules_as_they_were(name: str) -> None:
    values = RULES[name]
    rules, history = SamplingRules(tuple(values), seed=11, **values), History(*SEEN)
    sampler, kinds = Sampler(rules, 2, SIZE, *SEEN), rows()
    tokens = set()
    for position in range(DRAWS):
        logits = kinds[position % len(kinds)]
        token = sampler.choose(logits, position).token
        assert token == frozen_rules.sample(logits, rules, 2, position, history), position
        tokens.add(token)
    assert len(tokens) > 20
