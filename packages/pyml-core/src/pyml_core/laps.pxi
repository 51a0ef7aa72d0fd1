# Times of timed runs, see csrc/laps.c: as numbers, and in text. See timing.py.


cdef int _check_places(const int64_t[:, ::1] places, int64_t n_ops, int64_t n_numbers) except -1:
    cdef int64_t i
    if places.shape[1] != 4:
        raise ShapeError("laps: expected four numbers a place")
    for i in range(places.shape[0]):
        if not (0 <= places[i, 0] <= places[i, 1] < n_ops and -1 <= places[i, 2] < MAX_PHASES
                and 0 <= places[i, 3] < n_numbers):
            raise ShapeError(f"laps: place {i} is not in this run")
    return 0


def lap_times(const int64_t[:, ::1] places, double[::1] ms, bytes laps, bytes copied, int threads, span_ns, span):
    """Add to every number its terms, see csrc/laps.c; the rest is what :meth:`NativeProgram.timings` gives."""
    cdef pyml_laps l
    l.laps, l.copied = <const pyml_lap *><const char *>laps, <const uint64_t *><const char *>copied
    l.n_ops, l.threads = len(copied) // sizeof(uint64_t), threads
    (l.start_ns, l.end_ns), (l.start, l.end) = span_ns, span
    if threads > MAX_THREADS or len(laps) != l.n_ops * threads * sizeof(pyml_lap):
        raise ShapeError("laps: not those of one run")
    _check_places(places, l.n_ops, ms.shape[0])
    cdef int64_t[::1] moments = np.empty(2 * l.n_ops + 1, np.int64)
    if places.shape[0]:
        pyml_lap_times(&l, <const pyml_lap_place *>&places[0, 0], places.shape[0], &moments[0], &ms[0])


cdef class LapText:
    """Text with times in it, written by what runs: a number of milliseconds after each piece of the text but the last.

    ``places`` is int64 (n, 4): first and last native operation, phase or -1, the number that the time is added to.
    """

    cdef pyml_lap_text t
    cdef const int64_t[:, ::1] places
    cdef int64_t[::1] ends
    cdef bytes pieces
    cdef int64_t n_ops, room
    cdef bint added

    def __cinit__(self, list pieces, const int64_t[:, ::1] places, int64_t n_ops):
        self.pieces = "".join(pieces).encode()
        self.ends = np.cumsum([len(piece.encode()) for piece in pieces])
        self.places, self.n_ops = places, n_ops
        _check_places(places, n_ops, len(pieces) - 1)
        self.t.pieces, self.t.ends = <const char *>self.pieces, &self.ends[0]
        self.t.n_numbers = len(pieces) - 1
        self.t.places = <const pyml_lap_place *>&places[0, 0] if places.shape[0] else NULL
        self.t.n_places = places.shape[0]
        self.t.moments = <int64_t *>calloc(2 * n_ops + 1, sizeof(int64_t))
        self.t.ms = <double *>calloc(self.t.n_numbers + 1, sizeof(double))
        if not self.t.moments or not self.t.ms:
            raise OutOfMemoryError("no memory for the text of a run's times")

    def __dealloc__(self):
        free(self.t.moments)
        free(self.t.ms)
        free(self.t.text)

    cdef int make_room(self, NativeProgram program, int64_t count) except -1:
        """For so many more texts, of this program's runs."""
        if program.p.n_ops != self.n_ops:
            raise ShapeError(f"laps: expected a program of {self.n_ops} native operations, got {program.p.n_ops}")
        cdef int64_t room = self.t.length + count * pyml_lap_text_room(&self.t)
        cdef void *text
        if room > self.room:
            text = realloc(self.t.text, room)
            if not text:
                raise OutOfMemoryError("no memory for the text of a run's times")
            self.t.text, self.room = <char *>text, room
        return 0

    cdef int add(self, NativeProgram program) except -1:
        """The times of its last run, which was timed."""
        self.make_room(program, 1)
        pyml_lap_text_add(&self.t, &program.p)
        self.added = True
        return 0

    def take(self):
        """What was written, after one more text if runs were added since the last one; then there is none."""
        if self.added:
            pyml_lap_text_write(&self.t)
            self.added = False
        text = self.t.text[: self.t.length].decode() if self.t.length else ""
        self.t.length = 0
        return text
