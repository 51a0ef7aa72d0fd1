"""For models whose chat template has no tools: all of the answer is one JSON object.

It is ``{"tool_calls": [{"name": ..., "arguments": {...}}, ...]}`` or ``{"response": "..."}``, and a grammar makes the
model write that. A message describes the tools.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..json_calls import MAX_NAME, json_list, json_string
from ..rules import Rules
from ..source import NotACall, Reading
from .base import Calls, ToolFormat, json_calls_rule

CALLS, RESPONSE = "tool_calls", "response"


def read_generic(calls: Calls) -> Reading[None]:
    """Read the object."""
    source = calls.source
    yield from source.expect("{")
    yield from source.skip_space()
    key = yield from json_string(source, MAX_NAME)
    yield from source.skip_space()
    yield from source.expect(":")
    yield from source.skip_space()
    if key == CALLS:
        yield from json_list(source, calls.out, calls.tools, ("arguments",))
    elif key == RESPONSE:
        yield from source.expect('"')
        source.release()
        yield from _response(calls)
        source.hold()
    else:
        raise NotACall
    yield from source.skip_space()
    yield from source.expect("}")
    yield from source.skip_space()
    source.hold()


def _response(calls: Calls) -> Reading[None]:
    """Pass the characters of a JSON string on as they come."""
    source, out = calls.source, calls.out
    while True:
        letter = yield from source.peek()
        if letter in ('"', ""):
            source.at += len(letter)
            return
        if letter == "\\":
            out.text((yield from _escape(calls)))
            continue
        start = source.at
        while source.at < len(source.text) and source.text[source.at] not in '"\\':
            source.at += 1
        out.text(source.text[start : source.at])


def _escape(calls: Calls) -> Reading[str]:
    """One character that is written as an escape sequence, a pair of surrogates included."""
    source = calls.source
    written = ""
    while True:
        for size in (2, 6):
            while len(source.text) - source.at < size and not source.ended:
                yield
            if source.text[source.at + 1 : source.at + 2] != "u":
                break
        written += source.text[source.at : source.at + size]
        source.at = min(len(source.text), source.at + size)
        high = len(written) == 6 and written[2:4].lower() in ("d8", "d9", "da", "db")
        if not (high and (yield from source.peek()) == "\\"):
            break
    try:
        found = json.loads(f'"{written}"', strict=False)
        found.encode()
    except ValueError:  # half of a pair included
        return "\ufffd"
    return str(found)


def generic_rules(rules: Rules, tools: Mapping[str, Any], parallel: bool) -> str:
    """The object with calls."""
    begin, end = rules.text(f'{{"{CALLS}": ['), rules.text("]}")
    return f"{begin} {json_calls_rule(rules, tools, parallel)} {end}"


def generic_content(rules: Rules, text: str) -> str:
    """The object with a response."""
    begin = rules.text(f'{{"{RESPONSE}": ')
    return f"{begin} {text} {rules.text('}')}"


GENERIC = ToolFormat("generic", read_generic, generic_rules, generic_content, opening="{", bare=True)
