"""The page table of a sequence: its pages and the addresses that kernels read always agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pyml_core import KVLayout
from pyml_core.kv_layout import PageTable

LAYOUT = KVLayout(1, 1, 8, "f16")


class FullList(list[npt.NDArray[np.uint8]]):
    """A list that can neither grow nor be sliced."""

    def append(self, page: npt.NDArray[np.uint8]) -> None:
        """Fail like a list without memory."""
        raise MemoryError

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            raise MemoryError
        return super().__getitem__(index)


class Nowhere:
    """A page whose address cannot be read for lack of memory."""

    @property
    def __array_interface__(self) -> dict[str, object]:
        raise MemoryError


def addresses(table: PageTable) -> list[int]:
    return [page.__array_interface__["data"][0] for page in table]


@pytest.fixture
def table() -> PageTable:
    return PageTable(LAYOUT.new_page() for _ in range(9))


def test_changes(table: PageTable) -> None:
    table.append(LAYOUT.new_page())
    table[3] = LAYOUT.new_page()
    table.truncate(7)
    assert len(table) == 7
    assert list(table.addresses) == addresses(table)


def test_changes_without_memory(table: PageTable) -> None:
    """Nothing has changed afterwards."""
    pages, before = list(table), list(table.addresses)
    table._pages = FullList(pages)
    nowhere: Any = Nowhere()
    changes: list[Callable[[], object]] = [
        lambda: table.append(LAYOUT.new_page()),
        lambda: table.truncate(2),
        lambda: table.append(nowhere),
        lambda: table.__setitem__(3, nowhere),
    ]
    for change in changes:
        with pytest.raises(MemoryError):
            change()
        assert list(table.addresses) == before == addresses(table)
        assert all(now is then for now, then in zip(table, pages, strict=True))


def test_changes_while_a_run_reads_it(table: PageTable) -> None:
    before = list(table.addresses)
    with memoryview(table.addresses):
        changes: list[Callable[[], None]] = [lambda: table.append(LAYOUT.new_page()), lambda: table.truncate(2)]
        for change in changes:
            with pytest.raises(BufferError):
                change()
            assert list(table.addresses) == before == addresses(table)
