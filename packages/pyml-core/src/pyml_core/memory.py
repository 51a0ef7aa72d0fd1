"""Memory for weights: small matrices share blocks that are large enough for huge pages.

A decode step reads every weight once, and each memory page costs an address translation. NumPy requests huge pages
(Linux, ``madvise``) only for arrays of at least 4 MiB; most matrices of a small model are smaller.
"""

from __future__ import annotations

import weakref
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from . import _native
from .locks import Lock

BLOCK_BYTES = 32 << 20  # the unused rest is never written and takes no memory
_SMALL = 4 << 20  # NumPy requests huge pages from this size on
_ALIGNMENT = 64


class _Block(NamedTuple):
    array: weakref.ref[npt.NDArray[np.uint8]]  # its slices keep it alive
    used: int


_lock = Lock()
_last: _Block | None = None


def weights_empty(nbytes: int) -> npt.NDArray[np.uint8]:
    """Return uninitialised bytes, aligned to 64, followed by at least 64 spare bytes.

    A block is freed with the last of its arrays.
    """
    global _last
    if nbytes >= _SMALL:
        return _native.aligned_empty((nbytes,), np.uint8)
    with _lock:
        block, used = (_last.array(), _last.used) if _last is not None else (None, 0)
        if block is None or used + nbytes + 2 * _ALIGNMENT > block.size:
            block, used = np.empty(BLOCK_BYTES, np.uint8), 0
        start = used + -(block.__array_interface__["data"][0] + used) % _ALIGNMENT
        # One assignment, so that Ctrl-C or a fork cannot leave it half done.
        _last = _Block(weakref.ref(block), start + nbytes + _ALIGNMENT)
        return block[start : start + nbytes]
