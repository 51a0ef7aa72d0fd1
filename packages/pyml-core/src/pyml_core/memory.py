"""Memory for weights: small matrices lie in common blocks, which huge pages fill.

A decode step reads every weight once, so that each page of it costs a look-up of its address. NumPy asks for huge pages
(Linux, ``madvise``) for arrays of some megabytes; most matrices of a small model are smaller.
"""

from __future__ import annotations

import weakref
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from . import _native
from .locks import Lock

BLOCK_BYTES = 32 << 20  # what is never written to takes no memory
_SMALL = 4 << 20  # below this NumPy asks for nothing
_ALIGNMENT = 64


class _Block(NamedTuple):
    array: weakref.ref[npt.NDArray[np.uint8]]  # its slices keep it
    used: int


_lock = Lock()
_last: _Block | None = None


def weights_empty(nbytes: int) -> npt.NDArray[np.uint8]:
    """Uninitialised bytes, aligned to 64, with 64 to spare behind them.

    A block is given back with the last of its arrays.
    """
    global _last
    if nbytes >= _SMALL:
        return _native.aligned_empty((nbytes,), np.uint8)
    with _lock:
        block, used = (_last.array(), _last.used) if _last is not None else (None, 0)
        if block is None or used + nbytes + 2 * _ALIGNMENT > block.size:
            block, used = np.empty(BLOCK_BYTES, np.uint8), 0
        start = used + -(block.__array_interface__["data"][0] + used) % _ALIGNMENT
        _last = _Block(weakref.ref(block), start + nbytes + _ALIGNMENT)  # at once: Ctrl-C or a fork leaves it whole
        return block[start : start + nbytes]
