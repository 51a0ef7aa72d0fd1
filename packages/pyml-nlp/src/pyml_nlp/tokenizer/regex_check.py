r"""Is a regular expression of a tokenizer file safe to run on any text?

The ``tokenizers`` library runs them on Oniguruma, which backtracks: a pattern such as ``(a+)+$`` takes exponential
time, and ``\s+$`` quadratic time (a million spaces: an hour). A model's file chooses the pattern and a user's text may
be long, so a pattern is accepted only if its time is seen to be linear in the text:

- After an item without an upper bound (``\p{L}+``), its branch holds nothing that can fail: nothing is ever taken back.
- What stands before such an item is bounded. The steps that all branches may take in vain at one position of the text
  are counted; a tokenizer has a limit for the sum of all its expressions (see :mod:`.work`).
- A few published branches break the first rule but are linear thanks to a later branch that then takes the whole run at
  once (``\s*[\r\n]+`` with ``\s+``): these are known by their text, and the later branch must follow. Between the two
  there may only be others of this kind: any other branch could take a little of the run, and the rest would be read
  again.
- One published expression is quadratic (``\s+$``): another one that matches the same in linear time takes its place.
- Back-references, look-behind, calls, conditions and everything else that is not listed here are refused.

This covers the patterns of GPT-2, GPT-4o, Llama 3, Mistral's Tekken, Qwen, DeepSeek, BLOOM and their relatives.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .work import MAX_STEPS

MAX_LENGTH = 4096
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

_EQUAL = {r"\s+$": r"(?<!\s)\s+$"}
"""A pattern of quadratic time, and one that matches the same: no run of spaces is tried from its middle."""


class UnsafePattern(ValueError):
    """Why a pattern is refused."""


@dataclass(frozen=True)
class Safe:
    """A pattern that takes linear time.

    Attributes:
        pattern: as it was given, or one in its place that matches the same.
        steps: the most items that are tried at one position of a text before the pattern matches there or not.
        empty: whether it may match without any character.
    """

    pattern: str
    steps: int
    empty: bool


@dataclass(frozen=True)
class _Item:
    """What one part of a pattern may do: match in so many bounded ways, run on without bound, fail, match nothing.

    ``steps``: the most items tried until all its ways have failed.
    """

    ways: int = 1
    steps: int = 1
    unbounded: bool = False
    can_fail: bool = True
    empty: bool = False


_NOTHING = _Item(steps=0, can_fail=False, empty=True)
_ASSERTION = _Item(empty=True)


def check(pattern: str) -> Safe:
    """Refuse a pattern that might take more than linear time.

    Raises:
        UnsafePattern: with the reason.
    """
    if len(pattern) > MAX_LENGTH:
        raise UnsafePattern(f"it has {len(pattern)} characters, more than {MAX_LENGTH}")
    if pattern in _EQUAL:
        return Safe(_EQUAL[pattern], steps=3, empty=False)
    parser = _Parser(pattern)
    whole = parser.alternatives(depth=0)
    if parser.rest:
        raise UnsafePattern(f"{parser.rest[:20]!r} is not understood")
    return Safe(pattern, whole.steps, whole.empty)


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
        items: list[_Item] = []
        doubtful: list[int] = []  # to be looked up among the known branches
        while True:
            start = self.at
            item, linear = self.branch(depth)
            if not linear:
                doubtful.append(len(items))
            texts.append(self.pattern[start : self.at].replace("\r", r"\r").replace("\n", r"\n"))
            items.append(item)
            if not self.rest.startswith("|"):
                break
            self.at += 1
        for number in doubtful:
            if depth > 0 or not _kept_linear(texts[number:]):
                raise UnsafePattern(f"{texts[number]!r} may take back what it has matched")
        return _bounded(
            _Item(
                sum(item.ways for item in items),
                sum(item.steps for item in items),
                any(item.unbounded for item in items),
                all(item.can_fail for item in items),
                any(item.empty for item in items),
            )
        )

    def branch(self, depth: int) -> tuple[_Item, bool]:
        """Items in a row; False with them if something that can fail follows an item without bound."""
        whole, linear = _NOTHING, True
        while self.rest and self.rest[0] not in "|)":
            item = self.repeated(self.item(depth))
            linear &= not (whole.unbounded and item.can_fail)
            whole = _bounded(
                _Item(
                    whole.ways * item.ways,
                    whole.steps + whole.ways * item.steps,  # each way up to here tries what follows
                    whole.unbounded or item.unbounded,
                    whole.can_fail or item.can_fail,
                    whole.empty and item.empty,
                )
            )
        return whole, linear

    def repeated(self, item: _Item) -> _Item:
        """The item with the quantifier that follows it, if any."""
        quantifier = self.take(_QUANTIFIER)
        if self.rest[:1] and self.rest[0] in "*+?{":
            raise UnsafePattern(f"{self.rest[:20]!r} is not understood")
        if not quantifier:
            return item
        low, high = _bounds(quantifier)
        most = low if high is None else high
        if most > _MAX_REPEAT or most < low or (item.unbounded and most > 1):
            raise UnsafePattern(f"{quantifier!r} repeats too much, or its bounds are reversed")
        repeats = [_NOTHING]  # by count
        for _ in range(max(most, 1)):
            last = repeats[-1]
            repeats.append(_bounded(_Item(last.ways * item.ways, last.steps + last.ways * item.steps)))
        can_fail, empty = low > 0 and item.can_fail, low == 0 or item.empty
        if high is None:
            return _Item(repeats[most].ways, repeats[-1].steps, True, can_fail, empty)
        ways = sum(one.ways for one in repeats[low : high + 1])
        return _bounded(_Item(ways, repeats[-1].steps, item.unbounded, can_fail, empty))

    def item(self, depth: int) -> _Item:
        """One character, class, anchor, look-ahead or group."""
        if self.take(_LOOKAHEAD):
            if not self.take(_ANCHOR):
                self.single()
            if not self.take(_CLOSE):
                raise UnsafePattern("a look-ahead holds more than one character class")
            return _ASSERTION
        if self.take(_GROUP):
            inner = self.alternatives(depth + 1)
            if not self.take(_CLOSE):
                raise UnsafePattern("a group is not closed")
            return inner
        if self.take(_ANCHOR):
            return _ASSERTION
        self.single()
        return _Item()

    def single(self) -> None:
        if not self.take(_SINGLE):
            raise UnsafePattern(f"{self.rest[:20]!r} is not understood")


def _bounded(item: _Item) -> _Item:
    if max(item.ways, item.steps) > MAX_STEPS:
        raise UnsafePattern(f"it may take more than {MAX_STEPS} steps at one position of a text")
    return item


def _kept_linear(texts: list[str]) -> bool:
    """Whether the first of these branches is a known one, with its later branch after it and only its like between."""
    later = _KNOWN.get(texts[0])
    for text in texts[1:]:
        if text == later:
            return True
        if _KNOWN.get(text) != later:
            return False
    return False


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
_IN_CLASS = rf"{_ESCAPE}|\[:\^?[a-z]{{1,10}}:\]|[^\[\]\\&]|&(?!&)"
_SINGLE = re.compile(rf"{_ESCAPE}|\[\^?(?:{_IN_CLASS}|\[(?!:)\^?(?:{_IN_CLASS})+\])+\]|[^\\\[\](){{}}|*+?^$]")
_ANCHOR = re.compile(r"\\[bBAzZ]|[$^]")
_QUANTIFIER = re.compile(r"[*+?][+?]?|\{\d{0,4},\d{1,4}\}|\{\d{1,4},?\}")
_LOOKAHEAD = re.compile(r"\(\?[=!]")
_GROUP = re.compile(r"\((?:\?(?:i|i-m|m|)?:|(?!\?))")
_CLOSE = re.compile(r"\)")
