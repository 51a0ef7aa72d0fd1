"""Structured output with every kind of tokenizer: for any choice among the allowed tokens, the bytes match."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizer_makers import byte_level_metadata, pieces_metadata, pieces_model, write_vocab_and_merges

from pyml_core.sampling import Sampler, SamplingRules
from pyml_nlp.structured.grammar import Grammar, GrammarError
from pyml_nlp.tokenizer import Tokenizer, load_tokenizer
from pyml_nlp.tokenizer.gguf import load_gguf

pytest.importorskip("llguidance")

KINDS = ("pieces with a space before texts", "pieces", "byte level", "vocab.json")


def make(kind: str, folder: Path) -> Tokenizer:
    if kind == "byte level":
        return load_gguf(byte_level_metadata("gpt-2"), "test.gguf")
    if kind == "vocab.json":
        write_vocab_and_merges(folder)
        return load_tokenizer(folder)
    prefix = kind != "pieces"
    return load_gguf(
        pieces_metadata(pieces_model("bpe", add_dummy_prefix=prefix), add_space_prefix=prefix), "test.gguf"
    )


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Tokenizer:
    return make(request.param, tmp_path)


def vocabulary(tokenizer: Tokenizer, padding: int = 0) -> Any:
    from pyml_nlp.structured.vocabulary import Vocabulary

    return Vocabulary(tokenizer, tokenizer.eos_ids or (0,), tokenizer.vocab_size + padding)


def walk(vocabulary: Any, grammar: Grammar, tokenizer: Tokenizer, seed: int) -> str:
    """A text of random tokens among those that may come next, with those that are forced."""
    draw, matcher, data = random.Random(seed), vocabulary.matcher(grammar), b""
    for _ in range(2000):
        if matcher.ended:
            return data.decode()
        token = draw.choice(np.flatnonzero(matcher.allowed()).tolist())
        if token in (tokenizer.eos_ids or (0,)):
            return data.decode()
        for number in [token, *_after(matcher, token)]:
            data += tokenizer.token_bytes(number)
    raise AssertionError(f"no end in sight: {data!r}")


def _after(matcher: Any, token: int) -> list[int]:
    matcher.take(token)
    forced: list[int] = matcher.forced()
    for number in forced:
        assert matcher.allowed()[number]
        matcher.take(number)
    return forced


@pytest.mark.parametrize(
    "regex", [r"(yes|no), [0-9]{3}", r" ?[a-zé🎉世]{1,6}\n", r"[^a-z]{4}", r"the quick brown fox (runs|jumps) away"]
)
def test_random_tokens_match_an_expression(regex: str, tokenizer: Tokenizer) -> None:
    words = vocabulary(tokenizer, padding=7)
    for seed in range(10):
        assert re.fullmatch(regex, walk(words, Grammar("regex", regex), tokenizer, seed))


def test_random_tokens_match_a_schema(tokenizer: Tokenizer) -> None:
    validate = pytest.importorskip("jsonschema").validate
    schema = {
        "type": "object",
        "properties": {
            "word": {"type": "string", "maxLength": 5},
            "kind": {"enum": ["München", "世界"]},
            "count": {"type": "integer", "minimum": -5, "maximum": 500},
        },
        "required": ["word", "kind", "count"],
        "additionalProperties": False,
    }
    words = vocabulary(tokenizer)
    for seed in range(10):
        validate(json.loads(walk(words, Grammar("schema", json.dumps(schema)), tokenizer, seed)), schema)


def test_forced_tokens_are_those_of_the_text(tokenizer: Tokenizer) -> None:
    matcher = vocabulary(tokenizer).matcher(Grammar("regex", "[ab] the quick brown fox jumps over the lazy dog"))
    start = int(np.flatnonzero(matcher.allowed())[0])
    forced = _after(matcher, start)
    data = b"".join(tokenizer.token_bytes(token) for token in [start, *forced])
    assert data.decode().startswith(("a the quick brown fox jumps over", "b the quick brown fox jumps over"))


def test_long_forced_texts_are_encoded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoding takes some hundred bytes of memory for each character."""
    tokenizer = load_gguf(byte_level_metadata("gpt-2"), "test.gguf")
    encode, longest = tokenizer.encode, 0

    def encoded(text: str, **options: Any) -> list[int]:
        nonlocal longest
        longest = max(longest, len(text))
        return encode(text, **options)

    monkeypatch.setattr(tokenizer, "encode", encoded)
    matcher = vocabulary(tokenizer).matcher(Grammar("regex", "(0123456789){9000}"))
    forced = b"".join(tokenizer.token_bytes(token) for token in matcher.forced())
    assert 30_000 < len(forced) <= longest < 40_000
    assert (b"0123456789" * 9000).startswith(forced)


def test_texts_that_a_tokenizer_changes_come_as_the_grammar_says(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load_gguf(byte_level_metadata("gpt-2"), "test.gguf")
    encode = tokenizer.encode
    monkeypatch.setattr(tokenizer, "encode", lambda text, **options: encode(text.lower(), **options))
    words = vocabulary(tokenizer)
    for seed in range(5):
        text = walk(words, Grammar("regex", "Hello World( and [AB]){2} and so on"), tokenizer, seed)
        assert re.fullmatch("Hello World( and [AB]){2} and so on", text)


def test_tokens_are_chosen_among_the_allowed_ones() -> None:
    tokenizer = load_gguf(byte_level_metadata("gpt-2"), "test.gguf")
    words = vocabulary(tokenizer, padding=3)
    logits = np.random.RandomState(0).standard_normal(words.size).astype(np.float32)
    for regex in ("[ab]", "(?s:.*)"):
        matcher = words.matcher(Grammar("regex", regex))
        allowed = matcher.allowed()
        assert not allowed[-3:].any()
        sampler = Sampler(SamplingRules(greedy=True), 0, words.size)
        sampler.set_mask(matcher.mask())
        assert sampler.choose(logits, 5).token == int(np.where(allowed, logits, -np.inf).argmax())
        for token in np.flatnonzero(allowed)[:3].tolist():
            sampler.set_mask(matcher.mask_of(token))
            assert sampler.choose(logits, 5).token == token


def test_a_token_that_does_not_match_is_refused() -> None:
    tokenizer = load_gguf(byte_level_metadata("gpt-2"), "test.gguf")
    matcher = vocabulary(tokenizer).matcher(Grammar("regex", "a"))
    with pytest.raises(GrammarError, match=r"^regex: "):
        matcher.take(tokenizer.encode("b", add_special=False)[0])


def test_a_model_without_an_end_token() -> None:
    from pyml_nlp.structured.vocabulary import Vocabulary

    tokenizer = load_gguf(byte_level_metadata("gpt-2"), "test.gguf")
    with pytest.raises(GrammarError, match="needs an end-of-sequence token, the model has none"):
        Vocabulary(tokenizer, (), tokenizer.vocab_size)
