"""How messages quote a user's values."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from pyml_core.errors import QUOTED, one_line, quoted


def nested(levels: int, kind: str) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value] if kind == "list" else {"k": value} if kind == "dict" else (value,)
    return value


class Rude:
    def __init__(self, text: str | None) -> None:
        self.text = text

    def __repr__(self) -> str:
        if self.text is None:
            raise RuntimeError("no")
        return self.text


CASES: list[tuple[Any, str]] = [
    ("short", "'short'"),
    ("it's\n\x1b[31m", '"it\'s\\n\\x1b[31m"'),
    ("\ud800", "'\\ud800'"),
    ("a" * 78, "'" + "a" * 78 + "'"),
    ("a" * 79, "'" + "a" * 75 + "...'"),
    ("a" * 5000, "'" + "a" * 75 + "...'"),
    (b"\xff" * 3, "b'\\xff\\xff\\xff'"),
    (b"b" * 500, "b'" + "b" * 74 + "...'"),
    (None, "None"),
    (-1.5, "-1.5"),
    (10**30, "1" + "0" * 30),
    (10**5000, "an integer of about 5001 digits"),
    ([1, "a", None], "[1, 'a', None]"),
    ((1,), "(1,)"),
    ({1: [2]}, "{1: [2]}"),
    ({3}, "{3}"),
    ([], "[]"),
    (set(), "set()"),
    (list(range(1000)), "[0, 1, 2, 3, 4, 5, 6, 7, ...]"),
    (nested(9, "list"), "[[[...]]]"),
    (nested(9, "dict"), "{'k': {'k': {...}}}"),
    (Rude("two\nlines\x07"), "two lines "),
    (Rude("r" * 100), "r" * 77 + "..."),
    (Rude(None), "<Rude>"),
]


@pytest.mark.parametrize(("value", "expected"), CASES, ids=range(len(CASES)))
def test_quoted(value: Any, expected: str) -> None:
    assert quoted(value) == expected


LARGE: dict[str, Callable[[], Any]] = {
    "lists in each other": lambda: nested(100_000, "list"),
    "mappings in each other": lambda: nested(100_000, "dict"),
    "tuples in each other": lambda: nested(100_000, "tuple"),
    "an integer": lambda: 1 << 40_000_000,
    "a text": lambda: "x" * 50_000_000,
    "bytes": lambda: bytearray(50_000_000),
    "lists of lists": lambda: [[["y" * 1000] * 1000] * 1000],
    "keys": lambda: dict.fromkeys(range(1_000_000)),
}


@pytest.mark.parametrize("name", LARGE)
def test_it_takes_little_time(name: str) -> None:
    value = LARGE[name]()
    start = time.process_time()
    assert len(quoted(value)) <= QUOTED
    assert time.process_time() - start < 0.1


def test_one_line() -> None:
    assert one_line("  a\n\tb \x1b[31m\ud800 ü ") == "a b  [31m  ü"
    assert one_line("abcdefgh", 6) == "abc..."
    assert one_line("abcdef", 6) == "abcdef"
