"""Fixtures: executors of a model's program, and tiny models."""

from __future__ import annotations

from typing import Any

import pytest

from pyml_core import Program, reference


@pytest.fixture(params=["reference", "native"])
def executor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Programs run in NumPy and in the compiled run loop."""
    if request.param == "reference":

        def run(program: Program, batch: Any, want: Any = None) -> Any:
            return reference.run(program, batch)

        monkeypatch.setattr(Program, "run", run)
    return str(request.param)
