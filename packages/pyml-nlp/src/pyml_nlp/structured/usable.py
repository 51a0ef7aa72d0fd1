"""Removal of subschemas that no text can match, where there are alternatives.

There are two reasons: a pattern with look-around or back-references, which llguidance does not support, and a schema
that requires itself, so that its texts would never end.
"""

from __future__ import annotations

import re
from collections import deque

from pyml_core.errors import quoted

from .grammar import GrammarError
from .schema_keywords import KINDS, types
from .schema_nodes import Branch, Link, Node, SchemaGraph, shown

MAX_LINES = 8
"""Maximum number of removed parts that are named."""

_WORK = 1_000_000  # maximum number of visited links between subschemas, about a second
_LOOKS = re.compile(r"\(\?(?:[=!]|<[=!])|\\(?:[1-9]|k<)")
_SKIPPED = re.compile(r"\\\\|\\[^1-9k]|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)  # escapes and classes


def looks_around(pattern: str) -> bool:
    """Return whether a regular expression has look-around or a back-reference."""
    return _LOOKS.search(_SKIPPED.sub("_", pattern)) is not None


def leave_out_unusable(graph: SchemaGraph) -> list[str]:
    """Replace unusable subschemas by ``false``, or remove their type from a list of types.

    Returns:
        One line for each that names it; at most ``MAX_LINES`` and one more.

    Raises:
        GrammarError: nothing remains; the message has the reason.
    """
    usable = _usable(graph)
    if id(graph.root) not in usable:
        raise GrammarError(f"schema: nothing can be written: {_reason(graph.root, usable)}")
    left_out: list[tuple[str, Node]] = []
    for node in graph.nodes:
        if id(node) not in usable:
            continue
        for link in node.links:
            if isinstance(link.target, Node) and link.keyword != "$ref" and id(link.target) not in usable:
                node.put(link, False)
                left_out.append((f"{shown(link.target.path)} is left out", link.target))
        kinds = types(node.schema)
        kept = [kind for kind in KINDS if kind in kinds and _kind_usable(node, kind, usable)]
        if len(kept) < len(kinds):
            gone = ", ".join(sorted(kinds - set(kept)))
            left_out.append((f"{shown(node.path)}: values of type {gone} are left out", node))
            names = node.schema.get("type", KINDS)
            names = [names] if isinstance(names, str) else names
            node.schema["type"] = [name for name in names if ("number" if name == "integer" else name) in kept]
    lines = [f"{removal}: {_reason(node, usable)}" for removal, node in left_out[:MAX_LINES]]
    return lines + ([f"{len(left_out) - MAX_LINES} more are left out"] if len(left_out) > MAX_LINES else [])


def _usable(graph: SchemaGraph) -> set[int]:
    """Return the usable subschemas: first those without requirements, then those that require only usable ones."""
    users: dict[int, list[Node]] = {}
    for node in graph.nodes:
        for link in node.links:
            users.setdefault(id(link.target), []).append(node)
    found: set[int] = set()
    waiting, work = deque(reversed(graph.nodes)), _WORK
    while waiting:
        node = waiting.popleft()
        if id(node) in found:
            continue
        work -= 1 + len(node.links)
        if work < 0:
            raise GrammarError("schema: too many references between subschemas")
        if _node_usable(node, found):
            found.add(id(node))
            waiting.extend(users.get(id(node), ()))
    return found


def _node_usable(node: Node, usable: set[int]) -> bool:
    if not all(_needed(target, usable) for target in node.targets("allOf", "$ref")):
        return False
    for keyword in ("anyOf", "oneOf"):
        options = node.targets(keyword)
        if options and not any(option is True or id(option) in usable for option in options):
            return False
    # A schema without any allowed kind contradicts itself; llguidance reports that.
    kinds = types(node.schema)
    return not kinds or any(_kind_usable(node, kind, usable) for kind in kinds)


def _kind_usable(node: Node, kind: str, usable: set[int]) -> bool:
    """Return whether a value of this kind can be written, judging by the keywords for this kind."""
    if kind == "string":
        return not looks_around(node.schema.get("pattern", ""))
    if kind == "array":
        return all(_needed(target, usable) for target in _needed_items(node))
    if kind != "object":
        return True
    patterns = node.schema.get("patternProperties", {})
    if any(looks_around(pattern) for pattern in patterns):
        return False
    rest = [] if patterns else node.targets("additionalProperties")
    return all(
        _needed(target, usable)
        for name in node.schema.get("required", ())
        for target in ([node.properties[name]] if name in node.properties else rest)
    )


def _needed_items(node: Node) -> list[Branch]:
    least = node.schema.get("minItems", 0)
    first = [link for link in node.links if _is_item(link) and isinstance(link.name, int)]
    needed = [link.target for link in first if isinstance(link.name, int) and link.name < least]
    rest = [link.target for link in node.links if _is_item(link) and link.name is None]
    return needed + (rest if len(first) < least else [])


def _is_item(link: Link) -> bool:
    return link.keyword in ("prefixItems", "items", "additionalItems")


def _needed(target: Branch, usable: set[int]) -> bool:
    """Return whether a required schema is usable. For ``false`` this is True: llguidance reports that."""
    return isinstance(target, bool) or id(target) in usable


def _reason(node: Node, usable: set[int]) -> str:
    """Return the reason why a subschema, or one that it requires, is unusable."""
    known, waiting = {id(node)}, deque([node])
    while waiting:
        node = waiting.popleft()
        for pattern in (node.schema.get("pattern", ""), *node.schema.get("patternProperties", {})):
            if looks_around(pattern):
                return f"the pattern {quoted(pattern)} has look-around or a back-reference"
        for link in node.links:
            if isinstance(link.target, Node) and id(link.target) not in usable and id(link.target) not in known:
                known.add(id(link.target))
                waiting.append(link.target)
    return "it needs itself, or a schema that allows nothing"
