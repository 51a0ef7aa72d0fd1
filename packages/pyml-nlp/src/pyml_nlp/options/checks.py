"""Checks of options: names of keywords, and classes of option objects."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from pyml_core.errors import quoted

from ..errors import ArgumentError

T = TypeVar("T")


def given(changes: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return the changes that are not None.

    Raises:
        ArgumentError: a name is unknown; the message has the name that was probably meant.
    """
    unknown = next((name for name in changes if name not in known), None)
    if unknown is not None:
        from difflib import get_close_matches  # for an error only

        meant = get_close_matches(unknown, sorted(known), 1)
        hint = f"did you mean {meant[0]!r}?" if meant else f"expected one of {', '.join(sorted(known))}"
        raise ArgumentError(f"unknown option {quoted(unknown)}: {hint}")
    return {name: value for name, value in changes.items() if value is not None}


def instance(name: str, value: Any, kind: type[T]) -> T:
    """Return ``value``, which must be an object of this class.

    Raises:
        ArgumentError: it is not.
    """
    if not isinstance(value, kind):
        raise ArgumentError(f"must be {kind.__name__}, got {quoted(value)}", name)
    return value
