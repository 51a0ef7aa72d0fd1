"""Accuracy of quantised files and bf16: KL divergence from pyml's own f32 on a text, at every third token.

``tests/oracle/kld.py`` measures it against transformers on thousands of positions, and llama.cpp too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import pyml_nlp

GOLDENS = Path(__file__).parents[1] / "goldens" / "real"

# Mean KL divergence of llama.cpp on these files from transformers' f32 (2 560 positions), in nats.
LLAMA_CPP = {"gemma_gguf": 0.0146, "smollm2_gguf": 0.0035}


SOME = range(0, 300, 3)

pytestmark = pytest.mark.slow


def text_ids(name: str) -> list[int]:
    with np.load(GOLDENS / f"{name}_text.npz") as file:
        ids: list[int] = file["ids"].tolist()
    return ids


def mean_kld(expected: npt.NDArray[np.float32], got: npt.NDArray[np.float32]) -> float:
    """Mean over the positions of the divergence from ``expected`` to ``got``, in nats."""
    total = 0.0
    for p_row, q_row in zip(expected, got, strict=True):
        p, q = (row.astype(np.float64) - row.max() for row in (p_row, q_row))
        p, q = p - np.log(np.exp(p).sum()), q - np.log(np.exp(q).sum())
        total += float(np.exp(p) @ (p - q))
    return total / len(expected)


@pytest.mark.parametrize(("fixture", "golden"), [("gemma_gguf", "gemma3_270m"), ("smollm2_gguf", "smollm2_135m")])
def test_quantised_file(fixture: str, golden: str, request: pytest.FixtureRequest) -> None:
    path, ids = request.getfixturevalue(fixture), text_ids(golden)
    exact = pyml_nlp.load(path, dtype="f32", threads=2).logits(ids, SOME)
    stored = pyml_nlp.load(path, threads=2).logits(ids, SOME)
    assert mean_kld(exact, stored) <= LLAMA_CPP[fixture] + 0.0005


def test_bf16_of_bf16_weights(gpt2_dir: Path) -> None:
    ids = text_ids("gpt2_124m")
    exact = pyml_nlp.load(gpt2_dir, dtype="f32", threads=2).logits(ids, SOME)
    assert mean_kld(exact, pyml_nlp.load(gpt2_dir, dtype="bf16", threads=2).logits(ids, SOME)) <= 1e-5
