"""JSON schemas: enforced parts, ignored parts, removed parts, and parts that are refused by name."""

from __future__ import annotations

import logging
from typing import Any

import pytest

pytest.importorskip("llguidance")

from grammar_makers import CLOSED, Words, dumped, grammar_of, refused

from pyml_nlp.structured.grammar import Grammar, GrammarError
from pyml_nlp.structured.schema_keywords import FORMATS

Schema = dict[str, Any]


@pytest.fixture(scope="module")
def words() -> Words:
    return Words()


# ---- formats


@pytest.mark.parametrize("name", ["password", "path", "binary", "byte", "uri-reference", "color", "int32", "Date", ""])
def test_a_format_that_is_not_known_is_an_annotation(name: str, words: Words) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "format": name}}, "required": ["a"]}
    assert words.schema_allows(schema, '{"a": "any thing"}')
    assert not words.schema_allows(schema, '{"a": 5}')
    assert words.schema_allows({"type": "string", "format": name, "maxLength": 2}, '"ab"')
    assert not words.schema_allows({"type": "string", "format": name, "maxLength": 2}, '"abc"')


EXAMPLES = {
    "date": "2024-02-29",
    "time": "12:30:00Z",
    "date-time": "2024-02-29T12:30:00+01:00",
    "duration": "P1DT2H",
    "email": "a.b@example.org",
    "hostname": "www.example.org",
    "ipv4": "127.0.0.1",
    "ipv6": "::1",
    "uuid": "123e4567-e89b-12d3-a456-426614174000",
    "uri": "https://example.org/a?b=c#d",
}


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_known_formats_are_held(name: str, words: Words) -> None:
    schema = {"type": "string", "format": name}
    assert words.schema_allows(schema, dumped(EXAMPLES[name]))
    assert not words.schema_allows(schema, '"no such thing"')


# ---- subschemas that no text can match

DECIMAL = {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"}]}


def test_a_pattern_with_look_around_leaves_the_other_branch(words: Words, caplog: pytest.LogCaptureFixture) -> None:
    schema = {"type": "object", "properties": {"price": DECIMAL}, "required": ["price"]}
    with caplog.at_level(logging.WARNING, "pyml"):
        assert words.schema_allows(schema, '{"price": 2.5}')
    assert not words.schema_allows(schema, '{"price": "2.5"}')
    assert [record.getMessage() for record in caplog.records] == [
        "schema: #/properties/price/anyOf/1 is left out: the pattern "
        r"'^(?!^[-+.]*$)[+-]?0*\\d*\\.?\\d*$' has look-around or a back-reference"
    ]


@pytest.mark.parametrize("pattern", ["(?=a)", "a(?!b)", "(?<=a)b", "(?<!a)b", r"(a)\1", r"(?<n>a)\k<n>"])
def test_a_pattern_that_is_the_only_possibility_is_refused(pattern: str, words: Words) -> None:
    for schema in (
        {"type": "string", "pattern": pattern},
        {"type": "object", "properties": {"a": {"pattern": pattern, "type": "string"}}, "required": ["a"]},
        {"$defs": {"a": {"type": "string", "pattern": pattern}}, "$ref": "#/$defs/a"},
        {"type": "array", "items": {"type": "string", "pattern": pattern}, "minItems": 1},
        {"anyOf": [{"type": "string", "pattern": pattern}, False]},
        {"type": "object", "patternProperties": {pattern: True}},
    ):  # fmt: skip
        message = refused(words, schema)
        assert message.startswith(f"schema: nothing can be written: the pattern {pattern!r} has look-around")


@pytest.mark.parametrize("pattern", [r"[(?=]", r"\(?=", r"a(?:b)", r"(?<name>a)", r"\\1", r"[\1]?", r"\d"])
def test_patterns_that_only_look_like_it(pattern: str, words: Words) -> None:
    try:
        words.vocabulary.matcher(grammar_of({"type": "string", "pattern": pattern}))
    except GrammarError as error:
        assert "look-around or a back-reference" not in str(error)  # noqa: PT017


LOOKS = {"type": "string", "pattern": "(?=a)"}
ENDLESS = {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "required": ["n"]}
LEFT_OUT: list[tuple[Schema, list[str], list[str]]] = [
    ({**LOOKS, "type": ["string", "integer"]}, ["5"], ['"a"']),
    ({"pattern": "(?=a)"}, ["5", "null", "[]", "{}"], ['"a"']),
    ({"type": "array", "items": LOOKS}, ["[]"], ['["a"]']),
    ({"type": "object", "properties": {"a": LOOKS}}, ["{}"], ['{"a": "a"}']),
    ({"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": LOOKS}}, ["{}"], ['{"a": "a"}']),
    ({"$defs": {"n": ENDLESS}, "anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}, ["null"], ['{"n":']),
    ({"type": "object", "properties": {"a": {"$ref": "#"}}}, ["{}", '{"a": {"a": {}}}'], ['{"a": 1}']),
]


@pytest.mark.parametrize(("schema", "matching", "others"), LEFT_OUT)
def test_what_cannot_be_written_is_left_out(
    schema: Schema, matching: list[str], others: list[str], words: Words
) -> None:
    for text in matching:
        assert words.schema_allows(schema, text), text
    for text in others:
        assert not words.schema_allows(schema, text), text


def test_of_many_that_are_left_out_a_few_are_named(words: Words, caplog: pytest.LogCaptureFixture) -> None:
    schema = {**CLOSED, "properties": {f"k{n}": LOOKS for n in range(100)}}
    with caplog.at_level(logging.WARNING, "pyml"):
        assert words.schema_allows(schema, "{}")
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 9
    assert lines[0].startswith("schema: #/properties/k0 is left out: the pattern")
    assert lines[8] == "schema: 92 more are left out"


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
        {"allOf": [{"type": "object"}, {"anyOf": [{"$ref": "#"}, False]}]},
    ],
)
def test_a_schema_that_needs_itself_is_refused(schema: Schema, words: Words) -> None:
    assert refused(words, schema) == "schema: nothing can be written: it needs itself, or a schema that allows nothing"


# ---- keywords that llguidance would enforce too loosely


def test_options_for_llguidance_do_not_count(words: Words) -> None:
    options = {"lenient": True, "coerce_one_of": True, "whitespace_flexible": True, "item_separator": "x"}
    schema = {"x-guidance": options, "type": "array", "items": {"type": "integer"}}
    assert words.schema_allows(schema, "[1, 2]")
    assert not words.schema_allows(schema, "[1x2]")
    assert "Unimplemented keys" in refused(words, {**schema, "uniqueItems": True})
    assert "exclude each other" in refused(words, {"x-guidance": options, "oneOf": [{}, {"type": "null"}]})


def test_schemas_within_a_grammar_are_prepared_too(words: Words) -> None:
    schema = '{"type": "string",\n "format": "color", "maxLength": 1}'
    grammar = Grammar("grammar", f'// %json {{"a"\nstart: "%json " A %json {schema} | B\nA: /%json?/\nB: "b"\n')
    assert words.allows(grammar, '%json %json"a"')
    assert words.allows(grammar, "b")
    assert not words.allows(grammar, '%json %json"ab"')
    for source, problem in (
        ('start: %json {"x-guidance": {"lenient": true}, "not": {}}\n', "Unimplemented keys"),
        ('start: %json {"oneOf": [{}, {}]}\n', "grammar: %json: #/oneOf: expected branches"),
        ("start: %json {\n", "grammar: %json: expected JSON"),
        ('{"grammars": [{"json_schema": {"x-guidance": {"lenient": true}, "not": {}}}]}', "grammar: "),
    ):
        with pytest.raises(GrammarError, match=problem):
            words.vocabulary.matcher(Grammar("grammar", source))


def test_a_line_after_a_schema_in_a_grammar_keeps_its_number(words: Words) -> None:
    with pytest.raises(GrammarError, match=r"at 4\("):
        words.vocabulary.matcher(Grammar("grammar", 'start: a b\na: %json {"type":\n "null"}\nb: c\n'))


def test_a_name_is_not_written_in_another_way(words: Words) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert words.schema_allows(schema, '{"a": 1, "b": "x"}')
    assert not words.schema_allows(schema, '{"a": 1, "\\u0061": "x"}')
    pattern = {"type": "object", "properties": {"x": True}, "patternProperties": {"^a": {"type": "integer"}}}
    assert not words.schema_allows(pattern, '{"\\u0061": "x"}')


def test_names_that_repeat_count_once(words: Words) -> None:
    assert words.schema_allows({"type": "object", "minProperties": 1}, '{"a": 1}')
    assert refused(words, {"type": "object", "minProperties": 2}).startswith(
        "schema: #/minProperties: expected at most 1, one more than are required"
    )
    closed = {**CLOSED, "properties": {"a": {}, "b": {}}, "required": ["a", "b"], "minProperties": 2}
    assert words.schema_allows(closed, '{"a": 1, "b": 2}')


NUMBERS: list[tuple[Schema, list[object], list[object]]] = [
    ({"type": "integer", "minimum": 2**53 + 1}, [2**53 + 2], [2**53, 2**53 + 1]),
    ({"type": "integer", "maximum": 2**53 + 1, "minimum": 0}, [2**53], [2**53 + 2]),
    ({"type": "integer", "exclusiveMinimum": 2**53}, [2**53 + 4], [2**53]),
    ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, [0, 2**62, -(2**62)], [2**63, -(2**63) - 1]),
    ({"type": "integer", "maximum": 10**30, "minimum": 10}, [10, 10**18], [9, 10**30 + 1]),
    ({"type": "integer", "minimum": -(10**400), "maximum": 10**400}, [0, -5], []),
    ({"type": "integer", "exclusiveMaximum": 3.5, "minimum": 2}, [2, 3], [4]),
    ({"type": "integer", "multipleOf": 7}, [0, -14, 21], [8]),
    ({"minLength": 2.0, "type": "string"}, ["ab"], ["a"]),
    ({"maxLength": 10**18, "type": "string"}, ["ab"], []),
    ({"type": "array", "items": {"type": "null"}, "maxItems": 10**9}, [[], [None, None]], []),
    ({"type": "number", "multipleOf": 0.01}, [0.25, 3], [0.125]),
    ({"allOf": [{"multipleOf": 0.01}, {"multipleOf": 0.03}], "type": "number"}, [0.06], [0.01]),
]


@pytest.mark.parametrize(("schema", "matching", "others"), NUMBERS)
def test_numbers(schema: Schema, matching: list[object], others: list[object], words: Words) -> None:
    for value in matching:
        assert words.schema_allows(schema, dumped(value)), value
    for value in others:
        assert not words.schema_allows(schema, dumped(value)), value


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"const": 2**53 + 1}, "#/const: expected a number that a double holds exactly, found 9007199254740993"),
        ({"enum": [1, [2**64 - 1]]}, "#/enum: expected a number that a double holds exactly"),
        ({"const": {"a": "\x01"}}, "#/const: expected no control characters but those in"),
        ({"type": "integer", "minimum": 10**19}, "#/minimum: expected a number that 64 bits hold, found 1000"),
        ({"minLength": 10**10}, "#/minLength: expected at most 2147483647, found 10000000000"),
        ({"minLength": -1}, "#/minLength: expected a number of 0, 1, 2, ..., found -1"),
        ({"maxItems": True}, "#/maxItems: expected a number of 0, 1, 2, ..., found True"),
        ({"minLength": "é" * 500}, "#/minLength: expected a number of 0, 1, 2, ..., found 'ééé"),
        ({"minimum": "1"}, "#/minimum: expected a number, found '1'"),
        ({"multipleOf": 0}, "#/multipleOf: expected a number above 0, found 0"),
        ({"multipleOf": -3}, "#/multipleOf: expected a number above 0, found -3"),
        ({"multipleOf": 1e-300}, "Value for 'multipleOf' has too many digits"),
        ({"allOf": [{"multipleOf": 65537}, {"multipleOf": 65539}]}, "#: expected smaller values of multipleOf"),
        ({"type": "y" * 9000}, "#/type: expected one of null, boolean"),
        ({"required": "a"}, "#/required: expected a list of strings, found 'a'"),
        ({"properties": []}, "#/properties: expected an object, found []"),
        ({"properties": {"/~": {"items": 5}}}, "#/properties/~1~0/items: expected an object or a boolean, found 5"),
        ({"anyOf": {}}, "#/anyOf: expected a list, found {}"),
        ({"pattern": 5}, "#/pattern: expected a string, found 5"),
        ({"format": None}, "#/format: expected a string, found None"),
        ({"$ref": "#/$defs/none"}, "#/$ref: expected a schema of this document, found '#/$defs/none'"),
        ({"$ref": "#/items/00"}, "#/$ref: expected a schema of this document, found '#/items/00'"),
        ({"properties": {"x" * 5000: {"type": "foo"}}}, "...xxx"),
        ({"properties": {"a\nb\x1b[31m": {"type": "foo"}}}, "schema: #/properties/a b [31m/type: expected one of"),
        ("[1]", "expected a JSON object, got list"),
        ('{"const": ' + "9" * 5000 + "}", "expected JSON: Exceeds the limit (4300 digits)"),
        ('{"const": 1e999}', "expected JSON: the number 1e999 is out of range"),
        ('{"const": NaN}', "expected JSON: NaN is not a number in JSON"),
        ('{"const": "\\ud800"}', "expected valid Unicode, found '\\ud800'"),
        ({"const": "\udfff"}, "expected valid Unicode"),
    ],
)  # fmt: skip
def test_what_is_refused_by_name(schema: Schema | str, message: str, words: Words) -> None:
    assert message in refused(words, schema)


# ---- references


@pytest.mark.parametrize(
    "schema",
    [
        {"$id": "https://example.org/a", "$ref": "https://example.org/a#/$defs/n", "$defs": {"n": {"type": "null"}}},
        {"$ref": "#/$defs/a~1b%25", "$defs": {"a/b%": {"type": "null"}}},
        {"$ref": "#/elsewhere/list/1", "elsewhere": {"list": [{"type": "integer"}, {"type": "null", "format": "x"}]}},
        {"$ref": "#name", "$defs": {"n": {"$anchor": "name", "type": "null"}}},
        {"$id": "https://example.org/a", "$ref": "b", "$defs": {"n": {"$id": "b", "type": "null"}}},
        {"anyOf": [{"type": "null"}, {"$ref": "#/anyOf/0"}]},
    ],
)
def test_references(schema: Schema, words: Words) -> None:
    assert words.schema_allows(schema, "null")
    assert not words.schema_allows(schema, "5")


def test_branches_behind_other_references_are_judged_by_llguidance(words: Words) -> None:
    schema = {"$defs": {"n": {"$anchor": "name", "type": "null"}}, "oneOf": [{"$ref": "#name"}, {"const": 5}]}
    assert refused(words, schema) == "schema: oneOf: expected branches that exclude each other, or anyOf"
    assert words.schema_allows({**schema, "oneOf": [{"type": "null"}, {"$ref": "#name"}][:1]}, "null")


def test_a_long_chain_of_references(words: Words) -> None:
    chain: Schema = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(400)}
    assert words.schema_allows({"$defs": {**chain, "d400": {"type": "null"}}, "$ref": "#/$defs/d0"}, "null")


def test_a_property_that_is_required_and_not_declared(words: Words) -> None:
    schema = {"type": "object", "required": ["b"], "additionalProperties": {"type": "integer"}}
    assert words.schema_allows(schema, '{"b": 1}')
    assert not words.schema_allows(schema, "{}")
    assert "required property 'b' is unsatisfiable" in refused(words, {**CLOSED, "required": ["b"]})
