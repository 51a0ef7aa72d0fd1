# Peak speeds of this machine: see csrc/limits.c and limits.py.


_LIMITS = {"read": LIMIT_READ, "int8": LIMIT_INT8, "f32": LIMIT_F32}


def measure_limit(str level, int threads, str what, data, int64_t amount):
    """Return the bytes or operations of all threads, and the nanoseconds they took. The caller checks the sizes."""
    cdef const pyml_kernels *kernels = pyml_level_kernels(_level_index(level))
    cdef const uint8_t *source = <const uint8_t *>_address(data)
    cdef int64_t done = 0, ns
    cdef int limit = _LIMITS[what]
    cdef pyml_watch watch
    cdef _Signals signals = _Signals()
    _listen(&watch, signals, None)
    with nogil:
        ns = pyml_measure_limit(kernels, threads, limit, source, amount, &done, &watch)
    if pyml_flag_is_set(&watch.cancel):
        _raise_stopped(signals)
    if not ns:
        raise OutOfMemoryError(f"{threads} threads could not be started")
    return done, ns
