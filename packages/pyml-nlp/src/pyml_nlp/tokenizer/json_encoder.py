"""The beginning of a tokenizer.json: how a text is normalised, and how it is cut before the model sees it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pyml_core.errors import quoted

from ..errors import ModelFileError
from . import regex_check
from .json_parts import parts, pattern_of, unknown
from .work import Work

if TYPE_CHECKING:
    import tokenizers

_MAX_GROWTH = 60  # how many times longer the normalizers may make a text
_GROWTH = {  # characters that one may become
    "ByteLevel": 4,
    "Lowercase": 3,
    "NFC": 3,
    "NFD": 4,
    "NFKC": 18,
    "NFKD": 18,
    "Nmt": 1,
    "Prepend": 1,  # its text comes on top
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
).steps  # of the expression that is built into the library's ByteLevel


def before_model(document: dict[str, Any], what: str) -> tokenizers.Tokenizer:
    """The library's object with the file's normalizer and pre-tokenizer, and nothing else yet.

    Raises:
        ModelFileError: a part is of a type that is not known, has an expression that is refused, or makes texts too
            long; or all parts together are too much work.
    """
    from tokenizers import Tokenizer

    work = Work(what)
    growth = 1.0
    for part in parts(document, "normalizer", what):
        kind = part.get("type")
        if kind not in _GROWTH:
            raise unknown("normalizer", kind, _GROWTH, what)
        steps, written = _normalizer(part, what)
        growth *= _GROWTH[kind] + written
        if growth > _MAX_GROWTH:
            raise ModelFileError(
                f"{what}: normalizer: expected one that makes a text at most {_MAX_GROWTH} times longer, got"
                f" {growth:.0f}"
            )
        work.add(steps, 1 + written)
    for part in parts(document, "pre_tokenizer", what):
        kind = part.get("type")
        if kind not in _PRE_TOKENIZERS:
            raise unknown("pre_tokenizer", kind, _PRE_TOKENIZERS, what)
        work.add(_pre_tokenizer_steps(part, what))
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
    return Tokenizer.from_str(json.dumps(shell))


def _normalizer(part: dict[str, Any], what: str) -> tuple[int, float]:
    """Steps of its expression, and the characters that it writes for each one that it reads, besides those it keeps.

    The library panics where a normalizer writes something in place of nothing: such parts are refused.
    """
    match part:
        case {"type": "Prepend", "prepend": str(content)} if content:
            return 0, len(content) - 1
        case {"type": "Replace", "content": str(content)}:
            found = pattern_of(part, "normalizer", what)
            if isinstance(found, str):
                return 1, max(0.0, len(content) / len(found) - 1)
            if found.empty:
                raise ModelFileError(
                    f"{what}: normalizer: expected an expression that matches one character or more, got"
                    f" {quoted(found.pattern)}"
                )
            part["pattern"] = {"Regex": found.pattern}
            return found.steps, len(content)
        case {"type": "Prepend" | "Replace"}:
            raise ModelFileError(f"{what}: normalizer: expected a text, got {quoted(part)}")
    return 0, 0


def _pre_tokenizer_steps(part: dict[str, Any], what: str) -> int:
    """Steps of its expression."""
    if part["type"] == "ByteLevel":
        return 0 if part.get("use_regex") is False else _GPT2_STEPS
    if part["type"] != "Split":
        return 0
    found = pattern_of(part, "pre_tokenizer", what)
    if isinstance(found, str):
        return 1
    part["pattern"] = {"Regex": found.pattern}
    return found.steps
