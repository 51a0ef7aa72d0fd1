"""Sections of a tokenizer.json: objects with a type, which may be sequences of such objects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyml_core.errors import quoted

from ..errors import ModelFileError
from . import regex_check
from .regex_check import Safe

MAX_PARTS = 64
"""Parts that a section may have, those of its sequences counted."""

_MAX_DEPTH = 8
_INNER = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "decoder": "decoders",
    "post_processor": "processors",
}


def section(parent: dict[str, Any], name: str, what: str) -> dict[str, Any]:
    """An object that must be there."""
    found = parent.get(name)
    if not isinstance(found, dict):
        raise ModelFileError(f"{what}: {name}: expected an object, got {type(found).__name__}")
    return found


def listed(parent: dict[str, Any], name: str, what: str) -> list[Any]:
    """A list that must be there."""
    found = parent.get(name)
    if not isinstance(found, list):
        raise ModelFileError(f"{what}: {name}: expected a list, got {type(found).__name__}")
    return found


def parts(document: dict[str, Any], name: str, what: str) -> list[dict[str, Any]]:
    """The parts of a section in order, those of sequences in their place; none if the section is missing.

    Raises:
        ModelFileError: it is no object, nested too deep, or has too many parts.
    """
    found: list[dict[str, Any]] = []
    if document.get(name) is not None:
        _collect(document[name], name, what, 0, found)
    return found


def _collect(part: Any, name: str, what: str, depth: int, found: list[dict[str, Any]]) -> None:
    if not isinstance(part, dict) or depth > _MAX_DEPTH:
        raise ModelFileError(f"{what}: {name}: expected an object, got {quoted(part)}")
    if part.get("type") == "Sequence":
        for step in listed(part, _INNER[name], f"{what}: {name}"):
            _collect(step, name, what, depth + 1, found)
    elif len(found) == MAX_PARTS:
        raise ModelFileError(f"{what}: {name}: expected at most {MAX_PARTS} parts, got more")
    else:
        found.append(part)


def unknown(name: str, kind: Any, known: Iterable[str], what: str) -> ModelFileError:
    """The error for a part of a type that is not known."""
    return ModelFileError(f"{what}: {name}: expected one of {', '.join(sorted(known))}, got {quoted(kind)}")


def pattern_of(part: dict[str, Any], name: str, what: str) -> str | Safe:
    """What a part looks for: a plain text, or a regular expression that is safe to run.

    Raises:
        ModelFileError: there is neither, or the expression is refused (see :mod:`.regex_check`).
    """
    match part.get("pattern"):
        case {"String": str(text)} if text:
            return text
        case {"Regex": str(expression)} if expression:
            try:
                return regex_check.check(expression)
            except regex_check.UnsafePattern as error:
                raise ModelFileError(f"{what}: {name}: expression {quoted(expression)} is refused: {error}") from None
        case pattern:
            raise ModelFileError(f"{what}: {name}: expected a pattern, got {quoted(pattern)}")
