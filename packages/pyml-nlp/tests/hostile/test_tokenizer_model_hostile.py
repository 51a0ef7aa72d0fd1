"""Hostile tokenizer.model files."""

# ruff: noqa: E501

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile.checks import refused
from tokenizer_makers import (
    pieces_model,
    write_json,
)

from pyml_core.errors import PymlError
from pyml_nlp.tokenizer import load_tokenizer


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def piece(text: str, kind: int = 1, score: bytes = b"\0\0\0\0") -> bytes:
    return message(1, message(1, text.encode()) + b"\x15" + score + b"\x18" + bytes([kind]))


def charsmap(units: list[int], texts: bytes = b"x\0") -> bytes:
    array = np.array(units + [0] * (-len(units) % 256), "<u4").tobytes()
    return message(3, message(2, len(array).to_bytes(4, "little") + array + texts))


def circle(length: int) -> list[int]:
    """Units of a table in which every "a" leads to the next of ``count`` nodes, and from the last to the first."""
    units = [0] * 512
    units[0] = 256 << 10
    places = [(256 + 256 // (n + 1) * n) ^ ord("a") for n in range(length)]
    for place, after in zip(places, [*places[1:], places[0]], strict=True):
        units[place] = (place ^ after ^ ord("a")) << 10 | ord("a")
    return units


UNKNOWN = piece("<unk>", 2)

MODEL: list[tuple[str, bytes, str]] = [
    ("empty", b"", "got no pieces"),
    ("text", b"not a model at all", "expected a SentencePiece model"),
    ("tiktoken", b"IQ== 0\nIg== 1\n", "expected a SentencePiece model|refused"),
    ("cut", UNKNOWN + piece("a")[:-3], "ends after byte"),
    ("a length of 2^63", UNKNOWN + b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "ends after byte"),
    ("an endless number", b"\x18" + b"\xff" * 20, "broken number"),
    ("field 0", b"\x02\x00", "ends after byte"),
    ("wire type 3", b"\x0b\x0c", "wire type 3"),
    ("a number for a message", UNKNOWN + b"\x18\x05", "number in place of a message"),
    ("no unknown piece", piece("a"), "unk"),
    ("two unknown pieces", UNKNOWN + piece("<unk2>", 2), "unk"),
    ("an empty piece", UNKNOWN + piece(""), "empty"),
    ("a piece twice", UNKNOWN + piece("a") + piece("a"), "a is already defined"),
    ("a piece with a zero", UNKNOWN + piece("a\0b"), "null"),
    ("an invalid score", UNKNOWN + piece("a", score=b"\0\0\xc0\x7f"), "score is NaN or Inf|piece 1: expected a finite score"),
    ("a score without end", UNKNOWN + piece("a", score=b"\0\0\x80\x7f"), "score is NaN or Inf|piece 1: expected a finite score"),
    ("an invalid byte", UNKNOWN + piece("<0x-1>", 6) + message(2, b"\x98\x02\x01"), "byte piece"),
    ("some bytes", UNKNOWN + piece("<0x01>", 6) + message(2, b"\x98\x02\x01"), "256"),
    ("spaces after words", UNKNOWN + message(2, varint(24 << 3) + b"\x01"), "treat_whitespace_as_suffix"),
    ("spaces as they are", UNKNOWN + message(3, b"\x28\x00"), "escape_whitespaces"),
    ("a table that is cut", UNKNOWN + message(3, message(2, b"\0")), "normalisation table"),
    ("a table larger than the file", UNKNOWN + message(3, message(2, b"\0\0\0\x7f")), "normalisation table"),
    ("a table of no whole block", UNKNOWN + message(3, message(2, b"\x05\0\0\0" + b"\0" * 9)), "normalisation table"),
    ("texts without an end", UNKNOWN + charsmap([0], b"x"), "normalisation table"),
    ("a node that points outside", UNKNOWN + charsmap([0x7FFFFC00]), "outside of the array of 256"),
    ("a node far outside", UNKNOWN + charsmap([0, 0x7FFFFE00]), "outside of the array of 256"),
    ("a root that is a value", UNKNOWN + charsmap([0x80000000]), "outside of the array of 256"),
    ("a key without end", UNKNOWN + charsmap(circle(1)), "expected keys of at most 64 bytes, got a longer one"),
    ("a key without end, by two nodes", UNKNOWN + charsmap(circle(2)), "expected keys of at most 64 bytes, got a longer one"),
    ("a replacement that is too long", UNKNOWN + charsmap([0], b"a\0" + b"b" * 65 + b"\0"), "expected texts of at most 64 bytes, got 65"),
    ("a piece that is too long", UNKNOWN + piece("a" * 513), "piece 1: expected at most 512 bytes, got 513"),
    ("a value outside of the texts", UNKNOWN + charsmap([0x100 | 1 << 10, 0x80000000 | 5]), "outside of the 2 bytes"),
    ("a piece that is no text", UNKNOWN + message(1, message(1, b"a\xff") + b"\x18\x01"), "piece|UTF-8"),
    ("the same in the denormalizer", UNKNOWN + b"\x2a" + charsmap([0x7FFFFC00])[1:], "outside of the array of 256"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "expected"), [pytest.param(c, m, id=n) for n, c, m in MODEL])
def test_tokenizer_model(content: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    refused(lambda file: load_tokenizer(file.parent), tmp_path / "tokenizer.model", expected)


def test_tokenizer_model_cut_anywhere_or_with_any_byte_changed(tmp_path: Path) -> None:
    whole = b"".join([UNKNOWN, *(piece(text) for text in "ab▁"), piece("<s>", 3), message(3, b"\x18\x01")])
    file = tmp_path / "tokenizer.model"
    contents = [whole[:end] for end in range(len(whole))]
    contents += [
        whole[:at] + bytes([byte]) + whole[at + 1 :] for at in range(len(whole)) for byte in (0, 1, 0x7F, 0x80, 0xFF)
    ]
    for content in contents:
        file.write_bytes(content)
        with contextlib.suppress(PymlError):
            load_tokenizer(tmp_path).encode("ab a")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"added_tokens_decoder": {"300": {"content": "<x>"}}}, "its id 300 is that of"),
        ({"added_tokens_decoder": {"99999999": {"content": "<x>"}}}, "expected an id below 4194304, got 99999999"),
        ({"added_tokens_decoder": {"9999": {"content": "<x>", "lstrip": True}}}, "lstrip, rstrip and single_word"),
        ({"legacy": "no"}, "legacy: expected true or false"),
        (
            {"bos_token": "missing", "add_bos_token": True},
            "add_bos_token: the token 'missing' is not in the vocabulary",
        ),
        ({"add_bos_token": "yes", "bos_token": "<s>"}, "add_bos_token: expected true or false, got 'yes'"),
        ({"add_eos_token": 1}, "add_eos_token: expected true or false, got 1"),
    ],
)
def test_files_beside_a_tokenizer_model(config: dict[str, Any], expected: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(pieces_model("bpe"))
    write_json(tmp_path, config, "tokenizer_config.json")
    refused(lambda file: load_tokenizer(file.parent), tmp_path / "tokenizer.model", expected)


def test_folders_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(PymlError, match=r"expected tokenizer\.json, .*; got none of them"):
        load_tokenizer(tmp_path)
    with pytest.raises(PymlError, match="got none of them"):
        load_tokenizer(tmp_path / "missing")
    (tmp_path / "tokenizer.json").mkdir()
    refused(lambda file: load_tokenizer(file.parent), tmp_path / "tokenizer.json", "expected a regular file")
    (tmp_path / "tokenizer.json").rmdir()
    os.mkfifo(tmp_path / "tokenizer.model")
    refused(lambda file: load_tokenizer(file.parent), tmp_path / "tokenizer.model", "expected a regular file")
