"""A JSON schema as a graph of its subschemas and their references."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Union
from urllib.parse import unquote

from pyml_core.errors import one_line, quoted

from .grammar import GrammarError
from .schema_keywords import check_keywords

MAX_NODES = 50_000
"""Maximum number of subschemas of a schema; llguidance's own limit."""

_ONE = ("items", "additionalItems", "additionalProperties")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_MAPS = ("properties", "patternProperties")


Branch = Union["Node", bool]
"""A schema: an object, or a boolean that allows everything or nothing."""


class Link(NamedTuple):
    """A reference from one schema to another.

    Attributes:
        keyword: for example ``"anyOf"``, ``"properties"`` or ``"$ref"``.
        name: index in a list, name in a mapping; None: the keyword's value is the schema, or a reference to it.
        target: the other schema.
    """

    keyword: str
    name: str | int | None
    target: Branch


@dataclass(eq=False)
class Node:
    """A subschema that is an object.

    Attributes:
        path: its position in the document, a JSON pointer that begins with ``#``.
        schema: the object itself, which may be edited.
        links: the schemas that it contains or refers to.
        properties: schemas of its declared properties, by name.
    """

    path: str
    schema: dict[str, Any]
    links: list[Link] = field(default_factory=list)
    properties: dict[str, Branch] = field(default_factory=dict)

    def targets(self, *keywords: str) -> list[Branch]:
        """Return the schemas under these keywords."""
        return [link.target for link in self.links if link.keyword in keywords]

    def put(self, link: Link, value: bool) -> None:
        """Replace the target of a link by a boolean schema."""
        if link.name is None:
            self.schema[link.keyword] = value
        else:
            self.schema[link.keyword][link.name] = value

    def error(self, problem: str, keyword: str | None = None) -> GrammarError:
        """Return an error that names this place."""
        return GrammarError(f"schema: {shown(self.path if keyword is None else _join(self.path, keyword))}: {problem}")


class SchemaGraph:
    """The subschemas that a document uses, found from its root.

    Args:
        root: the document; keywords with numbers are converted to the form that llguidance reads.

    Attributes:
        nodes: all subschemas, the root first.
        foreign: whether a reference uses ``$id`` or ``$anchor``, or another document; such links are left out.

    Raises:
        GrammarError: a keyword's value is malformed, or the target of a reference does not exist.
    """

    def __init__(self, root: dict[str, Any]) -> None:
        self.foreign = False
        self._document = root
        self._known: dict[int, Node] = {}
        self._waiting: deque[Node] = deque()
        self.nodes: list[Node] = []
        self._node(root, "#")
        while self._waiting:
            node = self._waiting.popleft()
            self.foreign = self.foreign or (node.schema is not root and isinstance(node.schema.get("$id"), str))
            check_keywords(node.schema, node.error)
            node.links += self._links(node)
        if self.foreign:
            for node in self.nodes:
                node.links = [link for link in node.links if link.keyword != "$ref"]

        self._parts: dict[int, list[Node]] = {}

    @property
    def root(self) -> Node:
        """The document's own schema."""
        return self.nodes[0]

    def parts(self, branch: Branch) -> list[Node]:
        """Return the subschemas all of which a value must match: the branch itself, and its ``allOf`` and ``$ref``."""
        found = self._parts.get(id(branch))
        if found is None:
            known: dict[int, Node] = {}
            waiting = [branch]
            while waiting:
                node = waiting.pop()
                if isinstance(node, Node) and id(node) not in known:
                    known[id(node)] = node
                    waiting += node.targets("allOf", "$ref")
            found = self._parts[id(branch)] = list(known.values())
        return found

    def _node(self, schema: Any, path: str) -> Branch:
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise GrammarError(f"schema: {shown(path)}: expected an object or a boolean, found {quoted(schema)}")
        found = self._known.get(id(schema))
        if found is None:
            found = self._known[id(schema)] = Node(path, schema)
            self.nodes.append(found)
            self._waiting.append(found)
            if len(self.nodes) > MAX_NODES:
                raise GrammarError(f"schema: expected at most {MAX_NODES} subschemas, found more")
        return found

    def _links(self, node: Node) -> Iterator[Link]:
        for keyword, value in node.schema.items():
            path = _join(node.path, keyword)
            if keyword in _LISTS and isinstance(value, list):
                for index, item in enumerate(value):
                    yield Link(keyword, index, self._node(item, f"{path}/{index}"))
            elif keyword in _MAPS and isinstance(value, dict):
                for name, item in value.items():
                    target = self._node(item, _join(path, name))
                    yield Link(keyword, name, target)
                    if keyword == "properties":
                        node.properties[name] = target
            elif keyword in _ONE:
                yield Link(keyword, None, self._node(value, path))
            elif keyword == "$ref":
                named = self._resolve(value, node)
                if named is not None:
                    yield Link(keyword, None, named)

    def _resolve(self, reference: str, node: Node) -> Branch | None:
        """Return the schema that a reference names; None unless it is a JSON pointer into this document."""
        base = self._document.get("$id")
        if isinstance(base, str) and base and reference.startswith(base.rstrip("#")):
            reference = reference[len(base.rstrip("#")) :] or "#"
        if not reference.startswith("#") or (len(reference) > 1 and reference[1] != "/"):
            self.foreign = True
            return None
        found: Any = self._document
        for part in unquote(reference[1:]).split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and name in found:
                found = found[name]
            elif isinstance(found, list) and name.isascii() and name.isdigit() and int(name[:9]) < len(found):
                found = found[int(name[:9])]
            else:
                raise node.error(f"expected a schema of this document, found {quoted(reference)}", "$ref")
            self.foreign = self.foreign or (isinstance(found, dict) and isinstance(found.get("$id"), str))
        return self._node(found, reference)


def shown(path: str, limit: int = 80) -> str:
    """Return a path for a message, on one line; a long one is cut at its beginning."""
    path = one_line(path)
    return path if len(path) <= limit else "..." + path[-limit + 3 :]


def _join(path: str, name: str) -> str:
    return f"{path}/{name.replace('~', '~0').replace('/', '~1')}"
