"""Native code without memory ends in MemoryError or the right result, and it does not read uninitialised memory."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.native import preloaded
from tests.native.scenarios import SCENARIOS

FILLED = ("runs", "products", "packing", "reading", "mixture", "growing", "sampled")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="libraries are preloaded on Linux")]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``preloaded.c``, compiled."""
    return preloaded.build(tmp_path_factory.mktemp("preloaded"))


@pytest.mark.parametrize("name", [name for name, scenario in SCENARIOS.items() if "native" in scenario.watched])
def test_allocations_that_fail(name: str, library: Path) -> None:
    """One after the other: MemoryError or the right result, no thread and no lock left, and then it works again."""
    assert "calls failed" in preloaded.run(library, ["fail", name], 3000)


@pytest.mark.parametrize("name", FILLED)
def test_what_fresh_memory_holds_does_not_matter(name: str, library: Path) -> None:
    assert preloaded.run(library, ["fill", name], 600).count("the same") >= 1
