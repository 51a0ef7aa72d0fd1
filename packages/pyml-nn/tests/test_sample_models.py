"""Several tokens in one call are those of one call for each token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from nn_models import GEMMA3, GPT2, LLAMA, PHI3, make

from pyml_core import Cancelled, CancelToken, Choice, Sample, SampledToken, Sampler, ShapeError
from pyml_core.sampling import SamplingRules
from pyml_nn import ContextOverflowError, KVCache, Model
from pyml_nn.weights import spec

IDS = [int(i) for i in np.random.default_rng(3).integers(0, 61, 40)]
WIDE = {"hidden_size": 64, "intermediate_size": 64}
MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "llama": ({**LLAMA, **WIDE}, "q8_0"),
    "gemma3": ({**GEMMA3, **WIDE}, "q8_0"),
    "gpt2": (GPT2, "f32"),
    "phi3": ({**PHI3, **WIDE}, "q8_0"),  # runs again from the start when it becomes long
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Model[Any]:
    monkeypatch.setattr(spec, "SCREENED_ROWS", 16)
    config, dtype = MODELS[request.param]
    model: Model[Any] = make(config, dtype=dtype)
    return model


def greedy(model: Model[Any], cache: KVCache, token: int, count: int, ends: Sequence[int] = ()) -> list[SampledToken]:
    choice = Choice(Sampler(SamplingRules(greedy=True), 0, model.vocab_size), cache.length + 1)
    (found,) = model.forward([(cache, [token], None)], Sample([choice], count, ends))
    return found


def started(model: Model[Any]) -> KVCache:
    cache = model.new_cache()
    model.forward([(cache, IDS, None)])
    return cache


def step_by_step(model: Model[Any], token: int, count: int) -> tuple[list[tuple[int, float]], KVCache]:
    cache, found = started(model), []
    for _ in range(count):
        ((row,),) = model.forward([(cache, [token], None)])
        token = int(row.argmax())
        found.append((token, float(row[token])))
    return found, cache


def test_the_same_as_a_call_a_token(model: Model[Any]) -> None:
    expected, others = step_by_step(model, 7, 45)  # beyond a page
    cache, token = started(model), 7
    found: list[SampledToken] = []
    while len(found) < 45:
        found += greedy(model, cache, token, 45 - len(found))
        token = found[-1].token
    assert [(one.token, one.logit) for one in found] == expected
    assert cache.ids == others.ids
    for ours, theirs in zip(cache.pages, others.pages, strict=True):
        assert np.array_equal(ours, theirs)
    longrope = model.config.long_from is not None
    assert len(greedy(model, cache, token, 3)) == (1 if longrope else 3)


def test_ends_and_forks(model: Model[Any]) -> None:
    tokens = [token for token, _ in step_by_step(model, 7, 12)[0]]
    cache = started(model)
    fork = cache.fork()
    kept = [page.copy() for page in fork.pages]
    found = greedy(model, cache, 7, 12, (tokens[2],))
    assert [one.token for one in found] == tokens[: min(len(found), tokens.index(tokens[2]) + 1)]
    assert cache.ids == [*IDS, 7, *tokens[: len(found) - 1]]
    assert all(np.array_equal(a, b) for a, b in zip(kept, fork.pages, strict=True))


def test_a_trace_sees_every_token(model: Model[Any]) -> None:
    cache, other = started(model), started(model)
    expected = greedy(model, other, 7, 3)
    with model.trace() as trace:
        found = greedy(model, cache, 7, 3)
    assert [(one.token, one.logit) for one in found] == [(one.token, one.logit) for one in expected]
    kinds = [event.kind for event in trace.events if event.name == "forward"]
    again = model.config.long_from is not None  # all of it runs again
    assert kinds == (["prefill"] if again else ["decode"] * 3)
    rescored = [event.rescored for event in trace.events if event.name == "head.rescore"]
    assert all(rescored)
    assert len(rescored) == (len(found) if model.screened else 0)
    with model.trace(tensors="layers.0") as trace:
        assert len(greedy(model, cache, found[-1].token, 3)) == 1  # tensors are recorded one run at a time
    assert trace.tensor("layers.0").shape[1] == model.config.hidden_size
    assert cache.ids == [*IDS, 7, *(one.token for one in found)]


def test_invalid_greedy_calls(model: Model[Any]) -> None:
    cache = started(model)
    with pytest.raises(ShapeError, match="token ids from 0 to 60, found 61"):
        greedy(model, cache, 61, 2)
    with pytest.raises(ShapeError, match="a KV cache of this model"):
        greedy(model, make({**LLAMA, "num_hidden_layers": 1}).new_cache(), 3, 2)
    token = CancelToken()
    token.cancel()
    with token, pytest.raises(Cancelled):
        greedy(model, cache, 7, 2)
    assert cache.ids == IDS
    if model.config.long_from is None:
        short = model.new_cache(3)
        with pytest.raises(ContextOverflowError, match="expected at most 3"):
            greedy(model, short, 7, 4)
        assert len(greedy(model, short, 7, 3)) == 3


@pytest.mark.parametrize("chunk", [512, 8])
@pytest.mark.parametrize("kind", MODELS)
def test_drafted_ids(kind: str, chunk: int) -> None:
    """They count as far as they are right, over several runs of the program and over LongRoPE's change of factors."""
    config, dtype = MODELS[kind]
    model: Model[Any] = make(config, dtype=dtype, max_tokens=chunk)
    tokens = [token for token, _ in step_by_step(model, 7, 45)[0]]
    for n_right in (0, 3, 40):
        cache, other = started(model), model.new_cache()
        ids = [7, *tokens[:n_right], (tokens[n_right] + 1) % 61, 5, 6]
        choices = [Choice(Sampler(SamplingRules(greedy=True), 0, model.vocab_size), 41) for _ in range(2)]
        batch = [(cache, ids, range(len(ids))), (other, IDS[:3], []), (model.new_cache(), IDS, None)]
        found, none, beside = model.forward(batch, Sample(choices))
        assert [one.token for one in found] == tokens[: n_right + 1]
        assert cache.ids == [*IDS, 7, *tokens[:n_right]]
        assert (none, other.ids, len(beside)) == ([], IDS[:3], 1)
        assert greedy(model, cache, tokens[n_right], 1)[0].token == tokens[n_right + 1]


def test_a_choice_too_many(model: Model[Any]) -> None:
    choices = [Choice(Sampler(SamplingRules(greedy=True), 0, model.vocab_size), 41) for _ in range(2)]
    with pytest.raises(ShapeError, match="expected a choice for each of"):
        model.forward([(model.new_cache(), IDS, None)], Sample(choices))


RULES = [
    SamplingRules(greedy=True),
    SamplingRules(("temperature", "top_p"), temperature=0.8, top_p=0.9, seed=3),
    SamplingRules(("repetition_penalty", "temperature", "top_k"), False, 0.9, 5, repetition_penalty=1.3, seed=4),
    SamplingRules(("temperature", "typical_p"), temperature=0.8, typical_p=0.9, seed=5),  # needs all logits
]  # fmt: skip


def continued(
    model: Model[Any], rules: Sequence[SamplingRules], counts: Sequence[int], logprobs: int | None = None
) -> list[list[int]]:
    """Texts that are continued side by side, by calls of these numbers of runs."""
    samplers = [Sampler(each, 2, model.vocab_size, IDS, logprobs=logprobs) for each in rules]
    caches = [started(model) for _ in rules]
    found: list[list[int]] = [[7] for _ in rules]
    for count in counts:
        choices = [Choice(one, 40 + len(own)) for one, own in zip(samplers, found, strict=True)]
        batch = [(cache, own[-1:], None) for cache, own in zip(caches, found, strict=True)]
        results = model.forward(batch, Sample(choices, count))
        for own, tokens in zip(found, results, strict=True):
            own += [one.token for one in tokens]
    return found


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_a_screened_head_changes_no_token(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec, "SCREENED_ROWS", 16)
    config, dtype = MODELS[kind]
    model: Model[Any] = make(config, dtype=dtype)
    whole: Model[Any] = make(config, dtype=dtype, screen=False)
    assert model.screened
    assert not whole.screened
    for rules in (RULES[:1], RULES[1:2], RULES[:3], RULES, [RULES[1]] * 20):  # the last ones need all logits
        expected = continued(whole, rules, [24])
        for counts in ([24], [1, 5, 18]):
            assert continued(model, rules, counts) == expected
        with model.trace() as trace:
            assert continued(model, rules, [24]) == expected
        screened = {event.name for event in trace.events} >= {"head.screen", "head.rescore", "head.complete"}
        assert screened == (rules in (RULES[:1], RULES[1:2], RULES[:3]))
        assert continued(model, rules, [24], logprobs=1) == expected


def test_drafts_with_a_screened_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec, "SCREENED_ROWS", 16)
    config, dtype = MODELS["gemma3"]
    model: Model[Any] = make(config, dtype=dtype)
    for rules in RULES:
        ((_, *tokens),) = continued(model, [rules], [12])
        for n_right in (0, 5):
            ids = [7, *tokens[:n_right], (tokens[n_right] + 1) % 61, 5]
            choice = Choice(Sampler(rules, 2, model.vocab_size, IDS), 41)
            (found,) = model.forward([(started(model), ids, range(len(ids)))], Sample([choice], 4))
            assert [one.token for one in found] == tokens[: n_right + 4]
