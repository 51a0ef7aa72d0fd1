"""Analysis of whether branches of a schema exclude each other, so that ``oneOf`` equals ``anyOf``.

llguidance only supports ``anyOf``. This module tries to prove that no value matches two branches: by their types, by
constants, by bounds, or by a property that both objects have, or that one has and the other forbids. Branches without
such a proof are assumed to overlap.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from .schema_keywords import KINDS, constants, kind_of, types
from .schema_nodes import Branch, Node, SchemaGraph

_DEPTH = 8  # maximum nesting of the schemas that are compared
_CHAIN = 100  # maximum number of nested choices when types and values are collected
_WORK = 300_000  # maximum number of steps for one document: about half a second

_BOUNDS = {
    "number": ("minimum", "maximum"),
    "string": ("minLength", "maxLength"),
    "array": ("minItems", "maxItems"),
    "object": ("minProperties", "maxProperties"),
}

Texts = set[str]
"""Values as texts: equal values have equal texts."""


class Exclusion:
    """Compares branches of one document.

    Args:
        graph: the document.
    """

    def __init__(self, graph: SchemaGraph) -> None:
        self._graph = graph
        self._left = _WORK
        self._found: dict[tuple[int, int, str], bool] = {}
        self._lists: dict[int, Texts | None] = {}
        self._known_kinds: dict[int, set[str]] = {}
        self._known_constants: dict[int, dict[str, Texts] | None] = {}

    @property
    def given_up(self) -> bool:
        """Whether the limit of work was reached; branches that were not compared are assumed to overlap."""
        return self._left <= 0

    def overlapping(self, branches: Sequence[Branch]) -> tuple[int, int] | None:
        """Return the indices of two branches that may match a common value, or None if all exclude each other.

        If objects are distinguished by an optional property, the property is made required.
        """
        found = [index for index, branch in enumerate(branches) if branch is not False]
        rest = [branches[index] for index in found]
        if len(rest) < 2 or _once([self._values(branch) for branch in rest]) or self._tagged(rest):
            return None
        for first, second in itertools.combinations(range(len(rest)), 2):
            if not self._disjoint(rest[first], rest[second], _DEPTH):
                return found[first], found[second]
        return None

    # ---- comparing all branches at once

    def _tagged(self, branches: Sequence[Branch]) -> bool:
        """Return whether all branches are objects with a common property whose constants differ."""
        if any(self._kinds(branch) != {"object"} for branch in branches):
            return False
        for name in self._property_names(branches[0]):
            owners: list[Node] = []
            if _once([self._tags(branch, name, owners, _DEPTH) for branch in branches]):
                for owner in owners:
                    owner.schema["required"] = [*owner.schema.get("required", ()), name]
                return True
        return False

    def _property_names(self, branch: Branch) -> list[str]:
        parts = self._parts(branch)
        options = [option for choices in _choices(parts) for option in choices]
        nodes = [*parts, *(part for option in options for part in self._parts(option))]
        return list(dict.fromkeys(name for node in nodes for name in node.properties))

    def _tags(self, branch: Branch, name: str, owners: list[Node], depth: int) -> Texts | None:
        """Return the constants of a property; schemas that must be changed to require it are added to ``owners``."""
        if not depth or not self._spend():
            return None
        parts = self._parts(branch)
        having = [part for part in parts if name in part.properties]
        lists = [values for part in having if (values := self._values(part.properties[name])) is not None]
        if lists:
            if not any(name in part.schema.get("required", ()) for part in parts):
                owners.append(having[0])
            return set.intersection(*lists)
        for options in _choices(parts):
            tags = [self._tags(option, name, owners, depth - 1) for option in options]
            if all(tag is not None for tag in tags):
                return set().union(*(tag for tag in tags if tag is not None))
        return None

    # ---- comparing pairs of branches

    def _disjoint(self, first: Branch, second: Branch, depth: int) -> bool:
        return all(self._excluded(first, second, kind, depth) for kind in self._kinds(first) & self._kinds(second))

    def _excluded(self, first: Branch, second: Branch, kind: str, depth: int) -> bool:
        """Return whether no value of this kind matches both branches."""
        if kind not in self._kinds(first) or kind not in self._kinds(second):
            return True
        key = (id(first), id(second), kind)
        if key not in self._found:
            self._found[key] = False  # until proven
            self._found[key] = bool(depth) and self._spend() and self._shown(first, second, kind, depth - 1)
        return self._found[key]

    def _shown(self, first: Branch, second: Branch, kind: str, depth: int) -> bool:
        ours, theirs = self._parts(first), self._parts(second)
        for nodes, other in ((ours, second), (theirs, first)):
            for options in _choices(nodes):
                if all(self._excluded(option, other, kind, depth) for option in options):
                    return True
        values, other_values = self._own_values(ours, kind), self._own_values(theirs, kind)
        if values is not None and other_values is not None and values.isdisjoint(other_values):
            return True
        if kind in _BOUNDS:
            (low, high), (other_low, other_high) = _bounds(ours, kind), _bounds(theirs, kind)
            if high < other_low or other_high < low:
                return True
        return kind == "object" and self._property_differs(ours, theirs, depth)

    def _property_differs(self, ours: Sequence[Node], theirs: Sequence[Node], depth: int) -> bool:
        for name in {name: None for part in (*ours, *theirs) for name in part.schema.get("required", ())}:
            for mine in _allowed(ours, name):
                for other in _allowed(theirs, name):
                    if not self._spend():
                        return False
                    if self._disjoint(mine, other, depth):
                        return True
        return False

    # ---- properties of one schema

    def _parts(self, branch: Branch) -> list[Node]:
        """Return the subschemas all of which a value of this schema must match."""
        found = self._graph.parts(branch)
        self._left -= len(found)
        return found

    def _spend(self) -> bool:
        """Count one step, and return whether the limit of work allows it."""
        self._left -= 1
        return self._left > 0

    def _kinds(self, branch: Branch, depth: int = _CHAIN) -> set[str]:
        """Return the kinds that its values may have."""
        if isinstance(branch, bool):
            return set(KINDS) if branch else set()
        if id(branch) not in self._known_kinds:
            self._known_kinds[id(branch)] = set(KINDS)  # for a recursive schema
            parts = self._parts(branch)
            found = set(KINDS).intersection(*(types(part.schema) for part in parts))
            if depth and self._spend():
                for options in _choices(parts):
                    found &= set().union(*[self._kinds(option, depth - 1) for option in options])
            self._known_kinds[id(branch)] = found
        return self._known_kinds[id(branch)]

    def _values(self, branch: Branch, depth: int = _CHAIN) -> Texts | None:
        """Return its values; None if they are not listed."""
        if isinstance(branch, bool):
            return None if branch else set()
        if id(branch) not in self._lists:
            self._lists[id(branch)] = None  # for a recursive schema
            if depth and self._spend():
                self._lists[id(branch)] = self._listed(self._parts(branch), depth - 1)
        return self._lists[id(branch)]

    def _listed(self, parts: Sequence[Node], depth: int) -> Texts | None:
        found = [{_text(value) for value in values} for part in parts if (values := constants(part.schema)) is not None]
        if found:
            return set.intersection(*found)
        for options in _choices(parts):
            values = [self._values(option, depth) for option in options]
            if all(some is not None for some in values):
                return set().union(*(some for some in values if some is not None))
        return None

    def _own_values(self, nodes: Sequence[Node], kind: str) -> Texts | None:
        """Return the values of a kind that ``const`` and ``enum`` list; None if neither keyword is present."""
        sets = [values[kind] for node in nodes if (values := self._constants(node)) is not None]
        return set.intersection(*sets) if sets else None

    def _constants(self, node: Node) -> dict[str, Texts] | None:
        if id(node) not in self._known_constants:
            values = constants(node.schema)
            found: dict[str, Texts] = {kind: set() for kind in KINDS}
            for value in values or ():
                found[kind_of(value)].add(_text(value))
            self._known_constants[id(node)] = None if values is None else found
        return self._known_constants[id(node)]


def _once(values: Sequence[Texts | None]) -> bool:
    """Return whether all sets are known and pairwise disjoint."""
    known = [some for some in values if some is not None]
    return len(known) == len(values) and len(set().union(*known)) == sum(map(len, known))


def _choices(nodes: Sequence[Node]) -> Iterator[list[Branch]]:
    for node in nodes:
        for keyword in ("anyOf", "oneOf"):
            options = node.targets(keyword)
            if options:
                yield options


def _bounds(nodes: Sequence[Node], kind: str) -> tuple[float, float]:
    low, high = _BOUNDS[kind]
    return (
        max(node.schema.get(low, -float("inf")) for node in nodes) if nodes else -float("inf"),
        min(node.schema.get(high, float("inf")) for node in nodes) if nodes else float("inf"),
    )


def _allowed(nodes: Sequence[Node], name: str) -> list[Branch]:
    """Return each subschema's schema for a property."""
    found: list[Branch] = []
    for node in nodes:
        if name in node.properties:
            found.append(node.properties[name])
        elif not any(_may_match(pattern, name) for pattern in node.schema.get("patternProperties", ())):
            found += node.targets("additionalProperties")
    return found or [True]


def _may_match(pattern: str, name: str) -> bool:
    """Return whether a pattern may match a name. Only patterns that are a plain prefix are analysed."""
    plain = re.fullmatch(r"\^([\w ]+)", pattern)
    return plain is None or name.startswith(plain[1])


def _text(value: Any) -> str:
    return json.dumps(_whole(value), sort_keys=True)


def _whole(value: Any) -> Any:
    """Convert 1.0 to 1: they are equal in JSON Schema."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    return value
