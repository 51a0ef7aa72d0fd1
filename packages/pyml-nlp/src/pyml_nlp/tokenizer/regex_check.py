r"""Checks that a regular expression of a tokenizer file is safe to run on any text.

The ``tokenizers`` library uses Oniguruma, which backtracks: a pattern such as ``(a+)+$`` takes exponential time, and
``\s+$`` quadratic time (a million spaces: an hour). The pattern comes from a model file and the text may be long, so a
pattern is accepted only if its time is provably linear in the length of the text:

- After an item without an upper bound (``\p{L}+``), no item of its branch can fail, so nothing is matched twice.
- The items before it are bounded. The steps of all branches that fail at one position of the text are counted;
  a tokenizer has a limit for the sum of all its expressions (see :mod:`.work`).
- A few published branches break the first rule but are linear because a later branch then matches the whole run
  (``\s*[\r\n]+`` with ``\s+``). They are recognised by their text, and the later branch must be present. Only branches
  of this kind may stand between the two: any other branch could match a part of the run, and the rest would be scanned
  again.
- One published expression is quadratic (``\s+$``): it is replaced by an equivalent one that takes linear time.
- Back-references, look-behind, calls, conditions and all other syntax that is not listed here are refused.

The patterns of GPT-2, GPT-4o, Llama 3, Mistral's Tekken, Qwen, DeepSeek, BLOOM and related models are accepted.
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
"""Branches that backtrack, and for each the later branch that keeps the whole pattern linear."""

_EQUAL = {r"\s+$": r"(?<!\s)\s+$"}
"""Patterns of quadratic time, with an equivalent that does not try a run of spaces from its middle."""


class UnsafePattern(ValueError):
    """A pattern is refused; the message is the reason."""


@dataclass(frozen=True)
class Safe:
    """A pattern that takes linear time.

    Attributes:
        pattern: the given pattern, or an equivalent.
        steps: maximum number of items tried at one position of a text.
        empty: whether the pattern may match the empty string.
    """

    pattern: str
    steps: int
    empty: bool


@dataclass(frozen=True)
class _Item:
    """Bounds of one part of a pattern.

    Attributes:
        ways: maximum number of ways in which it matches, apart from unbounded repetition.
        steps: maximum number of items tried until all ways have failed.
        unbounded: whether it may repeat without bound.
        can_fail: whether it may fail to match.
        empty: whether it may match the empty string.
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
        UnsafePattern: the pattern is refused; the message is the reason.
    """
    if len(pattern) > MAX_LENGTH:
        raise UnsafePattern(f"it has {len(pattern)} characters, more than {MAX_LENGTH}")
    if pattern in _EQUAL or pattern in _EQUAL.values():
        return Safe(_EQUAL.get(pattern, pattern), steps=3, empty=False)
    parser = _Parser(pattern)
    whole = parser.alternatives(depth=0)
    if parser.rest:
        raise UnsafePattern(f"{parser.rest[:20]!r} is not understood")
    return Safe(pattern, whole.steps, whole.empty)


class _Parser:
    """A recursive descent parser of patterns; ``at`` is the index of the next character."""

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
        """Parse branches up to the end of the pattern or of the group."""
        if depth > _MAX_DEPTH:
            raise UnsafePattern("its groups are nested too deep")
        texts: list[str] = []
        items: list[_Item] = []
        doubtful: list[int] = []  # branches that are linear only if they are known ones
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
                raise UnsafePattern(f"{texts[number]!r} may backtrack over its own match")
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
        """Parse consecutive items. Returns False with them if an item that can fail follows an unbounded one."""
        whole, linear = _NOTHING, True
        while self.rest and self.rest[0] not in "|)":
            item = self.repeated(self.item(depth))
            linear &= not (whole.unbounded and item.can_fail)
            whole = _bounded(
                _Item(
                    whole.ways * item.ways,
                    whole.steps + whole.ways * item.steps,  # each way up to here tries the next item
                    whole.unbounded or item.unbounded,
                    whole.can_fail or item.can_fail,
                    whole.empty and item.empty,
                )
            )
        return whole, linear

    def repeated(self, item: _Item) -> _Item:
        """Return the item with its quantifier, if one follows."""
        quantifier = self.take(_QUANTIFIER)
        if self.rest[:1] and self.rest[0] in "*+?{":
            raise UnsafePattern(f"{self.rest[:20]!r} is not understood")
        if not quantifier:
            return item
        low, high = _bounds(quantifier)
        most = low if high is None else high
        if most > _MAX_REPEAT or most < low or (item.unbounded and most > 1):
            raise UnsafePattern(f"{quantifier!r} repeats too much, or its bounds are reversed")
        repeats = [_NOTHING]  # indexed by the number of repetitions
        for _ in range(max(most, 1)):
            last = repeats[-1]
            repeats.append(_bounded(_Item(last.ways * item.ways, last.steps + last.ways * item.steps)))
        can_fail, empty = low > 0 and item.can_fail, low == 0 or item.empty
        if high is None:
            return _Item(repeats[most].ways, repeats[-1].steps, True, can_fail, empty)
        ways = sum(one.ways for one in repeats[low : high + 1])
        return _bounded(_Item(ways, repeats[-1].steps, item.unbounded, can_fail, empty))

    def item(self, depth: int) -> _Item:
        """Parse one character, class, anchor, look-ahead or group."""
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
    """Return whether the first branch is a known one, followed by its later branch with only known ones between."""
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
        ]  # a second sign makes it lazy or possessive: the bounds stay
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
