"""The native choice of tokens: the same tokens as the rules in NumPy, at every CPU level."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
from core_fixtures import LEVELS
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_cases import random_logits

from pyml_core.errors import PymlError, ShapeError
from pyml_core.sampling import History, Sampler, SamplingRules, choice, sample, top_logprobs, weights
from pyml_core.sampling.rules import RULES

VALUES: dict[str, list[Any]] = {
    "temperature": [1e-6, 0.05, 0.8, 1.7, 1e30, 1.7e308],
    "top_k": [1, 2, 40, 700],
    "top_p": [5e-324, 0.1, 0.5, 0.95, 1 - 1e-12],
    "min_p": [5e-324, 1e-9, 0.05, 1.0],
    "typical_p": [1e-300, 0.2, 0.9],
    "repetition_penalty": [1e-300, 0.7, 1.3, 1e39],
    "frequency_penalty": [-1.7e308, -0.4, 0.3, 1e39],
    "presence_penalty": [-1e38, -0.4, 0.3, 1.7e308],
    "logit_bias": [((0, 1.5), (7, -3.0), (11, -np.inf)), ((5, 1.7e308), (2000, -1e39))],
}
TRUNCATIONS = ("top_k", "top_p", "min_p", "typical_p")
RULELESS, ZEROS = SamplingRules(), np.zeros(16, np.float32)
SEEN = [3, 5, 5, 8, 900], [5, 9, 9, 2500]
KINDS = ("normal", "ties", "flat", "peak", "infinite", "large", "subnormal", "few", "two")


def row_of(kind: str, seed: int, size: int) -> np.ndarray:
    row = random_logits(seed, size, 3.5)
    if kind == "ties":
        return np.round(row)
    if kind == "flat":
        return np.zeros(size, np.float32)
    if kind == "peak":
        row[seed % size] = 60.0
    elif kind == "infinite":
        row[np.random.RandomState(seed).rand(size) < 0.9] = -np.inf
        row[seed % size] = 0.5
    elif kind == "large":
        row *= np.float32(1e37)
    elif kind == "subnormal":
        row *= np.float32(1e-39)
    elif kind == "few":
        row = np.maximum(row, 3.0).astype(np.float32)
    elif kind == "two":
        row = np.where(row > 0, np.float32(0.0), np.float32(-0.0))
    return row


def agree(logits: np.ndarray, rules: SamplingRules, position: int, ids: np.ndarray | None = None) -> int | None:
    """Compare the token, or the error, of every level with those of the rules in NumPy."""
    prompt, generated = SEEN
    sampler = Sampler(rules, 3, 4096, prompt, generated)
    try:
        expected = sample(logits, rules, 3, position, History(prompt, generated), ids=ids)
    except PymlError as error:
        for level in LEVELS:
            with pytest.raises(PymlError, match=f"^{re.escape(str(error))}$"):
                sampler.choose(logits, position, ids, level)
        return None
    at = expected if ids is None else int(np.searchsorted(ids, expected))
    for level in LEVELS:
        got = sampler.choose(logits, position, ids, level)
        assert (got.token, got.logit) == (expected, float(logits[at])), level
    return expected


@pytest.mark.parametrize("kind", KINDS)
def test_each_rule(kind: str) -> None:
    for name, values in VALUES.items():
        for number, value in enumerate(values):
            for temperature in (1e-6, 0.8, 1e30):
                order = (name,) if name == "temperature" else ("temperature", name)
                rules = SamplingRules(order, **{"temperature": temperature, "seed": number, name: value})
                for size in (1, 63, 64, 65, 1000, 3001):
                    agree(row_of(kind, number, size), rules, size)


@given(
    st.sampled_from(KINDS),
    st.integers(0, 2**32 - 1),
    st.integers(1, 4096),
    st.permutations(RULES),
    st.sets(st.sampled_from(RULES)),
    st.booleans(),
    st.booleans(),
    st.data(),
)
@settings(deadline=None, max_examples=300)
def test_rules_in_any_order(
    kind: str, seed: int, size: int, order: list[str], used: set[str], greedy: bool, some: bool, data: st.DataObject
) -> None:
    names = tuple(name for name in order if name in used and not (greedy and name in ("temperature", *TRUNCATIONS)))
    values = {name: data.draw(st.sampled_from(VALUES[name]), name) for name in names}
    rules = SamplingRules(names, greedy, seed=seed, **values)
    logits, ids = row_of(kind, seed, size), None
    if some:
        ids = np.flatnonzero(np.random.RandomState(seed).rand(size) < 0.3)
        ids = np.append(ids, size) if ids.size == 0 else ids
        logits = np.append(logits, np.float32(1.0))[ids]
    agree(logits, rules, seed % 1000, ids)


@pytest.mark.parametrize("first", [(), ("repetition_penalty",)])
def test_every_order_of_the_truncations(first: tuple[str, ...]) -> None:
    """All orders of any of the rules, with values of which each excludes some of what the others leave."""
    values: dict[str, Any] = {"temperature": 1.6, "top_k": 20, "top_p": 0.8, "min_p": 0.02, "typical_p": 0.9}
    names = ("temperature", *TRUNCATIONS)
    for count in range(1, len(names) + 1):
        for order in itertools.permutations(names, count):
            rules = SamplingRules(first + order, seed=count, repetition_penalty=1.4, **values)
            for position in range(10):
                agree(random_logits(position, 200, 2.0), rules, position)


@given(st.integers(0, 2**32 - 1), st.sampled_from(TRUNCATIONS), st.sampled_from([1e-7, 1e-6, 1e-3]))
@settings(deadline=None, max_examples=100)
def test_noise_that_is_lost_in_rounding(seed: int, name: str, temperature: float) -> None:
    """Of logits whose quotient leaves no room for the noise, those that round to the same sum are tied."""
    logits = (1e8 + np.random.RandomState(seed).randint(0, 3, 500) * 8).astype(np.float32)
    agree(logits, SamplingRules(("temperature",), temperature=temperature, seed=seed), 1)
    agree(
        logits, SamplingRules(("temperature", name), temperature=temperature, seed=seed, **{name: VALUES[name][-1]}), 1
    )


def test_sums_exactly_at_the_bound() -> None:
    """Equal weights, whose sums are exact: p of the total is reached by a whole number of tokens."""
    logits = np.zeros(64, np.float32)
    for kept in (1, 2, 31, 63):
        for p in (kept / 64, np.nextafter(kept / 64, 1), np.nextafter(kept / 64, 0)):
            for name in ("top_p", "typical_p"):
                values: dict[str, Any] = {"seed": kept, name: float(p)}
                rules = SamplingRules((name,), **values)
                agree(logits, rules, 0)
                tokens = {Sampler(rules, 0, 64).choose(logits, position).token for position in range(300)}
                assert max(tokens) < kept + (p > kept / 64)


@pytest.mark.parametrize("name", ["top_p", "typical_p"])
@pytest.mark.parametrize("kind", ["normal", "ties", "peak", "large"])
def test_bounds_at_the_token_that_is_drawn(name: str, kind: str) -> None:
    """The sum before the token is p of all, or next to it: estimates in float32 cannot decide."""
    logits = row_of(kind, 4, 3000)
    if kind == "large":
        logits = (logits / np.abs(logits).max() * np.float32(1e38)).astype(np.float32)
    temperature = 1e37 if kind == "large" else 1.3
    weight = weights.weights_of(logits, temperature)
    order = np.argsort(-logits.astype(np.float64), kind="stable")
    if name == "typical_p":
        d = weights.differences(logits, temperature)
        mean = float(np.rint(weight.astype(np.float64) * -d).sum()) / float(weight.sum())
        order = np.argsort(np.abs(d + mean), kind="stable")
    before = np.zeros(logits.size, np.int64)
    before[order[1:]] = np.cumsum(weight[order])[:-1]
    free = Sampler(SamplingRules(("temperature",), temperature=temperature, seed=1), 3, 4096)
    kept = 0
    for position in range(40):
        token = free.choose(logits, position).token
        p = float(before[token]) / float(weight.sum())
        near = (p - 1e-9, np.nextafter(p, 0), p, np.nextafter(p, 1), p + 1e-6)
        for share in {min(max(value, 1e-9), 1.0) for value in near}:
            values: dict[str, Any] = {"temperature": temperature, "seed": 1, name: float(share)}
            rules = SamplingRules(("temperature", name), **values)
            kept += agree(logits, rules, position) == token
    assert 40 <= kept <= 160


@pytest.mark.parametrize("size", [49_152, 262_144])
def test_large_rows(size: int) -> None:
    logits = random_logits(size, size, 3.5)
    changed = tuple((token, 30.0 - token % 7) for token in range(64, size, 7000))
    cases: list[dict[str, Any]] = [
        {"temperature": 0.8}, {"temperature": 0.8, "top_k": 64}, {"temperature": 0.8, "top_k": 5000, "top_p": 0.9},
        {"temperature": 0.8, "top_p": 0.95}, {"temperature": 1.0, "top_p": 0.99, "min_p": 0.01}, {"typical_p": 0.95},
        {"logit_bias": changed, "temperature": 4.0, "top_p": 0.3}, {"temperature": 3.0, "typical_p": 0.2},
        {"top_p": 0.9, "frequency_penalty": 0.5, "temperature": 0.8}, {"typical_p": 0.9, "top_k": 700},
    ]  # fmt: skip
    for number, values in enumerate(cases):
        rules = SamplingRules(tuple(values), seed=number, **values)
        for position in range(2):
            expected = sample(logits, rules, 0, position, History(*SEEN))
            for level in LEVELS:
                sampler = Sampler(rules, 0, size, *SEEN)
                assert sampler.choose(logits, position, level=level).token == expected
    assert top_logprobs(logits, 5, 20) == choice.top_logprobs(logits, 5, 20)


def test_masks(level: str) -> None:
    for seed, kind in enumerate(KINDS):
        logits = row_of(kind, seed, 1000)
        allowed = np.random.RandomState(seed).rand(1000) < (0.9, 0.1, 0.01)[seed % 3]
        allowed[np.argmax(logits)] |= seed % 2 == 1 or kind == "infinite"
        ids = np.flatnonzero(allowed)
        bits = np.packbits(np.append(allowed, np.zeros(24, bool)), bitorder="little").view(np.uint32)
        for names in ((), ("top_k",), ("top_p",), ("repetition_penalty", "typical_p")):
            rules = SamplingRules(names, seed=seed, **{name: VALUES[name][2] for name in names})
            sampler = Sampler(rules, 1, 1000, [3, 5])
            sampler.set_mask(bits)
            expected = sample(logits[ids], rules, 1, seed, History([3, 5]), ids=ids)
            assert sampler.choose(logits, seed).token == expected
            few = np.union1d(ids, np.arange(0, 1000, 3))
            assert sampler.choose(logits[few], seed, few).token == expected
            sampler.set_mask(None)
            assert sampler.choose(logits, seed).token == sample(logits, rules, 1, seed, History([3, 5]))
    sampler.set_mask(np.zeros(32, np.uint32))
    with pytest.raises(PymlError, match=r"^the grammar leaves no token that could stand at position 7$"):
        sampler.choose(logits, 7)


@pytest.mark.parametrize("count", [0, 1, 5, 64, 3000])
def test_log_probabilities(level: str, count: int) -> None:
    for seed, kind in enumerate(KINDS):
        for size in (1, 64, 1500):
            logits = row_of(kind, seed, size)
            rules = SamplingRules(("repetition_penalty",), seed=seed, repetition_penalty=1.3)
            got = Sampler(rules, 0, 4096, [3, 5], logprobs=count).choose(logits, seed)
            expected = choice.top_logprobs(logits, got.token, count)
            assert (got.logprob, got.top_logprobs) == expected
            assert top_logprobs(logits, got.token, count) == expected
    assert Sampler(rules, 0, 4096).choose(logits, 0).logprob is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite(level: str, bad: float) -> None:
    logits = random_logits(1, 300)
    logits[[70, 90]] = bad
    for rules in (SamplingRules(greedy=True), SamplingRules(("top_k",), top_k=3)):
        with pytest.raises(PymlError, match=r"not finite: logit (nan|inf) for token 70 at position 9$"):
            Sampler(rules, 0, 300).choose(logits, 9)
        with pytest.raises(PymlError, match="for token 71 at position 9"):
            Sampler(rules, 0, 301).choose(logits, 9, np.arange(1, 301))
    with pytest.raises(PymlError, match="logit -inf for token 0 at position 2"):
        Sampler(rules, 0, 300).choose(np.full(300, -np.inf, np.float32), 2)


def test_a_bias_that_leaves_nothing(level: str) -> None:
    rules = SamplingRules(("temperature", "logit_bias"), logit_bias=((0, -np.inf), (1, -np.inf)), temperature=0.5)
    with pytest.raises(PymlError, match=r"^logit_bias leaves no token that could stand at position 4$"):
        Sampler(rules, 0, 2).choose(np.zeros(2, np.float32), 4)


def test_tokens_that_are_added_count() -> None:
    rules = SamplingRules(("frequency_penalty", "presence_penalty"), frequency_penalty=0.5, presence_penalty=0.25)
    random = np.random.RandomState(3)
    sampler, history = Sampler(rules, 0, 70_000), History()
    logits = random_logits(5, 70_000, 1.0)
    for position, token in enumerate(random.randint(0, 700, 3000)):  # more tokens than the first table has room for
        sampler.add(int(token) * 97)
        history.add(int(token) * 97)
        if position % 300 == 0:
            assert sampler.choose(logits, position).token == sample(logits, rules, 0, position, history)


def test_frequencies_follow_the_distribution(level: str) -> None:
    logits = random_logits(3, 10, 1.0)
    for rules in (
        SamplingRules(("temperature",), temperature=1.5, seed=5),
        SamplingRules(("temperature", "top_p"), temperature=0.8, top_p=0.9, seed=6),
        SamplingRules(("temperature", "min_p"), temperature=2.0, min_p=0.1, seed=7),
        SamplingRules(("typical_p",), typical_p=0.7, seed=8),
    ):
        kept = np.flatnonzero(_kept(logits, rules))
        p = np.exp((logits[kept].astype(np.float64) - logits.max()) / rules.temperature)
        expected = np.zeros(10)
        expected[kept] = p / p.sum()
        sampler, draws = Sampler(rules, 0, 10), 10_000
        counts = np.bincount([sampler.choose(logits, position).token for position in range(draws)], minlength=10)
        assert not counts[expected == 0].any()
        chi2 = float(((counts - draws * expected)[kept] ** 2 / (draws * expected[kept])).sum())
        assert chi2 < 30  # 9 degrees of freedom: 99.96 %


def _kept(logits: np.ndarray, rules: SamplingRules) -> np.ndarray:
    """Which tokens the rules keep, by their formulas."""
    p = np.exp((logits.astype(np.float64) - logits.max()) / rules.temperature)
    p /= p.sum()
    if "min_p" in rules.order:
        return np.asarray(p >= rules.min_p * p.max())
    if "top_p" in rules.order:
        distance, share = -p, rules.top_p
    elif "typical_p" in rules.order:
        distance, share = np.abs(-np.log(p) + p @ np.log(p)), rules.typical_p
    else:
        return np.ones(p.size, bool)
    order = np.argsort(distance)
    kept = np.zeros(p.size, bool)
    kept[order[: np.searchsorted(np.cumsum(p[order]), share) + 1]] = True
    return kept


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Sampler(RULELESS, 0, 0), "expected a vocabulary of 1 to 524287 tokens, got 0"),
        (lambda: Sampler(RULELESS, 0, 1 << 19), "expected a vocabulary of 1 to 524287 tokens, got 524288"),
        (lambda: Sampler(SamplingRules(("best",)), 0, 9), "expected names of rules, each once, got best"),
        (lambda: Sampler(SamplingRules(("top_k", "top_k")), 0, 9), "each once, got top_k, top_k"),
        (lambda: Sampler(SamplingRules(logit_bias=((9, 1.0),)), 0, 9), "token 9 is outside the vocabulary of 9"),
        (lambda: Sampler(SamplingRules(("presence_penalty",)), 0, 9, [-1]), "token -1 is outside the vocabulary of 9"),
        (lambda: Sampler(RULELESS, 0, 9).add(9), "token 9 is outside the vocabulary of 9"),
        (lambda: Sampler(RULELESS, 0, 9).choose(ZEROS[:10], 0), "expected 1 to 9 float32 logits"),
        (lambda: Sampler(RULELESS, 0, 9).choose(ZEROS[:0], 0), "expected 1 to 9 float32 logits"),
        (lambda: Sampler(RULELESS, 0, 9).choose(ZEROS[:3].astype(float), 0), "got float64"),
        (lambda: Sampler(RULELESS, 0, 9).choose(ZEROS[:2], 0, np.array([4, 4])), "expected 2 ascending ids"),
        (lambda: Sampler(RULELESS, 0, 9).choose(ZEROS[:2], 0, np.array([4])), "expected 2 ascending ids"),
        (lambda: Sampler(RULELESS, 0, 9).choose(ZEROS[:1], 0, np.array([9])), "token 9 is outside"),
        (lambda: Sampler(RULELESS, 0, 9, logprobs=0).choose(ZEROS[:1], 0, np.array([1])), "all tokens, got ids"),
        (lambda: Sampler(RULELESS, 0, 33).set_mask(np.zeros(1, np.uint32)), "expected a mask of 2 contiguous"),
        (lambda: top_logprobs(ZEROS[:3], 3, 1), "token 3 is outside the 3 logits"),
    ],
)
def test_what_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        call()
