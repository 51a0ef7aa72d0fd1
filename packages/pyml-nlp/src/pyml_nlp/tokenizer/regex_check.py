r"""Is a regular expression of a tokenizer file safe to run on any text?

The ``tokenizers`` library runs them on Oniguruma, which backtracks: a pattern such as ``(a+)+$`` takes exponential
time, and ``\s+$`` quadratic time (a million spaces: an hour). A model's file chooses the pattern and a user's text may
be long, so a pattern is accepted only if its time is seen to be linear in the text:

- After an item without an upper bound (``\p{L}+``), its branch holds nothing that can fail: nothing is ever taken back.
- What stands before such an item is bounded, and so is the number of ways to match it.
- A few published branches break the first rule but are linear thanks to a later branch that then takes the whole run at
  once (``\s*[\r\n]+`` with ``\s+``): these are known by their text, and the later branch must be there.
- Back-references, look-behind, calls, conditions and everything else that is not listed here are refused.

This covers the patterns of GPT-2, GPT-4o, Llama 3, Mistral's Tekken, Qwen, DeepSeek V3 and their relatives.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_LENGTH = 4096
_MAX_WAYS = 10_000  # bounded ways to match a branch: the work that one position of the text may cost
_MAX_SIZE = 2048  # items once the bounded repetitions are written out, as the engine may do
_MAX_REPEAT = 64
_MAX_DEPTH = 16

_PREFIX = r"[^\r\n\p{L}\p{N}]?"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SUFFIXES = (
    "",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?",
)
_KNOWN: dict[str, str] = {r"\s*[\r\n]+": r"\s+", r"\s*[\r\n]": r"\s+", r"\s+(?!\S)": r"\s+"} | {
    f"{_PREFIX}{_UPPER}*{_LOWER}+{suffix}": f"{_PREFIX}{_UPPER}+{_LOWER}*{suffix}" for suffix in _SUFFIXES
}
"""A branch that takes back what it matched, and the later branch that keeps the whole pattern linear."""


class UnsafePattern(ValueError):
    """Why a pattern is refused."""


@dataclass(frozen=True)
class _Item:
    """What one part of a pattern may do: match in so many bounded ways, run on without bound, fail; and its size."""

    ways: int = 1
    size: int = 1
    unbounded: bool = False
    can_fail: bool = True


_EMPTY = _Item(size=0, can_fail=False)


def check(pattern: str) -> None:
    """Refuse a pattern that might take more than linear time.

    Raises:
        UnsafePattern: with the reason.
    """
    if len(pattern) > MAX_LENGTH:
        raise UnsafePattern(f"it has {len(pattern)} characters, more than {MAX_LENGTH}")
    parser = _Parser(pattern)
    parser.alternatives(depth=0)
    if parser.rest:
        raise UnsafePattern(f"{parser.rest[:20]!r} is not understood")


class _Parser:
    """Recursive descent over the pattern; ``at`` is the next character."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0

    @property
    def rest(self) -> str:
        return self.pattern[self.at :]

    def take(self, expression: re.Pattern[str]) -> str:
        found = expression.match(self.pattern, self.at)
        if found is None:
            return ""
        self.at = found.end()
        return found.group()

    def alternatives(self, depth: int) -> _Item:
        """Branches up to the end of the pattern or of the group."""
        if depth > _MAX_DEPTH:
            raise UnsafePattern("its groups are nested too deep")
        texts: list[str] = []
        items: list[_Item | None] = []  # None: to be looked up among the known branches
        while True:
            start = self.at
            item = self.branch(depth)
            texts.append(self.pattern[start : self.at].replace("\r", r"\r").replace("\n", r"\n"))
            items.append(item)
            if not self.rest.startswith("|"):
                break
            self.at += 1
        for number, item in enumerate(items):
            if item is None and (depth > 0 or _KNOWN.get(texts[number]) not in texts[number + 1 :]):
                raise UnsafePattern(f"{texts[number]!r} may take back what it has matched")
        done = [item or _Item(unbounded=True) for item in items]
        ways, size = sum(item.ways for item in done), sum(item.size for item in done)
        return _Item(ways, size, any(item.unbounded for item in done), all(item.can_fail for item in done))

    def branch(self, depth: int) -> _Item | None:
        """Items in a row; None if something that can fail follows an item without bound."""
        whole, linear = _EMPTY, True
        while self.rest and self.rest[0] not in "|)":
            item = self.repeated(self.item(depth))
            linear &= not (whole.unbounded and item.can_fail)
            whole = _Item(
                whole.ways * item.ways,
                whole.size + item.size,
                whole.unbounded or item.unbounded,
                whole.can_fail or item.can_fail,
            )
            if whole.ways > _MAX_WAYS or whole.size > _MAX_SIZE:
                raise UnsafePattern(f"it is too large: {whole.ways} ways to match at one position, {whole.size} items")
        return whole if linear else None

    def repeated(self, item: _Item) -> _Item:
        """The item with the quantifier that follows it, if any."""
        quantifier = self.take(_QUANTIFIER)
        if self.rest[:1] and self.rest[0] in "*+?{":
            raise UnsafePattern(f"{self.rest[:20]!r} is not understood")
        if not quantifier:
            return item
        low, high = _bounds(quantifier)
        if high is None:
            return _Item(item.ways, item.size * (low + 1), True, low > 0 and item.can_fail)
        if max(low, high) > _MAX_REPEAT or (item.unbounded and high > 1):
            raise UnsafePattern(f"{quantifier!r} repeats too much")
        ways = min(sum(item.ways**count for count in range(low, high + 1)), _MAX_WAYS + 1)
        return _Item(ways, item.size * high, item.unbounded, low > 0 and item.can_fail)

    def item(self, depth: int) -> _Item:
        """One character, class, anchor, look-ahead or group."""
        if self.take(_LOOKAHEAD):
            self.single()
            if not self.take(_CLOSE):
                raise UnsafePattern("a look-ahead holds more than one character class")
            return _Item()
        if self.take(_GROUP):
            inner = self.alternatives(depth + 1)
            if not self.take(_CLOSE):
                raise UnsafePattern("a group is not closed")
            return inner
        self.single()
        return _Item()

    def single(self) -> None:
        if not self.take(_SINGLE):
            raise UnsafePattern(f"{self.rest[:20]!r} is not understood")


def _bounds(quantifier: str) -> tuple[int, int | None]:
    if quantifier[0] != "{":
        return {"?": (0, 1), "*": (0, None), "+": (1, None)}[
            quantifier[0]
        ]  # a second sign: lazy or possessive, the same bounds
    low, comma, high = quantifier[1:-1].partition(",")
    return int(low or 0), (int(high) if high else None) if comma else int(low)


_ESCAPE = (
    r"\\(?:[pP]\{\^?[A-Za-z_ ]{1,40}\}|x\{[0-9A-Fa-f]{1,8}\}|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|[sSdDwWhHnrtfv]|[^\w\s])"
)
_SINGLE = re.compile(
    rf"{_ESCAPE}|\\[bBAzZ]|\[\^?(?:{_ESCAPE}|\[:\^?[a-z]{{1,10}}:\]|[^\[\]\\&]|&(?!&))+\]|[^\\\[\](){{}}|*+?]"
)
_QUANTIFIER = re.compile(r"[*+?][+?]?|\{\d{0,4},\d{1,4}\}|\{\d{1,4},?\}")
_LOOKAHEAD = re.compile(r"\(\?[=!]")
_GROUP = re.compile(r"\((?:\?(?:i|i-m|m|)?:|(?!\?))")
_CLOSE = re.compile(r"\)")
