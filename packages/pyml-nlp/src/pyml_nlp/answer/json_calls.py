"""Calls in JSON: an object with the name of a tool and its arguments, read while it arrives."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection

from .out import Out
from .source import NotACall, Reading, Source

MAX_NAME = 256
"""Most characters of a name."""

MAX_EARLY = 1 << 16
"""Most characters of arguments that come before the name, and of other values that are not passed on at once."""

_IGNORED = ("type", "id")


def json_call(
    source: Source, out: Out, tools: Collection[str], keys: Collection[str], *, bare: bool = False
) -> Reading[None]:
    """Read ``{"name": ..., "arguments": {...}}``. The call begins when its name and its first argument are known.

    Args:
        source: at the brace.
        out: gets the call.
        tools: names of the tools.
        keys: names of the member that has the arguments.
        bare: whether nothing but its members shows that the object is a call, so that arguments are required.

    Raises:
        NotACall: it is something else, or names another tool. If the call has begun, it ends.
    """
    yield from source.expect("{")
    name: str | None = None
    early: str | None = None  # arguments that came before the name
    begun = False
    if (yield from source.skip_space()) == "}":
        raise NotACall
    while True:
        key = yield from json_string(source, MAX_NAME)
        yield from source.skip_space()
        yield from source.expect(":")
        first = yield from source.skip_space()
        if key == "name" and name is None:
            name = yield from json_string(source, MAX_NAME)
            if name not in tools:
                raise NotACall
            if early is not None:
                begun = True
                _begin(source, out, name)
                out.arguments(early)
        elif key in keys and not begun and early is None:
            if name is None or first == '"':
                early = yield from _early(source, first)
                if name is not None:
                    begun = True
                    _begin(source, out, name)
                    out.arguments(early)
            else:
                yield from begin_object(source)
                begun = True
                _begin(source, out, name)
                out.arguments("{")
                yield from json_value(source, out.arguments, depth=1)
        elif begun or key in _IGNORED:
            yield from json_value(source, lambda _: None)
        else:
            raise NotACall
        yield from source.skip_space()
        if (yield from source.expect(",", "}")) == "}":
            break
        yield from source.skip_space()
    if not begun:
        if name is None or bare:
            raise NotACall
        _begin(source, out, name)
        out.arguments("{}")
    out.end()
    source.hold()


def begin_object(source: Source) -> Reading[None]:
    """Go past the brace of an object of arguments, if a name or the end follows.

    Raises:
        NotACall: something else does.
    """
    yield from source.expect("{")
    place = source.at
    while True:  # the white space stays part of the arguments
        if place < len(source.text):
            if source.text[place] in '"}':
                return
            if source.text[place] not in " \t\r\n":
                raise NotACall
            place += 1
        elif source.ended:
            raise NotACall
        else:
            ahead = place - source.at
            yield
            place = source.at + ahead


def json_value(source: Source, write: Callable[[str], None], depth: int = 0) -> Reading[None]:
    """Pass a JSON value on as it is written. Quotes and brackets tell where it ends; the rest is not checked.

    Args:
        source: at the value.
        write: gets its characters.
        depth: brackets that are open.

    A marker that is a token, outside of quotes, ends a malformed value.
    """
    quoted, escaped, scalar = False, False, False
    while True:
        text, start, place = source.text, source.at, source.at
        for place in range(start, len(text)):
            letter = text[place]
            if quoted:
                if escaped:
                    escaped = False
                elif letter == "\\":
                    escaped = True
                elif letter == '"':
                    quoted = False
                    if not depth:
                        return _passed(source, write, place + 1)
            elif letter == '"' and not scalar:
                quoted = True
            elif letter in "{[" and not scalar:
                depth += 1
            elif "\udc00" <= letter <= "\udfff" or (scalar and letter in " \t\r\n,]}"):
                return _passed(source, write, place)
            elif letter in "}]":
                depth -= 1
                if depth < 1:
                    return _passed(source, write, place + 1)
            elif not depth:
                scalar = True
        _passed(source, write, len(text))
        if source.ended:
            return None
        yield


def _passed(source: Source, write: Callable[[str], None], place: int) -> None:
    write(source.text[source.at : place])
    source.at = place


def json_string(source: Source, limit: int) -> Reading[str]:
    """Read a JSON string of at most ``limit`` characters.

    Raises:
        NotACall: there is none.
    """
    if (yield from source.peek()) != '"':
        raise NotACall
    pieces: list[str] = []
    yield from _collected(source, pieces, limit)
    try:
        found = json.loads("".join(pieces))
    except ValueError:
        raise NotACall from None
    if not isinstance(found, str):
        raise NotACall
    return found


def _collected(source: Source, pieces: list[str], limit: int) -> Reading[None]:
    """Read a value into a list of pieces."""
    left = limit

    def write(piece: str) -> None:
        nonlocal left
        left -= len(piece)
        if left < 0:
            raise NotACall
        pieces.append(piece)

    yield from json_value(source, write)


def _early(source: Source, first: str) -> Reading[str]:
    """The text of an object that cannot be passed on yet, or of one that is JSON text in a JSON string.

    Raises:
        NotACall: it is no object.
    """
    pieces: list[str] = []
    yield from _collected(source, pieces, MAX_EARLY)
    text = "".join(pieces)
    try:
        value = json.loads(text)
        if first == '"':
            text, value = value, json.loads(value)
    except (ValueError, RecursionError):
        raise NotACall from None
    if not isinstance(value, dict):
        raise NotACall
    return text


def _begin(source: Source, out: Out, name: str) -> None:
    source.release()
    out.begin(name)


def json_list(source: Source, out: Out, tools: Collection[str], keys: Collection[str]) -> Reading[None]:
    """Read ``[{"name": ..., "arguments": {...}}, ...]``, with one call or more.

    Raises:
        NotACall: as of :func:`json_call`, or the list is malformed.
    """
    yield from source.expect("[")
    while True:
        yield from source.skip_space()
        yield from json_call(source, out, tools, keys)
        yield from source.skip_space()
        if (yield from source.expect(",", "]")) == "]":
            source.hold()
            return
