"""The fields of a request: each is taken once, with its type and range; what is left is unknown."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from pyml_core.errors import quoted

from ..errors import ArgumentError
from ..values import choice, flag, number, text, whole

T = TypeVar("T")


class Fields:
    """The fields of a JSON object that have a value; null means that a field is not given.

    Args:
        values: the object.
        name: where it is in the request, for messages; empty: it is the request.

    Raises:
        ArgumentError: ``values`` is not a mapping with names as keys.
    """

    def __init__(self, values: Any, name: str = "") -> None:
        if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
            raise ArgumentError(f"must be an object, got {quoted(values)}", name or "request")
        self._name = name
        self._values = {key: value for key, value in values.items() if value is not None}

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def path(self, key: str) -> str:
        """The name of a field in messages, such as ``response_format.type``."""
        return f"{self._name}.{key}" if self._name else key

    def take(self, key: str, convert: Callable[[str, Any], T], default: T) -> T:
        """The converted value of a field, or the default if it is not given.

        Raises:
            ArgumentError: as of ``convert``, which gets the field's name.
        """
        if key not in self._values:
            return default
        return convert(self.path(key), self._values.pop(key))

    def required(self, key: str) -> Any:
        """The value of a field, unchecked.

        Raises:
            ArgumentError: it is not given.
        """
        if key not in self._values:
            raise ArgumentError("is required", self.path(key))
        return self._values.pop(key)

    def any(self, key: str) -> Any:
        """The value of a field, unchecked; None if it is not given."""
        return self._values.pop(key, None)

    def flag(self, key: str, default: bool = False) -> bool:
        """A field that is true or false."""
        return self.take(key, flag, default)

    def text(self, key: str) -> str | None:
        """A field that is a text."""
        return self.take(key, _optional_text, None)

    def choice(self, key: str, choices: Collection[str], default: str) -> str:
        """A field with one of several values."""
        return self.take(key, lambda name, value: choice(name, value, list(choices)), default)

    def whole(self, key: str, low: int, high: int | None = None, default: int | None = None) -> int | None:
        """A whole number in a range, inclusive."""
        return self.take(key, lambda name, value: whole(name, value, low, high), default)

    def number(self, key: str, low: float, high: float) -> float | None:
        """A number in a range, inclusive."""

        def convert(name: str, value: Any) -> float | None:
            found = number(name, value)
            if not low <= found <= high:
                raise ArgumentError(f"must be in {low:g} .. {high:g}, got {found:g}", name)
            return found

        return self.take(key, convert, None)

    def refuse(self, keys: Mapping[str, str]) -> None:
        """Refuse fields that cannot be honoured, with a reason for each.

        Raises:
            ArgumentError: one of them is given.
        """
        for key, reason in keys.items():
            if key in self._values:
                raise ArgumentError(reason, self.path(key))

    def end(self, hints: Collection[str] = ()) -> list[str]:
        """Names of the fields that have not been taken and are no hints, which have no effect."""
        return [key for key in self._values if key not in hints]

    def finish(self, known: Collection[str], hints: Collection[str] = (), ignored: list[str] | None = None) -> None:
        """Refuse what is left, or add its names to ``ignored``, if it is given.

        Raises:
            ArgumentError: there is an unknown field; the message has the name that was probably meant.
        """
        unknown = self.end(hints)
        if ignored is not None:
            ignored += unknown
        elif unknown:
            from difflib import get_close_matches  # for an error only

            meant = get_close_matches(unknown[0], sorted(known), 1)
            hint = f": did you mean {meant[0]!r}?" if meant else ""
            name = self.path(unknown[0])
            raise ArgumentError(f"is not a field of this request{hint}", name if len(name) < 80 else quoted(name))


def _optional_text(name: str, value: Any) -> str | None:
    return text(name, value)
