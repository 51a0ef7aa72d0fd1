"""Grammars in GBNF, llama.cpp's format, as syntax trees.

Source of the format: llama.cpp, ``grammars/README.md``. :mod:`.gbnf_lark` translates the trees.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pyml_core.errors import quoted

from .grammar import GrammarError

MAX_RULES = 20_000
LAST = 0x10FFFF

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_TOKEN = re.compile(r"<\[[0-9]+\]>|<[^<>\[\]\s]+>")
_COUNT = re.compile(r"\{\s*(\d{1,9})\s*(,?)\s*(\d{0,9})\s*\}")
_HEX = {"x": 2, "u": 4, "U": 8}
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "[": "[", "]": "]"}
_BEGINS = frozenset('"[(.<')


@dataclass(frozen=True)
class Text:
    """These characters; none at all if it is empty."""

    text: str


@dataclass(frozen=True)
class Chars:
    """One character of these ranges of code points, inclusive; or, negated, of none of them."""

    ranges: tuple[tuple[int, int], ...]
    negated: bool


@dataclass(frozen=True)
class Rule:
    """What the rule of this name matches."""

    name: str


@dataclass(frozen=True)
class Token:
    """A token by its id or its spelling, such as ``<[12]>`` or ``<think>``."""

    text: str


@dataclass(frozen=True)
class Repeat:
    """The node from ``low`` to ``high`` times; None: without a limit."""

    node: Node
    low: int
    high: int | None


@dataclass(frozen=True)
class Sequence:
    """The parts one after the other."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Choice:
    """One of the parts."""

    parts: tuple[Node, ...]


Node = Text | Chars | Rule | Token | Repeat | Sequence | Choice


def parse(source: str) -> dict[str, Node]:
    """The rules of a grammar by name.

    Raises:
        GrammarError: the grammar is malformed, has no rule ``root``, or refers to a rule that it does not have.
    """
    try:
        return _Parser(source).rules()
    except RecursionError:
        raise GrammarError("grammar: nested too deeply") from None


class _Parser:
    """Reads a grammar from its beginning to its end."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0
        self._names: dict[str, int] = {}  # of rules that are referred to, with a place

    def rules(self) -> dict[str, Node]:
        found: dict[str, Node] = {}
        self._skip(_SPACE_AND_LINES)
        while self._at < len(self._source):
            start = self._at
            name = self._name("the name of a rule")
            self._skip(_SPACE)
            if not self._source.startswith("::=", self._at):
                raise self._expected("::=")
            self._at += 3
            self._skip(_SPACE_AND_LINES)
            if name in found:
                self._at = start
                raise self._error(f"expected one rule of the name {quoted(name)}, found another")
            found[name] = self._choice(nested=False)
            if self._at < len(self._source) and self._source[self._at] not in "\r\n":
                raise self._expected("a character, a rule or the end of the line")
            self._skip(_SPACE_AND_LINES)
            if len(found) > MAX_RULES:
                raise self._error(f"expected at most {MAX_RULES} rules, found more")
        if "root" not in found:
            raise GrammarError("grammar: expected a rule root, found none")
        for name, place in self._names.items():
            if name not in found:
                self._at = place
                raise self._error(f"expected a rule {quoted(name)}, found none")
        return found

    def _choice(self, nested: bool) -> Node:
        parts = [self._sequence(nested)]
        while self._source.startswith("|", self._at):
            self._at += 1
            self._skip(_SPACE_AND_LINES)
            parts.append(self._sequence(nested))
        return parts[0] if len(parts) == 1 else Choice(tuple(parts))

    def _sequence(self, nested: bool) -> Node:
        parts: list[Node] = []
        space = _SPACE_AND_LINES if nested else _SPACE
        self._skip(space)
        while self._at < len(self._source):
            character = self._source[self._at]
            if character not in _BEGINS and not _NAME.match(character):
                break
            node = self._item(character)
            self._skip(space)
            while self._at < len(self._source) and self._source[self._at] in "*+?{":
                node = self._repeated(node)
                self._skip(space)
            parts.append(node)
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts)) if parts else Text("")

    def _item(self, character: str) -> Node:
        if character == '"':
            return self._text()
        if character == "[":
            return self._chars()
        if character == ".":
            self._at += 1
            return Chars((), True)
        if character == "<":
            token = _TOKEN.match(self._source, self._at)
            if token is None:
                raise self._expected("a token such as <[12]> or <think>")
            self._at = token.end()
            return Token(token[0])
        if character == "(":
            self._at += 1
            node = self._choice(nested=True)
            if not self._source.startswith(")", self._at):
                raise self._expected(")")
            self._at += 1
            return node
        place = self._at
        name = self._name("a rule")
        self._names.setdefault(name, place)
        return Rule(name)

    def _text(self) -> Text:
        self._at += 1
        found = []
        while not self._source.startswith('"', self._at):
            found.append(self._character())
        self._at += 1
        return Text("".join(found))

    def _chars(self) -> Chars:
        self._at += 1
        negated = self._source.startswith("^", self._at)
        self._at += negated
        ranges = []
        while not self._source.startswith("]", self._at):
            first = last = ord(self._character())
            if self._source.startswith("-", self._at) and not self._source.startswith("-]", self._at):
                self._at += 1
                last = ord(self._character())
            if last < first:
                raise self._error(f"expected a range of ascending characters, found {chr(first)!r} to {chr(last)!r}")
            ranges.append((first, last))
        self._at += 1
        if not ranges and not negated:
            raise self._error("expected characters between [ and ], found none")
        return Chars(tuple(ranges), negated)

    def _character(self) -> str:
        if self._at >= len(self._source):
            raise self._expected("the end of a text or of a set of characters")
        character = self._source[self._at]
        if character != "\\":
            self._at += 1
            return character
        kind = self._source[self._at + 1 : self._at + 2]
        if kind in _HEX:
            digits = self._source[self._at + 2 : self._at + 2 + _HEX[kind]]
            if not re.fullmatch(r"[0-9A-Fa-f]+", digits) or len(digits) < _HEX[kind] or int(digits, 16) > LAST:
                raise self._expected(f"{_HEX[kind]} hexadecimal digits of a character after \\{kind}")
            if 0xD800 <= int(digits, 16) < 0xE000:
                raise self._expected("a character, which half of a surrogate pair is not")
            self._at += 2 + len(digits)
            return chr(int(digits, 16))
        if kind not in _ESCAPES or not kind:
            raise self._expected('one of \\n \\r \\t \\\\ \\" \\[ \\] \\x \\u \\U')
        self._at += 2
        return _ESCAPES[kind]

    def _repeated(self, node: Node) -> Node:
        sign = self._source[self._at]
        if sign != "{":
            self._at += 1
            return Repeat(node, *{"*": (0, None), "+": (1, None), "?": (0, 1)}[sign])
        count = _COUNT.match(self._source, self._at)
        if count is None:
            raise self._expected("a count such as {2}, {2,} or {2,5}")
        low = int(count[1])
        high = low if not count[2] else int(count[3]) if count[3] else None
        if high is not None and high < low:
            raise self._expected("a count whose limits ascend")
        self._at = count.end()
        return Repeat(node, low, high)

    def _name(self, expected: str) -> str:
        name = _NAME.match(self._source, self._at)
        if name is None:
            raise self._expected(expected)
        self._at = name.end()
        return name[0]

    def _skip(self, space: re.Pattern[str]) -> None:
        found = space.match(self._source, self._at)
        self._at = self._at if found is None else found.end()

    def _expected(self, what: str) -> GrammarError:
        rest = self._source[self._at : self._at + 20]
        return self._error(f"expected {what}, found {quoted(rest) if rest else 'the end'}")

    def _error(self, problem: str) -> GrammarError:
        return GrammarError(f"grammar: line {self._source.count(chr(10), 0, self._at) + 1}: {problem}")
