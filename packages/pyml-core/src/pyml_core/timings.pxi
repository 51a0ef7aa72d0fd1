# Times of timed runs, see csrc/timings.c and timing.py.


cdef tuple _stamps(dict span, int64_t n_ops, int threads, const pyml_thread_span *spans, const uint64_t *copied, clock):
    """The ticks of a timed run: the operations' spans, then the arguments of :func:`read_thread_timings`."""
    cdef bytes ticks = (<const char *>spans)[: n_ops * threads * sizeof(pyml_thread_span)]
    cdef bytes own_copied = (<const char *>copied)[: n_ops * sizeof(uint64_t)]
    start_ns, end_ns, start, end = clock
    return span, ticks, own_copied, threads, (start_ns, end_ns), (start, end)


def read_thread_timings(bytes ticks, bytes copied, int threads, span_ns, span):
    """Times of the native operations of a run.

    Args:
        ticks: int64 (threads, operations, 7): busy ticks, ticks of four phases, the tick at which the thread came (0: no
            work) and that at which it had no work left.
        copied: int64 (operations): ticks at which outputs had been copied; 0: they were not.
        threads: of the run.
        span_ns, span: its start and end in nanoseconds and in ticks.

    Returns:
        Begin and end of each operation in ns, int64; the thread timings in the order (operations, threads, 7), the last two columns
        in ns; and ms a tick. An operation ends when the last thread has no work left, and the next one begins then: a
        thread that wakes late from a barrier shifts nothing from one to another. Copying an output is in no
        operation's time.

    Raises:
        ShapeError: sizes that do not agree.
    """
    cdef pyml_timings l
    l.spans, l.copied = <const pyml_thread_span *><const char *>ticks, <const uint64_t *><const char *>copied
    l.n_ops, l.threads = len(copied) // sizeof(uint64_t), threads
    (l.start_ns, l.end_ns), (l.start, l.end) = span_ns, span
    if not 1 <= threads <= MAX_THREADS or len(ticks) != l.n_ops * threads * sizeof(pyml_thread_span):
        raise ShapeError("timings: expected those of one run")
    begin_ns, end_ns = np.empty((2, l.n_ops), np.int64)
    settled = np.empty((l.n_ops, threads, sizeof(pyml_thread_span) // sizeof(int64_t)), np.int64)
    ns_a_tick = pyml_read_timings(&l, <int64_t *>_address(begin_ns), <int64_t *>_address(end_ns), <pyml_thread_span *>_address(settled))
    return begin_ns, end_ns, settled, ns_a_tick * 1e-6
