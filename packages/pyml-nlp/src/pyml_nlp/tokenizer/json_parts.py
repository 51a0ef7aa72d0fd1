"""Access to the sections of a tokenizer.json: typed objects, or nested sequences of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyml_core.errors import quoted

from ..errors import ModelFileError
from . import regex_check
from .regex_check import Safe

MAX_PARTS = 64
"""Maximum number of parts of a section, including those of nested sequences."""

_MAX_DEPTH = 8
_INNER = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "decoder": "decoders",
    "post_processor": "processors",
}


def section(parent: dict[str, Any], name: str, label: str) -> dict[str, Any]:
    """Return a required object."""
    found = parent.get(name)
    if not isinstance(found, dict):
        raise ModelFileError(f"{label}: {name}: expected an object, got {type(found).__name__}")
    return found


def listed(parent: dict[str, Any], name: str, label: str) -> list[Any]:
    """Return a required list."""
    found = parent.get(name)
    if not isinstance(found, list):
        raise ModelFileError(f"{label}: {name}: expected a list, got {type(found).__name__}")
    return found


def parts(document: dict[str, Any], name: str, label: str) -> list[dict[str, Any]]:
    """Return the parts of a section in order, with sequences flattened; empty if the section is missing.

    Raises:
        ModelFileError: the section is not an object, is nested too deep, or has too many parts.
    """
    found: list[dict[str, Any]] = []
    if document.get(name) is not None:
        _collect(document[name], name, label, 0, found)
    return found


def _collect(part: Any, name: str, label: str, depth: int, found: list[dict[str, Any]]) -> None:
    if not isinstance(part, dict) or depth > _MAX_DEPTH:
        raise ModelFileError(f"{label}: {name}: expected an object, got {quoted(part)}")
    if part.get("type") == "Sequence":
        for step in listed(part, _INNER[name], f"{label}: {name}"):
            _collect(step, name, label, depth + 1, found)
    elif len(found) == MAX_PARTS:
        raise ModelFileError(f"{label}: {name}: expected at most {MAX_PARTS} parts, got more")
    else:
        found.append(part)


def unknown(name: str, kind: Any, known: Iterable[str], label: str) -> ModelFileError:
    """Return the error for a part of an unknown type."""
    return ModelFileError(f"{label}: {name}: expected one of {', '.join(sorted(known))}, got {quoted(kind)}")


def pattern_of(part: dict[str, Any], name: str, label: str) -> str | Safe:
    """Return the pattern of a part: a plain text, or a regular expression that is safe to run.

    Raises:
        ModelFileError: the pattern is missing, or the expression is refused (see :mod:`.regex_check`).
    """
    match part.get("pattern"):
        case {"String": str(text)} if text:
            return text
        case {"Regex": str(expression)} if expression:
            try:
                return regex_check.check(expression)
            except regex_check.UnsafePattern as error:
                raise ModelFileError(f"{label}: {name}: expression {quoted(expression)} is refused: {error}") from None
        case pattern:
            raise ModelFileError(f"{label}: {name}: expected a pattern, got {quoted(pattern)}")
