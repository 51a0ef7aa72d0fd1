"""Shards are equal, and memory does not grow with the job."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobs.job_makers import finished, rows, write_rows

from pyml_nlp import jobs
from pyml_nlp.jobs import cutting, inputs
from pyml_nlp.jobs.cutting import Cutter
from pyml_nlp.jobs.inputs import Found
from pyml_nlp.language_model import LanguageModel


def found(first: int, count: int) -> Found:
    """Rows of ten bytes."""
    numbers = np.arange(first, first + count)
    return Found(numbers * 10, numbers * 10 + 10, numbers + 1, np.full(count, 10))


def rows_of(shards: tuple[jobs.Shard, ...]) -> Iterator[tuple[int, int]]:
    """Input and number of each row."""
    for shard in shards:
        count = 0
        for piece in shard.pieces:
            assert piece.row == piece.start // 10 + 1
            for start in range(piece.start, piece.stop, 10):
                count += 1
                yield piece.input, start // 10
        assert count == shard.rows


@given(
    st.lists(st.lists(st.integers(0, 30), max_size=20), min_size=1, max_size=6),
    st.sampled_from(["rows", "tokens", "neither"]),
    st.integers(1, 40),
)
def test_cutting(blocks: list[list[int]], kind: str, size: int) -> None:
    """Blocks alternate between two inputs."""
    cutter = Cutter(size if kind == "rows" else None, size if kind == "tokens" else None)
    given_rows, firsts = [], [0, 0]
    for number, block in enumerate(blocks):
        source = number * 2 // len(blocks)
        tokens = np.array([count + 1.0 for count in block])
        cutter.add(source, found(firsts[source], len(block)), tokens)
        given_rows += [(source, firsts[source] + place) for place in range(len(block))]
        firsts[source] += len(block)
    shards = cutter.shards()
    assert list(rows_of(shards)) == given_rows
    assert sum(shard.tokens for shard in shards) == sum(count + 1 for block in blocks for count in block)
    if kind == "rows":
        assert [shard.rows for shard in shards[:-1]] == [size] * (len(shards) - 1)
    if kind == "tokens":
        assert all(size <= shard.tokens <= size + 31 for shard in shards[:-1])
    if kind == "neither":
        assert len(shards) <= 1


def test_a_job_of_any_size_has_so_many_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "MAX_SHARDS", 100)
    monkeypatch.setattr(cutting, "LARGEST", 3000)
    cutter = Cutter(None, None)
    for block in range(200):
        cutter.add(0, found(block * 1000, 1000), np.full(1000, 10.0))
        assert len(cutter._shards) <= 100
    shards = cutter.shards()
    assert sum(shard.rows for shard in shards) == 200_000
    sizes = sorted(shard.tokens for shard in shards)
    assert sizes[-1] < 1.1 * sizes[len(sizes) // 10]  # a few may be small
    monkeypatch.undo()
    small = Cutter(None, None)
    small.add(0, found(0, 1000), np.full(1000, 200.0))
    assert 0.9 * cutting.PARTS <= len(small.shards()) <= 1.1 * cutting.PARTS


def test_estimates_follow_the_tokenizer(job_model: Path, job_lm: LanguageModel, tmp_path: Path) -> None:
    values = [{"prompt": "word " * (1 + number * 7 % 50)} for number in range(400)]
    path = write_rows(tmp_path / "in.jsonl", values)
    job = jobs.plan(path, tmp_path / "job", model=job_model, max_tokens=20, prompt="Count these: {prompt}")
    prompts = sum(len(job_lm.ids(f"Count these: {row['prompt']}")) for row in values)
    assert job.manifest.tokens == pytest.approx(prompts + 10 * 400, rel=0.05)
    assert job.manifest.shared_tokens > 3
    sizes = [shard.tokens for shard in job.manifest.shards[:-1]]
    assert max(sizes) < 1.25 * min(sizes)


@pytest.mark.parametrize("kind", ["wrong", "right"])
def test_memory_does_not_grow_with_rows(
    kind: str, job_model: Path, job_lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a plan and of a run: shards are of one size, and there are ten times as many."""
    monkeypatch.setattr(inputs, "_BLOCK", 4096)
    peaks = []
    few = 400 if kind == "wrong" else 40
    for count in (few, few * 10):
        values: list[Any] = (
            ["no object"] * count if kind == "wrong" else [{**row, "max_tokens": 1} for row in rows(count)]
        )
        path = write_rows(tmp_path / f"{count}.jsonl", values)
        tracemalloc.start()
        job = jobs.plan(path, tmp_path / str(count), model=job_model, rows_per_shard=few)
        assert finished(job, job_lm, 4)["rows"] == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.05 + 200_000, peaks
