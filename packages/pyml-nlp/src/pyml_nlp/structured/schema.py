"""Preparation of JSON schemas for llguidance, which refuses some parts needlessly and enforces others too loosely."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

from .exclusive import Exclusion
from .grammar import GrammarError
from .schema_nodes import Branch, Node, SchemaGraph
from .usable import leave_out_unusable

_OPTIONS = {
    # JSON on one line, like Python's json.dumps.
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    # No \u escapes: otherwise an undeclared name could be another spelling of a declared one, "\u0061" for "a".
    "json_allowed_escapes": 'nrbtf\\"',
    "lenient": False,
}


_WORK = 300_000  # maximum number of steps between subschemas, a second or less


def prepare_schema(schema: dict[str, Any]) -> list[str]:
    """Rewrite a schema for llguidance, in place. Every text that the result allows matches the given schema.

    Formats that are not enforced are removed. Branches of ``oneOf`` are proven to exclude each other. Subschemas that
    no text can match are removed if there are alternatives. Options for llguidance in the schema are ignored.

    Returns:
        Notes for the user, one line each.

    Raises:
        GrammarError: the schema is malformed, cannot be enforced, or no text can match it.
    """
    try:
        return _prepare(schema)
    except RecursionError:  # a long chain of references
        raise GrammarError("schema: nested too deeply") from None


def _prepare(schema: dict[str, Any]) -> list[str]:
    notes = ["x-guidance is ignored"] if schema.pop("x-guidance", None) is not None else []
    graph = SchemaGraph(schema)
    for node in graph.nodes:
        _check_names(node)
    _check_multiples(graph)
    if not graph.foreign:
        exclusion = Exclusion(graph)
        for node in graph.nodes:
            _check_branches(node, exclusion)
    notes += leave_out_unusable(graph)
    # llguidance resolves other references itself, and then compares the branches itself.
    schema["x-guidance"] = {**_OPTIONS, "coerce_one_of": not graph.foreign}
    return notes


def _check_branches(node: Node, exclusion: Exclusion) -> None:
    pair = exclusion.overlapping(node.targets("oneOf"))
    if pair is None:
        return
    if exclusion.given_up:
        raise node.error("too many branches to compare; give each a required property with a constant", "oneOf")
    raise node.error(
        f"expected branches that exclude each other, but a value may match both {pair[0]} and {pair[1]}; "
        "tell them apart by type, a constant or a required property, or use anyOf",
        "oneOf",
    )


def _check_names(node: Node) -> None:
    """Check ``minProperties``: undeclared names may be repeated, and a repeated name counts once."""
    least, needed = node.schema.get("minProperties", 0), len(set(node.schema.get("required", ())))
    free = node.schema.get("additionalProperties", True) is not False or node.schema.get("patternProperties")
    if free and least > needed + 1:
        raise node.error(
            f"expected at most {needed + 1}, one more than are required, because others may repeat; found {least}",
            "minProperties",
        )


def _check_multiples(graph: SchemaGraph) -> None:
    """Check the common multiples of ``multipleOf``, which llguidance computes with 32 bits."""
    if len({node.schema.get("multipleOf", 0) for node in graph.nodes} - {0}) < 2:
        return
    work = _WORK
    for node in graph.nodes:
        parts = _in_place(node, work)
        work -= len(parts)
        found = {part.schema["multipleOf"] for part in parts if "multipleOf" in part.schema}
        scale = 10.0 ** max([_digits(value) for value in found], default=0)
        if len(found) > 1 and math.prod(value * scale for value in found) >= 2**32:
            raise node.error("expected smaller values of multipleOf: their common multiple is too large")


def _in_place(node: Node, work: int) -> list[Node]:
    """Return all subschemas that apply to one value."""
    known: dict[int, Node] = {}
    waiting: list[Branch] = [node]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Node) and id(part) not in known:
            known[id(part)] = part
            waiting += part.targets("allOf", "$ref", "anyOf", "oneOf")
            if len(known) > work:
                raise GrammarError("schema: too many references between subschemas with multipleOf")
    return list(known.values())


def _digits(value: float) -> int:
    """Return the number of digits after the decimal point."""
    exponent = Decimal(repr(value)).normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0
