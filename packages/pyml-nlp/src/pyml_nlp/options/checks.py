"""Checks of options: names of keywords, and classes of option objects."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from pyml_core.errors import quoted

from ..errors import ArgumentError

T = TypeVar("T")

_OF_CALLS = ("cache", "draft_model", "speculate", "timeout")
_ELSEWHERE = {
    **dict.fromkeys(_OF_CALLS, "an argument of generate, chat and their relatives alone"),
    "n": "for several texts of a prompt: generate_samples",
    "best_of": "for several texts of a prompt: generate_samples",
    "response_format": "for a schema: schema=; OpenAI's options: lm.openai.chat",
}


def given(changes: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return the changes that are not None.

    Raises:
        ArgumentError: a name is unknown; the message has the name that was probably meant.
    """
    unknown = next((name for name in changes if name not in known), None)
    if unknown is not None:
        from difflib import get_close_matches  # for an error only

        names = sorted({*known, *(_OF_CALLS if "max_tokens" in known else ())})
        meant = get_close_matches(unknown, names, 1, 0.7)
        hint = _ELSEWHERE.get(unknown) or (f"did you mean {meant[0]!r}?" if meant else None)
        raise ArgumentError(f"unknown option {quoted(unknown)}: {hint or 'expected one of ' + ', '.join(names)}")
    return {name: value for name, value in changes.items() if value is not None}


def instance(name: str, value: Any, kind: type[T]) -> T:
    """Return ``value``, which must be an object of this class.

    Raises:
        ArgumentError: it is not.
    """
    if not isinstance(value, kind):
        raise ArgumentError(f"must be {kind.__name__}, got {quoted(value)}", name)
    return value
