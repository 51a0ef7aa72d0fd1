"""Tables of keys: for each field of a configuration, the key of the file that it is read from.

An architecture has two tables, for ``config.json`` (:class:`pyml_nn.config.hf.Table`) and for GGUF metadata
(:class:`pyml_nn.config.gguf.Table`). A row is a :class:`Key`, or a function for a field that depends on several keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .fields import Fields

Known = Mapping[str, Any]
"""The fields that have been read so far: name -> value."""

Reader = Callable[[Fields, Known], Any]
"""Reads one field of a configuration."""


class Key:
    """A field that is read from one key.

    Args:
        name: the key.
        kind: ``int``, ``float``, ``bool``, or a mapping from the allowed texts to values.
        low: smallest number allowed.
        high: largest number allowed.
        default: value of an absent key, or a function of the fields read so far; None: the key is required.
    """

    __slots__ = ("default", "high", "kind", "low", "name")

    def __init__(
        self,
        name: str,
        kind: type[bool] | type[int] | type[float] | Mapping[str, str],
        low: float = 0,
        high: float = 0,
        default: Any = None,
    ) -> None:
        self.name, self.kind, self.low, self.high, self.default = name, kind, low, high, default

    def __call__(self, fields: Fields, known: Known) -> Any:
        """Read the key; ConfigError if it is missing, of another type, or out of range."""
        default = self.default(known) if callable(self.default) else self.default
        if isinstance(self.kind, Mapping):
            return fields.choice(self.name, self.kind, default)
        if self.kind is bool:
            return fields.flag(self.name, default)
        if self.kind is int:
            return fields.integer(self.name, int(self.low), int(self.high), default)
        return fields.number(self.name, self.low, self.high, default)


def constant(value: Any) -> Reader:
    """A field that has this value in every file."""
    return lambda fields, known: value


def pin(fields: Fields, fixed: Mapping[str, Any]) -> None:
    """Refuse every other value of these keys than the one given; None: every value."""
    for key, value in fixed.items():
        fields.fixed(key, *(() if value is None else (value,)))


def read(fields: Fields, rows: Mapping[str, Reader], known: Known | None = None) -> dict[str, Any]:
    """Read all fields of a table in its order; ``known`` are fields that have been read before."""
    found = dict(known or {})
    for name, reader in rows.items():
        found[name] = reader(fields, found)
    return found
