"""The base class of everything that pyml raises on purpose, and how messages quote what a user gave."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice

QUOTED = 80
"""Characters of a user's value that a message repeats."""

_ITEMS = 8  # of a list or mapping that are shown, on each of so many levels
_LEVELS = 3
_BITS = 256  # an integer of more is told by its length: writing out all digits takes quadratic time
_BRACKETS: dict[type, str] = {dict: "{{{}}}", list: "[{}]", tuple: "({})", set: "{{{}}}", frozenset: "{{{}}}"}


class PymlError(Exception):
    """Something a user can cause and can mend: one line that names it, what was expected and what was found."""


class ShapeError(PymlError, ValueError):
    """An array, buffer or parameter of the wrong shape, type or range was given to an operation."""


class OutOfMemoryError(PymlError, MemoryError):
    """What was asked for would not fit in this machine's memory; the message gives both figures."""


class Cancelled(PymlError):
    """A running program was told to stop: by :meth:`pyml_core.Program.cancel` or a :class:`pyml_core.CancelToken`."""


def quoted(value: object, limit: int = QUOTED) -> str:
    """A user's value for a message: its ``repr`` on one line, printable, in at most ``limit`` characters.

    It takes little time however long or deep the value is, and it never fails.
    """
    text = one_line(_repr(value, _LEVELS, limit))
    end = "..."
    if isinstance(value, str | bytes | bytearray):
        end += text[-1]
        text = text if len(value) <= limit else text + end  # it is longer than what was looked at
    return text if len(text) <= limit else text[: limit - len(end)] + end


def one_line(text: str, limit: int | None = None) -> str:
    """A text from elsewhere on one line, without what would steer a terminal; cut at ``limit`` characters."""
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
    except Exception:  # of a repr that is not ours, or one that is nested too deeply
        return f"<{kind.__name__}>"


def _items(values: Collection[object], levels: int, limit: int) -> str:
    """What stands between the brackets of a collection."""
    if not levels:
        return "..."
    first = islice(values, _ITEMS)
    if isinstance(values, dict):
        shown = [f"{_repr(key, levels, limit)}: {_repr(values[key], levels, limit)}" for key in first]
    else:
        shown = [_repr(item, levels, limit) for item in first]
    comma = "," if isinstance(values, tuple) and len(values) == 1 else ""
    return ", ".join(shown + ["..."] * (len(values) > _ITEMS)) + comma
