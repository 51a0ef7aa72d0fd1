"""Conversion of grammars to llguidance's input."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from .gbnf_lark import is_gbnf, to_lark
from .grammar import Grammar, GrammarError, read_schema
from .matcher import guarded
from .schema import prepare_schema

# Tokens of Lark's syntax that may contain "%json", and the word itself.
_LARK = re.compile(r'"(?:\\.|[^"\\\n])*"|(?://|#)[^\n]*|/(?:\\.|[^/\\])+/|%json\s*', re.DOTALL)


class Source(NamedTuple):
    """llguidance's input for a grammar.

    Attributes:
        text: JSON with the grammar's parts.
        notes: messages for the user.
    """

    text: str
    notes: list[str]


def source_of(grammar: Grammar, library: Any) -> Source:
    """Return llguidance's input for a grammar.

    Args:
        grammar: the user's grammar.
        library: the module ``llguidance``.

    Raises:
        GrammarError: the schema, or one inside the grammar, is invalid.
    """
    if grammar.kind == "regex":
        with guarded(grammar.kind):
            return Source(library.LLMatcher.grammar_from_regex(grammar.source), [])
    if grammar.kind == "schema":
        schema = read_schema(grammar.source)
        notes = prepare_schema(schema)
        return Source(json.dumps({"grammars": [{"json_schema": schema}]}), notes)
    if is_gbnf(grammar.source):
        return Source(json.dumps({"grammars": [{"lark_grammar": to_lark(grammar.source)}]}), [])
    text, notes = _with_schemas(grammar.source)
    # Wrapped in JSON, because llguidance reads a text that begins with a brace as JSON.
    return Source(json.dumps({"grammars": [{"lark_grammar": text}]}), notes)


def _with_schemas(source: str) -> tuple[str, list[str]]:
    """Return a Lark grammar in which the schemas after ``%json`` are prepared."""
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
    """Return the prepared form of the schema at ``start``, with as many lines, and its end."""
    try:
        _, end = json.JSONDecoder().raw_decode(source, start)
        schema = read_schema(source[start:end])
        notes += [f"%json: {note}" for note in prepare_schema(schema)]
    except GrammarError as error:
        raise GrammarError(f"grammar: %json: {str(error).removeprefix('schema: ')}") from None
    except (ValueError, RecursionError) as error:
        raise GrammarError(f"grammar: %json: expected JSON: {str(error).partition(';')[0]}") from None
    return "{" + "\n" * source.count("\n", start, end) + json.dumps(schema)[1:], end
