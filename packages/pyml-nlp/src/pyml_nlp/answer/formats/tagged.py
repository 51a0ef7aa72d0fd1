"""``<tool_call>`` tags, repeated: JSON in them (Hermes, Qwen 2.5 and 3), or XML (Qwen 3 Coder and later).

Sources: the chat templates of NousResearch/Hermes-3-Llama-3.1-8B, Qwen/Qwen3-0.6B and
Qwen/Qwen3-Coder-30B-A3B-Instruct.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..json_calls import MAX_EARLY, MAX_NAME, json_call
from ..rules import Rules, SchemaNotSupported, checked_name, inlined, kind_of, kinds_of, length_of
from ..source import NotACall, Reading, partial
from .base import Calls, ToolFormat, json_calls_rule

BEGIN, END = "<tool_call>", "</tool_call>"
FUNCTION, END_FUNCTION = "<function=", "</function>"
PARAMETER, END_PARAMETER = "<parameter=", "</parameter>"


def read_tagged(calls: Calls) -> Reading[None]:
    """Read calls with tags around them; the last end may be missing."""
    source, marks = calls.source, calls.marks
    yield from source.expect(marks[BEGIN])
    while True:
        if (yield from source.skip_space()) == "<":
            yield from _function(calls)
        else:
            yield from json_call(source, calls.out, calls.tools, ("arguments", "parameters"))
        yield from source.skip_space()
        if (yield from source.skip(marks[END])):
            source.hold()
        yield from source.skip_space()
        if not (yield from source.skip(marks[BEGIN])):
            return


def _function(calls: Calls) -> Reading[None]:
    """``<function=add><parameter=a>1</parameter></function>``."""
    source, out = calls.source, calls.out
    yield from source.expect(FUNCTION)
    name = yield from source.until((">",), MAX_NAME)
    if name not in calls.tools:
        raise NotACall
    yield from source.expect(">")
    separator = "{"
    while True:
        yield from source.skip_space()
        if (yield from source.expect(PARAMETER, END_FUNCTION)) == END_FUNCTION:
            break
        if separator == "{":
            source.release()
            out.begin(name)
        key = yield from source.until((">",), MAX_NAME)
        yield from source.expect(">")
        out.arguments(f"{separator}{json.dumps(key, ensure_ascii=False)}: ")
        separator = ", "
        yield from _value(calls, _property(calls.tools[name], key))
    if separator == "{":
        source.release()
        out.begin(name)
        out.arguments("{")
    out.arguments("}")
    out.end()
    source.hold()


def _property(schema: Mapping[str, Any], name: str) -> Any:
    """The schema of a property; None: it is not known."""
    properties = schema.get("properties")
    found = properties.get(name) if isinstance(properties, Mapping) else None
    try:
        return inlined(found, schema)
    except SchemaNotSupported:
        return found


def _value(calls: Calls, schema: Any) -> Reading[None]:
    """The text of a value, without a line break at each end. A string is passed on as it comes."""
    source, out = calls.source, calls.out
    yield from source.skip("\n")
    ends = ("\n" + END_PARAMETER, END_PARAMETER)
    if not (isinstance(schema, dict) and schema.get("type") == "string"):
        text = yield from source.until(ends, MAX_EARLY)
        out.arguments(typed(out.spelled(text), schema))
        yield from source.expect(*ends)
        return
    out.arguments('"')
    while True:
        places = [place for end in ends if (place := source.text.find(end, source.at)) >= 0]
        stop = min(places, default=len(source.text))
        if not places and not source.ended:
            stop -= partial(source.text, source.at, ends)
        out.string(source.text[source.at : stop])
        source.at = stop
        if places:
            break
        if source.ended:
            raise NotACall
        yield
    out.arguments('"')
    yield from source.expect(*ends)


def typed(text: str, schema: Any) -> str:
    """The JSON text of a value that is written without quotes, by the type in its schema."""
    kinds = kinds_of(schema)
    python = {"True": "true", "False": "false", "None": "null"}.get(text.strip(), text)
    try:
        value = json.loads(python)
    except (ValueError, RecursionError):
        return json.dumps(text, ensure_ascii=False)
    if kinds is not None and "string" in kinds and kind_of(value) not in kinds:
        return json.dumps(text, ensure_ascii=False)
    return python.strip()


def json_rules(rules: Rules, tools: Mapping[str, Any], parallel: bool) -> str:
    """Calls in JSON, each in tags."""
    around = f"{rules.mark(BEGIN)} {rules.text(chr(10))}", f"{rules.text(chr(10))} {rules.mark(END)}"
    return json_calls_rule(rules, tools, parallel, around, separator="\n")


def xml_rules(rules: Rules, tools: Mapping[str, Any], parallel: bool) -> str:
    """Calls in XML, each in tags."""
    begin, end = rules.mark(BEGIN), rules.mark(END)
    calls = []
    for name, schema in tools.items():
        parameters = _parameter_rules(rules, schema)
        head, tail = rules.text(f"\n{FUNCTION}{name}>\n"), rules.text(f"{END_FUNCTION}\n")
        calls.append(f"{begin} {head} {' '.join(parameters)} {tail} {end}")
    return rules.many(rules.one_of(calls), rules.text("\n"), parallel)


def _parameter_rules(rules: Rules, schema: Mapping[str, Any]) -> list[str]:
    """Expressions of the parameters, in the order of the schema."""
    properties, required = schema.get("properties") or {}, set(schema.get("required") or ())
    if required - properties.keys():
        raise SchemaNotSupported("required")
    found = []
    for name, inner in properties.items():
        value = _parameter_rule(rules, inlined(inner, schema))
        parameter = f"{rules.text(f'{PARAMETER}{checked_name(name)}>{chr(10)}')} {value} {rules.text(chr(10))}"
        found.append(parameter if name in required else f"({parameter})?")
    return found


def _parameter_rule(rules: Rules, schema: Any) -> str:
    """The value of a parameter and the end of its tag: a string as it is, other values as JSON."""
    end = f"\n{END_PARAMETER}"
    if not isinstance(schema, Mapping):
        raise SchemaNotSupported(json.dumps(schema))
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
        if any(json.loads(typed(text, schema)) != value for text, value in zip(texts, values, strict=True)):
            raise SchemaNotSupported("enum")  # of values that look alike
        return f"{rules.one_of(map(rules.text, texts))} {rules.text(end)}"
    if "string" not in (kinds_of(schema) or ()):
        return f"{rules.json(schema)} {rules.text(end)}"
    strings = [option for option in schema.get("anyOf", [schema]) if "string" in (kinds_of(option) or ())]
    if any(key in option for option in strings for key in ("pattern", "format", "enum", "const")):
        raise SchemaNotSupported("a string with a pattern, a format or an enum")
    if strings == [schema] and schema["type"] == "string":
        return rules.until(end, length_of(schema))
    if "oneOf" in schema or any("minLength" in option or "maxLength" in option for option in strings):
        raise SchemaNotSupported("oneOf, or a length beside other types")
    return rules.until(end)


HERMES = ToolFormat("hermes", read_tagged, json_rules, markers=(BEGIN, END), begins=(BEGIN,))
QWEN_CODER = ToolFormat("qwen3_coder", read_tagged, xml_rules, markers=(BEGIN, END), begins=(BEGIN,))
