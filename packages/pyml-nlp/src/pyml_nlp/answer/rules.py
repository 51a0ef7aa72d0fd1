"""Grammars of calls, in llguidance's variant of Lark's syntax: literal texts, markers, and values of JSON schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pyml_core.errors import quoted

from .marks import Marks

MAX_CALLS = 16
"""Most calls of one answer that a grammar allows."""

_MAX_LENGTH = 1 << 12
_MAX_DEPTH = 16
_UNKNOWN = (
    "$dynamicRef", "allOf", "oneOf", "not", "if", "patternProperties", "pattern", "format",
    "multipleOf", "minProperties", "maxProperties", "uniqueItems", "contains", "prefixItems", "dependentRequired",
    "dependentSchemas", "propertyNames",
)  # fmt: skip


_ASSERTIONS = (
    "type", "properties", "required", "items", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    "minLength", "maxLength", "minItems", "maxItems",
)  # fmt: skip


class SchemaNotSupported(Exception):
    """A schema whose values cannot be written in a format that is not JSON; the message names the keyword."""


class Rules:
    """The rules of a grammar.

    Args:
        marks: markers, which are tokens or text.
    """

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self._lines: list[str] = []

    def rule(self, expression: str, attributes: str = "") -> str:
        """Add a rule; returns its name."""
        name = f"r{len(self._lines)}"
        self._lines.append(f"{name}{attributes}: {expression}")
        return name

    def source(self, start: str) -> str:
        """The grammar whose texts match an expression."""
        return "\n".join([f"start: {start}", *self._lines])

    def text(self, text: str) -> str:
        """A text."""
        return json.dumps(text)

    def mark(self, spelling: str) -> str:
        """A marker."""
        token = self._marks.token(spelling)
        return self.text(spelling) if token is None else f"<[{token}]>"

    def json(self, schema: Any) -> str:
        """The JSON text of a value that matches a schema."""
        return self.rule(f"%json {json.dumps(schema)}")

    def until(self, spelling: str, length: str = "*") -> str:
        """Any text, and the marker or text that comes next after it.

        Args:
            spelling: where it ends; the end is part of it.
            length: how many characters, as in regular expressions.
        """
        token = self._marks.token(spelling)
        if token is not None:
            return self.rule(f"{self.letters(length)} <[{token}]>")
        return self.rule(f"/(.|\\n){length}/ {self.text(spelling)}", "[lazy]")

    def letters(self, length: str = "*") -> str:
        """Any characters."""
        return self.rule(f"/(.|\\n){length}/")

    def one_of(self, expressions: Iterable[str]) -> str:
        """One of several expressions."""
        return self.rule(" | ".join(expressions))

    def many(self, call: str, separator: str, parallel: bool) -> str:
        """One call, or several with a separator between them."""
        return self.rule(f"{call} ({separator} {call}){{0,{MAX_CALLS - 1}}}") if parallel else call


def length_of(schema: Mapping[str, Any]) -> str:
    """The limits of a string's length, as in regular expressions."""
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    if least == 0 and most is None:
        return "*"
    if any(not isinstance(size, int) or not 0 <= size <= _MAX_LENGTH for size in (least, most or 0)):
        raise SchemaNotSupported("minLength or maxLength")
    return f"{{{least},{'' if most is None else most}}}"


@dataclass(frozen=True)
class Notation:
    """How values are written in a format that is not JSON.

    Attributes:
        string: the expression of any string whose schema this is.
        constant: the expression of one value.
        key: the text of a member's name, with what separates it from its value.
        separator: text between two members or items.
    """

    string: Callable[[Rules, Mapping[str, Any]], str]
    constant: Callable[[Rules, Any], str]
    key: Callable[[str], str]
    separator: str = ","


def value_rule(rules: Rules, notation: Notation, schema: Any) -> str:
    """The expression of the values of a schema without references.

    Raises:
        SchemaNotSupported: it has a keyword that cannot be enforced.
    """
    if not isinstance(schema, Mapping):
        raise SchemaNotSupported(json.dumps(schema))
    unknown = next((key for key in _UNKNOWN if key in schema), None)
    if unknown is not None:
        raise SchemaNotSupported(unknown)
    if "const" in schema or "enum" in schema:
        values = [schema["const"]] if "const" in schema else schema["enum"]
        return rules.one_of([notation.constant(rules, value) for value in values])
    if "anyOf" in schema:
        rest = {key: value for key, value in schema.items() if key in _ASSERTIONS}
        if rest:
            raise SchemaNotSupported(f"anyOf beside {next(iter(rest))}")
        return rules.one_of([value_rule(rules, notation, option) for option in schema["anyOf"]])
    kinds = schema.get("type", ("string", "number", "boolean", "null"))
    kinds = (kinds,) if isinstance(kinds, str) else kinds
    return rules.one_of([_of_kind(rules, notation, schema, kind) for kind in kinds])


def _of_kind(rules: Rules, notation: Notation, schema: Mapping[str, Any], kind: Any) -> str:
    match kind:
        case "string":
            return notation.string(rules, schema)
        case "integer" | "number":
            limits = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
            return rules.json({"type": kind, **{key: schema[key] for key in limits if key in schema}})
        case "boolean":
            return rules.one_of([notation.constant(rules, True), notation.constant(rules, False)])
        case "null":
            return notation.constant(rules, None)
        case "array":
            return _list_rule(rules, notation, schema)
        case "object":
            return rules.rule(f'"{{" {members_rule(rules, notation, schema)} "}}"')
    raise SchemaNotSupported("type")


def _list_rule(rules: Rules, notation: Notation, schema: Mapping[str, Any]) -> str:
    least, most = schema.get("minItems", 0), schema.get("maxItems")
    if not isinstance(least, int) or not isinstance(most, int | None) or max(least, most or 0) > _MAX_LENGTH:
        raise SchemaNotSupported("minItems or maxItems")
    item = value_rule(rules, notation, schema.get("items", {}))
    if most == 0:
        return rules.text("[]")
    last = "" if most is None else most - 1
    more = f"({rules.text(notation.separator)} {item}){{{max(0, least - 1)},{last}}}"
    inner = f"{item} {more}"
    return rules.rule(f'"[" {inner} "]"' if least else f'"[" ({inner})? "]"')


def members_rule(rules: Rules, notation: Notation, schema: Mapping[str, Any], inner: Notation | None = None) -> str:
    """The members of an object in the order of its schema, those that are not required left out or not.

    Args:
        rules: of the grammar.
        notation: of the members.
        schema: of the object.
        inner: notation of their values; None: the same one.
    """
    properties = schema.get("properties") or {}
    required = set(schema.get("required") or ())
    if required - properties.keys():
        raise SchemaNotSupported("required")
    names = list(properties)
    values = {
        name: f"{rules.text(notation.key(name))} {value_rule(rules, inner or notation, properties[name])}"
        for name in names
    }
    separator = rules.text(notation.separator)
    after = rules.rule('""')  # what may follow a member
    first = after
    for name in reversed(names):
        member = rules.rule(values[name])
        first = rules.rule(f"{member} {after}" + ("" if name in required else f" | {first}"))
        after = rules.rule(f"{separator} {member} {after}" + ("" if name in required else f" | {after}"))
    return first


def plain_string(quote: str) -> Callable[[Rules, Mapping[str, Any]], str]:
    """A notation of strings: any characters between two quotes, without escapes."""

    def string(rules: Rules, schema: Mapping[str, Any]) -> str:
        return rules.rule(f"{rules.mark(quote)} {rules.until(quote, length_of(schema))}")

    return string


_NAME = re.compile(r"[\w.$-]+")


def checked_name(name: str) -> str:
    """The name of a property, if it has letters, digits, and few others alone.

    Raises:
        SchemaNotSupported: it has others.
    """
    if _NAME.fullmatch(name) is None:
        raise SchemaNotSupported(f"the property {quoted(name)}")
    return name


def inlined(schema: Any, root: Mapping[str, Any], depth: int = _MAX_DEPTH) -> Any:
    """A schema with what its references name in their place.

    Args:
        schema: a part of ``root``.
        root: has the definitions.
        depth: most references in one another.

    Raises:
        SchemaNotSupported: a reference to elsewhere, or to itself.
    """
    if isinstance(schema, list):
        return [inlined(one, root, depth) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    if "$ref" not in schema:
        kept = {key: value for key, value in schema.items() if key not in ("$defs", "definitions")}
        return {key: value if key in ("enum", "const") else inlined(value, root, depth) for key, value in kept.items()}
    target: Any = root
    name = schema["$ref"]
    steps = name.split("/") if isinstance(name, str) else []
    for step in steps[1:]:
        target = target.get(step) if isinstance(target, Mapping) else None
    if steps[:1] != ["#"] or not isinstance(target, Mapping) or not depth:
        raise SchemaNotSupported("$ref")
    rest = {key: value for key, value in schema.items() if key != "$ref"}
    return inlined({**target, **rest}, root, depth - 1)


def kinds_of(schema: Any) -> set[str] | None:
    """The types of a schema's values, if it names them; None: any may match."""
    if not isinstance(schema, Mapping):
        return None
    if "const" in schema or "enum" in schema:
        values = [schema["const"]] if "const" in schema else schema["enum"]
        return {kind_of(value) for value in values} if isinstance(values, list) else None
    if "type" in schema:
        kinds = schema["type"]
        return {kinds} if isinstance(kinds, str) else set(kinds) if isinstance(kinds, list) else None
    options = schema.get("anyOf") or schema.get("oneOf")
    found = [kinds_of(option) for option in options] if isinstance(options, list) else []
    if not found or None in found:
        return None
    return {kind for kinds in found if kinds is not None for kind in kinds}


def kind_of(value: Any) -> str:
    """The name of a value's type in schemas; a number is an integer if it is written as one."""
    if isinstance(value, bool):
        return "boolean"
    names = {dict: "object", list: "array", str: "string", int: "integer", float: "number"}
    return names.get(type(value), "null")
