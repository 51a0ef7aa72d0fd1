"""Checks of a schema's keywords, and conversion of numbers to the form that llguidance computes with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from pyml_core.errors import quoted

from .grammar import GrammarError

Fail = Callable[[str, str], GrammarError]
"""Makes the error for a problem with a keyword."""

KINDS = ("null", "boolean", "number", "string", "array", "object")
"""Kinds of JSON values; integers are numbers."""

FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
)  # fmt: skip
"""Formats of strings that are enforced. Others are annotations, as in JSON Schema 2020-12."""

_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_LOWEST, _HIGHEST = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
_MOST = 2**31 - 1  # llguidance counts with 32 bits
_INT64 = 9_223_372_036_854_774_784  # the largest double below 2**63: llguidance's integers have 64 bits
_EXACT = 2**53  # all whole numbers below this are exact as doubles
_ESCAPED = {chr(code) for code in (*range(32), 127)} - set("\b\t\n\f\r")  # need a \u00.. escape, which is disabled


def check_keywords(schema: dict[str, Any], fail: Fail) -> None:
    """Check one subschema, and convert its numbers to the form that llguidance reads, without allowing more.

    Formats that are not enforced are removed.

    Raises:
        GrammarError: made by ``fail``: the value of a keyword is malformed, or cannot be enforced exactly.
    """
    for key in [key for key in schema if key in _CHECKS]:
        _CHECKS[key](schema, key, fail)


def types(schema: dict[str, Any]) -> set[str]:
    """Return the kinds of values that ``type`` and ``const`` or ``enum`` allow."""
    names = schema.get("type", KINDS)
    found = {"number" if name == "integer" else name for name in ([names] if isinstance(names, str) else names)}
    values = constants(schema)
    return found if values is None else found & {kind_of(value) for value in values}


def constants(schema: dict[str, Any]) -> list[Any] | None:
    """Return the values of ``const`` or ``enum``; None if it has neither."""
    if "const" in schema:
        return [schema["const"]]
    values: list[Any] | None = schema.get("enum")
    return values


def kind_of(value: Any) -> str:
    """Return the kind of a JSON value."""
    kinds = {bool: "boolean", str: "string", list: "array", dict: "object", type(None): "null"}
    return kinds.get(type(value), "number")


def _count(schema: dict[str, Any], key: str, fail: Fail) -> None:
    value = schema[key]
    if not _is_number(value) or value < 0 or value != int(value):
        raise fail(f"expected a number of 0, 1, 2, ..., found {quoted(value)}", key)
    if value <= _MOST:
        schema[key] = int(value)
    elif key.startswith("min"):
        raise fail(f"expected at most {_MOST}, found {quoted(value)}", key)
    else:
        del schema[key]  # no text is longer


def _bound(schema: dict[str, Any], key: str, fail: Fail) -> None:
    value = schema[key]
    if isinstance(value, bool) and key.startswith("exclusive"):
        return  # the form of draft 4
    if not _is_number(value):
        raise fail(f"expected a number, found {quoted(value)}", key)
    low = key in _LOWEST
    if abs(value) >= _INT64:
        if (value > 0) == low:
            raise fail(f"expected a number that 64 bits hold, found {quoted(value)}", key)
        value = -_INT64 if low else _INT64
    elif abs(value) < _EXACT:
        return
    # llguidance computes with doubles, which are even numbers in this range. A bound that is not a double is moved
    # inwards, and so is an exclusive one, because a step of 1 would be lost.
    nearest, inwards = float(value), math.inf if low else -math.inf
    if key.startswith("exclusive") or (nearest < value if low else nearest > value):
        nearest = math.nextafter(nearest, inwards)
    schema[key] = int(nearest)


def _multiple(schema: dict[str, Any], key: str, fail: Fail) -> None:
    value = schema[key]
    if not _is_number(value) or value <= 0:
        raise fail(f"expected a number above 0, found {quoted(value)}", key)


def _text(schema: dict[str, Any], key: str, fail: Fail) -> None:
    if not isinstance(schema[key], str):
        raise fail(f"expected a string, found {quoted(schema[key])}", key)


def _format(schema: dict[str, Any], key: str, fail: Fail) -> None:
    _text(schema, key, fail)
    if schema[key] not in FORMATS:
        del schema[key]


def _names(schema: dict[str, Any], key: str, fail: Fail) -> None:
    value = schema[key]
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise fail(f"expected a list of strings, found {quoted(value)}", key)


def _types(schema: dict[str, Any], key: str, fail: Fail) -> None:
    value = schema[key]
    for name in value if isinstance(value, list) else [value]:
        if not isinstance(name, str) or name not in (*KINDS, "integer"):
            raise fail(f"expected one of {', '.join(KINDS)} and integer, found {quoted(name)}", key)


def _list(schema: dict[str, Any], key: str, fail: Fail) -> None:
    if not isinstance(schema[key], list):
        raise fail(f"expected a list, found {quoted(schema[key])}", key)


def _map(schema: dict[str, Any], key: str, fail: Fail) -> None:
    if not isinstance(schema[key], dict):
        raise fail(f"expected an object, found {quoted(schema[key])}", key)


def _constants(schema: dict[str, Any], key: str, fail: Fail) -> None:
    if key == "enum":
        _list(schema, key, fail)
    for value in _scalars(schema[key]):
        if isinstance(value, str):
            if not _ESCAPED.isdisjoint(value):
                raise fail(f"expected no control characters but those in '\\b\\t\\n\\f\\r', found {quoted(value)}", key)
        elif _is_number(value) and isinstance(value, int) and (abs(value) >= _INT64 or int(float(value)) != value):
            raise fail(f"expected a number that a double holds exactly, found {quoted(value)}", key)


def _scalars(value: Any) -> Iterator[Any]:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
        else:
            yield value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_CHECKS: dict[str, Callable[[dict[str, Any], str, Fail], None]] = {
    **dict.fromkeys(_COUNTS, _count),
    **dict.fromkeys((*_LOWEST, *_HIGHEST), _bound),
    **dict.fromkeys(("pattern", "$ref"), _text),
    **dict.fromkeys(("anyOf", "oneOf", "allOf", "prefixItems"), _list),
    **dict.fromkeys(("properties", "patternProperties"), _map),
    **dict.fromkeys(("const", "enum"), _constants),
    "multipleOf": _multiple,
    "format": _format,
    "required": _names,
    "type": _types,
}
