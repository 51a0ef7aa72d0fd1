"""Tiny random encoders in f32 against transformers, to 1e-4, and the bits of texts that run together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyml_nn.models import ENCODERS as MODULES
from tests.helpers.tiny_models import ENCODERS, VOCAB, TinyModel

GOLDENS = Path(__file__).parents[1] / "goldens" / "tiny"


@pytest.fixture(params=list(ENCODERS.values()), ids=list(ENCODERS))
def model(request: pytest.FixtureRequest) -> TinyModel:
    found: TinyModel = request.param
    return found


def build(model: TinyModel, dtype: str, threads: int = 1, max_tokens: int = 512) -> Any:
    module = MODULES[model.config["model_type"]]
    return module.Model(module.Config.from_hf(model.config), model.weights(), dtype, threads, max_tokens)


def test_hidden_states_equal_transformers(model: TinyModel) -> None:
    with np.load(GOLDENS / f"{model.name}.npz") as golden:
        assert golden["ids"].tolist() == model.prompt
        got = build(model, "f32").encode([model.prompt])[0][golden["positions"]]
        assert abs(got - golden["hidden"]).max() < 1e-4


@pytest.mark.parametrize("dtype", ["f32", "bf16", "auto"])
def test_a_text_has_the_same_bits_beside_others(model: TinyModel, dtype: str) -> None:
    rng = np.random.default_rng(1)
    texts = [rng.integers(0, VOCAB, n).tolist() for n in (1, 3, 63, 64, 65, 128, 129, 150, 40, 40)]
    alone = build(model, dtype)
    expected = [alone.encode([text])[0] for text in texts]
    assert [len(rows) for rows in expected] == [len(text) for text in texts]
    for threads, max_tokens in ((1, 512), (3, 160), (2, 2000)):
        found = build(model, dtype, threads, max_tokens).encode(texts)
        assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
