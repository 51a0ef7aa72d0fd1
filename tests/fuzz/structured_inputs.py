"""Targets of structured output: JSON schemas, regular expressions, grammars; each is followed for a few tokens."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from tests.fuzz.changes import change, noisy
from tests.fuzz.shared import TinyModelDoor, size_of

SCHEMAS: list[Any] = [
    {"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 10}}, "required": ["a"]},
    {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 3},
    {"enum": ["a", 1, None, {"x": 1}]},
    {"anyOf": [{"type": "string"}, {"type": "null"}]},
    {
        "$defs": {
            "n": {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}}}
        },
        "$ref": "#/$defs/n",
    },
    {"type": "string", "pattern": "^[a-z]{1,9}$"},
    {"type": "string", "format": "date-time"},
    {"allOf": [{"type": "object", "properties": {"a": {"type": "string"}}}, {"required": ["a"]}]},
    {"oneOf": [{"const": 1}, {"const": 2}]},
    {"type": "object", "patternProperties": {"^a": {"type": "integer"}}, "minProperties": 1},
    {"type": "number", "multipleOf": 0.01, "exclusiveMinimum": 0},
    {"type": ["string", "integer"]},
    {"prefixItems": [{"type": "string"}, {"type": "boolean"}], "items": False},
]
KEYS = (
    "minimum maximum multipleOf minLength maxLength minItems maxItems pattern format enum const $ref anyOf oneOf allOf "
    "items properties required additionalProperties patternProperties x-guidance "
    "type uniqueItems contains if then else "
    "dependentRequired minProperties propertyNames $id $anchor $defs not unevaluatedProperties"
).split()
HARD: list[Any] = [
    10**6,
    10**9,
    10**30,
    -1,
    0,
    0.1,
    1e-9,
    1e300,
    "(a{1000}){1000}",
    "(a|b|ab)*c",
    "^(a+)+$",
    "\\",
    "[",
    "(?=a)b",
    "#",
    "#/",
    "#/x",
    "http://x/y",
    "",
    "\ud800",
    "\0",
    ["a"] * 2000,
    list(range(3000)),
    True,
    None,
    {},
    [],
    [{}],
    {"lazy": True},
]


class _Followed(TinyModelDoor):
    keyword = ""

    def run(self, given: Any) -> int:
        """Generate a few tokens of a text that has to match."""
        self.lm.generate_text("the", max_tokens=6, temperature=1.0, seed=1, **{self.keyword: given})
        return size_of(given)


class Schemas(_Followed):
    """JSON schemas, as text or as a tree."""

    name, keyword = "schemas", "schema"

    def make(self, rng: random.Random) -> Any:
        """A schema."""
        tree: Any = copy.deepcopy(rng.choice(SCHEMAS))
        for _ in range(rng.choice([1, 1, 2, 3])):
            tree = self._grown(rng, json.loads(json.dumps(tree)))
        if rng.random() < 0.5:
            return tree
        text = json.dumps(tree)
        return noisy(rng, text) if rng.random() < 0.2 else text

    @staticmethod
    def _grown(rng: random.Random, tree: Any) -> Any:
        how, small = rng.randrange(5), len(json.dumps(tree)) < 1000
        if not isinstance(tree, dict) or how == 0:
            return {"type": "array", "items": tree} if rng.random() < 0.5 else {"anyOf": [tree] * (200 if small else 2)}
        if how == 1:
            tree[rng.choice(KEYS)] = copy.deepcopy(rng.choice([*HARD, *SCHEMAS]))
        elif how == 2:
            change(rng, tree)
        elif how == 3:
            for _ in range(rng.choice([3, 30, 90])):
                tree = {"type": "array", "items": tree}
        else:
            names = [f"k{i}" for i in range(40 if small else 1)]
            tree = {"type": "object", "properties": dict.fromkeys(names, tree), "required": names[:1]}
        return tree


ATOMS = [
    "a",
    "b",
    ".",
    r"\d",
    r"\w",
    r"\p{L}",
    "[a-z]",
    "[^a]",
    r"[\x{0}-\x{10ffff}]",
    "(?i:abc)",
    "^",
    "$",
    r"\b",
    "é",
    "🧿",
    r"\n",
    "(?s:.)",
    "[[:alpha:]]",
    "(?=a)",
    "(?!a)",
    r"\1",
    "(?P<x>a)",
    "&",
    "~",
    "[",
    "(",
    ")",
    "]",
    "\\",
    "\ud800",
]
REPEATS = ["", "", "*", "+", "?", "{2}", "{0,50}", "{1000}", "{0,100000}", "{5,2}", "*?", "++", "{,3}", "{99999999999}"]
LARGE = [
    "(" * 3000 + "a" + ")" * 3000,
    "a" * 100_000,
    "|".join(f"w{i}" for i in range(10_000)),
    "(a|b)*a" + "(a|b)" * 200,
    "(.*a){60}",
    "((a*)*)*b",
    "[ab]{0,3000}c",
    "(?:(?:a?){60}){60}",
]


class Expressions(_Followed):
    """Regular expressions."""

    name, keyword = "expressions", "regex"

    def make(self, rng: random.Random) -> Any:
        """An expression."""
        return rng.choice(LARGE) if rng.random() < 0.03 else self._expression(rng, 0)

    def _expression(self, rng: random.Random, depth: int) -> str:
        parts = []
        for _ in range(rng.choice([1, 2, 3])):
            atom = depth > 3 or rng.random() < 0.5
            inner = rng.choice(ATOMS) if atom else "(" + self._expression(rng, depth + 1) + ")"
            parts.append(inner + rng.choice(REPEATS))
        return rng.choice(["", "|"]).join(parts)


GRAMMARS = [
    'start: NUM (op NUM)*\nop: "+" | "-"\nNUM: /[0-9]+/\n',
    'start: a | b\na: "x" a "y" | ""\nb: /[a-z]*/\n',
    'start: e\ne: e "+" e | "1"\n',
    "%ignore /[ ]+/\nstart: W+\nW: /[a-z]+/\n",
    'start: o\no: %json {"type": "object"}\n',
    'start: x{3,7}\nx: "a" | "b"\n',
    "start: t[max_tokens=3]\nt: /.*/\n",
    "start: <[1-5]>\n",
    "start: /a/ & /b/\n",
    'start: a{100000}\na: "b"\n',
    "%llguidance {}\nstart: /a/\n",
]
GRAMMAR_NOISE = [
    "*",
    "+",
    "{0,1000000}",
    "|",
    "(",
    ")",
    '"',
    "/",
    "\n",
    "start: start\n",
    "\0",
    "é",
    "\ud800",
    "[lazy]",
    "%ignore",
    "&",
    "~",
    '%json {"$ref": "#"}',
    "<|x|>",
    "<[99999999999]>",
    "start",
    "[max_tokens=99999999999]",
    "/[ab]{0,2000}/",
    "(" * 300,
]


class Grammars(_Followed):
    """Lark grammars."""

    name, keyword = "grammars", "grammar"

    def make(self, rng: random.Random) -> Any:
        """A grammar."""
        source = rng.choice(GRAMMARS)
        for _ in range(rng.choice([0, 1, 2, 4])):
            at = rng.randrange(len(source) + 1)
            if rng.random() < 0.6:
                source = source[:at] + rng.choice(GRAMMAR_NOISE) + source[at:]
            elif rng.random() < 0.7:
                source = source[:at] + source[at + rng.choice([1, 3]) :]
            else:
                count = rng.choice([5, 40])
                source += "".join(f"r{i}: r{i + 1} r{i + 1}\n" for i in range(count)) + f'r{count}: "a"\n'
        return source
