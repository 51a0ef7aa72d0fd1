"""Memory for weights: small arrays share blocks, which are freed with their last array."""

import gc
import weakref
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from pyml_core import memory

U8Array = npt.NDArray[np.uint8]


def test_small_arrays_share_a_block() -> None:
    sizes = [1, 64, 1000, 5000]
    arrays = [memory.weights_empty(size) for size in sizes]
    for number, array in enumerate(arrays):
        assert array.dtype == np.uint8
        assert array.ctypes.data % 64 == 0
        array[:] = number
    assert [array.size for array in arrays] == sizes
    assert [set(array.tolist()) for array in arrays] == [{0}, {1}, {2}, {3}]
    assert len({id(array.base) for array in arrays}) <= 2  # other tests may have filled a block
    ends = sorted((array.ctypes.data, array.size) for array in arrays)
    assert all(start + size + 64 <= after for (start, size), (after, _) in pairwise(ends))


def base_of(array: U8Array) -> U8Array:
    """Return the array that owns the memory of ``array``."""
    assert array.base is not None
    return array.base


def test_large_arrays_are_their_own() -> None:
    array = memory.weights_empty(8 << 20)
    assert base_of(array).size < (8 << 20) + 4096


def test_a_block_goes_with_its_last_array(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_last", None)
    first, second = memory.weights_empty(100), memory.weights_empty(100)
    block = weakref.ref(base_of(first))
    assert second.base is first.base
    del first
    gc.collect()
    assert block() is not None
    del second
    gc.collect()
    assert block() is None


def test_a_full_block_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_last", None)
    monkeypatch.setattr(memory, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(memory, "_SMALL", 3000)
    arrays = [memory.weights_empty(1500) for _ in range(5)]
    assert len({id(array.base) for array in arrays}) == 3
    assert base_of(memory.weights_empty(3000)).size < 3200


def test_an_interrupt_gives_nothing_out_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in a block with room nor when a new block is needed."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    first = memory.weights_empty(100)
    block = weakref.ref(base_of(first))
    for used in (100, memory.BLOCK_BYTES):
        monkeypatch.setattr(
            memory, "_last", memory._Block(block, first.ctypes.data - base_of(first).ctypes.data + used)
        )
        with monkeypatch.context() as patched:
            patched.setattr(memory, "_Block", interrupt)
            with pytest.raises(KeyboardInterrupt):
                memory.weights_empty(100)
        again = memory.weights_empty(100)
        assert abs(again.ctypes.data - first.ctypes.data) >= 100
