"""Grammars that hold a model to calls of tools."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ArgumentError
from ..structured.grammar import Grammar, GrammarError, LateGrammar
from .parser import AnswerFormat
from .rules import Rules, SchemaNotSupported

_GAP = "/[ \\n]{0,3}/"


def call_grammar(
    form: AnswerFormat,
    names: Sequence[str],
    *,
    opened: bool = False,
    parallel: bool = True,
    content: Grammar | None = None,
) -> Grammar:
    """The grammar of an answer that calls tools; reasoning may come first.

    Args:
        form: of the answer.
        names: the tools that may be called.
        opened: whether the answer begins within reasoning.
        parallel: whether there may be several calls.
        content: what the answer may be instead; None: it has to be calls.

    Raises:
        ArgumentError: a schema of a tool that cannot be enforced.
        GrammarError: ``content`` cannot be combined with calls.
    """
    assert form.tool_format is not None  # the caller's
    rules = Rules(form.marks)
    calls = _calls(form, rules, names, parallel)
    if content is not None:
        calls = rules.one_of([calls, form.tool_format.content(rules, _content(rules, content))])
    return Grammar("grammar", rules.source(f"{_reasoning(form, rules, opened)} {calls}"))


def late_grammar(form: AnswerFormat, names: Sequence[str], *, parallel: bool = True) -> LateGrammar | None:
    """The grammar of calls, which begins where the model writes their first marker; None: no marker is a token.

    Args:
        form: of the answer.
        names: the tools that may be called.
        parallel: whether there may be several calls.

    Raises:
        ArgumentError: a schema of a tool that cannot be enforced.
    """
    assert form.tool_format is not None  # the caller's
    after = {token for begin in form.tool_format.begins if (token := form.marks.token(begin)) is not None}
    if not after or form.tool_format.bare:
        return None
    rules = Rules(form.marks)
    calls = _calls(form, rules, names, parallel)
    outside = None
    if form.reasoning is not None:
        begin, end = map(form.marks.token, form.reasoning)
        outside = None if begin is None or end is None else (begin, end)
    return LateGrammar("grammar", rules.source(calls), frozenset(after), outside)


def reasoned_grammar(form: AnswerFormat, content: Grammar, *, opened: bool = False) -> Grammar:
    """The grammar of an answer that matches a JSON schema; reasoning may come first.

    Args:
        form: of the answer.
        content: the schema.
        opened: whether the answer begins within reasoning.
    """
    rules = Rules(form.marks)
    return Grammar("grammar", rules.source(f"{_reasoning(form, rules, opened)} {_content(rules, content)}"))


def _calls(form: AnswerFormat, rules: Rules, names: Sequence[str], parallel: bool) -> str:
    assert form.tool_format is not None
    schemas: dict[str, Any] = {name: arguments_schema(form.tools[name]) for name in names}
    try:
        return form.tool_format.rules(rules, schemas, parallel)
    except SchemaNotSupported as error:
        problem = f"cannot be enforced in the format {form.tool_format.name}: their schemas have {error}"
        raise ArgumentError(problem, "tools") from None


def _content(rules: Rules, content: Grammar) -> str:
    if content.kind != "schema":
        raise GrammarError("calls of tools can be combined with a JSON schema, not with another grammar")
    return rules.json(json.loads(content.source))


def _reasoning(form: AnswerFormat, rules: Rules, opened: bool) -> str:
    if form.reasoning is None:
        return ""
    begin, end = form.reasoning
    if opened:
        return f"{rules.until(end)} {_GAP}"
    return rules.rule(f'{rules.mark(begin)} {rules.until(end)} {_GAP} | ""')


def arguments_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema of arguments, which are an object."""
    return {**schema, "type": "object"}
