"""Two thousand random changes to valid files for each parser, aware of the format: pyml's own error, or a correct load.

Every change has its number as the seed of its generator, so that a failure repeats.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
from hostile import seeds
from hostile.checks import loads_or_refuses
from writers import Field, join, raw_safetensors

N = 2000
reference: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = safetensors.deserialize
NUMBERS = [0, 1, 2, 3, 7, 8, 31, 32, 33, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1]
NUMBERS += [2**40, 2**62, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 32, 2**64 - 1, 10**19]
VALUES: list[Any] = [None, True, False, -1, 0.5, 1e300, -0.0, "", "F32", "x" * 1000, "../x", "\ud800", "\0", [], {}]
VALUES += [[0], [[]], [True], {"a": 1}, {"__metadata__": {}}]


def mutate_bytes(rng: random.Random, content: bytes) -> bytes:
    """Cut, repeat, insert or flip something anywhere."""
    at = rng.randrange(len(content) + 1)
    end = min(len(content), at + rng.choice([1, 4, 8, 50]))
    return rng.choice(
        [
            content[:at],
            content[:at] + content[end:],
            content[:end] + content[at:],
            content[:at] + rng.randbytes(end - at) + content[end:],
            content[:at] + rng.randbytes(8) + content[at:],
        ]
    )


def mutate_field(rng: random.Random, field: Field, size: int) -> Field:
    """Give a number another value: one at some border, or one near its own or near the size of the file."""
    kind, raw = field
    value = int.from_bytes(raw, "little")
    near = [value + step for step in (-32, -8, -1, 1, 8, 32)] + [size + step for step in (-32, -1, 0, 1)]
    value = rng.choice(NUMBERS + near)
    return kind, (value % (1 << 8 * len(raw))).to_bytes(len(raw), "little")


def mutate_gguf(rng: random.Random, fields: list[Field]) -> bytes:
    fields = list(fields)
    size = sum(len(raw) for _, raw in fields)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        at = rng.randrange(len(fields))
        kind, raw = fields[at]
        how = rng.randrange(10)
        if how == 0:
            fields[at : at + 1] = []
        elif how == 1:
            fields.insert(at, fields[rng.randrange(len(fields))])
        elif how == 2 or kind in ("text", "data", "magic", "padding"):
            fields[at] = kind, mutate_bytes(rng, raw)
        else:
            fields[at] = mutate_field(rng, fields[at], size)
    content = join(fields)
    return mutate_bytes(rng, content) if rng.random() < 0.1 else content


def any_value(rng: random.Random) -> Any:
    return rng.choice(rng.choice([VALUES, NUMBERS]))


def mutate_json(rng: random.Random, node: Any) -> Any:
    """Change, remove or add something anywhere in a tree of lists and dicts."""
    if isinstance(node, dict) and node:
        key = rng.choice(list(node))
        how = rng.randrange(6)
        if how == 0:
            return {name: value for name, value in node.items() if name != key}
        if how == 1:
            return {**node, rng.choice(["w", "shape", "dtype", "weight_map", "\ud800"]): any_value(rng)}
        if how == 2:
            return {(name + "x" if name == key else name): value for name, value in node.items()}
        return {**node, key: mutate_json(rng, node[key])}
    if isinstance(node, list) and node and rng.random() < 0.8:
        at = rng.randrange(len(node))
        return rng.choice([node[:at], node + node, [*node[:at], mutate_json(rng, node[at]), *node[at + 1 :]]])
    if isinstance(node, int) and rng.random() < 0.5:
        return node + rng.choice([-8, -1, 1, 8])
    return any_value(rng)


def mutated_text(rng: random.Random, tree: Any) -> bytes:
    for _ in range(rng.choice([1, 1, 2, 3])):
        tree = mutate_json(rng, tree)
    content = json.dumps(tree).encode()
    return mutate_bytes(rng, content) if rng.random() < 0.2 else content


@pytest.mark.parametrize("fields", [seeds.GGUF_V3, seeds.GGUF_V2], ids=["v3", "v2"])
def test_gguf(tmp_path: Path, fields: list[Field]) -> None:
    loaded = 0
    for number in range(N // 2):
        content = mutate_gguf(random.Random(number), fields)
        loaded += loads_or_refuses(seeds.load_gguf, tmp_path / "m.gguf", content)
    assert 0 < loaded < N // 2


def test_safetensors(tmp_path: Path) -> None:
    """Files that load here must also load in the reference reader, with the same shapes."""
    length = int.from_bytes(seeds.SAFETENSORS[:8], "little")
    header = json.loads(seeds.SAFETENSORS[8 : 8 + length])
    data = seeds.SAFETENSORS[8 + length :]
    path = tmp_path / "m.safetensors"
    loaded = 0
    for number in range(N):
        rng = random.Random(number)
        content = raw_safetensors(mutated_text(rng, header), data)
        if rng.random() < 0.2:
            content = mutate_bytes(rng, content)
        if loads_or_refuses(seeds.load_safetensors, path, content):
            loaded += 1
            expected = {name: tuple(entry["shape"]) for name, entry in reference(content)}
            assert seeds.load_safetensors(path) == expected, number
    assert 0 < loaded < N


@pytest.mark.parametrize("kind", seeds.JSON_SEEDS)
def test_json(tmp_path: Path, kind: str) -> None:
    name, load = seeds.JSON_LOADERS[kind]
    tree = json.loads(seeds.JSON_SEEDS[kind])
    loaded = 0
    for number in range(N):
        loaded += loads_or_refuses(load, tmp_path / name, mutated_text(random.Random(number), tree))
    assert 0 < loaded < N
