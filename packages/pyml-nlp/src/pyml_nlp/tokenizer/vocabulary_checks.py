"""Checks of vocabularies and merges, for all file formats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyml_core.errors import quoted
from pyml_core.strings import split_pairs

from ..errors import ModelFileError
from .base import MAX_TOKEN_LENGTH, MAX_TOKENS


def check_vocab(vocab: Mapping[str, Any], label: str) -> None:
    """Refuse a vocabulary whose ids are not integers, out of range or repeated.

    Raises:
        ModelFileError: names the first invalid entry.
    """
    if not 0 < len(vocab) <= MAX_TOKENS:
        raise ModelFileError(f"{label}: expected a vocabulary of 1 to {MAX_TOKENS} tokens, got {len(vocab)}")
    if set(map(type, vocab.values())) != {int} or min(vocab.values()) < 0 or max(vocab.values()) >= MAX_TOKENS:
        text, number = next((t, n) for t, n in vocab.items() if type(n) is not int or not 0 <= n < MAX_TOKENS)
        raise ModelFileError(
            f"{label}: token {quoted(text)}: expected an id from 0 to {MAX_TOKENS - 1}, got {quoted(number)}"
        )
    longest = max(vocab, key=len)
    if len(longest) > MAX_TOKEN_LENGTH:
        raise ModelFileError(
            f"{label}: token {vocab[longest]}: expected at most {MAX_TOKEN_LENGTH} characters, got {len(longest)}"
        )
    if len(set(vocab.values())) != len(vocab):
        by_id: dict[int, str] = {}
        first, second = next((by_id[n], t) for t, n in vocab.items() if by_id.setdefault(n, t) != t)
        raise ModelFileError(
            f"{label}: expected one token an id, got {quoted(first)} and {quoted(second)} with {vocab[first]}"
        )


def split_merges(lines: list[Any], label: str) -> list[tuple[str, str]]:
    """Split lines "left right", or lists of two, into pairs.

    Raises:
        ModelFileError: names the first invalid line.
    """
    pairs = split_pairs(lines)
    if len(pairs) < len(lines):
        number = len(pairs)
        raise ModelFileError(
            f"{label}: merge {number}: expected two tokens with a space between them, got {quoted(lines[number])}"
        )
    return pairs
