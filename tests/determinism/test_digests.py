"""The logits of tiny models are the recorded ones, bit for bit, at every CPU level."""

from __future__ import annotations

import json

import pytest

from pyml_core import cpu
from tests.determinism import digests
from tests.determinism.determinism_checks import Subject

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> list[Subject]:
    return digests.subjects(tmp_path_factory.mktemp("digests"))


@pytest.mark.parametrize("level", cpu.levels())
def test_logits_are_the_recorded_ones(level: str, subjects: list[Subject]) -> None:
    recorded = json.loads(digests.FILE.read_text())[digests.SAME_BITS.get(level, level)]
    assert digests.digests(level, subjects) == recorded
