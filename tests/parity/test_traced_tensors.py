"""Traced tensors of tiny random models in f32 against transformers.

Attention probabilities agree to 1e-5; hidden states, whose entries reach several units, to 3e-5.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.helpers import tiny_files
from tests.helpers.tiny_models import MODELS

PROBABILITIES, HIDDEN = 1e-5, 3e-5
GOLDENS = Path(__file__).parents[1] / "goldens" / "tiny"


@pytest.mark.parametrize("chunk", [512, 13], ids=["whole", "chunks"])
@pytest.mark.parametrize("name", MODELS)
def test_hidden_states_and_attention_equal_transformers(name: str, chunk: int) -> None:
    model = MODELS[name]
    with np.load(GOLDENS / f"{name}.npz") as file:
        golden = dict(file)
    built = tiny_files.build(model, dtype="f32", threads=2, max_tokens=chunk)
    rows = golden["hidden_positions"]
    with built.trace("forward", tensors=["embedding**", "layers.*", "layers.*.attention.probabilities"]) as trace:
        built.forward([(built.new_cache(), model.prompt, range(len(model.prompt)))])
    embedding = [found for found in trace.tensor_names if found.startswith("embedding")][-1]
    hidden = [trace.tensor(embedding), *(trace.tensor(f"layers.{n}") for n in range(model.n_layers))]
    for layer, (got, expected) in enumerate(zip(hidden, golden["hidden"], strict=True), -1):
        found = got[rows] * model.hidden_divisor
        np.testing.assert_allclose(found, expected, rtol=HIDDEN, atol=HIDDEN, err_msg=f"layers.{layer}")
    for layer, expected in enumerate(golden["attention"]):
        got = trace.tensor(f"layers.{layer}.attention.probabilities")[:, rows]
        np.testing.assert_allclose(got, expected, rtol=0, atol=PROBABILITIES, err_msg=f"layers.{layer}")
