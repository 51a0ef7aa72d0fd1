"""Kernels are tested at every CPU level that this machine has, or that PYML_CPU_LEVEL allows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import pyml_core
from pyml_core import cpu

ORDER = list(pyml_core.cpu_info()["levels"])
CAP = ORDER.index(cpu.level())
LEVELS = [name for name in cpu.levels() if ORDER.index(name) <= CAP]


def pytest_report_header() -> str:
    """Say which levels are tested, and why the others are not."""
    missing = []
    for name, state in pyml_core.cpu_info()["levels"].items():
        if name not in LEVELS:
            built, supported = state["compiled"], state["supported"]
            why = (
                "not compiled"
                if not built
                else "not supported by this CPU"
                if not supported
                else "above PYML_CPU_LEVEL"
            )
            missing.append(f"{name} ({why})")
    return f"pyml-core: CPU levels {', '.join(LEVELS)}; not tested: {', '.join(missing) or 'none'}"


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every level in turn: programs made in the test run at it."""
    with cpu.use_level(request.param):
        yield request.param


@pytest.fixture
def rng() -> np.random.Generator:
    """The same numbers in every test."""
    return np.random.default_rng(11)
