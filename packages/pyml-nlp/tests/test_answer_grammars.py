"""Grammars of calls: what they allow is read as calls whose arguments match the schemas of their tools."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from answers import Answer, joined
from grammar_makers import Words

from pyml_nlp import ArgumentError
from pyml_nlp.answer import AnswerFormat
from pyml_nlp.answer.formats import FORMATS
from pyml_nlp.answer.formats.tagged import typed
from pyml_nlp.answer.grammars import call_grammar
from pyml_nlp.answer.rules import SchemaNotSupported, inlined
from pyml_nlp.options.generation import GenerationOptions
from pyml_nlp.structured.grammar import Grammar, one_grammar

pytest.importorskip("llguidance")
jsonschema = pytest.importorskip("jsonschema")

DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}
CLOSED: dict[str, Any] = {"additionalProperties": False}
TOOLS: dict[str, Any] = {
    "add": {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"type": "boolean"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
    "note": {
        "properties": {
            "text": {"type": "string", "maxLength": 8},
            "tags": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "maxItems": 3},
            "level": {"enum": [1, 2]},
        },
        "required": ["text"],
        "additionalProperties": False,
    },
    "meet": {
        "$defs": {"place": {"type": "object", "properties": {"x": DIGIT}, "required": ["x"], **CLOSED}},
        "properties": {
            "mood": {"enum": ["a b", "1", "true"]},
            "who": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "where": {"$ref": "#/$defs/place", "description": "A place."},
            "name": {"$ref": "#/$defs/place/properties/x"},
            "kind": {"const": "k"},
        },
        "required": ["mood", "where"],
        **CLOSED,
    },
    "now": {"additionalProperties": False},
}


@pytest.fixture(scope="module")
def words() -> Words:
    return Words()


def form_of(words: Words, name: str, reasoning: tuple[str, str] | None = None) -> AnswerFormat:
    return AnswerFormat(words.tokenizer, words.ends, FORMATS[name], TOOLS, reasoning)


def read(form: AnswerFormat, text: str, grammar: Grammar) -> Answer:
    parser = form.parser((), GenerationOptions(grammar=grammar))
    return joined([*parser.push(1, text), *parser.finish()])


@pytest.mark.parametrize("name", FORMATS)
def test_texts_of_the_grammar_are_calls(words: Words, name: str) -> None:
    form = form_of(words, name)
    grammar = call_grammar(form, list(TOOLS))
    seen, draw = set(), random.Random(5)
    for _ in range(45):
        text = words.walk(grammar, draw, 500)
        if text is None:
            continue
        answer = read(form, text, grammar)
        assert answer.text == "", text
        assert answer.calls, text
        for tool, arguments in answer.calls:
            jsonschema.validate(json.loads(arguments), TOOLS[tool])
            seen.add(tool)
    assert seen == set(TOOLS)


@pytest.mark.parametrize("name", FORMATS)
def test_one_call_of_one_tool(words: Words, name: str) -> None:
    form = form_of(words, name)
    grammar = call_grammar(form, ["now"], parallel=False)
    texts = {words.walk(grammar, random.Random(seed)) for seed in range(8)}
    assert [read(form, text, grammar).calls for text in texts if text] == [[("now", "{}")]] * len(texts)


@pytest.mark.parametrize("name", FORMATS)
def test_reasoning_may_come_first(words: Words, name: str) -> None:
    form = form_of(words, name, ("<think>", "</think>"))
    grammar = call_grammar(form, ["now"], parallel=False)
    call = words.walk(call_grammar(form_of(words, name), ["now"], parallel=False), random.Random(1))
    assert call is not None
    for text in (call, f"<think>Hm.</think>\n\n{call}", f"<think></think>{call}"):
        assert words.allows(grammar, text), text
        assert read(form, text, grammar).calls == [("now", "{}")]
    for text in (f"<think>Hm.{call}", f"Well. {call}", "<think></think>"):
        assert not words.allows(grammar, text), text


def test_reasoning_that_the_prompt_has_opened(words: Words) -> None:
    form = form_of(words, "hermes", ("<think>", "</think>"))
    grammar = call_grammar(form, ["now"], opened=True, parallel=False)
    call = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    assert words.allows(grammar, f"Hm.</think>\n\n{call}")
    assert not words.allows(grammar, call)


@pytest.mark.parametrize("name", FORMATS)
def test_calls_or_a_text(words: Words, name: str) -> None:
    form = form_of(words, name)
    content = one_grammar({"enum": ["é", "yes"]})
    grammar = call_grammar(form, ["now"], content=content)
    found = [read(form, text, grammar) for seed in range(30) if (text := words.walk(grammar, random.Random(seed)))]
    assert {bool(answer.calls) for answer in found} == {True, False}
    expected = {"é", "yes"} if name == "generic" else {'"é"', '"yes"'}
    assert {answer.text for answer in found if not answer.calls} <= expected


@pytest.mark.parametrize(
    ("text", "schema", "expected"),
    [
        ("12", {"type": ["string", "null"]}, "12"), ("null", {"type": ["string", "null"]}, None),
        ("12", {"anyOf": [{"type": "string"}, {"type": "null"}]}, "12"), ("12", {"type": "integer"}, 12),
        ("12", {"enum": ["12", "13"]}, "12"), ("True", {"type": "boolean"}, True), ("None", {}, None),
        ("[1]", {}, [1]), ("a", {}, "a"), ("a", {"type": "integer"}, "a"), ("", {}, ""),
        ("1.0", {"type": "number"}, 1.0),
    ],
)  # fmt: skip
def test_values_by_their_schemas(text: str, schema: Any, expected: Any) -> None:
    found = json.loads(typed(text, schema))
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    "schema",
    [{"$ref": "#/x"}, {"$ref": "https://x"}, {"$ref": 1}, {"properties": {"a": {"$ref": "#/properties/a"}}}],
)
def test_references_that_are_refused(schema: Any) -> None:
    with pytest.raises(SchemaNotSupported, match=r"^\$ref$"):
        inlined(schema, schema)


def test_schemas_that_cannot_be_enforced(words: Words) -> None:
    tools = {"f": {"properties": {"a": {"type": "string", "pattern": "a+"}}}}
    for name in ("functiongemma", "pythonic", "qwen3_coder"):
        form = AnswerFormat(words.tokenizer, words.ends, FORMATS[name], tools)
        with pytest.raises(
            ArgumentError, match=f"cannot be enforced in the format {name}: their schemas have .*pattern"
        ):
            call_grammar(form, ["f"])
    form = AnswerFormat(words.tokenizer, words.ends, FORMATS["hermes"], tools)
    assert words.allows(call_grammar(form, ["f"]), '<tool_call>\n{"name": "f", "arguments": {"a": "aa"}}\n</tool_call>')
