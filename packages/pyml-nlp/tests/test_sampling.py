"""Sampling rules against their formulas, written down directly in NumPy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_cases import logit_arrays, random_logits, softmax

from pyml_core.errors import PymlError
from pyml_core.sampling import noise, penalties, truncation
from pyml_nlp.options import ORDER, SamplingOptions
from pyml_nlp.sampling import History, sample, top_logprobs

GOLDENS = Path(__file__).parent / "goldens"


# ---- greedy, penalty


def test_greedy_takes_the_first_largest() -> None:
    logits = np.array([1, 5, 5, 2], np.float32)
    assert sample(logits, SamplingOptions(0.0), 0, 0) == 1
    assert sample(logits, SamplingOptions(temperature=1e-8, top_k=1, seed=3), 0, 0) == 1


def test_penalty_applies_to_greedy_too() -> None:
    logits = np.array([3.0, 2.9, 1.0], np.float32)
    assert sample(logits, SamplingOptions(0.0, repetition_penalty=1.5), 0, 0, History([0])) == 1
    assert sample(logits, SamplingOptions(0.0, repetition_penalty=1.5), 0, 0, History()) == 0


# ---- truncations


def test_top_k_then_top_p() -> None:
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1])).astype(np.float32)
    rules = SamplingOptions(temperature=1.0, top_k=2, top_p=0.5, seed=0)  # of 0.4 and 0.3 the first has 0.57
    assert {sample(logits, rules, 0, position) for position in range(200)} == {0}


# ---- bias, frequency, presence


def test_logit_bias() -> None:
    logits = np.array([3.0, 2.0, 1.0], np.float32)
    assert sample(logits, SamplingOptions(0.0, logit_bias={2: 2.5}), 0, 0) == 2
    assert sample(logits, SamplingOptions(0.0, logit_bias={0: -np.inf}), 0, 0) == 1
    assert sample(logits[1:], SamplingOptions(0.0, logit_bias={0: 100.0, 2: 2.0}), 0, 0, ids=np.array([1, 2])) == 2
    rules = SamplingOptions(1.0, logit_bias={0: -np.inf, 1: -np.inf}, seed=0)
    assert {sample(logits, rules, 0, position) for position in range(50)} == {2}
    with pytest.raises(PymlError, match="logit_bias leaves no token that could stand at position 4"):
        sample(logits, SamplingOptions(0.0, logit_bias=dict.fromkeys(range(3), -np.inf)), 0, 4)


# ---- the order


@given(
    st.integers(0, 2**31),
    st.permutations(ORDER),
    st.sets(st.sampled_from(ORDER), min_size=1),
    st.sampled_from([0.0, 0.7, 1.6]),
)
@settings(deadline=None, max_examples=150)
def test_rules_in_any_order(seed: int, order: list[str], used: set[str], temperature: float) -> None:
    logits = random_logits(seed, 200, 2.0)
    history = History([3, 5, 5, 8], [5, 9, 9])
    values = {
        "top_k": 20, "top_p": 0.8, "min_p": 0.02, "typical_p": 0.9, "repetition_penalty": 1.4,
        "frequency_penalty": 0.3, "presence_penalty": -0.4, "logit_bias": {0: 1.5, 7: -3.0},
    }  # fmt: skip
    rules = SamplingOptions(temperature, seed=seed, order=order, **{k: v for k, v in values.items() if k in used})  # type: ignore[arg-type]
    expected = _plain(logits.astype(np.float64), rules, history)
    if temperature == 0.0:
        assert sample(logits, rules, 0, 1, history) == expected.argmax()
    else:
        scores = expected + noise.gumbel(noise.noise_key(seed, 0, 1), np.arange(logits.size))
        assert sample(logits, rules, 0, 1, history) == scores.argmax()
    allowed = np.arange(10, 190, 3)
    masked = np.full_like(logits, -np.inf)
    masked[allowed] = logits[allowed]
    assert sample(logits[allowed], rules, 0, 1, history, ids=allowed) == sample(masked, rules, 0, 1, history)


def _plain(logits: np.ndarray, rules: SamplingOptions, history: History) -> np.ndarray:
    """Logits after all rules, each in its most obvious form; excluded tokens at -inf."""
    for rule in rules.order or ():
        value = getattr(rules, rule)
        probabilities = softmax(logits)
        if value is None or (rules.greedy and rule in ("temperature", "top_k", "top_p", "min_p", "typical_p")):
            continue
        if rule == "temperature":
            logits = logits / value
        elif rule == "logit_bias":
            for token, bias in value.items():
                logits[token] += bias
        elif rule == "repetition_penalty":
            for token in history.seen:
                logits[token] = logits[token] / value if logits[token] > 0 else logits[token] * value
        elif rule in ("frequency_penalty", "presence_penalty"):
            for token, count in zip(history.seen, history.counts, strict=True):
                logits[token] -= value * (count if rule == "frequency_penalty" else min(count, 1))
        elif rule == "top_k":
            logits[logits < np.sort(logits)[-value]] = -np.inf
        elif rule == "min_p":
            logits[probabilities < value * probabilities.max()] = -np.inf
        else:
            with np.errstate(divide="ignore", invalid="ignore"):
                information = -np.log(probabilities)
                entropy = np.nansum(probabilities * information)
            distance = information if rule == "top_p" else np.abs(information - entropy)
            nearest = np.argsort(distance, kind="stable")
            sums = np.cumsum(probabilities[nearest])
            logits[nearest[np.searchsorted(sums, value) + 1 :]] = -np.inf
    return logits


def test_the_order_matters() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.2])).astype(np.float32)
    hot_last = SamplingOptions(100.0, top_p=0.7, seed=0, order=("top_p", "temperature"))
    hot_first = SamplingOptions(100.0, top_p=0.7, seed=0)
    assert {sample(logits, hot_last, 0, position) for position in range(200)} == {0, 1}
    assert {sample(logits, hot_first, 0, position) for position in range(200)} == {0, 1, 2}


def test_rules_that_do_nothing_are_left_out() -> None:
    neutral = SamplingOptions(1.0, None, 1.0, 1.0, 3, 0.0, 1.0, 0.0, 0.0, {})
    assert neutral.rules == ()
    assert SamplingOptions(0.0, 5, 0.5, min_p=0.1, presence_penalty=1.0).rules == ("presence_penalty",)
    assert SamplingOptions(0.5, 5, typical_p=0.5, order=("typical_p", "top_k", "temperature")).rules == (
        "typical_p", "top_k", "temperature",
    )  # fmt: skip


# ---- transformers


def test_equal_to_transformers() -> None:
    """The tokens that each of its processors keeps, and the logits after its penalties (see the file's maker)."""
    golden = json.loads((GOLDENS / "samplers.json").read_text())
    logits = np.array(golden["logits"], np.float32)
    history = History(golden["seen"])
    got = penalties.penalize_repetition(logits, history.seen, 1.3)
    assert got.tolist() == golden["repetition_penalty 1.3"]
    rules: dict[str, Callable[[np.ndarray, float, float], np.ndarray]] = {
        "top_k": lambda values, k, _: truncation.top_k_ids(values, int(k)),
        "top_p": truncation.top_p_ids,
        "min_p": truncation.min_p_ids,
        "typical_p": truncation.typical_ids,
    }
    checked = 0
    for key, kept in golden["kept"].items():
        name, value, temperature = key.split()
        assert rules[name](logits, float(value), float(temperature)).tolist() == kept, key
        checked += 1
    assert checked == 36
    for names, kept in golden["chains"].items():
        values, ids, temperature = logits, np.arange(logits.size), 1.0
        for part in names.split(", "):
            name, value = part.split()
            if name == "temperature":
                temperature = float(value)
                continue
            index = rules[name](values, float(value), temperature)
            values, ids = values[index], ids[index]
        assert ids.tolist() == kept, names


# ---- the draw


@given(logit_arrays, st.sampled_from([0.05, 0.8, 1.0, 10.0]), st.integers(0, 2**64 - 1))
@settings(deadline=None, max_examples=40)
def test_pruning_changes_nothing(logits: np.ndarray, temperature: float, seed: int) -> None:
    key = noise.noise_key(seed, 0, 0)
    everything = np.arange(logits.size)
    scores = logits.astype(np.float64) / temperature + noise.gumbel(key, everything)
    assert sample(logits, SamplingOptions(temperature, seed=seed), 0, 0) == scores.argmax()
    assert noise.draw(logits, temperature, key, everything) == scores.argmax()


@pytest.mark.parametrize(
    "rules",
    [
        SamplingOptions(1.0, seed=5),
        SamplingOptions(0.5, seed=5),
        SamplingOptions(2.0, top_k=4, seed=5),
        SamplingOptions(1.0, top_p=0.7, seed=5),
        SamplingOptions(0.8, top_k=6, top_p=0.8, repetition_penalty=1.3, seed=5),
    ],
)
def test_frequencies_follow_the_distribution(rules: SamplingOptions) -> None:
    logits = random_logits(3, 10, 1.0)
    seen = [2, 4]
    expected = softmax(_filtered(logits, rules, seen), rules.temperature)
    draws = 4000
    counts = np.bincount([sample(logits, rules, 0, position, History(seen)) for position in range(draws)], minlength=10)
    assert not counts[expected == 0].any()
    possible = expected > 0
    chi2 = float((((counts - draws * expected) ** 2)[possible] / (draws * expected[possible])).sum())
    assert chi2 < 30  # 9 degrees of freedom: 99.96 %


def _filtered(logits: np.ndarray, rules: SamplingOptions, seen: list[int]) -> np.ndarray:
    """Logits after all rules, excluded tokens at -inf."""
    logits = logits.copy()
    for token in seen:
        penalty = rules.repetition_penalty or 1.0
        logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
    if rules.top_k:
        logits[logits < np.sort(logits)[-rules.top_k]] = -np.inf
    if rules.top_p:
        order = np.argsort(-logits)
        sums = np.cumsum(softmax(logits, rules.temperature)[order])
        logits[order[np.searchsorted(sums, rules.top_p) + 1 :]] = -np.inf
    return logits


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    "rules",
    [SamplingOptions(0.0), SamplingOptions(0.9, top_k=7, seed=1), SamplingOptions(1.5, top_k=7, top_p=0.6, seed=1)],
)
def test_candidates_give_the_same_token(rules: SamplingOptions, ties: bool) -> None:
    k = rules.required_top_k
    assert k is not None
    for position in range(50):
        logits = random_logits(position, 3000, 3.0, ties)
        kth = np.sort(logits)[-k]
        for least in (kth, kth - 1):  # as few as may be, and more
            ids = np.flatnonzero(logits >= least)
            assert sample(logits[ids], rules, 0, position, ids=ids) == sample(logits, rules, 0, position)


def test_candidates_are_told_only_where_they_decide() -> None:
    assert SamplingOptions(1.0).required_top_k is None
    assert SamplingOptions(1.0, top_p=0.9).required_top_k is None
    assert SamplingOptions(0.0, repetition_penalty=1.1).required_top_k is None
    assert SamplingOptions(0.0, repetition_penalty=1.0).required_top_k == 1


def test_penalty_of_candidates() -> None:
    logits = np.array([3.0, 2.9, 2.8], np.float32)
    rules = SamplingOptions(0.0, repetition_penalty=1.5)
    assert sample(logits, rules, 0, 0, History([50, 7]), ids=np.array([10, 50, 70])) == 10
    assert sample(logits, rules, 0, 0, History([10, 50]), ids=np.array([10, 50, 70])) == 70


def test_same_seed_same_tokens() -> None:
    logits = random_logits(4, 5000)
    one = [sample(logits, SamplingOptions(1.0, seed=1), 0, position) for position in range(50)]
    again = [sample(logits, SamplingOptions(1.0, seed=1), 0, position) for position in range(50)]
    other = [sample(logits, SamplingOptions(1.0, seed=2), 0, position) for position in range(50)]
    neighbour = [sample(logits, SamplingOptions(1.0, seed=1), 1, position) for position in range(50)]
    assert one == again
    assert one != other
    assert one != neighbour


def test_seeded() -> None:
    assert SamplingOptions(0.0, seed=7).seeded().seed == 7
    seeds = {SamplingOptions(1.0, top_k=3).seeded().seed for _ in range(5)}
    assert len(seeds) == 5
    assert SamplingOptions(1.0, top_k=3).seeded().top_k == 3


# ---- log probabilities


def test_top_logprobs() -> None:
    logits = random_logits(6, 40_000)
    expected = np.log(softmax(logits))
    logprob, top = top_logprobs(logits, 123, 5)
    assert logprob == pytest.approx(expected[123], abs=1e-9)
    order = np.argsort(-expected, kind="stable")[:5]
    assert [token for token, _ in top] == order.tolist()
    assert [value for _, value in top] == pytest.approx(expected[order].tolist(), abs=1e-9)
    assert top_logprobs(logits, 123, 0)[1] == ()


def test_top_logprobs_of_ties_and_of_more_than_there_are() -> None:
    logits = np.array([1, 2, 2, 2], np.float32)
    assert [token for token, _ in top_logprobs(logits, 0, 2)[1]] == [1, 2]
    assert [token for token, _ in top_logprobs(logits, 0, 9)[1]] == [1, 2, 3, 0]
