"""Translation of GBNF grammars into llguidance's variant of Lark.

GBNF describes characters, Lark first divides a text into lexemes, each as long as possible. A part of a grammar becomes
one lexeme, which is fast, only if the longest match is the only one: if no character that may follow the part could
also continue it. Other parts are written character by character.

Sets of characters are bits of an integer: one for each of the first code points, and one for all others together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import cache

from .gbnf import LAST, Chars, Choice, Node, Repeat, Rule, Sequence, Text, Token, parse
from .grammar import GrammarError

_CODES = 0x180
_ALL = (1 << (_CODES + 1)) - 1
_ROUNDS = 100  # of the fixed points; grammars take a few


_GBNF = re.compile(r"^[ \t]*[A-Za-z0-9_-]+[ \t]*::=", re.MULTILINE)


def is_gbnf(source: str) -> bool:
    """Whether a grammar is in GBNF: it has rules with ``::=``."""
    return _GBNF.search(source) is not None


def to_lark(source: str) -> str:
    """The Lark grammar of a GBNF grammar.

    Raises:
        GrammarError: the grammar is malformed, or its rules refer to each other in too long a chain.
    """
    rules = parse(source)
    try:
        return _Writer(rules).text()
    except RecursionError:
        raise GrammarError("grammar: nested too deeply") from None


class _Sets:
    """What rules begin with, what follows them, and what continues them.

    Args:
        rules: the grammar.

    Attributes:
        lexical: the rules that consist of characters, without recursion and tokens.
        empty: the rules that match the empty text.
        first: by rule, the characters that it begins with.
        follow: by rule, the characters that come next.
    """

    def __init__(self, rules: Mapping[str, Node]) -> None:
        self._rules = rules
        self._longer = dict.fromkeys(rules, 0)
        self._letters = dict.fromkeys(rules, 0)
        self.lexical = _lexical(rules)
        self.empty: set[str] = set()
        self.first = dict.fromkeys(rules, 0)
        self.follow = dict.fromkeys(rules, 0)
        self._fix(self._grow_first)
        self._fix(self._grow_follow)
        self._fix(self._grow_letters)
        self._fix(self._grow_longer)

    def _fix(self, grow: Callable[[], bool]) -> None:
        for _ in range(_ROUNDS):
            if not grow():
                return
        raise GrammarError("grammar: expected rules that refer to each other in shorter chains")

    def _grow_first(self) -> bool:
        changed = False
        for name, node in self._rules.items():
            first, empty = self.begins(node), self.may_be_empty(node)
            if first != self.first[name] or empty != (name in self.empty):
                self.first[name], changed = first, True
                if empty:
                    self.empty.add(name)
        return changed

    def _grow_follow(self) -> bool:
        before = dict(self.follow)
        for name, node in self._rules.items():
            self._follow(node, self.follow[name])
        return before != self.follow

    def _grow_letters(self) -> bool:
        before = dict(self._letters)
        self._letters |= {name: self.letters(node) for name, node in self._rules.items()}
        return before != self._letters

    def _grow_longer(self) -> bool:
        before = dict(self._longer)
        for name, node in self._rules.items():
            self._longer[name] |= self.continues(node)
        return before != self._longer

    def _follow(self, node: Node, after: int) -> None:
        match node:
            case Rule(name):
                self.follow[name] |= after
            case Sequence(parts):
                for part, follow in zip(parts, self.after_parts(parts, after), strict=True):
                    self._follow(part, follow)
            case Choice(parts):
                for part in parts:
                    self._follow(part, after)
            case Repeat(inner, _, high):
                self._follow(inner, after if high == 1 else after | self.begins(inner))

    def after_parts(self, parts: tuple[Node, ...], after: int) -> list[int]:
        """What follows each part of a sequence."""
        found = []
        for part in reversed(parts):
            found.append(after)
            after = self.begins(part) | (after if self.may_be_empty(part) else 0)
        return found[::-1]

    def may_be_empty(self, node: Node) -> bool:
        """Whether a node matches the empty text, as far as it is known."""
        match node:
            case Text(text):
                return not text
            case Rule(name):
                return name in self.empty
            case Repeat(inner, low, _):
                return low == 0 or self.may_be_empty(inner)
            case Sequence(parts):
                return all(self.may_be_empty(part) for part in parts)
            case Choice(parts):
                return any(self.may_be_empty(part) for part in parts)
        return False

    def begins(self, node: Node) -> int:
        """The characters that a node begins with, as far as it is known."""
        found = 0
        match node:
            case Text(text):
                found = 1 << min(ord(text[0]), _CODES) if text else 0
            case Chars():
                found = _bits(node)
            case Token():
                found = _ALL
            case Rule(name):
                found = self.first[name]
            case Repeat(inner, _, _):
                found = self.begins(inner)
            case Choice(parts):
                for part in parts:
                    found |= self.begins(part)
            case Sequence(parts):
                for part in parts:
                    found |= self.begins(part)
                    if not self.may_be_empty(part):
                        break
        return found

    def continues(self, node: Node) -> int:
        """The characters that may follow a match of a node within a longer match of it, or more characters."""
        match node:
            case Rule(name):
                return self._longer[name]
            case Repeat(inner, low, high):
                return self.continues(inner) | (0 if low == high else self.begins(inner))
            case Sequence(parts):
                found = 0
                for part in parts:
                    own = self.continues(part)
                    found = own | (found | self.begins(part) if self.may_be_empty(part) else 0)
                return found
            case Choice(parts):
                return self._continues_choice(parts)
        return 0

    def _continues_choice(self, parts: tuple[Node, ...]) -> int:
        if all(isinstance(part, Chars) or (isinstance(part, Text) and len(part.text) == 1) for part in parts):
            return 0
        if self.alike(parts):  # one may be the beginning of the other
            return self.letters(Choice(parts))
        found, begins = 0, 0
        for part in parts:
            found |= self.continues(part)
            begins |= self.begins(part)
        return found | (begins if any(self.may_be_empty(part) for part in parts) else 0)

    def letters(self, node: Node) -> int:
        """All characters in matches of a node, as far as it is known."""
        match node:
            case Text(text):
                found = 0
                for character in text:
                    found |= 1 << min(ord(character), _CODES)
                return found
            case Chars():
                return _bits(node)
            case Rule(name):
                return self._letters[name]
            case Repeat(inner, _, _):
                return self.letters(inner)
            case Sequence(parts) | Choice(parts):
                found = 0
                for part in parts:
                    found |= self.letters(part)
                return found
        return _ALL

    def competing(self, parts: tuple[Node, ...], after: int) -> bool:
        """Whether the longest match of a part of a sequence may take what belongs to the next ones."""
        for part, follow in zip(parts, self.after_parts(parts, after), strict=True):
            longer = self.continues(part) | (self.begins(part) if self.may_be_empty(part) else 0)
            if longer & follow:
                return True
        return False

    def alike(self, parts: tuple[Node, ...]) -> bool:
        """Whether two of these nodes begin with the same character."""
        seen = 0
        for part in parts:
            begins = self.begins(part)
            if begins & seen:
                return True
            seen |= begins
        return False

    def is_lexical(self, node: Node) -> bool:
        """Whether a node consists of characters, without recursion."""
        match node:
            case Rule(name):
                return name in self.lexical
            case Token():
                return False
            case Repeat(inner, _, _):
                return self.is_lexical(inner)
            case Sequence(parts) | Choice(parts):
                return all(self.is_lexical(part) for part in parts)
        return True


class _Writer:
    """Writes the Lark grammar: rules in lower case, and lexemes, each of which is one terminal, in upper case."""

    def __init__(self, rules: Mapping[str, Node]) -> None:
        self._rules = rules
        self._sets = _Sets(rules)
        self._numbers = {name: number for number, name in enumerate(rules)}
        self._lines: dict[str, str] = {}
        self._waiting: list[tuple[str, bool]] = []  # rules to write, and whether their characters stand apart
        self._lexemes: dict[Node, str] = {}

    def text(self) -> str:
        self._lines["start"] = self._label("root", False)
        while self._waiting:
            name, apart = self._waiting.pop()
            label = f"r{self._numbers[name]}{'c' * apart}"
            if label not in self._lines:
                self._lines[label] = ""  # a rule may refer to itself
                self._lines[label] = self._rule(self._rules[name], self._sets.follow[name], apart)
        return "\n".join(f"{label}: {body}" for label, body in self._lines.items()) + "\n"

    def _label(self, name: str, apart: bool) -> str:
        """The name of a rule, which will be written."""
        self._waiting.append((name, apart))
        return f"r{self._numbers[name]}{'c' * apart}"

    def _rule(self, node: Node, after: int, apart: bool) -> str:
        """The text of a node in a rule.

        Args:
            node: the node.
            after: the characters that may follow.
            apart: write it character by character: another part competes with it for the same characters.
        """
        sets = self._sets
        whole = sets.is_lexical(node) and not apart and not sets.continues(node) & after
        if whole and not isinstance(node, Text | Chars):
            return self._lexeme(node)
        match node:
            case Text(text) if apart and len(text) > 1:
                return f"({' '.join(_plain(Text(character)) for character in text)})"
            case Rule(name):
                return self._label(name, apart)
            case Sequence(parts):
                apart = apart or sets.competing(parts, after)
                follows = sets.after_parts(parts, after)
                return f"({' '.join(self._rule(part, one, apart) for part, one in zip(parts, follows, strict=True))})"
            case Choice(parts):
                apart = apart or sets.alike(parts)
                return f"({' | '.join(self._rule(part, after, apart) for part in parts)})"
            case Repeat(inner, low, high):
                begins = sets.begins(inner)
                again = high != 1 and sets.continues(inner) & begins
                apart = apart or bool(again or (low != high and begins & after))
                return self._times(self._rule(inner, after if high == 1 else after | begins, apart), node)
        return _plain(node)

    def _lexeme(self, node: Node) -> str:
        """The name of the terminal that a node is."""
        if node not in self._lexemes:
            label = self._lexemes[node] = f"L{len(self._lexemes)}"
            self._lines[label] = self._terminal(self._rules[node.name] if isinstance(node, Rule) else node)
        return self._lexemes[node]

    def _terminal(self, node: Node) -> str:
        """The text of a node within a terminal."""
        match node:
            case Rule():
                return self._lexeme(node)
            case Sequence(parts):
                return f"({' '.join(map(self._terminal, parts))})"
            case Choice(parts):
                return f"({' | '.join(map(self._terminal, parts))})"
            case Repeat(inner, _, _):
                return self._times(self._terminal(inner), node)
        return _plain(node)

    @staticmethod
    def _times(text: str, node: Repeat) -> str:
        signs = {(0, None): "*", (1, None): "+", (0, 1): "?"}
        count = f"{{{node.low},{'' if node.high is None else node.high}}}"
        inner = f"({text})" if isinstance(node.node, Repeat) else text
        return inner + signs.get((node.low, node.high), count)


def _lexical(rules: Mapping[str, Node]) -> set[str]:
    """Names of the rules without recursion and tokens: those that only refer to such rules."""
    found: set[str] = set()
    users: dict[str, list[str]] = {name: [] for name in rules}
    missing: dict[str, int] = {}
    for name, node in rules.items():
        names, tokens = _references(node)
        missing[name] = len(names) + tokens
        for other in names:
            users[other].append(name)
    ready = [name for name, count in missing.items() if not count]
    while ready:
        name = ready.pop()
        found.add(name)
        for user in users[name]:
            missing[user] -= 1
            if not missing[user]:
                ready.append(user)
    return found


def _references(node: Node) -> tuple[set[str], bool]:
    """The rules that a node refers to, and whether it has a token."""
    names: set[str] = set()
    tokens = False
    waiting = [node]
    while waiting:
        match waiting.pop():
            case Rule(name):
                names.add(name)
            case Token():
                tokens = True
            case Repeat(inner, _, _):
                waiting.append(inner)
            case Sequence(parts) | Choice(parts):
                waiting += parts
    return names, tokens


@cache
def _bits(chars: Chars) -> int:
    found = 0
    for first, last in chars.ranges:
        if first < _CODES:
            found |= (1 << min(last + 1, _CODES)) - (1 << first)
        found |= (last >= _CODES and not chars.negated) << _CODES
    return found ^ _ALL if chars.negated else found


def _plain(node: Node) -> str:
    """The text of characters and tokens."""
    match node:
        case Text(text):
            return json.dumps(text, ensure_ascii=False)
        case Token(text):
            return text
        case Chars((), True):
            return r"/(.|\n)/"
        case Chars(ranges, negated):
            inside = "".join(_escaped(first) + (f"-{_escaped(last)}" if last > first else "") for first, last in ranges)
            return f"/[{'^' * negated}{inside}]/"
    raise RuntimeError(f"expected characters, got {node}")


def _escaped(code: int) -> str:
    return chr(code) if chr(code).isalnum() and code < 128 else f"\\x{{{code:X}}}" if code <= LAST else ""
