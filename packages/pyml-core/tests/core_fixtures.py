"""Fixtures: kernels are tested at every CPU level of this machine, or only at the one in PYML_CPU_LEVEL."""

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
    """Report the levels that are tested, and why the others are not."""
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
    """Each level in turn; programs made in the test use it."""
    with cpu.use_level(request.param):
        yield request.param


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(11)
