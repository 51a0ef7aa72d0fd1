"""The input parts of a tokenizer.json: its normalizer and its pre-tokenizer."""

from __future__ import annotations

import base64
import json
from typing import Any

import tokenizers

from pyml_core.errors import quoted

from ..errors import ModelFileError
from . import regex_check
from .json_parts import parts, pattern_of, unknown
from .work import Work

_MAX_GROWTH = 60  # maximum factor by which the normalizers may lengthen a text
_GROWTH = {  # maximum number of characters that each type writes for one
    "BertNormalizer": 12,  # spaces around CJK, NFD, lower case
    "ByteLevel": 4,
    "Lowercase": 3,
    "NFC": 3,
    "NFD": 4,
    "NFKC": 18,
    "NFKD": 18,
    "Nmt": 1,
    "Precompiled": 18,  # SentencePiece's map of characters, which is NFKC with few changes; longer texts are refused
    "Prepend": 1,  # plus its text
    "Replace": 1,
    "Strip": 1,
    "StripAccents": 1,
}
_PRE_TOKENIZERS = (
    "BertPreTokenizer",
    "ByteLevel",
    "CharDelimiterSplit",
    "Digits",
    "Metaspace",
    "Punctuation",
    "Split",
    "UnicodeScripts",
    "Whitespace",
    "WhitespaceSplit",
)
_GPT2_STEPS = regex_check.check(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
).steps  # of the expression built into the library's ByteLevel


def before_model(document: dict[str, Any], label: str) -> tokenizers.Tokenizer:
    """Return the library's object with the file's normalizer and pre-tokenizer only.

    Raises:
        ModelFileError: a part has an unknown type or an unsafe expression, makes texts too long, or the parts together
            take too much work.
    """
    work = Work(label)
    growth = 1.0
    for part in parts(document, "normalizer", label):
        kind = part.get("type")
        if kind not in _GROWTH:
            raise unknown("normalizer", kind, _GROWTH, label)
        steps, written = _normalizer(part, label)
        growth *= _GROWTH[kind] + written
        if growth > _MAX_GROWTH:
            raise ModelFileError(
                f"{label}: normalizer: expected one that makes a text at most {_MAX_GROWTH} times longer, got"
                f" {growth:.0f}"
            )
        work.add(steps, 1 + written)
    for part in parts(document, "pre_tokenizer", label):
        kind = part.get("type")
        if kind not in _PRE_TOKENIZERS:
            raise unknown("pre_tokenizer", kind, _PRE_TOKENIZERS, label)
        work.add(_pre_tokenizer_steps(part, label))
    shell: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": document.get("normalizer"),
        "pre_tokenizer": document.get("pre_tokenizer"),
        "post_processor": None,
        "decoder": None,
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    }
    return tokenizers.Tokenizer.from_str(json.dumps(shell))


def _normalizer(part: dict[str, Any], label: str) -> tuple[int, float]:
    """Return the steps of a normalizer's expression, and the number of characters that it adds for each one.

    The library panics if a normalizer replaces an empty match: such parts are refused.
    """
    match part:
        case {"type": "Prepend", "prepend": str(content)} if content:
            return 0, len(content) - 1
        case {"type": "Replace", "content": str(content)}:
            found = pattern_of(part, "normalizer", label)
            if isinstance(found, str):
                return 1, max(0.0, len(content) / len(found) - 1)
            if found.empty:
                raise ModelFileError(
                    f"{label}: normalizer: expected an expression that matches one character or more, got"
                    f" {quoted(found.pattern)}"
                )
            part["pattern"] = {"Regex": found.pattern}
            return found.steps, len(content)
        case {"type": "Precompiled", "precompiled_charsmap": str(content)}:
            _check_charsmap(content, label)
        case {"type": "Precompiled"}:
            raise ModelFileError(f"{label}: normalizer: expected a precompiled_charsmap, got {quoted(part)}")
        case {"type": "Prepend" | "Replace"}:
            raise ModelFileError(f"{label}: normalizer: expected a text, got {quoted(part)}")
    return 0, 0


def _check_charsmap(charsmap: str, label: str) -> None:
    """Check SentencePiece's map of characters: the size of a trie in four bytes, the trie, and zero-terminated texts.

    Raises:
        ModelFileError: it is malformed, or writes longer texts than NFKC does.
    """
    where = f"{label}: normalizer: precompiled_charsmap"
    try:
        data = base64.b64decode(charsmap, validate=True)
    except ValueError:
        data = b""
    size = int.from_bytes(data[:4], "little")
    if len(data) < 4 or size % 4 or size > len(data) - 4:
        raise ModelFileError(f"{where}: expected base64 of a trie's size, the trie and texts")
    try:
        texts = data[4 + size :].decode()
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{where}: {error.reason}") from None
    longest = max(map(len, texts.split("\0")))
    if longest > _GROWTH["Precompiled"]:
        raise ModelFileError(f"{where}: expected texts of at most {_GROWTH['Precompiled']} characters, got {longest}")


def _pre_tokenizer_steps(part: dict[str, Any], label: str) -> int:
    """Return the steps of a pre-tokenizer's expression."""
    if part["type"] == "ByteLevel":
        return 0 if part.get("use_regex") is False else _GPT2_STEPS
    if part["type"] != "Split":
        return 0
    found = pattern_of(part, "pre_tokenizer", label)
    if isinstance(found, str):
        return 1
    part["pattern"] = {"Regex": found.pattern}
    return found.steps
