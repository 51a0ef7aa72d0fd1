# Stopping native calls, and locks whose waiting threads can be stopped; see csrc/lock.c.


cdef class StopFlag:
    """The flag and deadline of a :class:`pyml_core.CancelToken`."""

    cdef pyml_stop stop

    def __init__(self, int64_t deadline_ns=0):
        self.stop.deadline_ns = deadline_ns

    def cancel(self):
        pyml_flag_set(&self.stop.cancelled, True)

    @property
    def cancelled(self):
        return pyml_flag_is_set(&self.stop.cancelled)


cdef class _Signals:
    """The exception that the handler of a signal raised during a native call."""

    cdef object raised


cdef int _poll(void *argument) noexcept nogil:
    with gil:
        try:
            PyErr_CheckSignals()
        except BaseException as error:
            (<_Signals>argument).raised = error
            return 1
    return 0


cdef int _listen(pyml_watch *watch, _Signals signals, StopFlag stop) except -1:
    """Reset cancellation and connect the stop flag for the next native call. Both arguments must outlive the call."""
    signals.raised = None
    watch.stop = NULL if stop is None else &stop.stop
    watch.poll_argument = <void *>signals
    # Only the main thread receives signals. Other threads must not take the GIL during a run: if the process were
    # exiting, Python would end them in the middle of the run and free memory that its workers read.
    watch.poll = NULL
    if get_ident() == main_thread().ident:
        watch.poll = _poll
    pyml_watch_begin(watch)
    return 0


cdef int _raise_stopped(_Signals signals) except -1:
    """Raise the error of a call that was stopped."""
    error, signals.raised = signals.raised, None
    raise Cancelled("the run was cancelled") if error is None else error


cdef class Lock:
    """A lock for ``with``: see :mod:`pyml_core.locks`.

    Signals are not checked while it is taken or released, so that Ctrl-C never leaves it taken.
    """

    cdef pyml_lock *lock

    def __cinit__(self):
        self.lock = pyml_lock_new()
        if not self.lock:
            raise OutOfMemoryError("no memory for a lock")

    def __dealloc__(self):
        pyml_lock_free(self.lock)

    def __enter__(self):
        if not pyml_lock_try(self.lock):
            self._wait()

    def __exit__(self, kind, error, traceback):
        pyml_lock_give(self.lock)

    cdef int _wait(self) except -1:
        from .cancel import current_flag

        cdef pyml_watch watch
        cdef _Signals signals = _Signals()
        cdef StopFlag stop = current_flag()
        cdef pyml_lock_outcome outcome
        _listen(&watch, signals, stop)
        with nogil:
            outcome = pyml_lock_take(self.lock, &watch)
        if outcome == LOCK_OWN:
            raise RuntimeError("this thread already has the lock")
        if outcome == LOCK_STOPPED:
            _raise_stopped(signals)
        return 0

    @property
    def waiting(self):
        """Number of threads that wait for it."""
        return pyml_lock_waiting(self.lock)

    def dismiss(self):
        """Make every thread that waits for it raise Cancelled."""
        pyml_lock_dismiss(self.lock)


cdef list _no_forks = []
cdef dict _inside = {}  # thread -> number of sections that it is in
cdef set _forking = set()  # threads that are about to fork


cdef class NoFork:
    """A section that a fork by another thread waits for: see :mod:`pyml_core.locks`."""

    cdef str what
    cdef list threads  # threads in the section, once for each entry
    cdef bint lost

    def __cinit__(self, str what):
        self.what, self.threads = what, []
        if not _no_forks:
            # Registered earlier, logging's own handler runs after ours: it takes a lock that sections may need.
            import logging  # noqa: F401

            register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
        _no_forks.append(self)

    def __enter__(self):
        thread = get_ident()
        if self.lost and thread not in self.threads:
            raise PymlError(f"{self.what}: this process was forked while another thread used it, start a new one")
        while _forking and thread not in _forking and thread not in _inside:  # the fork waits for threads in _inside
            sleep(0.001)
        self.threads.append(thread)
        _inside[thread] = _inside.get(thread, 0) + 1

    def __exit__(self, kind, error, traceback):
        thread = get_ident()
        self.threads.remove(thread)
        _inside[thread] -= 1
        if not _inside[thread]:
            del _inside[thread]


FORK_WAIT_SECONDS = 10


def _before_fork():
    thread, deadline = get_ident(), monotonic() + FORK_WAIT_SECONDS
    _forking.add(thread)
    while _inside.keys() - {thread} and monotonic() < deadline:
        with nogil:
            usleep(500)  # not sleep(), which runs signal handlers: their exceptions would be lost here


def _in_parent():
    _forking.discard(get_ident())


def _in_child():
    thread = get_ident()
    for section in _no_forks:
        own = [one for one in (<NoFork>section).threads if one == thread]
        (<NoFork>section).lost = (<NoFork>section).lost or len(own) < len((<NoFork>section).threads)
        (<NoFork>section).threads = own
    for other in _inside.keys() - {thread}:
        del _inside[other]
    _forking.clear()
