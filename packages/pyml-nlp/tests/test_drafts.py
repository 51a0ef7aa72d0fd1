"""Drafts from a text's own history, and the number of drafted tokens that are run."""

from __future__ import annotations

import random

from pyml_nlp.generation.speculation import MAX_DRAFT, Costs, PromptLookup, plan


def looked_up(ids: list[int], count: int = 8) -> list[int]:
    drafter = PromptLookup(ids)
    return drafter.draft(min(count, len(drafter.chances(count))))


# ---- prompt look-up


def test_what_followed_the_last_tokens_before() -> None:
    assert looked_up([1, 2, 3, 4, 5, 6, 9, 1, 2, 3], 3) == [4, 5, 6]
    assert looked_up([1, 2, 3, 4, 5, 9, 2, 3], 3) == []  # two tokens are no match
    assert looked_up([1, 2, 3], 3) == []
    assert looked_up([], 3) == []


def test_the_last_occurrence_counts() -> None:
    assert looked_up([1, 2, 3, 4, 0, 1, 2, 3, 5, 0, 1, 2, 3], 2) == [5, 0]


def test_a_loop_goes_on() -> None:
    assert looked_up([7, 8, 9, 7, 8, 9], 7) == [7, 8, 9, 7, 8, 9, 7]
    assert looked_up([5, 5, 5, 5], 4) == [5, 5, 5, 5]


def test_a_copy_is_followed_and_left() -> None:
    drafter = PromptLookup([1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3])
    first = drafter.chances(4)
    for token in (4, 5):
        drafter.append(token)
    assert drafter.draft(2) == [6, 7]
    assert drafter.chances(4)[0] > first[0]  # the longer the match, the surer
    drafter.append(99)
    assert drafter.chances(4) == []


def test_chances_follow_what_was_seen() -> None:
    drafter = PromptLookup([])
    rng = random.Random(1)
    before = PromptLookup([1, 2, 3, 4, 1, 2, 3]).chances(1)[0]
    for _ in range(200):  # the token after 1 2 3 differs each time
        for token in (1, 2, 3, rng.randrange(10, 10_000)):
            drafter.append(token)
    for token in (1, 2, 3):
        drafter.append(token)
    assert drafter.chances(1)[0] < 0.1 < before


# ---- how many


class Sure:
    """Drafts whose chances are given."""

    ms_per_token = 0.0

    def __init__(self, *chances: float) -> None:
        self.given = list(chances)

    def chances(self, limit: int) -> list[float]:
        return self.given[:limit]

    def draft(self, count: int) -> list[int]:
        return [0] * count

    def append(self, token: int) -> None:
        pass


def test_plans() -> None:
    costs = Costs()
    assert plan([(None, 5)], costs) == [0]
    assert plan([(Sure(), 5)], costs) == [0]
    assert plan([(Sure(0.01, 0.005), 5)], costs) == [0]
    assert plan([(Sure(*[0.99] * 50), 5)], costs) == [5]  # as many as the text can use
    assert plan([(Sure(*[0.99] * 50), 99)], costs) == [MAX_DRAFT]
    assert plan([(Sure(0.9, 0.8, 0.02), 9)], costs) == [2]
    assert plan([(Sure(0.9, 0.8), 9), (Sure(0.01), 9), (Sure(0.7), 9)], costs) == [2, 0, 1]


def test_dear_runs_are_not_taken() -> None:
    costs = Costs()
    assert plan([(Sure(0.5), 5)], costs) == [1]
    for _ in range(50):
        costs.learn(1, 10.0)
        costs.learn(2, 19.0)
    assert costs.of(2) > 1.7
    assert plan([(Sure(0.5), 5)], costs) == [0]
    for _ in range(2000):  # long since
        costs.learn(1, 10.0)
    assert plan([(Sure(0.5), 5)], costs) == [1]


def test_drafting_costs_too() -> None:
    costs = Costs()
    costs.learn(1, 10.0)
    cheap, dear = Sure(0.8, 0.6), Sure(0.8, 0.6)
    dear.ms_per_token = 8.0
    assert plan([(cheap, 9)], costs) == [2]
    assert plan([(dear, 9)], costs) == [0]
