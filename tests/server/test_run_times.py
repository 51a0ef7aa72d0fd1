"""Times of operations in the records of a server's calls."""

from __future__ import annotations

from pathlib import Path

import pytest

import pyml_nlp
from pyml_nlp import LanguageModel
from pyml_nlp.generation.run_stats import RunStats
from pyml_nlp.server.engine_parts import part_of


def test_calls_are_timed_when_they_are_to_be(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[RunStats] = []
    asked: list[bool] = []

    def wants_times() -> bool:
        asked.append(True)
        return len(asked) % 2 == 1

    plain = lm.submit("the cat", max_tokens=20, seed=1, speculate=False).result().tokens
    monkeypatch.setattr(lm.server, "observers", [seen.append])
    monkeypatch.setattr(lm.server, "wants_times", wants_times)
    timed = lm.submit("the cat", max_tokens=20, seed=1, speculate=False).result().tokens
    lm.submit("a", max_tokens=1).result()  # the records of a call come after its results
    assert timed == plain
    assert [bool(one.timings) for one in seen].count(True) >= 1
    assert seen[0].timings
    for one in seen:
        spent = sum((times.end_ns - times.start_ns) * 1e-6 for times in one.timings)
        assert spent + one.choosing_ms <= one.ms * 1.01
        if one.timings:
            assert len(one.timings) == one.runs
            assert spent > 0


def test_nothing_is_timed_without_an_observer(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def wants_times() -> bool:
        raise AssertionError("asked")

    monkeypatch.setattr(lm.server, "observers", [])
    monkeypatch.setattr(lm.server, "wants_times", wants_times)
    assert len(lm.submit("the cat", max_tokens=3, seed=1).result().tokens) > 0


def test_every_operation_belongs_to_a_part(tiny_dirs: dict[str, Path]) -> None:
    others: set[str] = set()
    for folder in tiny_dirs.values():
        with pyml_nlp.load(folder, threads=1) as lm:
            operations = [*lm.model.program.operations, *lm.model.program.screening, *lm.model.program.settling]
            others |= {one.name.rpartition(".")[2] for one in operations if part_of(one.name) == "other"}
    assert others <= {"router", "route", "dispatch", "combine"}
