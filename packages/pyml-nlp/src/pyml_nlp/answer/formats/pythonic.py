"""Lists of calls in Python's syntax: Llama 4, LFM2.

Sources: the chat templates of meta-llama/Llama-4-Scout-17B-16E-Instruct and LiquidAI/LFM2-1.2B. Arguments are literals;
a call is passed on as a whole, because its arguments have to become JSON.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from keyword import iskeyword
from typing import Any

from ..json_calls import MAX_EARLY, MAX_NAME, json_call
from ..rules import Notation, Rules, SchemaNotSupported, inlined, length_of, members_rule
from ..source import NotACall, Reading, Source
from .base import Calls, ToolFormat

BEGINS = ("<|python_start|>", "<|tool_call_start|>")
ENDS = ("<|python_end|>", "<|tool_call_end|>")
_MAX_DEPTH = 32
_CONSTANTS = {"true": True, "false": False, "null": None}


def read_pythonic(calls: Calls) -> Reading[None]:
    """Read ``[add(a=1), note(text="x")]``, maybe between markers. The models write JSON there at times."""
    source, marks = calls.source, calls.marks
    for begin in BEGINS:
        yield from source.skip(marks[begin])
    yield from source.skip_space()
    yield from source.expect("[")
    while True:
        if (yield from source.skip_space()) == "{":
            yield from json_call(source, calls.out, calls.tools, ("arguments", "parameters"))
        else:
            yield from _python_call(calls)
        yield from source.skip_space()
        if (yield from source.expect(",", "]")) == "]":
            break
    source.hold()
    yield from source.skip_space()
    for end in ENDS:
        if (yield from source.skip(marks[end])):
            source.hold()


def _python_call(calls: Calls) -> Reading[None]:
    """``add(a=1)``."""
    source = calls.source
    name = (yield from source.until(("(",), MAX_NAME)).strip()
    if name not in calls.tools:
        raise NotACall
    arguments = json_of((yield from _parentheses(source)))
    source.release()
    calls.out.call(name, arguments)
    source.hold()


def _parentheses(source: Source) -> Reading[str]:
    """The text in parentheses, with them.

    Raises:
        NotACall: they do not close, or are nested too deeply.
    """
    depth, quote, escaped, size = 0, "", False, 0
    while True:
        while source.at + size < len(source.text):
            letter = source.text[source.at + size]
            size += 1
            if quote:
                if escaped:
                    escaped = False
                elif letter == "\\":
                    escaped = True
                elif letter == quote:
                    quote = ""
            elif letter in "\"'":
                quote = letter
            elif letter in "([{":
                depth += 1
            elif letter in ")]}":
                depth -= 1
                if not depth:
                    found = source.text[source.at : source.at + size]
                    source.at += size
                    return found
            if depth > _MAX_DEPTH or size > MAX_EARLY:
                raise NotACall
        if source.ended:
            source.at += size
            raise NotACall
        yield


def json_of(arguments: str) -> str:
    """The JSON text of an object with these keyword arguments.

    Args:
        arguments: in parentheses.

    Raises:
        NotACall: they are not keywords with literals, or have no form in JSON.
    """
    try:
        call = ast.parse(f"f{arguments}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise NotACall
        values: dict[str, Any] = {}
        for keyword in call.keywords:
            if keyword.arg is None:
                raise NotACall
            values[keyword.arg] = ast.literal_eval(_Constants().visit(keyword.value))
        return json.dumps(values, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise NotACall from None


class _Constants(ast.NodeTransformer):
    """Accepts JSON's constants."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(_CONSTANTS[node.id]) if node.id in _CONSTANTS else node


def pythonic_rules(rules: Rules, tools: Mapping[str, Any], parallel: bool) -> str:
    """A list of calls, between the markers of the vocabulary if it has some."""
    inner = Notation(_string, _constant, lambda name: f"{json.dumps(name)}: ", ", ")
    outer = Notation(_string, _constant, "{}=".format, ", ")
    calls = []
    for name, schema in tools.items():
        if not all(name.isidentifier() and not iskeyword(name) for name in schema.get("properties") or {}):
            raise SchemaNotSupported("properties whose names are no names in Python")
        members = members_rule(rules, outer, inlined(schema, schema), inner)
        calls.append(f"{rules.text(f'{name}(')} {members} {rules.text(')')}")
    listed = f"{rules.text('[')} {rules.many(rules.one_of(calls), rules.text(', '), parallel)} {rules.text(']')}"
    pairs = [(rules.mark(begin), rules.mark(end)) for begin, end in zip(BEGINS, ENDS, strict=True)]
    begin, end = next((pair for pair in pairs if pair[0].startswith("<[")), ("", ""))
    return f"{begin} {listed} {end}"


def _constant(rules: Rules, value: Any) -> str:
    return rules.text(repr(value))


def _string(rules: Rules, schema: Mapping[str, Any]) -> str:
    """A string in double quotes, with escapes for quotes, line breaks and backslashes."""
    return rules.rule(f'/"([^"\\\\\\n]|\\\\["n\\\\]){length_of(schema)}"/')


PYTHONIC = ToolFormat("pythonic", read_pythonic, pythonic_rules, markers=(*BEGINS, *ENDS), begins=BEGINS, opening="[")
