"""Models with a screened head: the largest logits equal those of the full head in every kind of call."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nn_models import GEMMA2, GEMMA3, GPT2, LLAMA, PHI3, make

from pyml_core import ShapeError
from pyml_core.want import Top, top_of
from pyml_nn import matmul_lines
from pyml_nn.weights import spec

IDS = [int(i) for i in np.random.default_rng(3).integers(0, 61, 70)]
WIDE = {"hidden_size": 64, "intermediate_size": 64}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {**LLAMA, **WIDE},
    "gemma3": {**GEMMA3, **WIDE},  # its head is the embedding
    "phi3": {**PHI3, **WIDE},  # runs again from the start when it becomes long
    "gpt2": {**GPT2, "n_embd": 96},
}


@pytest.fixture(autouse=True)
def _small_heads_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec, "SCREENED_ROWS", 16)


@pytest.fixture(params=MODELS)
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    return MODELS[request.param]


def test_the_largest_logits(config: dict[str, Any]) -> None:
    model, plain = make(config, dtype="q8_0"), make(config, dtype="q8_0", screen=False)
    assert (model.screened, plain.screened) == (True, False)
    assert model.fingerprint == plain.fingerprint
    batch = [(IDS, [3, 0, 69, 69]), (IDS[5:12], None), (IDS[:9], []), (IDS[1:30], range(29))]
    full = plain.forward([(plain.new_cache(), ids, wanted) for ids, wanted in batch])
    assert all(
        np.array_equal(a, b)
        for a, b in zip(full, model.forward([(model.new_cache(), *part) for part in batch]), strict=True)
    )
    for k in (1, 5, 61, 100):
        for one in (model, plain):
            found = one.forward([(one.new_cache(), *part) for part in batch], Top(k))
            for rows, tops in zip(full, found, strict=True):
                for row, top in zip(rows, tops, strict=True):
                    assert np.array_equal(top.ids, top_of(row, k).ids)
                    assert np.array_equal(top.logits, row[top.ids])


def test_steps_and_chunks(config: dict[str, Any]) -> None:
    """Caches are equal to those under the full head."""
    model, plain = make(config, dtype="q8_0", max_tokens=7), make(config, dtype="q8_0", screen=False)
    cache, other = model.new_cache(), plain.new_cache()
    for part in (IDS[:20], *([token] for token in IDS[20:60])):
        ((top,),) = model.forward([(cache, part, None)], Top(1))
        ((row,),) = plain.forward([(other, part, None)])
        assert top.ids.tolist() == [row.argmax()]
        assert top.logits[0] == row.max()
    assert cache.ids == other.ids == IDS[:60]


def test_which_heads_are_screened(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not make(MODELS["llama"], dtype="f32").screened
    assert not make(MODELS["llama"], dtype="q4_0").screened
    assert not make({**GEMMA2, **WIDE}, dtype="q8_0").screened  # its logits are capped
    monkeypatch.setattr(spec, "SCREENED_ROWS", 62)
    assert not make(MODELS["llama"], dtype="q8_0").screened
    capped = make({**GEMMA2, **WIDE}, dtype="q8_0")
    ((top,),) = capped.forward([(capped.new_cache(), IDS, None)], Top(3))
    assert len(top.ids) >= 3


def test_errors(config: dict[str, Any]) -> None:
    model = make(config, dtype="q8_0")
    with pytest.raises(ShapeError, match="forward: expected k to be at least 1, got 0"):
        model.forward([(model.new_cache(), IDS, None)], Top(0))
    with pytest.raises(ShapeError, match="expected at least one token id"):
        model.forward([(model.new_cache(), [], None)], Top(1))
    assert model.forward([], Top(1)) == []


def test_traces() -> None:
    model = make(MODELS["gemma3"], dtype="q8_0")
    with model.trace() as times, model.trace("head") as head:
        found = model.forward([(model.new_cache(), IDS, [5, 69]), (model.new_cache(), IDS[:4], None)], Top(1))
        model.forward([(model.new_cache(), IDS[:4], None)])
    tops = [top for part in found for top in part]
    steps = [[event.name for event in times.events if event.step == step][-3:] for step in (0, 1)]
    assert steps == [["head.screen", "head.rescore", "forward"], ["final_norm", "head", "forward"]]
    assert [event.name for event in head.events] == ["head.screen", "head.rescore", "head"]
    screen, rescore, _ = head.events
    assert rescore.rescored == sum(top.rescored for top in tops) > 0
    assert screen.shape == "[3,64]x[61,64] q8_0"
    assert rescore.shape == f"[1,64]x[{rescore.rescored},64] q8_0"
    assert [line.split()[2] for line in matmul_lines(head.events)] == ["head.screen", "head.rescore", "head"]
    with model.trace(tensors=("logits", "final_norm")) as kept:  # all logits are requested
        ((top,),) = model.forward([(model.new_cache(), IDS, None)], Top(1))
    assert kept.tensor("logits").shape == (1, 61)
    assert top.ids.tolist() == [kept.tensor("logits")[0].argmax()]
    assert kept.events[-2].name == "head"
