"""Every truncation of small files of each format, and every single bit of their headers flipped.

Each gives pyml's own error, or a correct load, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hostile import seeds
from hostile.checks import loads_or_refuses
from writers import join

GGUF = {"v3": join(seeds.GGUF_V3), "v2": join(seeds.GGUF_V2)}


def flipped(content: bytes, end: int) -> list[bytes]:
    return [content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :] for at in range(end) for bit in range(8)]


@pytest.mark.parametrize("seed", GGUF)
def test_gguf_truncated(tmp_path: Path, seed: str) -> None:
    """Only the padding after the last tensor may be missing."""
    content = GGUF[seed]
    padding = len(content) - len(content.rstrip(b"\0")) if seed == "v3" else 60
    path = tmp_path / "m.gguf"
    for end in range(len(content)):
        loaded = loads_or_refuses(seeds.load_gguf, path, content[:end])
        assert not loaded or len(content) - end <= padding


@pytest.mark.parametrize("seed", GGUF)
def test_gguf_flipped(tmp_path: Path, seed: str) -> None:
    content = GGUF[seed]
    header = len(content) - len((seeds.GGUF_V3 if seed == "v3" else seeds.GGUF_V2)[-1][1])
    loaded = [loads_or_refuses(seeds.load_gguf, tmp_path / "m.gguf", changed) for changed in flipped(content, header)]
    assert 0 < sum(loaded) < len(loaded)


def test_safetensors_truncated(tmp_path: Path) -> None:
    content = seeds.SAFETENSORS
    for end in range(len(content)):
        assert not loads_or_refuses(seeds.load_safetensors, tmp_path / "m.safetensors", content[:end])


def test_safetensors_flipped(tmp_path: Path) -> None:
    content = seeds.SAFETENSORS
    header = 8 + int.from_bytes(content[:8], "little")
    path = tmp_path / "m.safetensors"
    loaded = [loads_or_refuses(seeds.load_safetensors, path, changed) for changed in flipped(content, header)]
    assert 0 < sum(loaded) < len(loaded)


@pytest.mark.parametrize("kind", seeds.JSON_SEEDS)
def test_json_truncated(tmp_path: Path, kind: str) -> None:
    name, load = seeds.JSON_LOADERS[kind]
    content = seeds.JSON_SEEDS[kind]
    for end in range(len(content)):
        assert not loads_or_refuses(load, tmp_path / name, content[:end])


@pytest.mark.parametrize("kind", seeds.JSON_SEEDS)
def test_json_flipped(tmp_path: Path, kind: str) -> None:
    name, load = seeds.JSON_LOADERS[kind]
    check: Callable[[Path], object] = load
    content = seeds.JSON_SEEDS[kind]
    loaded = [loads_or_refuses(check, tmp_path / name, changed) for changed in flipped(content, len(content))]
    assert 0 < sum(loaded) < len(loaded)
