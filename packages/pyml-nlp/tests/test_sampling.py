"""Sampling rules against their formulas, written down directly in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyml_core.errors import PymlError
from pyml_nlp import sampling
from pyml_nlp.sampling import Sampling, sample


def random_logits(seed: int, size: int, spread: float = 3.0, ties: bool = False) -> np.ndarray:
    logits = (np.random.RandomState(seed).standard_normal(size) * spread).astype(np.float32)
    return np.round(logits) if ties else logits


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    weights = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    return weights / weights.sum()


logit_arrays = st.builds(
    random_logits,
    st.integers(0, 2**31),
    st.sampled_from([1, 2, 3, 17, 64, 1000, 40_000]),
    st.sampled_from([0.0, 0.1, 1.0, 5.0, 30.0]),
    st.booleans(),
)


# ---- greedy, penalty


def test_greedy_takes_the_first_largest() -> None:
    logits = np.array([1, 5, 5, 2], np.float32)
    assert sample(logits, Sampling(), 0, 0) == 1
    assert sample(logits, Sampling(temperature=1e-8, top_k=1, seed=3), 0, 0) == 1


def test_penalty_counts_every_token_once() -> None:
    logits = np.array([2.0, -2.0, 4.0, 0.0], np.float32)
    got = sampling.penalize(logits, [0, 0, 1, 3, 0], 2.0)
    assert got.tolist() == [1.0, -4.0, 4.0, 0.0]
    assert logits.tolist() == [2.0, -2.0, 4.0, 0.0]  # left as it was
    assert got.dtype == np.float32


def test_penalty_applies_to_greedy_too() -> None:
    logits = np.array([3.0, 2.9, 1.0], np.float32)
    assert sample(logits, Sampling(repetition_penalty=1.5), 0, 0, seen=[0]) == 1
    assert sample(logits, Sampling(repetition_penalty=1.5), 0, 0, seen=[]) == 0


def test_no_penalty_without_seen_tokens() -> None:
    logits = random_logits(1, 50)
    assert np.array_equal(sampling.penalize(logits, [], 1.7), logits)


# ---- top-k, top-p


@given(logit_arrays, st.sampled_from([1, 2, 5, 40, 700, 10**6]))
@settings(deadline=None, max_examples=40)
def test_top_k_is_everything_from_the_kth_largest_on(logits: np.ndarray, k: int) -> None:
    kth = np.sort(logits)[max(0, logits.size - k)]
    assert np.array_equal(sampling.top_k_ids(logits, k), np.flatnonzero(logits >= kth))


@given(logit_arrays, st.sampled_from([1e-9, 0.1, 0.5, 0.9, 0.999]), st.sampled_from([0.3, 1.0, 4.0]))
@settings(deadline=None, max_examples=40)
def test_top_p_is_the_shortest_prefix(logits: np.ndarray, p: float, temperature: float) -> None:
    probabilities = softmax(logits, temperature)
    order = np.argsort(-probabilities, kind="stable")
    sums = np.cumsum(probabilities[order])
    kept = sampling.top_p_ids(logits, p, temperature)
    assert np.array_equal(kept, np.sort(kept))
    # Sums that are within rounding of p may be taken either way.
    low = int(np.searchsorted(sums, p - 1e-9)) + 1
    high = int(np.searchsorted(sums, p + 1e-9)) + 1
    assert low <= kept.size <= high
    assert set(kept.tolist()) == set(order[: kept.size].tolist())


def test_top_p_prefers_lower_ids_among_equals() -> None:
    assert sampling.top_p_ids(np.zeros(8, np.float32), 0.5).tolist() == [0, 1, 2, 3]


def test_top_k_then_top_p() -> None:
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1])).astype(np.float32)
    rules = Sampling(temperature=1.0, top_k=2, top_p=0.5, seed=0)  # of 0.4 and 0.3 the first has 0.57
    assert {sample(logits, rules, 0, position) for position in range(200)} == {0}


# ---- noise


def test_uniform_is_splitmix64() -> None:
    # The first outputs of java.util.SplittableRandom(0) and (42), upper halves.
    for seed, outputs in {
        0: [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F],
        42: [0xBDD732262FEB6E95, 0x28EFE333B266F103, 0x47526757130F9F52],
    }.items():
        expected = [((value >> 32) + 0.5) / 2**32 for value in outputs]
        assert sampling.uniform(seed, np.arange(3)).tolist() == expected


def test_noise_is_keyed_by_each_part() -> None:
    ids = np.arange(1000)
    keys = {sampling.noise_key(seed, sequence, position)
            for seed in (0, 1, 2**64 - 1) for sequence in range(4) for position in range(4)}  # fmt: skip
    assert len(keys) == 48
    noises = [sampling.uniform(key, ids) for key in keys]
    correlations = np.abs(np.corrcoef(noises) - np.eye(len(noises)))
    assert correlations.max() < 0.2


def test_noise_of_a_token_does_not_depend_on_the_others() -> None:
    whole = sampling.gumbel(7, np.arange(100_000))
    assert np.array_equal(sampling.gumbel(7, np.array([5, 99_999])), whole[[5, 99_999]])


def test_gumbel_bounds() -> None:
    noise = sampling.gumbel(1, np.arange(1 << 20))
    assert noise.min() > -3.2
    assert noise.max() < sampling._LARGEST_GUMBEL
    assert np.mean(noise) == pytest.approx(0.5772, abs=0.01)  # Euler's constant
    assert np.var(noise) == pytest.approx(np.pi**2 / 6, abs=0.02)


# ---- the draw


@given(logit_arrays, st.sampled_from([0.05, 0.8, 1.0, 10.0]), st.integers(0, 2**64 - 1))
@settings(deadline=None, max_examples=40)
def test_pruning_changes_nothing(logits: np.ndarray, temperature: float, seed: int) -> None:
    key = sampling.noise_key(seed, 0, 0)
    everything = np.arange(logits.size)
    scores = logits.astype(np.float64) / temperature + sampling.gumbel(key, everything)
    assert sample(logits, Sampling(temperature, seed=seed), 0, 0) == scores.argmax()
    assert sampling.draw(logits, temperature, key, everything) == scores.argmax()


@pytest.mark.parametrize(
    "rules",
    [
        Sampling(1.0, seed=5),
        Sampling(0.5, seed=5),
        Sampling(2.0, top_k=4, seed=5),
        Sampling(1.0, top_p=0.7, seed=5),
        Sampling(0.8, top_k=6, top_p=0.8, repetition_penalty=1.3, seed=5),
    ],
)
def test_frequencies_follow_the_distribution(rules: Sampling) -> None:
    logits = random_logits(3, 10, 1.0)
    seen = [2, 4]
    expected = softmax(_filtered(logits, rules, seen), rules.temperature)
    draws = 4000
    counts = np.bincount([sample(logits, rules, 0, position, seen) for position in range(draws)], minlength=10)
    assert not counts[expected == 0].any()
    possible = expected > 0
    chi2 = float((((counts - draws * expected) ** 2)[possible] / (draws * expected[possible])).sum())
    assert chi2 < 30  # 9 degrees of freedom: 99.96 %


def _filtered(logits: np.ndarray, rules: Sampling, seen: list[int]) -> np.ndarray:
    """Logits after all rules, what is out of play at -inf."""
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
    "rules", [Sampling(), Sampling(0.9, top_k=7, seed=1), Sampling(1.5, top_k=7, top_p=0.6, seed=1)]
)
def test_candidates_give_the_same_token(rules: Sampling, ties: bool) -> None:
    k = rules.candidates
    assert k is not None
    for position in range(50):
        logits = random_logits(position, 3000, 3.0, ties)
        kth = np.sort(logits)[-k]
        for least in (kth, kth - 1):  # as few as may be, and more
            ids = np.flatnonzero(logits >= least)
            assert sample(logits[ids], rules, 0, position, ids=ids) == sample(logits, rules, 0, position)


def test_candidates_are_told_only_where_they_decide() -> None:
    assert Sampling(1.0).candidates is None
    assert Sampling(1.0, top_p=0.9).candidates is None
    assert Sampling(repetition_penalty=1.1).candidates is None
    assert Sampling(repetition_penalty=1.0).candidates == 1


def test_penalty_of_candidates() -> None:
    logits = np.array([3.0, 2.9, 2.8], np.float32)
    rules = Sampling(repetition_penalty=1.5)
    assert sample(logits, rules, 0, 0, seen=[50, 7], ids=np.array([10, 50, 70])) == 10
    assert sample(logits, rules, 0, 0, seen=[10, 50], ids=np.array([10, 50, 70])) == 70


def test_same_seed_same_tokens() -> None:
    logits = random_logits(4, 5000)
    one = [sample(logits, Sampling(1.0, seed=1), 0, position) for position in range(50)]
    again = [sample(logits, Sampling(1.0, seed=1), 0, position) for position in range(50)]
    other = [sample(logits, Sampling(1.0, seed=2), 0, position) for position in range(50)]
    neighbour = [sample(logits, Sampling(1.0, seed=1), 1, position) for position in range(50)]
    assert one == again
    assert one != other
    assert one != neighbour


def test_seeded() -> None:
    assert Sampling(seed=7).seeded().seed == 7
    seeds = {Sampling(1.0, top_k=3).seeded().seed for _ in range(5)}
    assert len(seeds) == 5
    assert Sampling(1.0, top_k=3).seeded().top_k == 3


# ---- log probabilities


def test_top_logprobs() -> None:
    logits = random_logits(6, 40_000)
    expected = np.log(softmax(logits))
    logprob, top = sampling.top_logprobs(logits, 123, 5)
    assert logprob == pytest.approx(expected[123], abs=1e-9)
    order = np.argsort(-expected, kind="stable")[:5]
    assert [token for token, _ in top] == order.tolist()
    assert [value for _, value in top] == pytest.approx(expected[order].tolist(), abs=1e-9)
    assert sampling.top_logprobs(logits, 123, 0)[1] == ()


def test_top_logprobs_of_ties_and_of_more_than_there_are() -> None:
    logits = np.array([1, 2, 2, 2], np.float32)
    assert [token for token, _ in sampling.top_logprobs(logits, 0, 2)[1]] == [1, 2]
    assert [token for token, _ in sampling.top_logprobs(logits, 0, 9)[1]] == [1, 2, 3, 0]


# ---- what is refused


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1.0}, "temperature must be >= 0.0, got -1"),
        ({"temperature": float("nan")}, "temperature must be >= 0.0, got nan"),
        ({"temperature": float("inf")}, "temperature must be >= 0.0, got inf"),
        ({"top_k": 0}, "top_k must be > 0, got 0"),
        ({"top_p": 0.0}, r"top_p must be in \(0.0, 1.0\], got 0"),
        ({"top_p": 1.5}, r"top_p must be in \(0.0, 1.0\], got 1.5"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be > 0.0, got 0"),
        ({"seed": -1}, "seed must be in 0 .. 2\\*\\*64 - 1, got -1"),
        ({"seed": 2**64}, "seed must be in"),
    ],
)
def test_ranges(values: dict[str, float], message: str) -> None:
    with pytest.raises(PymlError, match=message):
        Sampling(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite(temperature: float, bad: float) -> None:
    logits = np.array([1.0, bad, 0.0], np.float32)
    with pytest.raises(PymlError, match=r"not finite: logit .* for token 1 at position 9"):
        sample(logits, Sampling(temperature, seed=0), 0, 9)


def test_minus_infinity_is_never_drawn() -> None:
    logits = np.array([-np.inf, 0.0, -np.inf, 0.0], np.float32)
    rules = (Sampling(1.0, seed=0), Sampling(1.0, top_k=3, seed=0), Sampling(1.0, top_p=0.9, seed=0))
    for chosen in rules:
        assert {sample(logits, chosen, 0, position) for position in range(50)} == {1, 3}
