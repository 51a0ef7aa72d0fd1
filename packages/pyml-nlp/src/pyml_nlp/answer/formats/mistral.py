"""``[TOOL_CALLS]``: a JSON list (Mistral 7B v0.3), or a name and its arguments (Mistral Small 3.2, Ministral 3).

Sources: the chat templates of mistralai/Mistral-7B-Instruct-v0.3, mistralai/Mistral-Small-3.2-24B-Instruct-2506 and
mistralai/Ministral-3-3B-Instruct-2512.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..json_calls import MAX_NAME, begin_object, json_list, json_value
from ..rules import Rules
from ..source import NotACall, Reading
from .base import Calls, ToolFormat, json_calls_rule

BEGIN, ARGUMENTS, NUMBER = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"


def read_mistral(calls: Calls) -> Reading[None]:
    """Read a list of calls, or calls of the later form, each after a marker."""
    source, marks = calls.source, calls.marks
    yield from source.expect(marks[BEGIN])
    if (yield from source.skip_space()) == "[":
        yield from json_list(source, calls.out, calls.tools, ("arguments",))
        return
    while True:
        yield from _named(calls)
        yield from source.skip_space()
        if not (yield from source.skip(marks[BEGIN])):
            return


def _named(calls: Calls) -> Reading[None]:
    """``add[ARGS]{"a": 1}``, with an id before the arguments in some versions."""
    source, marks = calls.source, calls.marks
    yield from source.skip_space()
    name = yield from source.until((marks[ARGUMENTS], marks[NUMBER], "{"), MAX_NAME)
    name = name.strip()
    if name not in calls.tools:
        raise NotACall
    if (yield from source.skip(marks[NUMBER])):
        yield from source.until((marks[ARGUMENTS], "{"), MAX_NAME)
    yield from source.skip(marks[ARGUMENTS])
    yield from source.skip_space()
    yield from begin_object(source)
    source.release()
    calls.out.begin(name)
    calls.out.arguments("{")
    yield from json_value(source, calls.out.arguments, depth=1)
    calls.out.end()
    source.hold()


def mistral_rules(rules: Rules, tools: Mapping[str, Any], parallel: bool) -> str:
    """A list of calls, or names with arguments if there is a marker between them."""
    begin, arguments = rules.mark(BEGIN), rules.mark(ARGUMENTS)
    if not arguments.startswith("<["):
        return f"{begin} {rules.text(' [')} {json_calls_rule(rules, tools, parallel)} {rules.text(']')}"
    number = rules.mark(NUMBER)
    between = f"({number} /[A-Za-z0-9]{{9}}/)? {arguments}" if number.startswith("<[") else arguments
    calls = [f"{begin} {rules.text(name)} {between} {rules.json(schema)}" for name, schema in tools.items()]
    return rules.many(rules.one_of(calls), "", parallel)


MISTRAL = ToolFormat(
    "mistral", read_mistral, mistral_rules, markers=(BEGIN, ARGUMENTS, NUMBER), begins=(BEGIN,), id_length=9
)
