"""Memory for weights: small matrices lie in common blocks, which huge pages fill.

A decode step reads every weight once, so that each page of it costs a look-up of its address. NumPy asks for huge pages
(Linux, ``madvise``) for arrays of some megabytes; most matrices of a small model are smaller.
"""

from __future__ import annotations

import threading
import weakref

import numpy as np
import numpy.typing as npt

from . import _native

BLOCK_BYTES = 32 << 20  # what is never written to takes no memory
_SMALL = 4 << 20  # below this NumPy asks for nothing
_ALIGNMENT = 64

_lock = threading.Lock()
_block: weakref.ref[npt.NDArray[np.uint8]] | None = None
_used = 0


def weights_empty(nbytes: int) -> npt.NDArray[np.uint8]:
    """Uninitialised bytes, aligned to 64, with 64 to spare behind them.

    A block is given back with the last of its arrays.
    """
    global _block, _used
    if nbytes >= _SMALL:
        return _native.aligned_empty((nbytes,), np.uint8)
    with _lock:
        block = _block() if _block is not None else None
        if block is None or _used + nbytes + 2 * _ALIGNMENT > block.size:
            block, _used = np.empty(BLOCK_BYTES, np.uint8), 0
            _block = weakref.ref(block)  # its slices keep it
        start = _used + -(block.__array_interface__["data"][0] + _used) % _ALIGNMENT
        _used = start + nbytes + _ALIGNMENT
        return block[start : start + nbytes]
