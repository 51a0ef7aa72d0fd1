"""Real models against transformers: f32 logits of a 300-token text, and greedy continuations."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import pyml_nlp

TOLERANCE = 2e-3
SMALL_GAP = 1e-3  # nat: below it, two correct f32 computations may choose differently
GOLDENS = Path(__file__).parents[1] / "goldens"
TEXT = (GOLDENS / "text.txt").read_text()
PROMPTS: list[str] = json.loads((GOLDENS / "prompts.json").read_text())


@dataclass(frozen=True)
class Case:
    """A model file (named by its fixture) and the goldens that it must meet."""

    fixture: str
    goldens: str


CASES = (
    Case("gemma_gguf", "gemma3_270m"),
    Case("gemma_hf_dir", "gemma3_270m"),
    Case("smollm2_gguf", "smollm2_135m"),
    Case("smollm2_hf_dir", "smollm2_135m"),
    Case("gpt2_dir", "gpt2_124m"),
)
GREEDY = tuple(case for case in CASES if case.fixture.endswith("gguf"))  # a folder has the weights of its GGUF twin


def golden(name: str) -> dict[str, npt.NDArray[Any]]:
    with np.load(GOLDENS / "real" / f"{name}.npz") as file:
        return dict(file)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.fixture)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture(scope="module")
def lm(case: Case, request: pytest.FixtureRequest) -> Any:
    """The model in f32."""
    return pyml_nlp.load(request.getfixturevalue(case.fixture), dtype="f32", threads=2)


def test_logits_of_a_text(case: Case, lm: Any) -> None:
    expected = golden(f"{case.goldens}_text")
    logits = lm.logits(expected["ids"].tolist())
    wrong = np.flatnonzero(logits.argmax(-1) != expected["argmax"])
    assert wrong.size == 0, f"another argmax at positions {wrong.tolist()}"
    top = np.take_along_axis(logits, expected["top_ids"].astype(np.int64), axis=1)
    assert abs(top - expected["top_logits"]).max() <= TOLERANCE
    assert abs(logits[:, expected["sampled_ids"]] - expected["sampled_logits"]).max() <= TOLERANCE
    largest = logits.max(-1, keepdims=True)
    logsumexp = np.log(np.exp(logits - largest).sum(-1, dtype=np.float64)) + largest[:, 0]
    assert abs(logsumexp - expected["logsumexp"]).max() <= TOLERANCE


def test_tokens_of_the_texts(case: Case, lm: Any) -> None:
    assert lm.tokenizer.encode(TEXT)[:300] == golden(f"{case.goldens}_text")["ids"].tolist()
    if case.goldens == "gpt2_124m":  # random weights: it has no continuations worth keeping
        return
    greedy = golden(f"{case.goldens}_greedy")
    for number, prompt in enumerate(PROMPTS):
        assert lm.tokenizer.encode(prompt) == greedy[f"prompt_{number}"].tolist()


def same_up_to_a_small_gap(found: npt.NDArray[Any], expected: npt.NDArray[Any], gaps: npt.NDArray[Any]) -> None:
    """The greedy rule: identical ids up to the first mismatch, where the two best must lie within SMALL_GAP."""
    different = np.flatnonzero(found != expected[: len(found)])
    if different.size:
        at = int(different[0])
        assert gaps[at] < SMALL_GAP, f"token {at}: found {found[at]}, expected {expected[at]}, gap {gaps[at]:.5f} nat"


@pytest.mark.parametrize("case", GREEDY, indirect=True, ids=lambda case: case.fixture, scope="module")
@pytest.mark.parametrize("number", range(len(PROMPTS)))
def test_greedy_choice_at_every_position(case: Case, lm: Any, number: int) -> None:
    """Feeds transformers' continuation and compares the choice at each of its positions, in one pass."""
    expected = golden(f"{case.goldens}_greedy")
    prompt, tokens = expected[f"prompt_{number}"], expected[f"tokens_{number}"]
    ids = [*prompt.tolist(), *tokens.tolist()]
    logits = lm.logits(ids, list(range(len(prompt) - 1, len(ids) - 1)))
    wrong = np.flatnonzero(logits.argmax(-1) != tokens)
    assert all(expected[f"gaps_{number}"][wrong] < SMALL_GAP), f"another choice at {wrong.tolist()}"


@pytest.mark.parametrize("case", GREEDY, indirect=True, ids=lambda case: case.fixture, scope="module")
@pytest.mark.parametrize("number", [0, 1])
def test_greedy_text(case: Case, lm: Any, number: int) -> None:
    expected = golden(f"{case.goldens}_greedy")
    prompt = expected[f"prompt_{number}"].tolist()
    found = np.array([step.token for step in lm.generate(prompt, max_tokens=64, temperature=0.0)])
    same_up_to_a_small_gap(found, expected[f"tokens_{number}"], expected[f"gaps_{number}"])
    assert len(found) == 64 or found[-1] in lm.eos_ids
