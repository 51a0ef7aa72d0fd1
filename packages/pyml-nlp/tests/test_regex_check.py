"""The check of a tokenizer's expressions: which are accepted, and that these take linear time."""

# ruff: noqa: E501 (tables)

from __future__ import annotations

import random
import time

import pytest
from tokenizers import Regex, pre_tokenizers

from pyml_nlp.tokenizer.byte_level import PRE_TOKENIZERS
from pyml_nlp.tokenizer.regex_check import UnsafePattern, check
from pyml_nlp.tokenizer.work import MAX_STEPS


@pytest.mark.parametrize("pattern", sorted({p for rule in PRE_TOKENIZERS.values() for p in rule.splits or ()}))
def test_published_expressions_are_accepted(pattern: str) -> None:
    assert 0 < check(pattern).steps < MAX_STEPS / 4


@pytest.mark.parametrize(
    "pattern",
    [
        r"\d", r"\w+|[^\w\s]+", "[0-9]", r"\p{N}{1,3}", r"[一-龥]+", r"(?:ab)+", r"\s?\p{L}+", r"[^\n]+|[\n]+", "a{2,5}",
        "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
        "[^\r\n\\p{L}\\p{N}]?\\p{L}+|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",  # line ends as they are
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s+",
        r"<sentinel:[0-9]", r"[\p{P}!-/:-@\[-`{-~]", r"(?=[\p{L}])x", r"[[:alpha:]]+",
        r" ?[^(\s|[.,!?…。，、।۔،])]+", r"[a[^b\]]c]+", r"[a[b]]{2}", r"\s+(?!\S)|\s*[\r\n]+|\s+", r"\s+(?!\S)|\s+|\s",
    ],
)  # fmt: skip
def test_linear_expressions_are_accepted(pattern: str) -> None:
    safe = check(pattern)
    assert safe.pattern == pattern
    assert 0 < safe.steps < MAX_STEPS / 4
    assert not safe.empty


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(a+)+$", "backtrack"), ("(a+)+b", "backtrack"), ("(a|aa)+$", "backtrack"), (r"\s+$|x", "backtrack"), ("a*b", "backtrack"),
        ("(?:a*)*c", "backtrack"), (r"\s*[\r\n]+", "backtrack"), (r"\s+(?!\S)|x", "backtrack"), (r"x(?:\s+(?!\S)|\s+)", "backtrack"),
        ("a++b|.", "backtrack"), ("a+?b", "backtrack"), (r"\d{1,3}(?=(?:\d{3})*\b)", "not understood"), (r"(?<=a)b", "not understood"),
        (r"(a)\1", "not understood"), (r"(?<x>a)\k<x>", "not understood"), (r"\g<0>", "not understood"), ("(?~abc)", "not understood"),
        ("a{1,1000}", "repeats too much"), ("(?:a{60}){60}", "steps"), ("(a|b|c)" * 20, "steps"), ("(a?){60}", "steps"),
        ("a" * 5000, "characters"), ("(" * 40 + "a" + ")" * 40, "nested"), ("(a", "not closed"), ("a)", "not understood"),
        ("[a", "not understood"), ("[a&&b]", "not understood"), ("a**", "not understood"), ("*a", "not understood"),
        (r"\X", "not understood"), ("a{,}", "not understood"), ("(?x: a)", "not understood"), ("(?#c)", "not understood"),
        (r"(?:a+){2}", "repeats too much"), ("[]", "not understood"), ("a{3}{3}", "not understood"), ("((a{60}){60}){60}", "steps"),
        (r"\s*[\r\n]+|\s|\s+", "backtrack"), (r"\s+(?!\S)| ?|\s+", "backtrack"), (r"\s*[\r\n]+|[^\r\n\p{L}\p{N}]?\p{L}+|\s+", "backtrack"),
        ("|".join(["(?:a{0,9}){0,2}b"] * 9), "steps"), ("|".join([r"\p{L}{0,20}\p{N}"] * 40), "steps"), ("a{0,9}b{5,2}c", "repeats too much"),
        ("(?:[xy]x*){2,}", "repeats too much"), ("(?:ab*){2}", "repeats too much"), ("[[:a]b]", "not understood"), ("[a[b[c]]]", "not understood"), ("[a[b&&c]]", "not understood"),
    ],
)  # fmt: skip
def test_other_expressions_are_refused(pattern: str, reason: str) -> None:
    with pytest.raises(UnsafePattern, match=reason):
        check(pattern)


@pytest.mark.parametrize(
    ("pattern", "empty"),
    [("a", False), ("a?", True), ("a*", True), ("a+", False), ("a*b?", True), ("a*|b", True), ("(|a)", True), ("(?:)", True), (r"\b", True),
     ("^", True), ("$", True), (r"\Aa", False), ("(?=a)", True), ("(?!$)", True), ("(?:a?){3}", True), ("(?:ab|a){0,2}", True), ("x{0}", True), ("$a", False)],
)  # fmt: skip
def test_what_may_match_nothing_is_known(pattern: str, empty: bool) -> None:
    assert check(pattern).empty is empty
    if not empty:  # a replacement of nothing would be seen between any two characters
        assert pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str("zz") == [("zz", (0, 2))]


@pytest.mark.parametrize(
    ("pattern", "steps"),
    [("a", 1), ("abc", 3), ("a?b", 3), ("a|b|c", 3), ("a{0,3}", 3), ("a{3}b", 4), ("a{0,3}b", 3 + 4), ("(?:a|b)c", 2 + 2), (r"\p{L}+", 1),
     ("(?:a?){2}b", 1 + 2 + 4), ("(?:ab)*", 2), ("(?:ab){2,}", 2 + 2), ("(?:a|ab)?c", 3 + 3), (r"\s*[\r\n]+|\s+", 2 + 1)],
)  # fmt: skip
def test_steps_are_counted(pattern: str, steps: int) -> None:
    assert check(pattern).steps == steps


def test_classes_within_classes_end_where_the_library_ends_them() -> None:
    bloom = pre_tokenizers.Split(Regex(r" ?[^(\s|[.,!?…。，、।۔،])]+"), "removed", invert=True)
    found = [piece for piece, _ in bloom.pre_tokenize_str("Hello, (two) words|x")]
    assert found == ["Hello", "two", " words", "x"]
    inner = pre_tokenizers.Split(Regex(r"[a[^b\]]c]"), "removed", invert=True)
    assert [piece for piece, _ in inner.pre_tokenize_str("ab]cz")] == ["a", "c", "z"]


def test_spaces_at_the_end_take_linear_time() -> None:
    """The replacement of a published pattern splits every text in the same places."""
    pattern = check(r"\s+$").pattern
    linear, published = (pre_tokenizers.Split(Regex(text), "isolated") for text in (pattern, r"\s+$"))
    draw = random.Random(1)
    for _ in range(5000):
        text = "".join(draw.choices(" \n\t\rx\u3000\u2028", k=draw.randrange(1, 14)))
        assert linear.pre_tokenize_str(text) == published.pre_tokenize_str(text), repr(text)
    start = time.perf_counter()
    linear.pre_tokenize_str(" " * 300_000 + "x")  # the published one: minutes
    assert time.perf_counter() - start < 5


def test_expressions_that_are_accepted_take_linear_time() -> None:
    """Random expressions, on runs that would be scanned repeatedly if matches were taken back."""
    draw = random.Random(5)
    accepted = 0
    for _ in range(400):
        pattern = "|".join(_branch(draw) for _ in range(draw.randrange(1, 5)))
        try:
            safe = check(pattern)
        except UnsafePattern:
            continue
        splitter = pre_tokenizers.Split(Regex(safe.pattern), "isolated")
        accepted += 1
        for text in (" ", "a", "A", "\u0300"):
            start = time.thread_time()
            splitter.pre_tokenize_str(text * 10_000)  # in quadratic time: a second
            assert time.thread_time() - start < 0.4, (pattern, text)
    assert accepted > 50


_UNITS = ["a", " ", r"\s", r"\p{L}", r"[\r\n]", r"\S", r"\p{Lu}", "(?:a|b)", "(?: ?a*)"]
_TIMES = ["", "", r"\b", r"(?!\S)", "?", "*", "+", "*?", "++", "{0,3}", "{1,2}", "{2,}"]
_BRANCHES = [r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+", r"\s*[\r\n]"]
_BRANCHES += [r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"]
_BRANCHES += [r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"]


def _branch(draw: random.Random) -> str:
    if draw.random() < 0.5:
        return draw.choice(_BRANCHES)
    return "".join(draw.choice(_UNITS) + draw.choice(_TIMES) for _ in range(draw.randrange(1, 4)))
