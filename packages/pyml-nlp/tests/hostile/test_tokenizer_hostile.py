"""Hand-built bad tokenizer files: each gives one line that names the fault, and nothing hangs."""

# ruff: noqa: E501 (tables of one case a line)

from __future__ import annotations

import json
import random
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile.checks import refused
from tokenizer_makers import (
    byte_level_metadata,
    library_json,
    pieces_metadata,
    pieces_model,
    write_json,
    write_vocab_and_merges,
)

from pyml_core.errors import PymlError
from pyml_nlp.tokenizer import Tokenizer, load_tokenizer
from pyml_nlp.tokenizer.gguf import load_gguf


def edited(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of a document with the value at a dotted path replaced (``...`` removes it)."""
    copy = json.loads(json.dumps(document))
    *parents, last = path.split(".")
    at = copy
    for name in parents:
        at = at[int(name)] if isinstance(at, list) else at[name]
    key: Any = int(last) if isinstance(at, list) else last
    if value is ...:
        del at[key]
    else:
        at[key] = value
    return dict(copy)


def split(expression: Any) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}


def nested(depth: int) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": [nested(depth - 1)]} if depth else {"type": "NFC"}


def replace(content: Any) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": "a"}, "content": content}


def replace_all(expression: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": expression}, "content": "é"}


def single(*entries: Any) -> dict[str, Any]:
    return {
        "type": "TemplateProcessing",
        "single": list(entries),
        "pair": [],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [10**6], "tokens": ["<s>"]}},
    }


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
ADDED = {
    "id": 9999,
    "content": "<x>",
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": True,
}
A = {"Sequence": {"id": "A", "type_id": 0}}
SP = {"SpecialToken": {"id": "<s>", "type_id": 0}}

TOKENIZER_JSON: list[tuple[str, Any, str]] = [
    ("model", ..., "model: expected an object"),
    ("model", [], "model: expected an object, got list"),
    ("model.type", "WordLevel", "expected type BPE, Unigram or WordPiece, got 'WordLevel'"),
    ("model.vocab", [], "vocab: expected an object"),
    ("model.vocab", {}, "vocabulary of 1 to"),
    ("model.vocab.the", "1", "expected an id from 0"),
    ("model.vocab.the", -1, "expected an id from 0"),
    ("model.vocab.the", True, "expected an id from 0"),
    ("model.vocab.the", 1.0, "expected an id from 0"),
    ("model.vocab.the", 2**31, "expected an id from 0"),
    ("model.vocab.the", 0, "expected one token an id"),
    ("model.vocab", {"a" * 70000: 0}, "at most 65536 characters, got 70000"),
    ("model.merges", {}, "merges: expected a list"),
    ("model.merges.0", "ab", "merge 0: expected two tokens"),
    ("model.merges.0", "a b c", "merge 0: expected two tokens"),
    ("model.merges.0", ["a", "b", "c"], "merge 0: expected two tokens"),
    ("model.merges.0", ["a", 1], "merge 0: expected two tokens"),
    ("model.merges.0", " b", "merge 0: expected two tokens"),
    ("model.merges.0", 5, "merge 0: expected two tokens"),
    ("model.merges.0", ["h", "missing"], "'missing' is not in the vocabulary"),
    ("model.merges.0", ["the" * 3, "h"], "'thethethe' is not in the vocabulary"),
    ("model.merges.0", ["!", "~"], "'!~' is not in the vocabulary"),  # the library panics at this one
    ("model.dropout", 0.1, "dropout: expected none, got 0.1"),
    ("model.continuing_subword_prefix", "##", "continuing_subword_prefix: expected none"),
    ("model.end_of_word_suffix", "</w>", "end_of_word_suffix: expected none"),
    ("model.unk_token", "missing", "unk_token 'missing' is not in the vocabulary"),
    ("model.unk_token", 3, "unk_token 3 is not in the vocabulary"),
    ("model.byte_fallback", 1, "byte_fallback: expected true or false"),
    ("added_tokens", {}, "added_tokens: expected a list"),
    ("added_tokens.0", "x", "added token: expected an object"),
    ("added_tokens.0", {**ADDED, "id": 2**32}, "expected a token id, got 4294967296"),
    ("added_tokens.0", {**ADDED, "id": -1}, "expected a token id, got -1"),
    ("added_tokens.0", {**ADDED, "content": ""}, "expected a text of 1 to"),
    ("added_tokens.0", {**ADDED, "content": None}, "expected a text of 1 to"),
    ("added_tokens.0", {**ADDED, "special": 1}, "special: expected true or false"),
    ("pre_tokenizer", split("(a+)+$"), "is refused: '\\(a\\+\\)\\+\\$' may backtrack"),
    ("pre_tokenizer", {"type": "Sequence", "pretokenizers": [split(r"\s+$|x")]}, "is refused"),
    ("pre_tokenizer", split("|".join([r"(?:\p{L}{0,9}){0,1}\p{N}"] * 40)), "is refused: it may take more than 512 steps"),
    ("pre_tokenizer", split(r"\s*[\r\n]+|\s|\s+"), "is refused: .* may backtrack"),
    ("pre_tokenizer", {"type": "Sequence", "pretokenizers": [split("a")] * 20}, "parts that take at most 512 steps for a character .*, got 528 or more"),
    ("pre_tokenizer", {"type": "Sequence", "pretokenizers": [split("|".join("abcdefgh" * 9))] * 5}, "parts that take at most 512 steps"),
    ("pre_tokenizer", {"type": "Sequence", "pretokenizers": [BYTE_LEVEL] * 9}, "parts that take at most 512 steps"),
    ("pre_tokenizer", split(r"(.*)\1"), "is refused"),
    ("pre_tokenizer", split(5), "expected a pattern"),
    ("pre_tokenizer", split("[z-a]"), "tokenizer.json: "),
    ("pre_tokenizer", split(r"\p{Nonsense}"), "tokenizer.json: "),
    ("pre_tokenizer", {"type": "Exec"}, "pre_tokenizer: expected one of .*, got 'Exec'"),
    ("pre_tokenizer", {"type": "Digits"}, "tokenizer.json: "),
    ("pre_tokenizer", "ByteLevel", "pre_tokenizer: expected an object"),
    ("pre_tokenizer", {"type": "Sequence", "pretokenizers": [split("a")] * 65}, "at most 64 parts"),
    ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}, "precompiled_charsmap: expected base64 of a trie"),
    ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "no base64!"}, "precompiled_charsmap: expected base64 of"),
    ("normalizer", {"type": "Precompiled"}, "normalizer: expected a precompiled_charsmap, got"),
    ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAAAP8="}, "precompiled_charsmap: invalid start byte"),
    ("normalizer", {"type": "Precompiled", "precompiled_charsmap": b64encode(bytes(4) + b"a" * 99).decode()}, "expected texts of at most 18 characters, got 99"),
    ("normalizer", nested(20), "normalizer: expected an object"),
    ("normalizer", {"type": "Sequence", "normalizers": [replace("a" * 10)] * 20}, "at most 60 times longer|at most 512 steps"),
    ("normalizer", {"type": "Sequence", "normalizers": [{"type": "NFKD"}, replace("a" * 4)]}, "at most 60 times longer, got 72"),
    ("normalizer", replace("a" * 20), "parts that take at most 512 steps for a character .*, got 660 or more"),
    ("normalizer", {"type": "Sequence", "normalizers": [{"type": "Nmt"}] * 20}, "parts that take at most 512 steps"),
    ("normalizer", {"type": "Prepend", "prepend": ""}, "expected a text, got {'type': 'Prepend'"),
    ("normalizer", replace_all("x*"), "expected an expression that matches one character or more, got 'x\\*'"),
    ("normalizer", replace_all("$"), "expected an expression that matches one character or more"),
    ("normalizer", replace_all(r"(?:ab|)\b"), "expected an expression that matches one character or more"),
    ("normalizer", {"type": "Prepend", "prepend": "a" * 100}, "at most 60 times longer"),
    ("normalizer", {"type": "Replace", "pattern": {"Regex": "(x+x+)+y"}, "content": ""}, "is refused"),
    ("normalizer", {"type": "Replace", "pattern": {"String": ""}, "content": "a"}, "expected a pattern"),
    ("normalizer", replace(3), "expected a text"),
    ("decoder", {"type": "CTC"}, "decoder: expected one of .*, got 'CTC'"),
    ("decoder", {"type": "Replace", "pattern": {"Regex": "a"}, "content": "b"}, "expected a plain text"),
    ("decoder", {"type": "Replace", "pattern": {"String": "a"}, "content": "b" * 100}, "expected a plain text"),
    ("decoder", {"type": "Strip", "content": "ab", "start": 1, "stop": 0}, "expected one character"),
    ("decoder", {"type": "Metaspace", "replacement": ""}, "expected one character"),
    ("decoder", {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteFallback"}]}, "expected only Strip"),
    ("decoder", {"type": "Sequence"}, "decoders: expected a list"),
    ("post_processor", {"type": "Magic"}, "post_processor: expected one of"),
    ("post_processor", single(SP, A), "expected an id of the vocabulary, got 1000000"),
    ("post_processor", single(A, A), "expected the text once, got it 2 times"),
    ("post_processor", single({"SpecialToken": {"id": "?"}}, A), "special_tokens: \\?: expected an object"),
    ("post_processor", single("x"), "expected SpecialToken or Sequence A"),
    ("post_processor", {"type": "BertProcessing", "cls": ["<s>"], "sep": []}, "expected an id of the vocabulary, got None"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "message"), TOKENIZER_JSON)
def test_tokenizer_json(path: str, value: Any, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    document = library_json("gpt2")
    write_json(tmp_path, edited(document, path, value))
    refused(lambda file: load_tokenizer(file.parent), tmp_path / "tokenizer.json", message)
    assert capfd.readouterr().err == ""  # no panic of the library, which it would write there


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected JSON"), (b"{", "expected JSON"), (b"\xff{}", "expected UTF-8"), (b"[]", "expected a JSON object, got list"),
        (b'{"model": 1, "model": 2}', "each key once, got 'model'"), (b'{"a": NaN}', "finite"), (b"[" * 200_000, "levels"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "digits"), (b'{"a": "\\ud800"}', "surrogate"), (b"null", "got NoneType"),
    ],
)  # fmt: skip
def test_tokenizer_json_that_is_no_json(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    refused(lambda file: load_tokenizer(file.parent), tmp_path / "tokenizer.json", message)


def test_tokenizer_json_of_absurd_size(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate((200 << 20) + 1)
    refused(
        lambda file: load_tokenizer(file.parent), tmp_path / "tokenizer.json", "at most 209715200 bytes, got 209715201"
    )


@pytest.mark.parametrize(
    ("vocab", "message"),
    [
        ([], "expected a text and a finite|vocabulary of 1 to"), ([["a", 0.0], "b"], "token 1: expected a text"), ([["a", True]], "token 0: expected"),
        ([["a", "0"]], "token 0: expected"), ([["a", 0.0], ["a", 1.0]], "expected each token once"), ({}, "vocab: expected a list"),
        ([["a", 1e400]], "finite"), ([["a", 0.0, 1]], "token 0: expected"), ([["a", 0.0], ["é" * 257, 0.0]], "piece 1: expected at most 512 bytes, got 514"),
    ],
)  # fmt: skip
def test_unigram(vocab: Any, message: str, tmp_path: Path) -> None:
    document = library_json("metaspace")
    text = json.dumps(edited(document, "model.vocab", vocab)).replace("Infinity", "1e400")
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    refused(lambda file: load_tokenizer(file.parent), tmp_path / "tokenizer.json", message)


@pytest.mark.parametrize("unknown", [-1, 10**6, "0", True, 0.0])
def test_unigram_unknown(unknown: Any, tmp_path: Path) -> None:
    write_json(tmp_path, edited(library_json("metaspace"), "model.unk_id", unknown))
    refused(lambda file: load_tokenizer(file.parent), tmp_path / "tokenizer.json", "unk_id: expected 0 to")


def test_a_text_that_the_model_cannot_take(tmp_path: Path) -> None:
    write_json(tmp_path, edited(library_json("metaspace"), "model.unk_id", None))
    tokenizer = load_tokenizer(tmp_path)
    with pytest.raises(PymlError, match=r"^text: .*unk_id"):
        tokenizer.encode("\U0001f9ff")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_config.json", {"bos_token": 5}, "bos_token: expected the text of a token, got 5"),
        ("tokenizer_config.json", {"eos_token": {"id": 3}}, "eos_token: expected the text of a token"),
        ("tokenizer_config.json", {"chat_template": 5}, "chat_template: expected text, got int"),
        ("tokenizer_config.json", {"chat_template": "x" * 2_000_000}, "at most 1048576 characters, got 2000000"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["tok.Tok", None]}}, "run code"),
        ("tokenizer_config.json", {"added_tokens_decoder": []}, "$^"),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}, "added_tokens_decoder: expected an object"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "y"}}}, "expected a token id, got 'x'"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"-1": {"content": "y"}}}, "expected a token id, got '-1'"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"1": 5}}, "'1': expected an object"),
        ("tokenizer_config.json", {"additional_special_tokens": "x"}, "additional_special_tokens: expected a list, got str"),
        ("special_tokens_map.json", {"bos_token": []}, "bos_token: expected the text of a token, got \\[\\]"),
        ("special_tokens_map.json", {"bos_token": [1]}, "bos_token: expected the text of a token"),
        ("config.json", {"eos_token_id": "2"}, "eos_token_id: expected a token id, got '2'"),
        ("config.json", {"eos_token_id": [1, -2]}, "eos_token_id: expected a token id, got -2"),
        ("generation_config.json", {"eos_token_id": True}, "eos_token_id: expected a token id, got True"),
        ("generation_config.json", {"eos_token_id": 1.5}, "eos_token_id: expected a token id, got 1.5"),
        ("added_tokens.json", {"<x>": "5"}, "'<x>': expected a token id, got '5'"),
        ("chat_template.jinja", b"\xff", "expected UTF-8, got byte 0xff at offset 0"),
    ],
)  # fmt: skip
def test_small_files(name: str, content: Any, message: str, tmp_path: Path) -> None:
    write_json(tmp_path, library_json("gpt2"))
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    if message == "$^":  # empty: nothing is said
        load_tokenizer(tmp_path)
    else:
        refused(lambda file: load_tokenizer(file.parent), tmp_path / name, message)


@pytest.mark.parametrize(
    ("vocab", "merges", "message"),
    [
        (b"[]", None, "expected a JSON object, got list"), (b"{}", None, "vocabulary of 1 to"), (b'{"a": "0"}', None, "expected an id from 0"),
        (None, b"a b c\n", "merge 0: expected two tokens"), (None, b"\xff\n", "expected UTF-8"), (None, b"#version: 0.2\nt h e\n", "merge 0"),
        (None, b"#version: 0.2\nzz yy\n", "'zz' is not in the vocabulary"), (None, b"\n\nmissing x\n", "'missing' is not in the vocabulary"),
        (None, b"! ~\n", "'!~' is not in the vocabulary"),
    ],
)  # fmt: skip
def test_vocab_and_merges(vocab: bytes | None, merges: bytes | None, message: str, tmp_path: Path) -> None:
    write_vocab_and_merges(tmp_path)
    for name, content in (("vocab.json", vocab), ("merges.txt", merges)):
        if content is not None:
            (tmp_path / name).write_bytes(content)
    refused(lambda file: load_tokenizer(file.parent), tmp_path / "vocab.json", message)


def test_vocab_and_merges_of_a_class_that_is_not_known(tmp_path: Path) -> None:
    write_vocab_and_merges(tmp_path)
    write_json(tmp_path, {"tokenizer_class": "BartTokenizer"}, "tokenizer_config.json")
    refused(
        lambda file: load_tokenizer(file.parent),
        tmp_path / "vocab.json",
        "expected one of GPT2Tokenizer, .*, got 'BartTokenizer'",
    )
    write_json(tmp_path, {"tokenizer_class": ["x"]}, "tokenizer_config.json")
    refused(lambda file: load_tokenizer(file.parent), tmp_path / "vocab.json", "tokenizer_class")


ODD: list[Any] = [None, True, False, 0, -1, 1, 2**31, 2**63, 1.5, 1e308, "", "a", "▁", "\0", [], {}, [[]], ["a", "b"], {"type": "NFC"},
                  {"type": "Sequence"}, "<unk>", {"String": "a"}, {"Regex": "a+"}, "x" * 70_000, [1, 2, 3]]  # fmt: skip


def places(value: Any, path: str = "") -> list[str]:
    """Dotted paths of everything in a document, the first few of a large part."""
    keys = (
        list(value)[:20] if isinstance(value, dict) else range(min(len(value), 20)) if isinstance(value, list) else ()
    )
    below = [(f"{path}.{key}" if path else str(key), value[key]) for key in keys if "." not in str(key) and key != ""]
    return [found for name, inner in below for found in (name, *places(inner, name))]


def loads_and_works_or_refuses(load: Callable[[], Tokenizer]) -> None:
    """A tokenizer that does its work, or pyml's error on one line; anything else fails the test."""
    try:
        tokenizer = load()
        for text in ("", "the quick <s> brown\n\n 123 你好🎉 ▁▁ " * 3):
            tokenizer.decode(tokenizer.encode(text, parse_special=False))
            tokenizer.decode(tokenizer.encode(text), skip_special=False)
        tokenizer.decode(range(0, tokenizer.vocab_size, 7))
    except PymlError as error:
        text = str(error)
        if "\n" in text or not text.isprintable():
            raise


@pytest.mark.parametrize("kind", ["gpt2", "llama3", "llama2", "gemma", "metaspace"])
def test_tokenizer_json_with_any_part_replaced(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    draw = random.Random(kind)
    document = library_json(kind)
    paths = places(document)
    for _ in range(60):
        write_json(tmp_path, edited(document, draw.choice(paths), draw.choice([*ODD, ...])))
        loads_and_works_or_refuses(lambda: load_tokenizer(tmp_path))
    assert "panicked" not in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_tokenizer_model_with_random_bytes_changed(kind: str, tmp_path: Path) -> None:
    draw = random.Random(kind)
    whole = pieces_model(kind, normalization_rule_name="nmt_nfkc", remove_extra_whitespaces=True)
    for _ in range(60):
        changed = bytearray(whole)
        for _ in range(draw.choice((1, 2, 10))):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        (tmp_path / "tokenizer.model").write_bytes(changed)
        loads_and_works_or_refuses(lambda: load_tokenizer(tmp_path))


def test_gguf_metadata_with_any_value_replaced() -> None:
    draw = random.Random(3)
    more = [np.zeros(5, np.int8), np.array(["a"]), np.arange(10)]
    for original in (pieces_metadata(pieces_model("bpe")), byte_level_metadata("llama-bpe")):
        for _ in range(60):
            metadata = {**original, draw.choice(list(original)): draw.choice([*ODD, *more])}
            loads_and_works_or_refuses(lambda metadata=metadata: load_gguf(metadata, "x"))  # type: ignore[misc]
