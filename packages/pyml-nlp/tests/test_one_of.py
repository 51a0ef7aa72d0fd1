"""Branches of ``oneOf``: those that exclude each other work, wherever they are; others are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("llguidance")

from grammar_makers import CLOSED, Words, refused

Schema = dict[str, Any]


@pytest.fixture(scope="module")
def words() -> Words:
    return Words()


def tagged(tag: object, required: bool = True, **properties: Schema) -> Schema:
    kind = {"const": tag, "default": tag}
    return {
        "type": "object",
        "properties": {"kind": kind, **properties},
        **({"required": ["kind", *properties]} if required else {}),
        "additionalProperties": False,
    }


CAT, DOG = tagged("cat", lives={"type": "integer"}), tagged("dog", good={"type": "boolean"})
PETS = {"Cat": CAT, "Dog": DOG, "Bird": tagged("bird", required=False), "Fish": tagged("fish", required=False)}
ONE_OF: dict[str, tuple[Schema, list[str], list[str]]] = {
    "written out": ({"oneOf": [CAT, DOG]}, ['{"kind": "cat", "lives": 9}'], ['{"kind": "cat", "good": true}']),
    "behind $ref": (
        {"$defs": PETS, "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]},
        ['{"kind": "cat", "lives": 9}', '{"kind": "dog", "good": true}'],
        ['{"kind": "cow"}', '{"kind": "dog", "lives": 9}'],
    ),
    "with a discriminator": (
        {
            "$defs": PETS,
            "properties": {
                "pet": {
                    "discriminator": {"mapping": {"cat": "#/$defs/Cat"}, "propertyName": "kind"},
                    "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
                }
            },
            "required": ["pet"],
            "type": "object",
        },
        ['{"pet": {"kind": "dog", "good": false}}'],
        ['{"pet": {"kind": "bird"}}'],
    ),
    "a tag with a default is always written": (
        {"$defs": PETS, "oneOf": [{"$ref": "#/$defs/Bird"}, {"$ref": "#/$defs/Fish"}]},
        ['{"kind": "fish"}', '{"kind": "bird"}'],
        ["{}"],
    ),
    "one within another": (
        {
            "$defs": {**PETS, "Furry": {"oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]}},
            "oneOf": [{"$ref": "#/$defs/Furry"}, {"$ref": "#/$defs/Fish"}],
        },
        ['{"kind": "fish"}', '{"kind": "cat", "lives": 1}'],
        ["{}", '{"kind": "bird"}'],
    ),
    "an enumerated tag behind $ref": (
        {
            "$defs": {"Tag": {"enum": ["a", "b"]}, "A": tagged(0), "B": tagged(1)},
            "oneOf": [
                {"type": "object", "properties": {"t": {"$ref": "#/$defs/Tag"}}, "required": ["t"]},
                {"type": "object", "properties": {"t": {"enum": ["c", None]}}, "required": ["t"]},
            ],
        },
        ['{"t": "a"}', '{"t": null}'],
        ['{"t": "d"}'],
    ),
    "a recursive schema": (
        {
            "$defs": {
                "Expr": {"oneOf": [{"$ref": "#/$defs/Num"}, {"$ref": "#/$defs/Add"}]},
                "Num": tagged("num", value={"type": "integer"}),
                "Add": tagged("add", left={"$ref": "#/$defs/Expr"}, right={"$ref": "#/$defs/Expr"}),
            },
            "$ref": "#/$defs/Expr",
        },
        ['{"kind": "add", "left": {"kind": "num", "value": 1}, "right": {"kind": "num", "value": -2}}'],
        ['{"kind": "add", "left": {"kind": "num", "value": 1}}'],
    ),
    "by type": (
        {"$defs": {"n": {"type": ["integer", "null"]}}, "oneOf": [{"$ref": "#/$defs/n"}, {"type": "string"}]},
        ["5", '"a"', "null"],
        ["true"],
    ),
    "by constants": ({"oneOf": [{"const": 1}, {"enum": [2, "x"]}, {"const": None}]}, ["1", "2", '"x"'], ["3"]),
    "by bounds": (
        {"oneOf": [{"type": "integer", "maximum": 5}, {"type": "integer", "minimum": 6, "maximum": 9}]},
        ["5", "9", "-3"],
        ["10"],
    ),
    "by lengths": (
        {
            "oneOf": [
                {"type": "string", "maxLength": 1},
                {"type": "array", "maxItems": 0},
                {"type": "string", "minLength": 3},
            ]
        },
        ['"a"', "[]", '"abc"'],
        ['"ab"'],
    ),
    "by a property that one requires and the other forbids": (
        {
            "oneOf": [
                {**CLOSED, "properties": {"a": {"type": "integer"}}, "required": ["a"]},
                {**CLOSED, "properties": {"b": {"type": "integer"}}, "required": ["b"]},
            ]
        },
        ['{"a": 1}', '{"b": 1}'],
        ['{"a": 1, "b": 1}', "{}"],
    ),
    "by a property within a property": (
        {
            "oneOf": [
                {"type": "object", "properties": {"head": tagged(n)}, "required": ["head"]} for n in (1, "1", True)
            ]
        },
        ['{"head": {"kind": "1"}}', '{"head": {"kind": true}}'],
        ['{"head": {"kind": 2}}'],
    ),
    "with allOf": (
        {"oneOf": [{"allOf": [{"type": "object"}, tagged("a")]}, {"allOf": [tagged("b"), {"minProperties": 1}]}]},
        ['{"kind": "a"}', '{"kind": "b"}'],
        ['{"kind": "c"}'],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ONE_OF)
def test_branches_that_exclude_each_other(name: str, words: Words) -> None:
    schema, matching, others = ONE_OF[name]
    for text in matching:
        assert words.schema_allows(schema, text), text
    for text in others:
        assert not words.schema_allows(schema, text), text


@pytest.mark.parametrize(
    ("branches", "pair"),
    [
        ([{"type": "integer"}, {"type": "number"}], "0 and 1"),
        ([{"const": 1}, {"const": 2}, {"const": 1.0}], "0 and 2"),
        ([{"type": "string"}, {"type": "string", "pattern": "(?=a)"}], "0 and 1"),
        ([{"type": "object", "required": ["a"]}, {"type": "object", "required": ["b"]}], "0 and 1"),
        ([{"properties": {"t": {"const": n}}, "required": ["t"]} for n in (1, 2)], "0 and 1"),
        ([{"type": "string", "maxLength": 3}, {"type": "string", "minLength": 3}], "0 and 1"),
        ([False, {"type": "null"}, {"enum": [None]}], "1 and 2"),
        ([{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}], "0 and 1"),
    ],
)
def test_branches_that_overlap_are_named(branches: list[Any], pair: str, words: Words) -> None:
    schema = {"type": "object", "properties": {"x": {"oneOf": branches}}, "$defs": {"a": tagged("a")}}
    message = refused(words, schema)
    assert message.startswith("schema: #/properties/x/oneOf: expected branches that exclude each other")
    assert f"both {pair};" in message
    assert message.endswith("use anyOf")


def test_many_branches(words: Words) -> None:
    names = [f"k{n}" for n in range(1500)]
    values = {"oneOf": [tagged(name) for name in names]}
    assert words.schema_allows(values, '{"kind": "k1499"}')
    closed = [{**CLOSED, "properties": {name: True}, "required": [name]} for name in names]
    message = refused(words, {"oneOf": closed})
    assert message == "schema: #/oneOf: too many branches to compare; give each a required property with a constant"


def test_a_chain_of_choices(words: Words) -> None:
    def schema(count: int) -> Schema:
        links: Schema = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}, tagged(n)]} for n in range(count)}
        links[f"d{count}"] = tagged("end")
        return {"$defs": links, "oneOf": [{"$ref": "#/$defs/d0"}, {"const": "x"}]}

    for text in ('"x"', '{"kind": 89}', '{"kind": "end"}'):
        assert words.schema_allows(schema(90), text)
    assert refused(words, schema(2000)).startswith("schema: #/oneOf: expected branches that exclude each other")
