"""The keys of a configuration, read one by one: each is used, known to be harmless, or an error.

A key that changes the mathematics must not be ignored. So a reader takes keys one by one, checks type and range, and
at the end refuses the keys that it has not read.
"""

from __future__ import annotations

import logging
import numbers
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from ..errors import ConfigError, as_float, show

T = TypeVar("T")

_log = logging.getLogger("pyml.load")

MAX_LAYERS = 1024
MAX_HEADS = 4096
MAX_WIDTH = 1 << 20
MAX_VOCAB = 1 << 24
MAX_CONTEXT = 1 << 24  # larger positions are not exact in float32, in which RoPE computes
MAX_THETA = 1e12
MIN_FACTOR, MAX_FACTOR = 1e-3, 1e6  # of RoPE frequencies; smaller ones would make them infinite


class Fields:
    """A configuration's keys, each read once, with its type and range checked.

    Args:
        values: the configuration.
        where: its name in messages (``"config.json"``).
        prefix: prefix of keys in messages (``"llama."`` in GGUF metadata).
        allow_unknown: whether an unknown key that may change the mathematics is ignored with a warning.

    A null value counts as an absent key. Every reader raises :class:`ConfigError`, which names the key, the expected
    value and the value found.
    """

    def __init__(self, values: Any, where: str, prefix: str = "", allow_unknown: bool = False) -> None:
        if not isinstance(values, Mapping):
            raise ConfigError(f"{where}: expected an object of keys and values, found {show(values)}")
        self._values: dict[str, Any] = {str(key): value for key, value in values.items()}
        self._read: set[str] = set()
        self.where = where
        self.prefix = prefix
        self.allow_unknown = allow_unknown

    def error(self, key: str, problem: str) -> ConfigError:
        """Return the error that names this key."""
        return ConfigError(f"{self.where}: {self.named(key)}: {problem}")

    def named(self, key: str) -> str:
        """Return a key of the file, which may be any text, for a message: one printable line of limited length."""
        name = self.prefix + key
        return name if name.isprintable() and len(name) <= 100 else f"{name[:100]!r}..."

    def has(self, key: str) -> bool:
        """Whether the key is present and not null."""
        return self._values.get(key) is not None

    def is_null(self, key: str) -> bool:
        """Whether the key is present with the value null."""
        return key in self._values and self._values[key] is None

    def raw(self, key: str) -> Any:
        """Return the value unchecked; None if the key is absent."""
        self._read.add(key)
        return self._values.get(key)

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """Return an integer from ``low`` to ``high``; without a default the key is required."""
        value = self._value(key, default, f"an integer from {low} to {high}")
        return self.checked_integer(key, value, low, high)

    def checked_integer(self, key: str, value: Any, low: int, high: int) -> int:
        """Check that this value of the key is an integer from ``low`` to ``high``, and return it."""
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not low <= int(value) <= high:
            raise self.error(key, f"expected an integer from {low} to {high}, found {show(value)}")
        return int(value)

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """Return a finite number from ``low`` to ``high``; without a default the key is required."""
        expected = f"a number from {low:g} to {high:g}"
        value = self._value(key, default, expected)
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not low <= as_float(value) <= high:
            raise self.error(key, f"expected {expected}, found {show(value)}")
        return float(value)

    def numbers(self, key: str, count: int, low: float, high: float) -> tuple[float, ...]:
        """Return a list of ``count`` finite numbers from ``low`` to ``high``."""
        values = self.raw(key)
        expected = f"a list of {count} numbers from {low:g} to {high:g}"
        if not isinstance(values, list) or len(values) != count:
            found = f"one of {len(values)}" if isinstance(values, list) else show(values)
            raise self.error(key, f"expected {expected}, found {found}")
        for value in values:
            if isinstance(value, bool) or not isinstance(value, numbers.Real) or not low <= as_float(value) <= high:
                raise self.error(key, f"expected {expected}, found {show(value)} in it")
        return tuple(map(float, values))

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self._value(key, default, "true or false")
        if not isinstance(value, bool):
            raise self.error(key, f"expected true or false, found {show(value)}")
        return value

    def choice(self, key: str, choices: Mapping[str, T], default: str | None = None) -> T:
        """Return the entry of ``choices`` for the key's text."""
        value = self._value(key, default, f"one of {', '.join(choices)}")
        if not isinstance(value, str) or value not in choices:
            raise self.error(key, f"expected one of {', '.join(choices)}, found {show(value)}")
        return choices[value]

    def section(self, key: str) -> Fields | None:
        """Return the nested configuration under this key; None if the key is absent."""
        value = self.raw(key)
        return None if value is None else Fields(value, f"{self.where}: {self.prefix}{key}", "", self.allow_unknown)

    def fixed(self, key: str, *allowed: Any) -> None:
        """Refuse every value except null and these: the key is understood, but other values are not supported."""
        value = self.raw(key)
        if value is not None and not any(same(value, good) for good in allowed):
            wanted = " or ".join([*map(show, allowed), "null"])
            raise self.error(key, f"expected {wanted} (pyml supports nothing else here), found {show(value)}")

    def close(self, harmless: Collection[str] = ()) -> None:
        """Refuse keys that have not been read and are not ``harmless``; null values do not count."""
        for key, value in self.unread():
            if key not in harmless:
                self.refuse(key, f"unknown key (found {show(value)}), which may change the model's results")

    def refuse(self, key: str, problem: str) -> None:
        """Raise :class:`ConfigError` for a key that has not been read, or warn if unknown keys are allowed."""
        error = self.error(key, problem)
        if not self.allow_unknown:
            raise error
        _log.warning("%s: ignored, because unknown keys are allowed", error)

    def unread(self) -> list[tuple[str, Any]]:
        """Return the keys that have not been read, with their values; null values do not count."""
        return [(key, value) for key, value in self._values.items() if value is not None and key not in self._read]

    def _value(self, key: str, default: Any, expected: str) -> Any:
        value = self.raw(key)
        if value is None:
            value = default
        if value is None:
            raise self.error(key, f"missing, expected {expected}")
        return value


def same(value: Any, good: Any) -> bool:
    """Whether two values of a configuration are equal; true is not 1, an array (in GGUF metadata) equals nothing."""
    if not isinstance(value, numbers.Number | str | dict):
        return False
    return isinstance(value, bool) == isinstance(good, bool) and bool(value == good)


def unknown_keys(fields: Fields, unknown: Collection[tuple[str, Any]]) -> str:
    """Return the text of a warning about ignored keys: the first few of them, with their values."""
    shown = [f"{fields.named(key)} (found {show(value)})" for key, value in list(unknown)[:_MOST_NAMED]]
    more = f" and {len(unknown) - _MOST_NAMED} more" if len(unknown) > _MOST_NAMED else ""
    keys = "unknown key" if len(unknown) == 1 else "unknown keys"
    return f"{fields.where}: {', '.join(shown)}{more}: {keys}, ignored"


_MOST_NAMED = 3  # keys in a warning
