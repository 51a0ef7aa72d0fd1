"""The rules of sampling in NumPy against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_cases import logit_arrays, random_logits, softmax

from pyml_core.sampling import History, SamplingRules, choice, penalties, truncation, weights

# ---- penalties, bias


def test_history() -> None:
    history = History([5, 7, 5], [7, 9, 9])
    assert history.seen.tolist() == [5, 7, 9]
    assert history.counts.tolist() == [0, 1, 2]
    for token in range(1000):
        history.add(token)
    assert sorted(history.seen) == list(range(1000))
    assert dict(zip(history.seen, history.counts, strict=True)) == dict.fromkeys(range(1000), 1) | {7: 2, 9: 3}


def test_penalty_counts_every_token_once() -> None:
    logits = np.array([2.0, -2.0, 4.0, 0.0], np.float32)
    got = penalties.penalize_repetition(logits, History([0, 0, 1, 3, 0]).seen, 2.0)
    assert got.tolist() == [1.0, -4.0, 4.0, 0.0]
    assert logits.tolist() == [2.0, -2.0, 4.0, 0.0]  # left as it was
    assert got.dtype == np.float32


def test_no_penalty_without_seen_tokens() -> None:
    logits = random_logits(1, 50)
    assert np.array_equal(penalties.penalize_repetition(logits, History().seen, 1.7), logits)


def test_tokens_that_are_no_candidates_change_nothing() -> None:
    logits = np.array([1.0, 2.0], np.float32)
    assert penalties.penalize_repetition(logits, np.array([1, 2, 9]), 2.0).tolist() == [1.0, 1.0]
    got = penalties.penalize_repetition(logits, np.array([4, 7]), 2.0, np.array([7, 8]))
    assert got.tolist() == [0.5, 2.0]


def test_frequency_and_presence_count_the_generated_text() -> None:
    logits = np.zeros(5, np.float32)
    history = History([0, 1], [1, 2, 2])
    for name, expected in {"frequency_penalty": [0, -0.5, -1, 0, 0], "presence_penalty": [0, -0.5, -0.5, 0, 0]}.items():
        rules = SamplingRules((name,), True, **{name: 0.5})  # type: ignore[arg-type]
        assert choice._changed(name, logits, None, rules, history, 1.0).tolist() == expected
    assert not logits.any()


# ---- top-k, top-p


@given(logit_arrays, st.sampled_from([1, 2, 5, 40, 700, 10**6]))
@settings(deadline=None, max_examples=40)
def test_top_k_is_everything_from_the_kth_largest_on(logits: np.ndarray, k: int) -> None:
    kth = np.sort(logits)[max(0, logits.size - k)]
    assert np.array_equal(truncation.top_k_ids(logits, k), np.flatnonzero(logits >= kth))


@given(logit_arrays, st.sampled_from([1e-9, 0.1, 0.5, 0.9, 0.999]), st.sampled_from([0.3, 1.0, 4.0]))
@settings(deadline=None, max_examples=40)
def test_top_p_is_the_shortest_prefix(logits: np.ndarray, p: float, temperature: float) -> None:
    probabilities = softmax(logits, temperature)
    order = np.argsort(-probabilities, kind="stable")
    sums = np.cumsum(probabilities[order])
    kept = truncation.top_p_ids(logits, p, temperature)
    assert np.array_equal(kept, np.sort(kept))
    # Sums that are within rounding of p may be taken either way.
    low = int(np.searchsorted(sums, p - 1e-9)) + 1
    high = int(np.searchsorted(sums, p + 1e-9)) + 1
    assert low <= kept.size <= high
    assert set(kept.tolist()) == set(order[: kept.size].tolist())


def test_top_p_prefers_lower_ids_among_equals() -> None:
    assert truncation.top_p_ids(np.zeros(8, np.float32), 0.5).tolist() == [0, 1, 2, 3]


# ---- min-p, typical


@given(logit_arrays, st.sampled_from([1e-6, 0.05, 0.5, 1.0]), st.sampled_from([0.3, 1.0, 4.0]))
@settings(deadline=None, max_examples=40)
def test_min_p_is_a_share_of_the_most_probable(logits: np.ndarray, p: float, temperature: float) -> None:
    ratios = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    assert np.array_equal(truncation.min_p_ids(logits, p, temperature), np.flatnonzero(ratios >= p * (1 - 1e-12)))


@given(logit_arrays, st.sampled_from([1e-9, 0.1, 0.5, 0.9, 0.999]), st.sampled_from([0.3, 1.0, 4.0]))
@settings(deadline=None, max_examples=80)
def test_typical_is_the_shortest_prefix_by_distance_from_the_entropy(
    logits: np.ndarray, p: float, temperature: float
) -> None:
    logprobs = np.log(np.maximum(softmax(logits, temperature), 1e-320))
    distances = np.abs(logprobs + (np.exp(logprobs) @ logprobs) * -1.0)
    kept = truncation.typical_ids(logits, p, temperature)
    assert np.array_equal(kept, np.unique(kept))
    # Whatever is left out is at least as far as all that is kept, and the last one kept is needed; within rounding.
    left_out = np.setdiff1d(np.arange(logits.size), kept)
    furthest = distances[kept].max()
    if left_out.size:
        assert distances[left_out].min() >= furthest - 1e-9
        assert np.exp(logprobs[kept]).sum() >= p - 1e-9
    nearer = distances < furthest - 1e-9
    assert np.exp(logprobs[nearer]).sum() <= p + 1e-9


def test_typical_prefers_lower_ids_among_equals() -> None:
    assert truncation.typical_ids(np.zeros(8, np.float32), 0.5).tolist() == [0, 1, 2, 3]


def test_typical_may_leave_the_most_probable_out() -> None:
    logits = np.log(np.array([0.4, *[0.1] * 6])).astype(np.float32)
    assert truncation.typical_ids(logits, 0.25).tolist() == [1, 2, 3]


def test_typical_distances_are_those_of_information_from_entropy() -> None:
    logits = random_logits(1, 40_000)
    p = softmax(logits, 0.7)
    d = weights.differences(logits, 0.7)
    mean = float(p @ d)
    assert np.abs(d - mean) == pytest.approx(np.abs(-np.log(p) + p @ np.log(p)), abs=1e-9)


def test_weights() -> None:
    logits = np.array([0.0, -np.log(2.0), -31.0, -31.5, -np.inf, -1e30], np.float32)
    got = weights.weights_of(logits, 1.0).tolist()
    assert got[0] == 2**44
    assert got[1] == pytest.approx(2**43, rel=1e-7)
    assert got[2:] == [1, 0, 0, 0]
    assert weights.weights_of(logits, 1e300).tolist() == [2**44] * 4 + [0, 2**44]


def test_share() -> None:
    assert weights.share(0.5, 3) == 2
    assert weights.share(1e-300, 7) == 1
    assert weights.share(1.0, 2**62 - 1) == 2**62 - 1


def test_log_sum_exp() -> None:
    logits = random_logits(1, 40_000)
    expected = float(np.log(np.exp(logits.astype(np.float64)).sum()))
    assert weights.log_sum_exp(logits) == pytest.approx(expected, abs=1e-9)
