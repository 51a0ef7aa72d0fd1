"""The refusal of work that does not fit into memory."""

from __future__ import annotations

import pytest

from pyml_core.errors import OutOfMemoryError
from pyml_nlp import memory


def test_require(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 1_500_000_000)
    memory.require(1_500_000_000, "a thing")
    with pytest.raises(OutOfMemoryError, match=r"^a thing needs 1.60 GB of memory, 1.50 GB are available$"):
        memory.require(1_600_000_000, "a thing")


@pytest.mark.parametrize(("count", "text"), [(0, "0.0 MB"), (456_700_000, "456.7 MB"), (1_230_000_000, "1.23 GB")])
def test_gigabytes(count: int, text: str) -> None:
    assert memory.gigabytes(count) == text
