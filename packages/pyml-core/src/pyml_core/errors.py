"""The base class of pyml's exceptions, and how messages quote a user's values."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice

QUOTED = 80
"""Maximum number of characters of a user's value in a message."""

_ITEMS = 8  # shown of a list or mapping
_LEVELS = 3  # of nesting that are shown
_BITS = 256  # only the length of a longer integer is shown: writing out all digits takes quadratic time
_BRACKETS: dict[type, str] = {dict: "{{{}}}", list: "[{}]", tuple: "({})", set: "{{{}}}", frozenset: "{{{}}}"}


class PymlError(Exception):
    """Base class of errors that a user can cause and fix. The message is one line: the thing, expected, found."""


class ShapeError(PymlError, ValueError):
    """An array, buffer or parameter of the wrong shape, type or range was given to an operation."""


class OutOfMemoryError(PymlError, MemoryError):
    """The request would not fit in this machine's memory."""


class Cancelled(PymlError):
    """A run was stopped by :meth:`pyml_core.Program.cancel` or a :class:`pyml_core.CancelToken`."""


def quoted(value: object, limit: int = QUOTED) -> str:
    """Return a user's value for a message: its ``repr`` on one line, printable, in at most ``limit`` characters.

    It is fast for values of any length and depth, and never fails.
    """
    text = one_line(_repr(value, _LEVELS, limit))
    end = "..."
    if isinstance(value, str | bytes | bytearray):
        end += text[-1]
        text = text if len(value) <= limit else text + end  # `text` shows the first `limit` characters only
    return text if len(text) <= limit else text[: limit - len(end)] + end


def one_line(text: str, limit: int | None = None) -> str:
    """Return foreign text on one line, without terminal control characters, cut at ``limit`` characters."""
    text = " ".join(text.split())
    text = text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
    return text if limit is None or len(text) <= limit else text[: limit - 3] + "..."


def _repr(value: object, levels: int, limit: int) -> str:
    kind = type(value)
    try:
        if isinstance(value, str | bytes | bytearray):
            return repr(value[:limit])
        if kind is int and isinstance(value, int) and value.bit_length() > _BITS:
            return f"an integer of about {int(value.bit_length() * 0.30103) + 1} digits"
        if isinstance(value, dict | list | tuple | set | frozenset) and kind in _BRACKETS and value:
            return _BRACKETS[kind].format(_items(value, levels - 1, limit))
        return repr(value)
    except Exception:  # a user's own __repr__ failed, or the value is nested too deeply
        return f"<{kind.__name__}>"


def _items(values: Collection[object], levels: int, limit: int) -> str:
    """Return the text between the brackets of a collection."""
    if not levels:
        return "..."
    first = islice(values, _ITEMS)
    if isinstance(values, dict):
        shown = [f"{_repr(key, levels, limit)}: {_repr(values[key], levels, limit)}" for key in first]
    else:
        shown = [_repr(item, levels, limit) for item in first]
    comma = "," if isinstance(values, tuple) and len(values) == 1 else ""
    return ", ".join(shown + ["..."] * (len(values) > _ITEMS)) + comma
