"""The user's description of a grammar that generated text must match."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pyml_core.errors import quoted

from .errors import GrammarError as GrammarError

MAX_SOURCE = 1 << 20
"""Maximum number of characters of a schema, an expression or a grammar."""

Kind = Literal["schema", "regex", "grammar"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Grammar:
    """A grammar that a text must match.

    Attributes:
        kind: ``"schema"``: a JSON schema; ``"regex"``: a regular expression, in the syntax of Rust's ``regex``;
            ``"grammar"``: a context-free grammar in llguidance's variant of Lark's syntax, or in llama.cpp's GBNF.
        source: its text.

    Raises:
        GrammarError: the kind is unknown, or the source is not a text, is empty, has more than ``MAX_SOURCE``
            characters or half of a surrogate pair, or is a schema that is not JSON.
    """

    kind: Kind
    source: str

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in KINDS:
            raise GrammarError(f"kind: expected one of {', '.join(KINDS)}, got {quoted(self.kind)}")
        if not isinstance(self.source, str):
            raise GrammarError(f"{self.kind}: expected a text as source, got {quoted(self.source)}")
        if not self.source:
            raise GrammarError(f"{self.kind}: expected one, got an empty text")
        if len(self.source) > MAX_SOURCE:
            raise GrammarError(f"{self.kind}: expected at most {MAX_SOURCE} characters, got {len(self.source)}")
        try:
            self.source.encode()
        except UnicodeEncodeError as error:
            found = f"{self.source[error.start]!r} at character {error.start + 1}"
            raise GrammarError(f"{self.kind}: expected valid Unicode, found {found}") from None
        if self.kind == "schema":
            read_schema(self.source)


@dataclass(frozen=True)
class LateGrammar(Grammar):
    """A grammar that the end of a text must match: from the first of some tokens on.

    Attributes:
        after: these tokens. The one that comes is the first token of what matches the grammar.
        outside: two tokens, such as markers around reasoning: between them ``after`` has no effect. They count in the
            prompt, too. None: it has an effect everywhere.
    """

    after: frozenset[int] = frozenset()
    outside: tuple[int, int] | None = None


def read_schema(source: str) -> dict[str, Any]:
    """Parse the text of a JSON schema.

    Raises:
        GrammarError: it is not JSON or not an object, or has a number out of range or half of a surrogate pair.
    """
    try:
        schema = json.loads(source, parse_constant=_no_constant, parse_float=_finite)
        json.dumps(schema, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise GrammarError(f"schema: expected JSON: {error}") from None
    except UnicodeEncodeError as error:
        raise GrammarError(f"schema: expected valid Unicode, found {error.object[error.start]!r}") from None
    except RecursionError:
        raise GrammarError("schema: nested too deeply") from None
    except ValueError as error:  # also raised for an integer with thousands of digits
        raise GrammarError(f"schema: expected JSON: {str(error).partition(';')[0]}") from None
    if not isinstance(schema, dict):
        raise GrammarError(f"schema: expected a JSON object, got {type(schema).__name__}")
    return schema


def one_grammar(
    schema: Mapping[str, Any] | type[Any] | str | None = None, regex: str | None = None, grammar: str | None = None
) -> Grammar | None:
    """Return the grammar of the only argument that is given; None if all are None.

    Args:
        schema: a JSON schema, its text, or a class: see :func:`.classes.schema_of`.
        regex: a regular expression.
        grammar: a grammar.

    Raises:
        GrammarError: more than one is given, or the given one is invalid.
    """
    given = {"schema": schema, "regex": regex, "grammar": grammar}
    sources = {kind: source for kind, source in given.items() if source is not None}
    if len(sources) > 1:
        raise GrammarError(f"expected one of schema, regex and grammar, got {' and '.join(sources)}")
    if schema is not None and not isinstance(schema, str):
        if not isinstance(schema, Mapping):
            from .classes import is_class, schema_of  # few schemas are classes

            if not is_class(schema):
                raise GrammarError(f"schema: expected a JSON schema, its text or a class, got {quoted(schema)}")
            schema = schema_of(schema)
        try:
            sources["schema"] = json.dumps(schema)
        except (TypeError, ValueError, RecursionError) as error:
            raise GrammarError(f"schema: expected a JSON value: {error}") from None
    for kind, source in sources.items():
        if not isinstance(source, str):
            raise GrammarError(f"{kind}: expected a text, got {type(source).__name__}")
        return Grammar(kind, source)  # type: ignore[arg-type]
    return None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {quoted(text)[1:-1]} is out of range")
    return value
