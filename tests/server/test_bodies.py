"""The depth of JSON bodies."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from pyml_nlp.server.bodies import too_deep


def levels(value: Any) -> int:
    """Levels of lists and objects, counted one by one."""
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(levels, value), default=0) if isinstance(value, list) else 0


def random_value(random_: random.Random, depth: int) -> Any:
    """Any JSON value; its strings are full of brackets and escapes."""
    if depth == 0 or random_.random() < 0.2:
        return random_.choice([1, None, True, "", "[[[", "}]", '"[', "\\", '\\"{', "\n[{", "é]"])
    values = [random_value(random_, depth - 1) for _ in range(random_.randint(0, 3))]
    if random_.random() < 0.5:
        return values
    return {f"{number}[{{": value for number, value in enumerate(values)}


def test_levels_are_counted_exactly() -> None:
    random_ = random.Random(3)
    for _ in range(300):
        value = random_value(random_, random_.randint(1, 9))
        for data in (json.dumps(value).encode(), json.dumps(value, ensure_ascii=False, indent=1).encode()):
            found = levels(value)
            assert [too_deep(data, limit) for limit in range(12)] == [found > limit for limit in range(12)]


@pytest.mark.parametrize("depth", [64, 65, 1000, 100_000])
@pytest.mark.parametrize(("begin", "end"), [("[", "]"), ('{"a":', "}"), ('[{"a":[', "]}]")])
def test_deep_bodies(depth: int, begin: str, end: str) -> None:
    per = sum(begin.count(bracket) for bracket in "[{")
    times = -(-depth // per)
    assert too_deep((begin * times + "1" + end * times).encode()) is (times * per > 64)


@pytest.mark.parametrize(
    "data", [b"[" * (4 << 20), b"[]" * (2 << 20), b'"' + b"\\" * (4 << 20), b'"[' * (2 << 20), b"{[" * (2 << 20)]
)
def test_large_texts_without_pairs(data: bytes) -> None:
    assert not too_deep(data)
