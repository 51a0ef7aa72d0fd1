"""The Python interface, on which the commands are built, with a real (tiny) model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyml_nlp
from pyml_core.errors import PymlError
from pyml_nlp.language_model import LanguageModel
from pyml_nn import CacheFileError

TEXT = "the cat in the hat"


@pytest.fixture(scope="module")
def lm(tiny_dirs: dict[str, Path]) -> Iterator[LanguageModel]:
    """A tiny Gemma 3."""
    with pyml_nlp.load(tiny_dirs["gemma3"], threads=1, prefill_chunk=16) as loaded:
        yield loaded


def test_logits_and_generate_agree(lm: LanguageModel) -> None:
    ids = lm.tokenizer.encode(TEXT)
    steps = list(lm.generate(TEXT, max_tokens=10, logprobs=3, temperature=0))
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
    whole = lm.generate_text(TEXT, max_tokens=12, temperature=0)
    cache = lm.new_cache()
    lm.forward([(cache, lm.ids(TEXT)[:-1], [])])
    fork = cache.fork()
    cache.save(tmp_path / "cache.safetensors")
    loaded = lm.load_cache(tmp_path / "cache.safetensors")
    last = lm.ids(TEXT)[-1:]
    for used in (cache, fork, loaded):
        assert lm.generate_text(last, max_tokens=12, cache=used, temperature=0) == whole
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
        lm.generate_text(TEXT, max_tokens=3, temperature=0)
    assert {event.kind for event in trace.events} == {"prefill", "decode"}
    assert sum(event.name == "forward" for event in trace.events) == 3
    assert all(event.ms >= 0 for event in trace.events)


def test_a_deadline_does_not_change_a_text(lm: LanguageModel) -> None:
    prompt = "the quick brown fox jumps over the lazy dog and then runs away"  # in several chunks
    assert lm.generate_text(prompt, max_tokens=8, timeout=1000, temperature=0) == lm.generate_text(
        prompt, max_tokens=8, temperature=0
    )


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
        lm.generate_text("x", temperature=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads must be > 0, got 0"),
        ({"context_length": 0}, "context_length must be > 0, got 0"),
        ({"prefill_chunk": 0}, "prefill_chunk must be > 0, got 0"),
        ({"context_length": 129}, "context length: expected at most 128"),
        ({"dtype": "q9"}, "dtype must be one of auto, f32, bf16, q8_0, q4_0, got 'q9'"),
        ({"dtype": 5}, "dtype must be one of auto, .*, got 5"),
        ({"kv_dtype": b"f16"}, "kv_dtype must be one of auto, .*, got b'f16'"),
        ({"kv_dtype": "q" * 9999}, r"kv_dtype must be one of auto, f32, f16, int8, got 'q{75}\.\.\.'$"),
        ({"threads": 2.0}, "threads must be a whole number, got 2.0"),
        ({"threads": "2"}, "threads must be a whole number, got '2'"),
        ({"threads": 10**6000}, "threads: expected 1 to 256, got an integer of about 6001 digits"),
        ({"context_length": True}, "context_length must be a whole number, got True"),
        ({"context_length": 10**6000}, "context length: expected at most 128, .*, got an integer of about 6001 digits"),
        ({"prefill_chunk": 1.5}, "prefill_chunk must be a whole number, got 1.5"),
        ({"prefix_cache_bytes": 1e9}, "prefix_cache_bytes must be a whole number, got 1000000000.0"),
        ({"prefix_cache_bytes": -1}, "prefix_cache_bytes must be >= 0, got -1"),
        ({"screen": 1}, "screen must be True or False, got 1"),
        ({"allow_unknown_keys": 1}, "allow_unknown_keys must be True or False, got 1"),
        ({"progress": 5}, "progress must be a function of two numbers, got 5"),
    ],
)
def test_bad_arguments(options: dict[str, int], message: str, tiny_ggufs: dict[str, Path]) -> None:
    with pytest.raises(PymlError, match=message):
        pyml_nlp.load(tiny_ggufs["gpt2"], **options)  # type: ignore[arg-type]


def test_bad_names_of_models() -> None:
    for model in (5, b"model.gguf", ["a"]):
        with pytest.raises(PymlError, match="model must be a path or a hub id, got"):
            pyml_nlp.load(model)  # type: ignore[arg-type]
    with pytest.raises(PymlError, match="there is no such file"):
        pyml_nlp.load("a\0b")


def test_bad_arguments_of_a_tokenizer(lm: LanguageModel) -> None:
    tokenizer: Any = lm.tokenizer
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: tokenizer.encode(b"x"), "text: expected str, got bytes"),
        (lambda: tokenizer.encode("x", add_special=1), "add_special must be True or False, got 1"),
        (lambda: tokenizer.encode("x", parse_special=None), "parse_special must be True or False, got None"),
        (lambda: tokenizer.encode("x", boundaries=1), "boundaries must be a list of whole numbers, got 1"),
        (lambda: tokenizer.encode("abc", boundaries=[0.5]), "boundaries must be a whole number, got 0.5"),
        (
            lambda: tokenizer.encode("abc", boundaries=[2, 1]),
            "boundaries must ascend from 0 to 3, the text's length, got",
        ),
        (lambda: tokenizer.encode("abc", boundaries=[4]), "boundaries must ascend from 0 to 3, the text's length, got"),
        (lambda: tokenizer.decode(5), "ids: expected a list of token ids, got 5"),
        (lambda: tokenizer.decode("abc"), "ids: expected a list of token ids, got 'abc'"),
        (lambda: tokenizer.decode([1.5]), "token id: expected an integer, got 1.5"),
        (lambda: tokenizer.decode([-(10**6000)]), "token id: expected 0 or more, got an integer of about"),
        (lambda: tokenizer.decode([1], skip_special="no"), "skip_special must be True or False, got 'no'"),
        (lambda: tokenizer.token_bytes(None), "token id: expected an integer, got None"),
    ]
    for call, message in calls:
        with pytest.raises(PymlError, match=message):
            call()
    assert tokenizer.decode(np.array(tokenizer.encode(TEXT), np.int16)) == TEXT
    assert tokenizer.encode("abc", boundaries=(0, 1, 3)) == tokenizer.encode("abc")


def test_bad_arguments_of_a_chat(tiny_dirs: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_dirs["llama"], tmp_path / "chat")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    with pyml_nlp.load(folder, threads=1) as chatty:
        lm: Any = chatty
        calls: list[tuple[Callable[[], object], str]] = [
            (lambda: lm.chat(b"x"), "messages: expected a text or a list of messages, got b'x'"),
            (
                lambda: lm.chat({"role": "user"}),
                "messages: expected a text or a list of messages, got {'role': 'user'}",
            ),
            (lambda: lm.chat("x", max_tokens="5"), "max_tokens must be a whole number, got '5'"),
            (lambda: lm.chat("x", tools=5), "tools must be a list, got 5"),
            (lambda: lm.chat("x", template=5), "template must be a text, got 5"),
            (
                lambda: lm.chat("x", variables=[1]),
                r"variables must be a mapping of names and values, got \[1\]",
            ),
            (lambda: lm.conversation(5), "system must be a text, got 5"),
            (
                lambda: lm.conversation("x").send(5),
                r"messages\[1\]: expected a mapping with 'role' and 'content', got 5",
            ),
            (lambda: lm.conversation("x").send("y", seed="z"), "seed must be a whole number, got 'z'"),
        ]
        for call, message in calls:
            with pytest.raises(PymlError, match=message):
                call()
