"""A split GGUF model equals the whole file: logits, fingerprint, text, output of ``pyml inspect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyml_nlp
from tests.helpers import tiny_files, tiny_models


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The tiny Llama, split by the ``gguf`` package; the first part has no tensors."""
    folder = tmp_path_factory.mktemp("split")
    tiny_files.write_gguf(
        tiny_models.MODELS["llama"], folder / "llama.gguf", split_max_tensors=6, small_first_shard=True
    )
    found = sorted(folder.iterdir())
    assert len(found) > 3
    assert found[0].name == f"llama-00001-of-{len(found):05d}.gguf"
    return found


def test_the_same_model(parts: list[Path], tiny_ggufs: dict[str, Path]) -> None:
    ids = tiny_models.MODELS["llama"].prompt
    for dtype in ("auto", "q8_0"):
        whole = pyml_nlp.load(tiny_ggufs["llama"], dtype=dtype, threads=1)
        for path in (parts[0], parts[2], parts[-1]):
            split = pyml_nlp.load(path, dtype=dtype, threads=1)
            np.testing.assert_array_equal(split.logits(ids), whole.logits(ids))
            assert split.model.fingerprint == whole.model.fingerprint
            assert split.tokenizer.encode("the end") == whole.tokenizer.encode("the end")


def test_progress_counts_all_parts(parts: list[Path], tiny_ggufs: dict[str, Path]) -> None:
    ends = []
    for path in (parts[0], tiny_ggufs["llama"]):
        seen: list[tuple[int, int]] = []
        pyml_nlp.load(path, threads=1, progress=lambda done, total, seen=seen: seen.append((done, total)))  # type: ignore[misc]
        ends.append(seen[-1])
    assert ends[0] == ends[1]
    assert ends[0][0] == ends[0][1]


def test_inspect(commands: Any, parts: list[Path], tiny_ggufs: dict[str, Path]) -> None:
    split, whole = (json.loads(commands.inspect(path, "--json").text) for path in (parts[1], tiny_ggufs["llama"]))
    assert split["files"] == [path.name for path in parts]
    assert whole["files"] == ["llama.gguf"]
    for key in ("format", "tensor_count", "parameters", "stored_bytes", "architecture", "memory", "tokenizer"):
        assert split[key] == whole[key]
    by_name = {tensor["name"]: tensor for tensor in whole["tensors"]}
    assert {tensor["name"]: tensor for tensor in split["tensors"]} == by_name
    assert f"format      GGUF v3 in {len(parts)} files\n" in commands.inspect(parts[1]).text


def test_a_missing_part(commands: Any, parts: list[Path], tmp_path: Path) -> None:
    (tmp_path / parts[0].name).write_bytes(parts[0].read_bytes())
    result = commands.infer(tmp_path / parts[0].name, "--prompt", "x")
    missing = parts[1].name
    assert result.code == 1
    reason = f"{missing}: there is no such file; it is part 2 of {len(parts)} of a split model"
    assert result.stderr.splitlines()[-1].endswith(reason)
