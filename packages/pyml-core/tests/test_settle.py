"""Tokens chosen from a screened head: the token of the full head's logits, whatever the rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from core_cases import F32Array, normal
from test_screen import blocks_of, head, q8

from pyml_core import Choice, Program, PymlError, Sampler, Slice
from pyml_core.sampling import History, sample
from pyml_core.sampling.rules import RULES, SamplingRules
from pyml_core.screen import MAX_STATES
from pyml_core.tensor import Tensor

PROMPT, GENERATED = (3, 5, 5, 1999, 40), (7, 7, 7, 5, 1024)


def rules_of(seed: int = 1, **values: Any) -> SamplingRules:
    """Rules in the standard order: those that are given."""
    return replace(SamplingRules(tuple(name for name in RULES if name in values), seed=seed), **values)


def choose(
    weight: Tensor, x: F32Array, rules: list[SamplingRules], threads: int = 2, start: int = 0
) -> list[tuple[int, tuple[int, ...]]]:
    """The token of every state, and the rows that are computed for it in each round if it runs alone.

    Raises the error of a state that has no token.
    """
    program, _ = head(weight, x, threads=threads)
    together, _ = run(program, rules, range(len(rules)), start)
    found: list[tuple[int, tuple[int, ...]]] = []
    for state, token in enumerate(together):
        (alone,), rows = run(program, rules, [state], start)
        assert alone == token
        found.append((token, rows or (weight.shape[0], 0, 0)))
    return found


def run(
    program: Program, rules: list[SamplingRules], states: Sequence[int], start: int
) -> tuple[list[int], tuple[int, int, int] | None]:
    """One run of some states, whose rules are those of the same index.

    Returns the tokens, and the rows that were computed in each round for all states; None: the head was not screened.
    """
    assert program.result is not None
    size = program.result.width
    choices = [Choice(Sampler(rules[state], 4, size, PROMPT, GENERATED), start + state) for state in states]
    slices = [Slice((), 0, [state], [0]) for state in states]
    found, rescored, _ = program._compiled().run_sampled(slices, choices, 1, (), screen=True)
    for (token,), _ in found:
        if token.error is not None:
            raise token.error
    return [token.token for (token,), _ in found], rescored[0]


def assert_settles(weight: Tensor, x: F32Array, rules: list[SamplingRules], start: int = 0) -> list[tuple[int, ...]]:
    """That the tokens are those of the reference with all logits; the rows that were computed in each round."""
    full = head(weight, x, None)[0].run(head(weight, x, None)[1])
    found = choose(weight, x, rules, start=start)
    for state, (row, rule, (token, _)) in enumerate(zip(full, rules, found, strict=True)):
        expected = sample(row, rule, 4, start + state, History(PROMPT, GENERATED))
        assert token == expected, (state, rule)
    return [rows for _, rows in found]


def peaked(rng: np.random.Generator, rows: int, width: int, states: int, strength: float) -> tuple[Tensor, F32Array]:
    """A head and states with a few likely tokens each, as texts have them."""
    weight = normal(rng, rows, width)
    x = normal(rng, states, width) * np.float32(0.3)
    for state in x:
        some = rng.integers(0, rows, 12)
        state += np.float32(strength) * (weight[some] * (rng.random((12, 1)) ** 2).astype(np.float32)).sum(axis=0)
    return q8(weight), x


def graded(rng: np.random.Generator, rows: int, states: int, exponent: float) -> tuple[Tensor, F32Array]:
    """A head and states whose probabilities fall about as the rank to the power of ``-exponent``, as in texts."""
    weight = normal(rng, rows, 96) * np.float32(0.3)
    weight[:, :32] -= (exponent / 32 * np.log(1 + rng.permutation(rows)[:, None])).astype(np.float32)
    x = normal(rng, states, 96) * np.float32(0.5)
    x[:, :32] = 1
    return q8(weight), x


TRUNCATIONS: list[dict[str, Any]] = [
    {"top_p": 0.95}, {"top_p": 0.5}, {"top_p": 0.999}, {"min_p": 0.05}, {"min_p": 0.001}, {"top_p": 0.9, "min_p": 0.1},
    {"top_k": 5}, {"top_k": 64, "top_p": 0.95}, {"top_k": 20, "min_p": 0.02, "typical_p": 0.7},
    {"min_p": 0.02, "typical_p": 0.8}, {},
]  # fmt: skip
TRUNCATED: list[dict[str, Any]] = [
    {}, {"top_p": 0.9}, {"top_p": 0.5}, {"min_p": 0.1}, {"top_p": 0.8, "min_p": 0.02},
]  # fmt: skip
ADJUSTMENTS: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.3},
    {"logit_bias": ((5, 8.0), (6, -np.inf), (11, -3.0), (2000, 2.0)), "presence_penalty": 0.5},
    {"repetition_penalty": 0.7, "frequency_penalty": -0.6},
]


@pytest.mark.parametrize("adjustments", ADJUSTMENTS)
def test_the_token_of_the_full_head(adjustments: dict[str, Any], level: str, rng: np.random.Generator) -> None:
    """All rules in the standard order, several texts a run, each with its own."""
    for strength in (0.02, 0.06, 0.2):
        weight, x = peaked(rng, 3001, 160, MAX_STATES, strength)
        cases = [
            rules_of(seed, temperature=temperature, **adjustments, **truncation)
            for seed, (truncation, temperature) in enumerate(product(TRUNCATIONS, (0.7, 1.0, 1.6)))
        ]
        for i in range(0, len(cases), MAX_STATES):
            part = cases[i : i + MAX_STATES]
            assert_settles(weight, x[: len(part)], part, start=i)


def test_a_nucleus_that_is_not_computed_whole(rng: np.random.Generator) -> None:
    """Heads whose rest has weight, so that tokens are settled in each of the three rounds."""
    rounds: set[int] = set()
    for exponent in (1.0, 2.0, 2.3):
        weight, x = graded(rng, 24000, MAX_STATES, exponent)
        for p, temperature, min_p in product((0.3, 0.6, 0.8, 0.9), (1.0, 1.3), (0.0, 0.01)):
            given = {"temperature": temperature, "top_p": p} | ({"min_p": min_p} if min_p else {})
            rows = assert_settles(weight, x, [rules_of(seed, **given) for seed in range(MAX_STATES)])
            assert all(sum(counts) == 24000 for counts in rows if counts[2])
            rounds |= {max(i for i in range(3) if counts[i]) for counts in rows}
    assert rounds == {0, 1, 2}


def test_draws_from_the_k_largest(level: str, rng: np.random.Generator) -> None:
    """Winners of all ranks, in the set and out of it, with what may come after top-k; some need a second round."""
    rounds: set[int] = set()
    for exponent, k in product((0.5, 1.0, 2.0), (8, 40, 256)):
        weight, x = graded(rng, 6000, MAX_STATES, exponent)
        for given in TRUNCATED:
            for temperature, adjusted in zip((0.7, 1.5, 1.0), ADJUSTMENTS, strict=False):
                rules = rules_of(temperature=temperature, top_k=k, **adjusted, **given)
                cases = [replace(rules, seed=seed) for seed in range(MAX_STATES)]
                rows = assert_settles(weight, x, cases, start=k)
                rounds |= {max(i for i in range(3) if counts[i]) for counts in rows}
    assert {0, 1} <= rounds


def test_draws_from_the_k_largest_with_ties(rng: np.random.Generator) -> None:
    """Rows that are the same: what is tied with the k-th largest is kept, too, and counts in the total of top-p."""
    weight, x = graded(rng, 3000, MAX_STATES, 0.7)
    codes = np.repeat(weight.to_f32()[:300], 10, axis=0)
    same = q8(codes[rng.permutation(3000)])
    for k, top_p in product((8, 33, 75), (1.0, 0.95, 0.3)):
        given: dict[str, Any] = {"top_p": top_p} if top_p < 1 else {}
        for start in range(0, 64, MAX_STATES):
            rules = [rules_of(start + i, temperature=1.2, top_k=k, **given) for i in range(MAX_STATES)]
            assert_settles(same, x, rules, start)


def test_top_k_before_the_temperature(rng: np.random.Generator) -> None:
    weight, x = peaked(rng, 20000, 128, MAX_STATES, 1.0)
    for order in (
        ("top_k", "temperature", "top_p"),
        ("top_k", "temperature"),
        ("temperature", "top_k", "min_p", "top_p"),
    ):
        rules = SamplingRules(order, temperature=1.3, top_k=40, top_p=0.9, min_p=0.05)
        rows = assert_settles(weight, x, [replace(rules, seed=seed) for seed in range(MAX_STATES)])
        assert all(sum(counts) < 10000 for counts in rows)


def test_a_flat_distribution(rng: np.random.Generator) -> None:
    """The rows that are computed are a small sample: their weights alone would misjudge the nucleus."""
    weight, x = graded(rng, 140_000, MAX_STATES, 0.2)
    rows = assert_settles(weight, x, [rules_of(seed, temperature=1.0, top_p=0.7) for seed in range(MAX_STATES)])
    assert sum(counts[2] > 0 for counts in rows) > MAX_STATES // 4
    rows = assert_settles(weight, x, [rules_of(seed, temperature=1.0) for seed in range(MAX_STATES)])
    assert all(counts[0] < 40_000 and not any(counts[1:]) for counts in rows)  # the draw alone is settled at once


def test_min_p_looks_at_the_largest_logit(rng: np.random.Generator) -> None:
    """Also where the first panels do not have it, because bounds are wide or a bias raises another token."""
    weight, x = graded(rng, 24000, MAX_STATES, 1.0)
    x[:, 32:] *= 3
    logits = head(weight, x, None)[0].run(head(weight, x, None)[1])
    near = int(np.argsort(-logits[0])[40])
    for p, temperature in product((0.02, 0.1, 0.5), (1.0, 2.0)):
        for bias in (None, ((near, float(logits[0].max() - logits[0, near]) + 1.5),)):
            given = {"temperature": temperature, "min_p": p} | ({"logit_bias": bias} if bias else {})
            for start in range(0, 64, MAX_STATES):
                states = np.repeat(x[:1], MAX_STATES, axis=0) if bias else x
                assert_settles(weight, states, [rules_of(start + i, **given) for i in range(MAX_STATES)], start)


def test_bounds_of_the_noise(level: str, rng: np.random.Generator) -> None:
    """A head whose coarse logits are exact, so that nothing but the noise is left to be bounded."""
    weight = blocks_of(rng.integers(-8, 8, (6000, 64)) * 16 + 8)
    x = normal(rng, MAX_STATES, 64) * np.float32(0.05)
    full = head(weight, x, None)[0].run(head(weight, x, None)[1])
    program, _ = head(weight, x, z_score=1e-4)
    for temperature in (0.2, 1.0, 5.0):
        for start in range(0, 128, MAX_STATES):
            rule = rules_of(start, temperature=temperature)
            for i in range(MAX_STATES):
                (token,), rows = run(program, [rule] * MAX_STATES, [i], start)
                assert token == sample(full[i], rule, 4, start + i)
                assert rows is not None
                assert rows[0] < 500


def test_a_clear_choice_costs_few_rows(rng: np.random.Generator) -> None:
    weight, x = peaked(rng, 40000, 128, 8, 1.0)
    for given in ({}, {"top_p": 0.9}, {"min_p": 0.05}, {"top_p": 0.9, "min_p": 0.05}, {"top_k": 3}):
        for first, *later in assert_settles(weight, x, [rules_of(seed, temperature=0.8, **given) for seed in range(8)]):
            assert first < 4000
            assert later == [0, 0]


def test_rules_that_need_all_logits(rng: np.random.Generator) -> None:
    """Their tokens are right all the same: the whole head is computed."""
    weight, x = peaked(rng, 3001, 64, 8, 0.1)
    tempered = SamplingRules(("temperature", "repetition_penalty"), temperature=0.5, repetition_penalty=1.5)
    nucleus = SamplingRules(("top_p", "top_k"), top_p=0.9, top_k=20)
    cases = [
        rules_of(typical_p=0.9), rules_of(top_p=0.9, typical_p=0.9), rules_of(temperature=1e-4),
        rules_of(temperature=1e6), rules_of(top_k=257), tempered, nucleus,
        SamplingRules(("top_p", "temperature"), top_p=0.7, temperature=2.0),
    ]  # fmt: skip
    assert assert_settles(weight, x, cases) == [(3001, 0, 0)] * 8


def test_greedy_texts(rng: np.random.Generator) -> None:
    weight, x = peaked(rng, 20000, 64, 4, 0.3)
    cases = [
        rules_of(greedy=True), rules_of(greedy=True, repetition_penalty=1.2),
        rules_of(greedy=True, presence_penalty=-30.0), rules_of(greedy=True, logit_bias=((4, 500.0),)),
    ]  # fmt: skip
    rows = assert_settles(weight, x, cases)
    assert all(sum(counts) < 20000 for counts in rows)
    assert choose(weight, x, cases)[3][0] == 4


def test_choices_depend_on_the_state_alone(rng: np.random.Generator) -> None:
    weight, x = peaked(rng, 20000, 64, 5, 0.1)
    cases = [rules_of(seed, temperature=1.0, top_p=0.95) for seed in range(5)]
    first = choose(weight, x, cases)
    assert all(choose(weight, x, cases, threads) == first for threads in (1, 3, 8))
    alone = [choose(weight, x[i : i + 1], cases[i : i + 1], start=i)[0] for i in range(5)]
    assert alone == first


def test_logits_that_are_not_finite(rng: np.random.Generator) -> None:
    weight, x = peaked(rng, 3001, 64, 2, 0.1)
    x[1, 3] = np.nan
    for rules in (rules_of(), rules_of(top_p=0.9), rules_of(greedy=True), rules_of(top_k=3)):
        with pytest.raises(PymlError, match="the model's logits are not finite: logit nan for token 0 at position 1"):
            choose(weight, x, [rules, rules])


def test_a_bias_that_leaves_no_token(rng: np.random.Generator) -> None:
    weight, x = peaked(rng, 40, 64, 1, 0.1)
    bias = tuple((token, -np.inf) for token in range(40))
    for other in ({}, {"top_p": 0.9}, {"greedy": True}):
        rules = rules_of(logit_bias=bias, **other)
        with pytest.raises(PymlError, match="logit_bias leaves no token that could stand at position 0"):
            choose(weight, x, [rules])
    most = tuple((token, -np.inf) for token in range(39))
    assert choose(weight, x, [rules_of(logit_bias=most, top_p=0.9)])[0][0] == 39
