"""Conversion of arguments to Python's own types: numbers, flags, texts and token ids, or an error with the name.

Every option is converted here once, whether it comes from Python, from a line of a batch file or from the command
line. NumPy scalars are accepted. No value is converted if that would change its meaning: a bool is not a number, and a
text is not a list.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import MISSING, fields
from typing import Any, TypeVar

import numpy as np

from pyml_core.errors import quoted

from .errors import ArgumentError

LARGEST_ID = (1 << 31) - 1
"""The largest token id of any vocabulary."""

_SLICE = 1 << 14

_Function = TypeVar("_Function")


_NO_LISTS = (str, bytes, bytearray, memoryview, Mapping, Set)
_BATCH = "; for several prompts: generate_batch"
_CHAT = "; for messages: chat"


def whole(name: str, value: Any, low: int | None = None, high: int | None = None) -> int:
    """Return a whole number from ``low`` to ``high``, inclusive.

    Raises:
        ArgumentError: ``value`` is not a whole number (bools and floats are not), or out of range.
    """
    if type(value) is not int:
        if isinstance(value, bool | np.bool_):
            raise ArgumentError(f"must be a whole number, got {quoted(value)}", name)
        try:
            value = operator.index(value)
        except TypeError:
            raise ArgumentError(f"must be a whole number, got {quoted(value)}", name) from None
    if low is not None and value < low:
        raise ArgumentError(f"must be {'> 0' if low == 1 else f'>= {low}'}, got {quoted(value)}", name)
    if high is not None and value > high:
        raise ArgumentError(f"must be <= {high}, got {quoted(value)}", name)
    return int(value)


def number(name: str, value: Any) -> float:
    """Return a number as a float; infinities and NaN are allowed.

    Raises:
        ArgumentError: ``value`` is not a number (bools are not), or an integer too large for a float.
    """
    if type(value) is float:
        return value
    plain = not isinstance(value, bool | np.bool_ | str | bytes | bytearray) and getattr(value, "ndim", 0) == 0
    if not plain or not hasattr(value, "__float__"):
        raise ArgumentError(f"must be a number, got {quoted(value)}", name)
    try:
        return float(value)
    except OverflowError:
        raise ArgumentError(f"must be a number below 1.8e308, got {quoted(value)}", name) from None
    except (TypeError, ValueError):
        raise ArgumentError(f"must be a number, got {quoted(value)}", name) from None


def seconds(name: str, value: Any) -> float | None:
    """Return a time above 0; None stays None.

    Raises:
        ArgumentError: ``value`` is not a number above 0.
    """
    if value is None:
        return None
    found = number(name, value)
    if not found > 0:
        raise ArgumentError(f"must be > 0.0, got {found:g}", name)
    return found


def flag(name: str, value: Any) -> bool:
    """Return True or False.

    Raises:
        ArgumentError: ``value`` is not a bool; 0 and 1 are not.
    """
    if not isinstance(value, bool | np.bool_):
        raise ArgumentError(f"must be True or False, got {quoted(value)}", name)
    return bool(value)


def text(name: str, value: Any) -> str:
    """Return a text of Unicode characters.

    Raises:
        ArgumentError: ``value`` is not a str, or has a lone surrogate, which UTF-8 cannot encode.
    """
    if not isinstance(value, str):
        raise ArgumentError(f"must be a text, got {quoted(value)}", name)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            found = ascii(value[error.start])
            raise ArgumentError(
                f"must be Unicode characters, got the lone surrogate {found} at {error.start}", name
            ) from None
    return value


def texts(name: str, value: Any) -> tuple[str, ...]:
    """Return non-empty texts: one, or a list of them.

    Raises:
        ArgumentError: ``value`` is not a text or a list of texts, or one text is empty.
    """
    if isinstance(value, str):
        value = (value,)
    if not is_list(value):
        raise ArgumentError(f"must be a text or a list of texts, got {quoted(value)}", name)
    found = tuple(text(name, item) for item in value)
    if not all(found):
        raise ArgumentError("must be of one character or more, got an empty text", name)
    return found


def choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """Return ``value``, which must be one of ``choices``.

    Raises:
        ArgumentError: it is not.
    """
    if not isinstance(value, str) or value not in choices:
        raise ArgumentError(f"must be one of {', '.join(choices)}, got {quoted(value)}", name)
    return value


def progress_function(value: _Function | None) -> _Function | None:
    """Return ``value``, which must be a function that is told of progress, or None.

    Raises:
        ArgumentError: it cannot be called.
    """
    if value is not None and not callable(value):
        raise ArgumentError(f"must be a function of two numbers, got {quoted(value)}", "progress")
    return value


def stop_ids(name: str, values: Any) -> tuple[int, ...]:
    """Return token ids, each checked alone; a set of them is accepted.

    Raises:
        ArgumentError: ``values`` are not token ids.
    """
    if not (is_list(values) or isinstance(values, Set)):
        raise ArgumentError(f"must be a list of token ids, got {quoted(values)}", name)
    return tuple(token_id(name, token) for token in values)


def token_id(name: str, value: Any) -> int:
    """Return a token id. Whether a model has it is checked by :func:`check_ids`.

    Raises:
        ArgumentError: ``value`` is not a whole number from 0 to ``LARGEST_ID``.
    """
    try:
        return whole(name, value, 0, LARGEST_ID)
    except ArgumentError:
        raise ArgumentError(f"must be token ids, got {quoted(value)}", name) from None


def token_ids(name: str, values: Any) -> Sequence[int]:
    """Return token ids as plain integers; a list or tuple of them is returned unchanged.

    Raises:
        ArgumentError: ``values`` are not token ids. If another method accepts them, the message names it.
    """
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "iu":
        values = values.tolist()
    elif isinstance(values, Mapping):
        raise ArgumentError(f"must be a text or token ids, got {quoted(values)}{_CHAT}", name)
    elif not is_list(values):
        raise ArgumentError(f"must be a text or token ids, got {quoted(values)}", name)
    if not isinstance(values, list | tuple):
        values = list(values)
    ids: Sequence[int] = values
    if not all(set(map(type, part)) <= {int} for part in _slices(ids)):
        ids = [_id_of_list(name, position, value) for position, value in enumerate(values)]
    if not all(min(part) >= 0 and max(part) <= LARGEST_ID for part in _slices(ids)):
        position, wrong = next((i, number) for i, number in enumerate(ids) if not 0 <= number <= LARGEST_ID)
        raise ArgumentError(f"must be token ids, got {quoted(wrong)} at {position}", name)
    return ids


def _slices(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """The ids in parts that are not empty."""
    if len(ids) <= _SLICE:
        if ids:
            yield ids
        return
    for start in range(0, len(ids), _SLICE):
        yield ids[start : start + _SLICE]


def check_ids(name: str, ids: Iterable[int], size: int) -> None:
    """Check that all ids are below ``size``.

    Raises:
        ArgumentError: names the largest id if it is not.
    """
    largest = max(map(max, _slices(ids)), default=0) if isinstance(ids, list) else max(ids, default=0)
    if largest >= size:
        raise ArgumentError(f"must be token ids below {size}, got {quoted(largest)}", name)


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are not None: None means that an option is not given."""
    return {name: value for name, value in options.items() if value is not None}


def without_none(instance: Any) -> dict[str, Any]:
    """Return the fields of a dataclass by name, with the default in place of None."""
    found = {}
    for field in fields(instance):
        value = getattr(instance, field.name)
        if value is None and field.default is not MISSING:
            value = field.default
        elif value is None and field.default_factory is not MISSING:
            value = field.default_factory()
        found[field.name] = value
    return found


def _id_of_list(name: str, position: int, value: Any) -> int:
    if isinstance(value, str):
        raise ArgumentError(f"must be a text or token ids, got {quoted(value)} at {position}{_BATCH}", name)
    if isinstance(value, Mapping):
        raise ArgumentError(f"must be a text or token ids, got {quoted(value)} at {position}{_CHAT}", name)
    if is_list(value):
        raise ArgumentError(f"must be a text or token ids, got {quoted(value)} at {position}{_BATCH}", name)
    try:
        return whole(name, value)
    except ArgumentError:
        raise ArgumentError(f"must be a text or token ids, got {quoted(value)} at {position}", name) from None


def is_list(value: Any) -> bool:
    """Return whether ``value`` is an ordered iterable that is not a text, bytes or a mapping."""
    return isinstance(value, Iterable) and not isinstance(value, _NO_LISTS) and getattr(value, "ndim", 1) > 0
