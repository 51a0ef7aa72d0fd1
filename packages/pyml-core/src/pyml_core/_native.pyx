# cython: language_level=3, boundscheck=True, wraparound=False, freethreading_compatible=False
"""The boundary between Python and C: checks, pointers, and the GIL. No arithmetic here; see csrc/.

All input of the C code is checked on this side: types, widths, contiguity, ids and positions in range, enough pages for
the positions. lower.py decides how a program is run by the C code.

Do not create objects in list comprehensions here: the C code that Cython 3.3 generates frees an item twice if the list
cannot grow.
"""

from cpython.exc cimport PyErr_CheckSignals
from cpython.number cimport PyNumber_Index
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy
from posix.unistd cimport usleep

from .structs cimport *

from os import register_at_fork
from threading import get_ident, main_thread
from time import monotonic, sleep

import numpy as np

from .block_types import BLOCK_TYPES
from .errors import Cancelled, OutOfMemoryError, PymlError, ShapeError
from .kv_layout import PAGE_TOKENS, PageTable
from .sampled import SampledToken


cdef extern from *:
    const char *PYML_SOURCE_HASH


SOURCE_HASH = (<bytes>PYML_SOURCE_HASH).decode()
THREADS_MAX = MAX_THREADS
SPLIT_Q8_0 = TYPE_Q8_0_SPLIT
EXPERTS_MAX = MAX_EXPERTS
SCREEN_STATES_MAX = SCREEN_STATES
SCREEN_TOP_MAX = SCREEN_MAX_TOP


def levels():
    """Return (name, compiled, supported by this CPU) of every CPU level, from the lowest to the best."""
    cdef list found = []
    for i in range(pyml_level_count()):
        found.append((pyml_level_name(i).decode(), bool(pyml_level_compiled(i)), bool(pyml_level_supported(i))))
    return found


cdef int _level_index(str name) except -1:
    for i in range(pyml_level_count()):
        if pyml_level_name(i).decode() == name:
            if not (pyml_level_compiled(i) and pyml_level_supported(i)):
                raise ShapeError(f"CPU level {name}: not available here")
            return i
    raise ShapeError(f"CPU level {name}: unknown")


def aligned_empty(shape, dtype):
    """Return an uninitialised array whose data is aligned to 64 bytes and followed by 64 spare bytes."""
    return _aligned(np.empty, shape, dtype)


cdef _aligned(make, shape, dtype):
    dtype = np.dtype(dtype)
    count = int(np.prod(shape, dtype=np.int64))
    raw = make(count * dtype.itemsize + 128, np.uint8)
    start = -raw.__array_interface__["data"][0] % 64
    return raw[start : start + count * dtype.itemsize].view(dtype).reshape(shape)


cdef void *_address(array) except NULL:
    return <void *><size_t>(<object>array.__array_interface__["data"][0])


include "stopping.pxi"
include "weights.pxi"
include "limits.pxi"
include "text.pxi"
include "timings.pxi"
include "sampler.pxi"
include "program.pxi"
include "run.pxi"
include "continue.pxi"
