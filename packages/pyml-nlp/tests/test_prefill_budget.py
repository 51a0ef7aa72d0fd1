"""How many tokens of prompts a run has next to running texts: from the measured times of runs."""

from __future__ import annotations

import random

from pyml_nlp.generation.prefill_budget import FEWEST, MOST, UNKNOWN, PrefillCosts
from pyml_nlp.generation.speculation import Costs


def known(ms: float = 8.0) -> PrefillCosts:
    """Costs of a model whose run of one token takes this long."""
    costs = Costs()
    costs.learn(1, ms)
    return PrefillCosts(costs)


def test_nothing_is_known() -> None:
    costs = PrefillCosts(Costs())
    assert costs.tokens(0.05, 0, 3) == UNKNOWN
    assert costs.token_ms(0) is None
    costs.learn(0, 100, 0, 40.0)  # without a decode step to compare with
    assert costs.token_ms(0) == 0.4


def test_only_runs_without_prompts_are_known() -> None:
    """The first piece is as long as a run of so many tokens would be expected to take."""
    assert FEWEST < known(8.0).tokens(0.05, 0, 1) < UNKNOWN
    assert known(200.0).tokens(0.05, 0, 1) == FEWEST


def test_the_gap_is_filled() -> None:
    """A run of one token takes 8 ms, each token of a prompt 0.25 ms at the beginning and 1 ms at 4096."""
    costs = known()
    costs.learn(100, 128, 1, 8 + 0.25 * 128)
    costs.learn(5000, 128, 1, 8 + 128)
    assert costs.tokens(0.05, 0, 1) == (50 - 8) / 0.25
    assert costs.tokens(0.05, 5000, 1) == 42
    assert costs.tokens(0.05, 10**6, 1) == 42  # as at the deepest that is known
    more = costs.tokens(0.05, 0, 5)
    assert FEWEST < more < 168  # the running texts take more of it


def test_bounds() -> None:
    costs = known()
    costs.learn(0, 100, 1, 8 + 50)
    assert costs.tokens(0.001, 0, 8) == FEWEST
    assert known(200.0).tokens(0.05, 0, 1) == FEWEST
    assert costs.tokens(10.0, 0, 1) == MOST


def test_prompts_get_a_share_of_slow_runs() -> None:
    """If a token of the running texts takes longer than the gap, prompts have half of that time, not the fewest."""
    costs = known(100.0)
    costs.learn(0, 128, 1, 100 + 128)
    assert costs.tokens(0.05, 0, 1) == 50
    assert costs.tokens(0.12, 0, 1) == 50
    assert costs.tokens(0.20, 0, 1) == 100


def test_it_follows_what_it_measures() -> None:
    rng = random.Random(2)
    costs = known()
    for _ in range(100):
        costs.learn(0, 100, 1, (8 + 30) * rng.uniform(0.8, 1.2))
    assert 0.25 < (costs.token_ms(0) or 0) < 0.36
    for _ in range(30):
        costs.learn(0, 100, 1, 8 + 90)
    assert 0.85 < (costs.token_ms(0) or 0) < 0.95


def test_one_disturbed_run_changes_little() -> None:
    costs = known()
    for _ in range(10):
        costs.learn(0, 100, 1, 8 + 30)
    costs.learn(0, 100, 1, 5000)
    assert (costs.token_ms(0) or 0) <= 0.3 * 1.31
    costs.learn(0, 3, 1, 500)  # hardly any prompt
    assert (costs.token_ms(0) or 0) <= 0.3 * 1.31
