"""``call:name{key:value}`` between markers: FunctionGemma and Gemma 4.

Sources: ai.google.dev, "FunctionGemma formatting and best practices", and the macro ``format_argument`` of Gemma 4's
chat template. Strings stand between two markers, and everything in them is text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..json_calls import MAX_EARLY, MAX_NAME
from ..rules import Notation, Rules, SchemaNotSupported, checked_name, inlined, members_rule, plain_string
from ..source import NotACall, Reading, partial
from .base import Calls, ToolFormat

_MAX_DEPTH = 64


@dataclass(frozen=True)
class GemmaReader:
    """Reads calls between two markers, with strings between two others.

    Attributes:
        begin: the marker before a call.
        end: the marker after it.
        quote: the marker at both ends of a string.
    """

    begin: str
    end: str
    quote: str

    def __call__(self, calls: Calls) -> Reading[None]:
        """Read calls."""
        source, marks = calls.source, calls.marks
        yield from source.expect(marks[self.begin])
        while True:
            yield from source.skip_space()
            yield from source.expect("call:")
            name = (yield from source.until(("{",), MAX_NAME)).strip()
            if name not in calls.tools:
                raise NotACall
            source.release()
            calls.out.begin(name)
            yield from self._object(calls, _MAX_DEPTH)
            calls.out.end()
            source.hold()
            yield from source.skip_space()
            if (yield from source.skip(marks[self.end])):
                source.hold()
            yield from source.skip_space()
            if not (yield from source.skip(marks[self.begin])):
                return

    def _object(self, calls: Calls, depth: int) -> Reading[None]:
        source, out, quote = calls.source, calls.out, calls.marks[self.quote]
        yield from source.expect("{")
        separator = "{"
        while (yield from source.skip_space()) != "}":
            if separator == ", ":
                yield from source.expect(",")
                yield from source.skip_space()
            if (yield from source.skip(quote)):
                key = yield from source.until((quote,), MAX_NAME)
                yield from source.expect(quote)
            else:
                key = (yield from source.until((":",), MAX_NAME)).strip()
            yield from source.skip_space()
            yield from source.expect(":")
            out.arguments(f"{separator}{json.dumps(out.spelled(key), ensure_ascii=False)}: ")
            separator = ", "
            yield from self._value(calls, depth)
        source.at += 1
        out.arguments("{}" if separator == "{" else "}")

    def _list(self, calls: Calls, depth: int) -> Reading[None]:
        source, out = calls.source, calls.out
        yield from source.expect("[")
        out.arguments("[")
        first = True
        while (yield from source.skip_space()) != "]":
            if not first:
                yield from source.expect(",")
                out.arguments(", ")
            first = False
            yield from self._value(calls, depth)
        source.at += 1
        out.arguments("]")

    def _value(self, calls: Calls, depth: int) -> Reading[None]:
        source, out, quote = calls.source, calls.out, calls.marks[self.quote]
        first = yield from source.skip_space()
        if not depth:
            raise NotACall
        if first == "{":
            yield from self._object(calls, depth - 1)
        elif first == "[":
            yield from self._list(calls, depth - 1)
        elif (yield from source.skip(quote)):
            out.arguments('"')
            yield from self._string(calls)
            out.arguments('"')
        else:
            text = (yield from source.until((",", "}", "]"), MAX_EARLY)).strip()
            try:
                out.arguments(json.dumps(json.loads(text), ensure_ascii=False))
            except (ValueError, RecursionError):
                out.arguments(json.dumps(out.spelled(text), ensure_ascii=False))

    def _string(self, calls: Calls) -> Reading[None]:
        source, quote = calls.source, calls.marks[self.quote]
        while True:
            place = source.text.find(quote, source.at)
            stop = place
            if place < 0:
                stop = len(source.text) - (0 if source.ended else partial(source.text, source.at, (quote,)))
            calls.out.string(source.text[source.at : stop])
            source.at = stop
            if place >= 0:
                source.at += len(quote)
                return
            if source.ended:
                raise NotACall
            yield

    def rules(self, rules: Rules, tools: Mapping[str, Any], parallel: bool) -> str:
        """Calls, each between the markers."""
        notation = Notation(plain_string(self.quote), self._constant, _key)
        begin, end = rules.mark(self.begin), rules.mark(self.end)
        calls = []
        for name, schema in tools.items():
            members = members_rule(rules, notation, inlined(schema, schema))
            calls.append(f"{begin} {rules.text(f'call:{name}{{')} {members} {rules.text('}')} {end}")
        return rules.many(rules.one_of(calls), "", parallel)

    def _constant(self, rules: Rules, value: Any) -> str:
        if isinstance(value, dict | list) or value == "":
            raise SchemaNotSupported("enum or const")
        if not isinstance(value, str):
            return rules.text(json.dumps(value))
        return rules.rule(f"{rules.mark(self.quote)} {rules.text(value)} {rules.mark(self.quote)}")


def _key(name: str) -> str:
    return f"{checked_name(name)}:"


def _format(name: str, begin: str, end: str, quote: str, stops: tuple[str, ...]) -> ToolFormat:
    reader = GemmaReader(begin, end, quote)
    return ToolFormat(name, reader, reader.rules, markers=(begin, end, quote), begins=(begin,), stops=stops)


FUNCTION_GEMMA = _format(
    "functiongemma", "<start_function_call>", "<end_function_call>", "<escape>", ("<start_function_response>",)
)
GEMMA_4 = _format("gemma4", "<|tool_call>", "<tool_call|>", '<|"|>', ("<|tool_response>",))
