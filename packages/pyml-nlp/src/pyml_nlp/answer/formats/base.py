"""What a format of calls consists of."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..marks import Marks
from ..out import Out
from ..rules import Rules
from ..source import Reading, Source


@dataclass(frozen=True)
class Calls:
    """What a reader of calls works with.

    Attributes:
        source: the text, at the beginning of a call.
        out: gets the calls.
        marks: markers of the format.
        tools: name of each tool -> JSON schema of its arguments.
    """

    source: Source
    out: Out
    marks: Marks
    tools: Mapping[str, Any]


@dataclass(frozen=True)
class ToolFormat:
    """How a family of models writes calls.

    Attributes:
        name: of the format.
        read: reads calls, from their first marker or letter on, and passes them on while they arrive. Characters that
            the source still holds at the end become text, as does everything since then if it raises NotACall.
        rules: the expression of calls of these tools (name -> schema of the arguments); several ones if the last
            argument is true.
        content: the expression of an answer without calls, from that of its text.
        markers: all markers, which may be tokens.
        begins: those at which calls begin.
        opening: a letter at which calls begin if it is the first one of the answer; empty: there is none.
        bare: whether ``rules`` have no marker before calls; otherwise they begin with one of ``begins`` where these are
            tokens.
        stops: tokens that end an answer, besides those that the model's files name.
        id_length: characters of the ids of calls.
    """

    name: str
    read: Callable[[Calls], Reading[None]]
    rules: Callable[[Rules, Mapping[str, Any], bool], str]
    content: Callable[[Rules, str], str] = field(default=lambda _, text: text)
    markers: tuple[str, ...] = ()
    begins: tuple[str, ...] = ()
    opening: str = ""
    bare: bool = False
    stops: tuple[str, ...] = ()
    id_length: int = 24


def json_calls_rule(
    rules: Rules, tools: Mapping[str, Any], parallel: bool, around: tuple[str, str] = ("", ""), *,
    key: str = "arguments", separator: str = ", ",
) -> str:  # fmt: skip
    """The expression of JSON objects with a name and arguments.

    Args:
        rules: of the grammar.
        tools: name of each tool -> schema of its arguments.
        parallel: whether there may be several calls.
        around: expressions before and after each object.
        key: of the member that has the arguments.
        separator: text between two calls.
    """
    before, after = around
    calls = []
    for name, schema in tools.items():
        head = rules.text(f'{{"name": {json.dumps(name)}, "{key}": ')
        calls.append(f"{before} {head} {rules.json(schema)} {rules.text('}')} {after}")
    return rules.many(rules.one_of(calls), rules.text(separator), parallel)
