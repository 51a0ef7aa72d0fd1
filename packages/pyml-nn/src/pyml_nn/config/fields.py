"""Reading a model's configuration: every key is understood, known to be harmless, or an error.

A key that would change the mathematics must never be passed over in silence, so a reader takes keys one by one, checks
type and range, and at the end refuses what nobody has taken.
"""

from __future__ import annotations

import numbers
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from ..errors import ConfigError, as_float, show

T = TypeVar("T")


class Fields:
    """A configuration's keys, each read once, with its type and range checked.

    Args:
        values: the configuration.
        where: what messages call it (``"config.json"``).
        prefix: what messages put before a key (``"llama."`` in GGUF metadata).

    A null value counts as an absent key. Every reader raises :class:`ConfigError` naming the key, what was expected and
    what was found.
    """

    def __init__(self, values: Any, where: str, prefix: str = "") -> None:
        if not isinstance(values, Mapping):
            raise ConfigError(f"{where}: expected an object of keys and values, found {show(values)}")
        self._values: dict[str, Any] = {str(key): value for key, value in values.items()}
        self._taken: set[str] = set()
        self.where = where
        self.prefix = prefix

    def error(self, key: str, problem: str) -> ConfigError:
        """The error that names this key."""
        return ConfigError(f"{self.where}: {self.named(key)}: {problem}")

    def named(self, key: str) -> str:
        """A key, which may be any text out of a file, for a message: on one line, printable, and not too long."""
        name = self.prefix + key
        return name if name.isprintable() and len(name) <= 100 else f"{name[:100]!r}..."

    def has(self, key: str) -> bool:
        """Whether the key is there and not null."""
        return self._values.get(key) is not None

    def is_null(self, key: str) -> bool:
        """Whether the key is there with the value null."""
        return key in self._values and self._values[key] is None

    def raw(self, key: str) -> Any:
        """The value as it is; None where it is absent."""
        self._taken.add(key)
        return self._values.get(key)

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """An integer from ``low`` to ``high``; without a default the key is required."""
        value = self._value(key, default, f"an integer from {low} to {high}")
        return self.checked_integer(key, value, low, high)

    def checked_integer(self, key: str, value: Any, low: int, high: int) -> int:
        """This value of the key, which is an integer from ``low`` to ``high``."""
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not low <= int(value) <= high:
            raise self.error(key, f"expected an integer from {low} to {high}, found {show(value)}")
        return int(value)

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """A finite number from ``low`` to ``high``; without a default the key is required."""
        expected = f"a number from {low:g} to {high:g}"
        value = self._value(key, default, expected)
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not low <= as_float(value) <= high:
            raise self.error(key, f"expected {expected}, found {show(value)}")
        return float(value)

    def numbers(self, key: str, count: int, low: float, high: float) -> tuple[float, ...]:
        """A list of ``count`` finite numbers from ``low`` to ``high``."""
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
        """True or false."""
        value = self._value(key, default, "true or false")
        if not isinstance(value, bool):
            raise self.error(key, f"expected true or false, found {show(value)}")
        return value

    def choice(self, key: str, choices: Mapping[str, T], default: str | None = None) -> T:
        """The entry of ``choices`` that the key's text names."""
        value = self._value(key, default, f"one of {', '.join(choices)}")
        if not isinstance(value, str) or value not in choices:
            raise self.error(key, f"expected one of {', '.join(choices)}, found {show(value)}")
        return choices[value]

    def section(self, key: str) -> Fields | None:
        """The nested configuration under this key, or None where it is absent."""
        value = self.raw(key)
        return None if value is None else Fields(value, f"{self.where}: {self.prefix}{key}")

    def fixed(self, key: str, *allowed: Any) -> None:
        """Refuse every value but null and these: the key is understood and pyml computes nothing else."""
        value = self.raw(key)
        if value is not None and not any(same(value, good) for good in allowed):
            wanted = " or ".join([*map(show, allowed), "null"])
            raise self.error(key, f"expected {wanted} (pyml supports nothing else here), found {show(value)}")

    def close(self, harmless: Collection[str] = ()) -> None:
        """Raise for the first key that was neither read nor is ``harmless``; unset (null) keys do not count."""
        for key, value in self.left():
            if key not in harmless:
                raise self.error(key, f"unknown key (found {show(value)}); it may change what the model computes")

    def left(self) -> list[tuple[str, Any]]:
        """Keys that nothing has read, and their values; unset (null) keys do not count."""
        return [(key, value) for key, value in self._values.items() if value is not None and key not in self._taken]

    def _value(self, key: str, default: Any, expected: str) -> Any:
        value = self.raw(key)
        if value is None:
            value = default
        if value is None:
            raise self.error(key, f"missing, expected {expected}")
        return value


def same(value: Any, good: Any) -> bool:
    """Equal as a configuration means it: true is not 1, and an array (of GGUF metadata) is nothing else."""
    if not isinstance(value, numbers.Number | str | dict):
        return False
    return isinstance(value, bool) == isinstance(good, bool) and bool(value == good)
