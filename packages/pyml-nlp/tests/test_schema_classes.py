"""JSON schemas of Python classes: what each type becomes, and texts that fit the class."""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from typing import Annotated, Any, Literal, NotRequired, Optional, TypedDict, Union

import pytest

from pyml_nlp.structured.classes import schema_of
from pyml_nlp.structured.grammar import GrammarError, one_grammar

OBJECT = {"type": "object", "additionalProperties": False}


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Pet:
    name: str
    colour: Colour | None = None
    toys: list[str] = field(default_factory=list)


class Person(TypedDict):
    name: str
    age: NotRequired[int]
    pets: list[Pet]


@dataclass
class Tree:
    value: float
    children: list[Tree]


class Model:
    """As pydantic's models."""

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]:
        return {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}


class Broken(Model):
    @classmethod
    def model_json_schema(cls) -> dict[str, Any]:
        raise TypeError("no schema for\nthis")


class Adapter:
    """As pydantic's TypeAdapter."""

    def json_schema(self) -> dict[str, Any]:
        return {"type": "array"}


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        (int, {"type": "integer"}),
        (bool, {"type": "boolean"}),
        (Literal["a", 1, None], {"enum": ["a", 1, None]}),
        (Optional[str], {"anyOf": [{"type": "string"}, {"type": "null"}]}),  # noqa: UP045
        (Union[str, int], {"anyOf": [{"type": "string"}, {"type": "integer"}]}),  # noqa: UP007
        (str | None, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (Sequence[int], {"type": "array", "items": {"type": "integer"}}),
        (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}),
        (tuple[int, str], {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False}
            | {"minItems": 2}),
        (dict[str, bool], {"type": "object", "additionalProperties": {"type": "boolean"}}),
        (Annotated[int, "years"], {"type": "integer"}),
        (Colour, {"enum": ["red", "blue"]}),
        (Model, Model.model_json_schema()),
        (Adapter(), {"type": "array"}),
    ],
)  # fmt: skip
def test_types(kind: Any, schema: dict[str, Any]) -> None:
    assert schema_of(kind) == schema


def test_classes_in_classes() -> None:
    colour = {"anyOf": [{"enum": ["red", "blue"]}, {"type": "null"}]}
    pet = {"name": {"type": "string"}, "colour": colour, "toys": {"type": "array", "items": {"type": "string"}}}
    pets = {"type": "array", "items": {"$ref": "#/$defs/Pet"}}
    person = {"name": {"type": "string"}, "age": {"type": "integer"}, "pets": pets}
    assert schema_of(Person) == {
        "$ref": "#/$defs/Person",
        "$defs": {
            "Person": {**OBJECT, "properties": person, "required": ["name", "pets"]},
            "Pet": {**OBJECT, "properties": pet, "required": ["name"]},
        },
    }


def test_a_class_that_contains_itself() -> None:
    children = {"type": "array", "items": {"$ref": "#/$defs/Tree"}}
    properties = {"value": {"type": "number"}, "children": children}
    assert schema_of(Tree)["$defs"]["Tree"] == {**OBJECT, "properties": properties, "required": ["value", "children"]}


def test_classes_of_one_name() -> None:
    @dataclass
    class Pet:
        first: int

    other = Pet

    Both = make_dataclass("Both", [("a", other), ("b", Person)])
    definitions = schema_of(Both)["$defs"]
    assert set(definitions) == {"Both", "Pet", "Pet_", "Person"}
    assert definitions["Person"]["properties"]["pets"]["items"] == {"$ref": "#/$defs/Pet_"}


@dataclass
class Odd:
    a: int
    b: list[bytes]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Odd, r"schema: Odd\.b\[\]: expected a type that JSON has, got <class 'bytes'>"),
        (bytes, r"schema: bytes: expected a type that JSON has, got <class 'bytes'>"),
        (dict[int, str], r"schema: dict: expected a type that JSON has, got dict\[int, str\]"),
        (list[Model], "schema: list.*: expected models of pydantic in models of pydantic alone"),
        (Broken, r"schema: Broken\.model_json_schema failed: TypeError\('no schema for\\nthis'\)"),
        (object(), r"schema: expected a JSON schema, its text or a class, got <object"),
        (5, "schema: expected a JSON schema, its text or a class, got 5"),
    ],
)
def test_what_has_no_schema(kind: Any, message: str) -> None:
    with pytest.raises(GrammarError, match=f"^{message}"):
        one_grammar(schema=kind)


def test_as_an_option() -> None:
    grammar = one_grammar(schema=Model)
    assert grammar is not None
    assert json.loads(grammar.source) == Model.model_json_schema()


def test_pydantic() -> None:
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("M", a=(int, ...), b=(list[str], []))
    assert schema_of(model) == model.model_json_schema()
    assert schema_of(pydantic.TypeAdapter(list[int])) == {"items": {"type": "integer"}, "type": "array"}
