# Times of timed runs, see csrc/timings.c and timing.py.


cdef tuple _stamps(span, int64_t n_ops, int threads, const pyml_thread_span *spans, const uint64_t *copied, clock):
    """Copy the ticks of a timed run. Returns the spans of its operations and arguments for read_thread_timings()."""
    cdef bytes ticks = (<const char *>spans)[: n_ops * threads * sizeof(pyml_thread_span)]
    cdef bytes own_copied = (<const char *>copied)[: n_ops * sizeof(uint64_t)]
    start_ns, end_ns, start, end = clock
    return span, ticks, own_copied, threads, (start_ns, end_ns), (start, end)


def read_thread_timings(bytes ticks, bytes copied, int threads, span_ns, span):
    """Convert the ticks of the native operations of a run to nanoseconds.

    An operation ends when the last thread has no work left, and the next one begins at that moment. A thread that wakes
    late from a barrier therefore does not shift time between operations. Copying an output counts for no operation.

    Args:
        ticks: int64 (threads, operations, 7): busy ticks, ticks of four phases, the tick at which the thread began (0:
            it had no work), and the tick at which it had no work left.
        copied: int64 (operations): ticks at which outputs had been copied; 0: not copied.
        threads: number of threads of the run.
        span_ns, span: start and end of the run in nanoseconds and in ticks.

    Returns:
        Begin and end of each operation in ns, int64; thread timings as (operations, threads, 7), the last two columns
        in ns; and milliseconds of a tick.

    Raises:
        ShapeError: the sizes do not agree.
    """
    cdef pyml_timings l
    l.spans, l.copied = <const pyml_thread_span *><const char *>ticks, <const uint64_t *><const char *>copied
    l.n_ops, l.threads = len(copied) // sizeof(uint64_t), threads
    (l.start_ns, l.end_ns), (l.start, l.end) = span_ns, span
    if not 1 <= threads <= MAX_THREADS or len(ticks) != l.n_ops * threads * sizeof(pyml_thread_span):
        raise ShapeError("timings: expected the ticks of one run")
    begin_ns, end_ns = np.empty((2, l.n_ops), np.int64)
    settled = np.empty((l.n_ops, threads, sizeof(pyml_thread_span) // sizeof(int64_t)), np.int64)
    ns_a_tick = pyml_read_timings(&l, <int64_t *>_address(begin_ns), <int64_t *>_address(end_ns), <pyml_thread_span *>_address(settled))
    return begin_ns, end_ns, settled, ns_a_tick * 1e-6


def read_milliseconds(bytes ticks, bytes copied, int threads, span_ns, span, const int64_t[:, ::1] operations not None):
    """Return the milliseconds of operations and of their phases, without the times of threads.

    Args:
        ticks, copied, threads, span_ns, span: as in :func:`read_thread_timings`.
        operations: (operations, 2): the first and the last native operation of each operation.

    Returns:
        float64 (operations, 1 + MAX_PHASES): the wall time, then the wall time of each phase, divided by the ticks of all
        threads.

    Raises:
        ShapeError: the sizes do not agree.
    """
    cdef int64_t[::1] begin, end
    cdef const int64_t[:, :, ::1] spans
    cdef int64_t i, first, last, n_ops, total, phase
    cdef int64_t[MAX_PHASES] phase_ticks
    cdef int thread
    begin, end, spans, _ = read_thread_timings(ticks, copied, threads, span_ns, span)
    n_ops = begin.shape[0]
    milliseconds = np.empty((operations.shape[0], 1 + MAX_PHASES))
    cdef double[:, ::1] out = milliseconds
    for i in range(operations.shape[0]):
        first, last, total = operations[i, 0], operations[i, 1], 0
        if not 0 <= first <= last < n_ops:
            raise ShapeError(f"timings: expected native operations below {n_ops}, got {first} to {last}")
        out[i, 0] = (end[last] - begin[first]) * 1e-6
        for phase in range(MAX_PHASES):
            phase_ticks[phase] = 0
            for thread in range(threads):
                phase_ticks[phase] += spans[first, thread, 1 + phase]
            total += phase_ticks[phase]
        for phase in range(MAX_PHASES):
            out[i, 1 + phase] = out[i, 0] * phase_ticks[phase] / max(total, 1)
    return milliseconds


cdef char *_write_milliseconds(char *out, double ms) noexcept:
    """Write a number like ``%.3f``, in at most 24 characters. Returns the end of the text."""
    cdef char[24] digits
    cdef int count = 0
    cdef uint64_t thousandths = <uint64_t>(min(max(ms, 0.0), 1e15) * 1000 + 0.5)
    while thousandths or count < 4:
        digits[count] = <char>(48 + thousandths % 10)
        thousandths //= 10
        count += 1
    while count:
        if count == 3:
            out[0] = 46
            out += 1
        count -= 1
        out[0] = digits[count]
        out += 1
    return out


def text_of_sums(list pieces not None, const double[:, ::1] milliseconds not None, const int64_t[::1] places not None,
                 const int64_t[::1] ends not None):
    cdef int64_t i, term = 0, size = milliseconds.shape[0] * milliseconds.shape[1], room = 0
    cdef double total
    cdef bytes piece
    cdef char *at
    if len(pieces) != ends.shape[0] + 1:
        raise ShapeError(f"timings: expected {ends.shape[0] + 1} pieces of text, got {len(pieces)}")
    for piece in pieces:
        room += len(piece) + 24
    cdef bytearray text = bytearray(room)
    at = text
    for i in range(ends.shape[0]):
        total = 0
        if ends[i] > places.shape[0]:
            raise ShapeError(f"timings: expected {ends[i]} places, got {places.shape[0]}")
        while term < ends[i]:
            if not 0 <= places[term] < size:
                raise ShapeError(f"timings: expected a place below {size}, got {places[term]}")
            total += (&milliseconds[0, 0])[places[term]]
            term += 1
        piece = pieces[i]
        memcpy(at, <const char *>piece, len(piece))
        at = _write_milliseconds(at + len(piece), total)
    piece = pieces[ends.shape[0]]
    memcpy(at, <const char *>piece, len(piece))
    return PyUnicode_DecodeUTF8(text, at + len(piece) - <char *>text, NULL)
