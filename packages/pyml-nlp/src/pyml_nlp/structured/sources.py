"""Grammars as llguidance reads them."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from .grammar import Grammar, GrammarError, read_schema
from .matcher import guarded
from .schema import prepare_schema

# What may hold the letters "%json" in Lark's syntax, and the word itself.
_LARK = re.compile(r'"(?:\\.|[^"\\\n])*"|(?://|#)[^\n]*|/(?:\\.|[^/\\])+/|%json\s*', re.DOTALL)


class Source(NamedTuple):
    """A grammar for llguidance.

    Attributes:
        text: JSON that names the parts.
        notes: what the user should know about it.
    """

    text: str
    notes: list[str]


def source_of(grammar: Grammar, library: Any) -> Source:
    """The grammar that llguidance, the library, is given.

    Raises:
        GrammarError: a schema, or one within the grammar, that cannot be used.
    """
    if grammar.kind == "regex":
        with guarded(grammar.kind):
            return Source(library.LLMatcher.grammar_from_regex(grammar.source), [])
    if grammar.kind == "schema":
        schema = read_schema(grammar.source)
        notes = prepare_schema(schema)
        return Source(json.dumps({"grammars": [{"json_schema": schema}]}), notes)
    text, notes = _with_schemas(grammar.source)
    # As JSON, so that a text which begins with a brace is Lark's syntax too.
    return Source(json.dumps({"grammars": [{"lark_grammar": text}]}), notes)


def _with_schemas(source: str) -> tuple[str, list[str]]:
    """A Lark grammar whose schemas, after ``%json``, are prepared as others are."""
    pieces: list[str] = []
    notes: list[str] = []
    done = 0
    while (found := _LARK.search(source, done)) is not None:
        pieces.append(source[done : found.end()])
        done = found.end()
        if found[0].startswith("%json"):
            text, done = _schema_at(source, done, notes)
            pieces.append(text)
    return "".join([*pieces, source[done:]]), notes


def _schema_at(source: str, start: int, notes: list[str]) -> tuple[str, int]:
    """The prepared schema that begins here, with as many lines, and where it ends."""
    try:
        _, end = json.JSONDecoder().raw_decode(source, start)
        schema = read_schema(source[start:end])
        notes += [f"%json: {note}" for note in prepare_schema(schema)]
    except GrammarError as error:
        raise GrammarError(f"grammar: %json: {str(error).removeprefix('schema: ')}") from None
    except (ValueError, RecursionError) as error:
        raise GrammarError(f"grammar: %json: expected JSON: {str(error).partition(';')[0]}") from None
    return "{" + "\n" * source.count("\n", start, end) + json.dumps(schema)[1:], end
