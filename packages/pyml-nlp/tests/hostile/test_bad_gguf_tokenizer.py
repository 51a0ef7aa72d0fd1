"""Vocabularies in GGUF metadata, each with one fault, which its error must name."""

# ruff: noqa: E501 (tables of one case a line)

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile.checks import refused
from tokenizer_makers import byte_level_metadata, pieces_metadata, pieces_model

from pyml_nlp.tokenizer.gguf import load_gguf


def change(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(metadata: dict[str, Any]) -> None:
        metadata[f"tokenizer.ggml.{key}" if "." not in key else key] = value

    return apply


def item(key: str, index: int, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(metadata: dict[str, Any]) -> None:
        array = metadata[f"tokenizer.ggml.{key}"]
        array = list(array) if isinstance(array, list) else array.copy()
        array[index] = value
        metadata[f"tokenizer.ggml.{key}"] = array

    return apply


def shorter(key: str) -> Callable[[dict[str, Any]], None]:
    def apply(metadata: dict[str, Any]) -> None:
        metadata[f"tokenizer.ggml.{key}"] = metadata[f"tokenizer.ggml.{key}"][:-1]

    return apply


def long_word(metadata: dict[str, Any]) -> None:
    """A user-defined token that every place of a text is compared with."""
    item("tokens", 400, "a" * 600)(metadata)
    item("token_type", 400, 4)(metadata)


BOTH: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (change("model", None), "tokenizer.ggml.model: expected 'llama', 'gpt2' or 'gemma4', got none"),
    (change("model", np.arange(1000)), "got 1000 of int64"),
    (change("model", "t5"), "got 't5'"),
    (change("model", 5), "got 5"),
    (change("tokens", None), "tokens: expected an array of strings, got none"),
    (change("tokens", []), "tokens: expected 1 to"),
    (change("tokens", "abc"), "tokens: expected an array of strings, got 'abc'"),
    (change("tokens", np.arange(5)), "tokens: expected an array of strings"),
    (item("tokens", 5, 7), "tokens: expected an array of strings, got \\d+ of int and str"),
    (item("tokens", 5, "x" * 70_000), "token 5: expected at most 65536 characters, got 70000"),
    (shorter("token_type"), "token_type: expected one for each of"),
    (change("token_type", np.zeros(3, np.int8)), "token_type: expected an array of integers, got 3 of int8"),
    (change("token_type", np.zeros(3, np.float32)), "token_type: expected an array of integers"),
    (change("token_type", [True, False]), "token_type: expected an array of integers"),
    (change("token_type", [["a"]]), "token_type: expected an array of integers"),
    (item("token_type", 5, 7), "token_type: expected 0 to 6, got"),
    (item("token_type", 5, -1), "token_type: expected 0 to 6, got"),
    *((change(f"{role}_token_id", value), f"tokenizer.ggml.{role}_token_id: expected an integer, got {found}")
      for role in ("bos", "eos", "eot", "eom", "unknown", "seperator", "padding", "mask")
      for value, found in (("1", "'1'"), (True, "True"), (1.0, "1.0"), ([1], "1 of int"), (np.array([], np.int32), "0 of nothing"),
                           (np.array([1, 2], np.float32), "2 of float32"))),
    (change("add_bos_token", 1), "add_bos_token: expected a bool, got 1"),
    (change("add_eos_token", "true"), "add_eos_token: expected a bool, got 'true'"),
    (change("tokenizer.chat_template", 5), "tokenizer.chat_template: expected text"),
    (change("tokenizer.chat_template", "x" * 2_000_000), "tokenizer.chat_template: expected text of at most 1048576"),
]  # fmt: skip

LLAMA = [
    (change("scores", None), "scores: expected an array of floats, got none"),
    (shorter("scores"), "scores: expected one for each of"),
    (change("scores", np.zeros(3, np.int8)), "scores: expected an array of floats, got 3 of int8"),
    (change("scores", ["a"]), "scores: expected an array of floats"),
    (item("scores", 7, np.nan), "token 7: expected a finite score, got nan"),
    (item("scores", 7, np.inf), "token 7: expected a finite score, got inf"),
    (lambda m: change("scores", [1e300] * len(m["tokenizer.ggml.tokens"]))(m), "token 0: expected a finite score, got inf"),
    (long_word, "piece 400: expected at most 512 bytes, got 600"),
    (item("tokens", 20, "<0x-1>"), "token 20: expected a byte such as '<0x0A>', got '<0x-1>'"),
    (item("tokens", 20, "<0xZZ>"), "got '<0xZZ>'"),
    (item("tokens", 20, "<0xaa>"), "got '<0xaa>'"),
    (item("tokens", 20, "<0x00>"), "expected 256 different byte tokens or none, got \\d+ tokens of 255 bytes"),
    (item("token_type", 20, 1), "expected 256 different byte tokens or none, got \\d+ tokens of 255 bytes"),
    (lambda m: (item("tokens", 300, "<0x05>")(m), item("token_type", 300, 6)(m)), "got 257 tokens of 256 bytes"),
    (item("tokens", 300, "a\0b"), "token 300: expected no zero character"),
    (change("add_space_prefix", 2), "add_space_prefix: expected a bool, got 2"),
    (change("precompiled_charsmap", [1, 2]), "precompiled_charsmap: expected none"),
]  # fmt: skip

GPT2 = [
    (change("pre", "nonsense"), "pre: expected one of .*gpt-2.*smollm.*, got 'nonsense'"),
    (change("pre", 5), "tokenizer.ggml.pre: expected text"),
    (change("merges", None), "merges: expected an array of strings, got none"),
    (change("merges", [1]), "merges: expected an array of strings, got 1 of int"),
    (item("merges", 3, "ab"), "merge 3: expected two tokens"),
    (item("merges", 3, "a b c"), "merge 3: expected two tokens"),
    (item("merges", 3, "missing x"), "merge 3 'missing x': 'missing' is not in the vocabulary"),
    (item("merges", 3, "! ~"), "'!~' is not in the vocabulary"),
    (lambda m: item("tokens", 301, m["tokenizer.ggml.tokens"][300])(m), "is not in the vocabulary"),
    (lambda m: (change("bos_token_id", None)(m), change("add_bos_token", True)(m)), "expected tokenizer.ggml.bos_token_id too, got none"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "apply", "expected"),
    [(kind, *case) for kind, more in (("llama", LLAMA), ("gpt2", GPT2)) for case in [*BOTH, *more]],
)
def test_gguf_metadata(
    kind: str,
    apply: Callable[[dict[str, Any]], None],
    expected: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    metadata = pieces_metadata(pieces_model("bpe")) if kind == "llama" else byte_level_metadata("gpt-2")
    apply(metadata)
    caplog.set_level("ERROR", "pyml")  # a warning before the error is right
    refused(lambda file: load_gguf(metadata, str(file)), tmp_path / "bad.gguf", expected)
    assert capfd.readouterr().err == ""


def test_empty_tokens_of_gguf_are_placeholders() -> None:
    for metadata in (pieces_metadata(pieces_model("bpe")), byte_level_metadata("gpt-2")):
        item("tokens", -1, "")(metadata)
        tokenizer = load_gguf(metadata, "x")
        number = tokenizer.vocab_size - 1
        assert tokenizer.token_bytes(number) == f"[EMPTY_{number}]".encode()
