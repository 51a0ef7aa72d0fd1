"""Texts and their log probabilities do not depend on caches, on neighbours, or on other users of the model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pyml_nlp
from pyml_nlp.generation.completion import Step
from pyml_nlp.generation.speculation import Costs
from pyml_nlp.language_model import LanguageModel

STORY = "the quick brown fox jumps over the lazy dog and " * 2
PROMPTS = [STORY + "sleeps", STORY + "runs away", "the cat", STORY, "a", STORY + "sleeps well", "hat in the hat"]
RULES: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 1.3, "top_k": 40, "seed": 5},
    {"temperature": 2.0, "seed": 6},
]


@pytest.fixture(scope="module", params=["gemma3", "gpt2"])
def folder(request: pytest.FixtureRequest, tiny_dirs: dict[str, Path]) -> Path:
    """Gemma 3 has layers with a sliding window, shorter than the prompts."""
    return tiny_dirs[request.param]


@pytest.fixture(scope="module")
def lm(folder: Path) -> Iterator[LanguageModel]:
    """Keeps prefixes."""
    with pyml_nlp.load(folder, threads=2, prefill_chunk=32) as loaded:
        yield loaded


def bits(steps: list[Step]) -> list[tuple[int, float | None, str, int]]:
    return [(step.token, step.logprob, step.text, step.position) for step in steps]


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[tuple[str, int], list[tuple[int, float | None, str, int]]]:
    """Every text as a model without any memory of others writes it."""
    with pyml_nlp.load(folder, threads=1, prefix_cache_bytes=0) as lm:
        return {
            (prompt, number): bits(list(lm.generate(prompt, max_tokens=12, logprobs=0, speculate=False, **rules)))
            for prompt in PROMPTS
            for number, rules in enumerate(RULES)
        }


def test_speculation(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """With tokens of many positions a run, as many as can be drafted."""
    monkeypatch.setattr(Costs, "of", lambda self, tokens: 1.0)
    for number, rules in enumerate(RULES):
        ids = lm.ids(STORY)
        for top_k in (None, 1, 3):  # a tiny model's text repeats itself if there is little to choose from
            options = {**rules, "top_k": top_k, "logprobs": 2, "max_tokens": 40}
            plain = list(lm.generate(ids[:60], speculate=False, **options))
            drafted = list(lm.generate(ids[:60], **options))
            assert bits(drafted) == bits(plain)
            assert [step.top_logprobs for step in drafted] == [step.top_logprobs for step in plain]
            if number == 0 or top_k == 1:
                assert sum(step.model_ms > 0 for step in drafted) < 39


def test_reuse(lm: LanguageModel, alone: dict[Any, Any]) -> None:
    reused = 0
    for _ in range(2):
        for prompt in PROMPTS:
            for number, rules in enumerate(RULES):
                generation = lm.generate(prompt, max_tokens=12, logprobs=0, **rules)
                assert bits(list(generation)) == alone[prompt, number]
                reused += generation.completion.reused
    assert reused > 1000


def test_a_kept_prompt_in_a_file(lm: LanguageModel, alone: dict[Any, Any], folder: Path, tmp_path: Path) -> None:
    lm.prefill(STORY).save(tmp_path / "story.cache")
    with pyml_nlp.load(folder, threads=1) as fresh:
        fresh.prefix_cache.add(fresh.load_cache(tmp_path / "story.cache"))
        for prompt in PROMPTS[:2]:
            generation = fresh.generate(prompt, max_tokens=12, logprobs=0, temperature=0)
            assert bits(list(generation)) == alone[prompt, 0]
            assert generation.completion.reused >= len(fresh.ids(STORY)) - 1


@pytest.mark.parametrize("together", [1, 4])
@pytest.mark.parametrize("number", range(len(RULES)))
def test_batches(folder: Path, alone: dict[Any, Any], together: int, number: int) -> None:
    with pyml_nlp.load(folder, threads=2, prefill_chunk=32) as lm:
        batch = list(lm.generate_batch(PROMPTS, max_tokens=12, max_batch_size=together, **RULES[number]))
        assert [completion.sequence for completion in batch] == list(range(len(PROMPTS)))
        for prompt, completion in zip(PROMPTS, batch, strict=True):
            assert completion.tokens == [token for token, *_ in alone[prompt, number]]
            assert completion.text == "".join(text for _, _, text, _ in alone[prompt, number])
        assert sum(completion.reused for completion in batch) >= 3 * (len(lm.ids(STORY)) - 2)  # computed once


def test_threads(lm: LanguageModel, alone: dict[Any, Any]) -> None:
    """Several threads generate with one model at once."""
    wrong: list[str] = []

    def work(prompt: str) -> None:
        for number, rules in enumerate(RULES):
            if bits(list(lm.generate(prompt, max_tokens=12, logprobs=0, **rules))) != alone[prompt, number]:
                wrong.append(prompt)

    workers = [threading.Thread(target=work, args=(prompt,)) for prompt in PROMPTS]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


@pytest.mark.parametrize("name", ["phi3_long", "mixtral", "falcon", "qwen2_window", "qwen3_moe_mixed", "gemma2"])
def test_every_kind_of_model(name: str, tiny_dirs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Speculation, reuse and a context shift, with LongRoPE, experts, parallel branches, windows, caps."""
    monkeypatch.setattr(Costs, "of", lambda self, tokens: 1.0)
    shifting = {"overflow": "shift", "n_keep": 3, "temperature": 0.5, "top_k": 3, "seed": 2}
    with (
        pyml_nlp.load(tiny_dirs[name], threads=2, prefill_chunk=32, context_length=96) as lm,
        pyml_nlp.load(tiny_dirs[name], threads=1, prefix_cache_bytes=0, context_length=96) as plain,
    ):
        ids = (lm.ids("the cat in the hat and the cat in the ") * 4)[:80]
        for length in (40, 80):
            for rules in ({"max_tokens": 16, "temperature": 0}, {"max_tokens": 60, **shifting}):
                expected = list(plain.generate(ids[:length], logprobs=0, speculate=False, **rules))
                assert bits(list(lm.generate(ids[:length], logprobs=0, **rules))) == bits(expected)
