"""Random schemas: whatever is written at random by their grammars is valid, as another validator sees it."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

pytest.importorskip("llguidance")
jsonschema = pytest.importorskip("jsonschema")

from grammar_makers import Words, grammar_of  # noqa: E402

from pyml_nlp.structured.grammar import GrammarError  # noqa: E402

Schema = dict[str, Any]

NAMES = ["a", "b", "ab", "kind", "é", "x y"]
PATTERNS = ["^[a-c]{1,3}$", "a", "^x", "y$", r"^\d+$", r"^\w{2}$", "^(ab|cd)*$", r"^\S+ \S+$", "é+", r"\.", "(?=a)a"]
FORMATS = ["date", "date-time", "uuid", "ipv4", "ipv6", "email", "hostname", "duration", "password", "color"]
VALUES: list[Any] = [None, True, False, 0, 1, -3, 2.5, 1.0, 10**15, "", "a", 'é\n"', [], {}, [1, "a"], {"a": None}]


class Schemas:
    """Random schemas of the enforced keywords.

    Args:
        draw: where chance comes from.
    """

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw

    def document(self) -> Schema:
        """A schema with definitions, which refer to each other."""
        return {**self.schema(3), "$defs": {name: self.schema(2) for name in ("d0", "d1", "d2")}}

    def schema(self, depth: int) -> Schema:
        """A schema of at most ``depth`` levels."""
        simple = [self.integer, self.number, self.string, self.value]
        nested = [self.object, self.array, self.union, self.tagged, self.several, self.reference]
        return self.draw.choice([*simple, *nested, *nested, self.object] if depth else simple)(max(0, depth - 1))

    def some(self, chance: float, **keywords: Any) -> Schema:
        """Each of the keywords with this chance, with one of its values."""
        return {key: self.draw.choice(values) for key, values in keywords.items() if self.draw.random() < chance}

    def integer(self, depth: int) -> Schema:
        low, high = [0, -5, 3, -(10**6), 2**53 + 1, -(2**63), 0.5], [10, 7, 10**6, 2**53 + 3, 2**63 - 1, 10**25, 99.5]
        upper = self.draw.choice(["maximum", "exclusiveMaximum"])
        limits = {"minimum": low, upper: high, "multipleOf": [2, 3, 7, 10, 12]}
        return {"type": "integer", **self.some(0.4, **limits)}

    def number(self, depth: int) -> Schema:
        lower = self.draw.choice(["minimum", "exclusiveMinimum"])
        upper = self.draw.choice(["maximum", "exclusiveMaximum"])
        bounds = {lower: [0, -5, 0.25, -1.5, -1e6], upper: [10, 7.5, 1e6, 3.125]}
        return {"type": "number", **self.some(0.4, **bounds, multipleOf=[2, 0.5, 0.25, 0.01, 1.5])}

    def string(self, depth: int) -> Schema:
        lengths = self.some(0.4, minLength=[0, 1, 3], maxLength=[3, 4, 8])
        kinds = [lengths, {"format": self.draw.choice(FORMATS)}, {"pattern": self.draw.choice(PATTERNS)}]
        return {"type": "string", **self.draw.choice(kinds)}

    def value(self, depth: int) -> Schema:
        values = [self.draw.choice(VALUES) for _ in range(3)]
        kinds: list[Schema] = [{"type": "null"}, {"type": "boolean"}, {"minimum": 3}, {}]
        return self.draw.choice([{"const": values[0]}, {"enum": values}, *kinds])

    def object(self, depth: int) -> Schema:
        names = self.draw.sample(NAMES, self.draw.randrange(4))
        found: Schema = {"type": "object", "properties": {name: self.schema(depth) for name in names}}
        found |= self.some(0.4, required=[[], names[:1], names, ["b"]], minProperties=[1, 2], maxProperties=[0, 1, 2])
        found |= self.some(0.6, additionalProperties=[False, False, self.schema(depth)])
        patterns = [{pattern: self.schema(depth)} for pattern in ("^a", "b$", "^[a-z]$")]
        return found | self.some(0.2, patternProperties=patterns)

    def array(self, depth: int) -> Schema:
        items = {"items": [self.schema(depth)], "prefixItems": [[self.schema(depth)], [self.schema(depth), True]]}
        return {"type": "array", "maxItems": self.draw.choice([2, 3]), **self.some(0.5, **items, minItems=[0, 1, 2])}

    def union(self, depth: int) -> Schema:
        kinds = self.draw.sample(["null", "integer", "string", "boolean", "array", "object"], 2)
        bounds = {"maxLength": 4, "maximum": 9, "maxItems": 2, "maxProperties": 1}
        return {"type": kinds, **bounds, "items": self.schema(depth)}

    def several(self, depth: int) -> Schema:
        keyword = self.draw.choice(["anyOf", "anyOf", "oneOf", "allOf"])
        return {keyword: [self.schema(depth) for _ in range(2)], **self.some(0.2, type=["object", "integer"])}

    def tagged(self, depth: int) -> Schema:
        branches = []
        for tag in self.draw.sample(["p", "q", "r", 1, 2, True], 2):
            properties = {"kind": {"const": tag}, self.draw.choice(NAMES[:3]): self.schema(depth)}
            more = self.some(0.6, required=[["kind"]], additionalProperties=[False])
            branches.append({"type": "object", "properties": properties, **more})
        return {"oneOf": branches}

    def reference(self, depth: int) -> Schema:
        return {"$ref": f"#/$defs/d{self.draw.randrange(3)}", **self.some(0.2, description=["x"], type=["object"])}


@pytest.fixture(scope="module")
def words() -> Words:
    return Words()


def multiple_of(validator: Any, divisor: float, value: Any, schema: Schema) -> Iterator[Any]:
    """Without rounding: 0.3 is a multiple of 0.1."""
    if validator.is_type(value, "number") and Fraction(value) % Fraction(str(divisor)):
        yield jsonschema.ValidationError(f"{value} is no multiple of {divisor}")


def is_whole(checker: object, value: object) -> bool:
    if isinstance(value, Decimal):
        return value == value.to_integral_value()
    return isinstance(value, int) and not isinstance(value, bool)


BASE = jsonschema.Draft202012Validator
VALIDATOR = jsonschema.validators.extend(
    BASE, {"multipleOf": multiple_of}, type_checker=BASE.TYPE_CHECKER.redefine("integer", is_whole)
)


@pytest.mark.parametrize("first", range(0, 160, 20))
def test_what_is_written_is_valid(first: int, words: Words, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "pyml")
    valid = refused = 0
    for seed in range(first, first + 20):
        draw = random.Random(seed)
        schema = Schemas(draw).document()
        validator = VALIDATOR(schema, format_checker=BASE.FORMAT_CHECKER)
        try:
            texts = [words.walk(grammar_of(schema), draw) for _ in range(4)]
        except GrammarError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017
            refused += 1
            continue
        for text in texts:
            if text is None or "E" in text.upper():  # the decimals of 1e999 are beyond the validator
                continue
            value = json.loads(text, parse_float=Decimal)
            assert not [problem.message for problem in validator.iter_errors(value)], (seed, text, schema)
            valid += 1
    assert valid >= 25, (valid, refused)
