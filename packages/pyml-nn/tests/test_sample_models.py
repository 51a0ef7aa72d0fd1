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
