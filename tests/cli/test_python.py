"""The Python interface on a real (tiny) model: what the commands stand on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import pyml_nlp
from pyml_core.errors import PymlError
from pyml_nlp.language_model import LanguageModel
from pyml_nn.kv_cache import CacheFileError

TEXT = "the cat in the hat"


@pytest.fixture(scope="module")
def lm(tiny_dirs: dict[str, Path]) -> Iterator[LanguageModel]:
    """A tiny Gemma 3."""
    with pyml_nlp.load(tiny_dirs["gemma3"], threads=1, prefill_chunk=16) as loaded:
        yield loaded


def test_logits_and_generate_agree(lm: LanguageModel) -> None:
    ids = lm.tokenizer.encode(TEXT)
    steps = list(lm.generate(TEXT, max_tokens=10, logprobs=3))
    tokens = [step.token for step in steps]
    logits = lm.logits(ids + tokens[:-1])
    assert logits.shape == (len(ids) + len(tokens) - 1, lm.vocab_size)
    assert logits[len(ids) - 1 :].argmax(axis=1).tolist() == tokens
    for step, row in zip(steps, logits[len(ids) - 1 :].astype(np.float64), strict=True):
        expected = row - np.log(np.exp(row - row.max()).sum()) - row.max()
        assert step.logprob == pytest.approx(expected[step.token], abs=1e-6)


def test_text_of_steps_is_the_text(lm: LanguageModel) -> None:
    generation = lm.generate(TEXT, max_tokens=30, temperature=1.5, seed=1)
    assert "".join(step.text for step in generation) == generation.text == lm.tokenizer.decode(generation.tokens)


def test_caches(lm: LanguageModel, tmp_path: Path) -> None:
    whole = lm.generate_text(TEXT, max_tokens=12)
    cache = lm.new_cache()
    lm.forward([(cache, lm.ids(TEXT)[:-1], [])])
    fork = cache.fork()
    cache.save(tmp_path / "cache.safetensors")
    loaded = lm.load_cache(tmp_path / "cache.safetensors")
    last = lm.ids(TEXT)[-1:]
    for used in (cache, fork, loaded):
        assert lm.generate_text(last, max_tokens=12, cache=used) == whole
    cache.trim(3)
    assert cache.length == 3
    (tmp_path / "cache.safetensors").write_bytes(b"no cache")
    with pytest.raises(CacheFileError, match=r"cache\.safetensors"):
        lm.load_cache(tmp_path / "cache.safetensors")


def test_batches(lm: LanguageModel) -> None:
    requests = [lm.ids(TEXT), lm.ids("something else"), lm.ids("a")]
    together = lm.forward([(lm.new_cache(), ids, None) for ids in requests])
    for ids, logits in zip(requests, together, strict=True):
        assert np.array_equal(logits, lm.logits(ids, [-1]))


def test_trace(lm: LanguageModel) -> None:
    with lm.trace() as trace:
        lm.generate_text(TEXT, max_tokens=3)
    assert {event.kind for event in trace.events} == {"prefill", "decode"}
    assert sum(event.name == "forward" for event in trace.events) == 3
    assert all(event.ms >= 0 for event in trace.events)


def test_a_deadline_does_not_change_a_text(lm: LanguageModel) -> None:
    prompt = "the quick brown fox jumps over the lazy dog and then runs away"  # in several chunks
    assert lm.generate_text(prompt, max_tokens=8, timeout=1000) == lm.generate_text(prompt, max_tokens=8)


def test_progress(tiny_ggufs: dict[str, Path]) -> None:
    seen: list[tuple[int, int]] = []
    with pyml_nlp.load(tiny_ggufs["gpt2"], threads=1, progress=lambda done, total: seen.append((done, total))) as lm:
        assert "0.4M params, context 128" in repr(lm)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len({total for _, total in seen}) == 1
    assert seen[-1][0] == seen[-1][1]


def test_closed(tiny_ggufs: dict[str, Path]) -> None:
    lm = pyml_nlp.load(tiny_ggufs["gpt2"], threads=1)
    lm.close()
    lm.close()
    with pytest.raises(PymlError, match="closed"):
        lm.generate_text("x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads must be > 0, got 0"),
        ({"context_len": 0}, "context_len must be > 0, got 0"),
        ({"prefill_chunk": 0}, "prefill_chunk must be > 0, got 0"),
        ({"context_len": 129}, "context length: expected at most 128"),
        ({"dtype": "q9"}, "dtype: expected one of auto, f32, bf16, q8_0, q4_0"),
    ],
)
def test_bad_arguments(options: dict[str, int], message: str, tiny_ggufs: dict[str, Path]) -> None:
    with pytest.raises(PymlError, match=message):
        pyml_nlp.load(tiny_ggufs["gpt2"], **options)  # type: ignore[arg-type]
