"""Odd values and random changes of trees that JSON can hold."""

from __future__ import annotations

import copy
import random
from typing import Any

ODD: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    3,
    7,
    64,
    255,
    2**31 - 1,
    2**31,
    2**32,
    2**63,
    2**64,
    10**30,
    10**400,
    -(10**400),
    0.0,
    -0.0,
    0.5,
    1e-45,
    1e-320,
    1e-30,
    1e30,
    1e308,
    -1e308,
    float("inf"),
    float("-inf"),
    float("nan"),
    "",
    "x",
    "\0",
    "\ud800",
    "é" * 300,
    "🧿",
    "1",
    "-1",
    "٣",
    "null",
    "../x",
    "a b",
    "x" * 5000,
    [],
    {},
    [[]],
    [{}],
    [1e9],
    ["", ""],
    ["\ud800"],
    [2**70],
    [-1],
    [None],
    {"": 0},
    {"5": 10**400},
    {"x": {"x": []}},
]
"""Values that readers have stumbled over, here or elsewhere."""

TEXT_NOISE = [
    "[" * 3000,
    "{" * 60,
    '{"a":' * 990,
    "9" * 5000,
    "\0",
    "\ud800",
    "NaN",
    "1e999",
    '"',
    ",",
    "",
    "\ufeff",
    "\r\n",
]
"""Snippets that are inserted into a text at any place."""


def odd(rng: random.Random) -> Any:
    """A value that is probably wrong."""
    return copy.deepcopy(rng.choice(ODD))


def nested(rng: random.Random, depth: int) -> Any:
    """Lists and mappings in each other."""
    value: Any = "x"
    for _ in range(depth):
        value = rng.choice([[value], {"k": value}])
    return value


def change(rng: random.Random, tree: Any) -> None:
    """Change one place of a tree: replace, remove, repeat, swap, or add an entry of a mapping or list."""
    places: list[tuple[Any, Any]] = []
    stack = [tree]
    while stack and len(places) < 5000:
        node = stack.pop()
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in items:
            places.append((node, key))
            if isinstance(value, dict | list):
                stack.append(value)
    if not places:
        return
    node, key = rng.choice(places)
    how = rng.randrange(6)
    if how == 0:
        node[key] = odd(rng)
    elif how == 1:
        del node[key]
    elif how == 2:
        other, other_key = rng.choice(places)
        if other_key in other if isinstance(other, dict) else other_key < len(other):
            node[key] = copy.deepcopy(other[other_key])
    elif how == 3 and isinstance(node[key], int | float) and not isinstance(node[key], bool):
        node[key] = rng.choice([node[key] + 1, node[key] - 1, node[key] * 2, -node[key]])
    elif how == 4 and isinstance(node, list):
        node.insert(rng.randrange(len(node) + 1), copy.deepcopy(node[key]))
    elif isinstance(node, dict):
        node[rng.choice(["x", "", "type", str(rng.randrange(9)), str(key)])] = odd(rng)
    else:
        node[key] = odd(rng)


def noisy(rng: random.Random, text: str) -> str:
    """The text with something put in, or some characters cut out, at one place."""
    at = rng.randrange(len(text) + 1)
    if rng.random() < 0.3:
        return text[:at] + text[at + rng.choice([1, 2, 9]) :]
    return text[:at] + rng.choice(TEXT_NOISE) + text[at:]
