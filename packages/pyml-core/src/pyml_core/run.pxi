# Runs of a program: their batch and captures.


cdef class _NativeRuns(_NativeTables):
    """The runs of a program whose results are logits."""

    cdef _Signals signals
    cdef bint capturing

    def __cinit__(self, lowered, str level, int threads):
        self.signals = _Signals()

    cdef int _choose_head(self, int64_t top) except -1:
        """All logits, or with ``top`` > 0 the largest ones alone."""
        if not self.full_head:
            if top:
                raise ShapeError("run: this program has no head that can be screened")
            return 0
        self.full_head[0].skip = top > 0
        self.full_head[1].skip = self.full_head[2].skip = top == 0
        self.full_head[3].skip = self.full_head[4].skip = True
        self.screen.requests = NULL
        if top and (top > SCREEN_MAX_TOP or self.p.run.outputs > SCREEN_STATES):
            raise ShapeError(f"run: expected at most {SCREEN_STATES} wanted positions and {SCREEN_MAX_TOP} logits of each, "
                             f"got {self.p.run.outputs} and {top}")
        self.screen.k = top
        return 0

    cdef list _load_batch(self, list slices):
        """Fill the run's tables; returns the slices' address tables, which cannot be resized as long as it is held."""
        cdef list tables = []
        cdef int64_t row = 0, wanted = 0, tile = 0, s = 0, i, count, start, pages, token, last
        cdef uint64_t[::1] table
        if len(slices) > self.max_tokens:
            raise ShapeError(f"run: expected at most {self.max_tokens} slices, got {len(slices)}")
        for part in slices:
            tokens = part.ids
            count = len(tokens)
            start = PyNumber_Index(part.start)
            if count < 1 or row + count > self.max_tokens:
                raise ShapeError(f"run: expected 1 to {self.max_tokens} tokens in all, got {row + count}")
            if start < 0 or start > self.positions - count:
                raise ShapeError(f"run: positions {start}..{part.start + count - 1} are outside 0..{self.positions - 1}")
            if self.needs_pages:
                pages = len(part.pages)
                if pages * PAGE_TOKENS < start + count:
                    raise ShapeError(f"run: {start + count} positions need more than {pages} KV pages")
                table = part.pages.addresses
                tables.append(table)
                self.slices[s].pages = <uint8_t **>&table[0]
            self.slices[s].start = start
            self.slices[s].count = count
            self.slices[s].row = row
            self.slices[s].rope_set = PyNumber_Index(part.rope_set)
            if self.slices[s].rope_set < 0 or self.slices[s].rope_set >= self.rope_sets:
                raise ShapeError(f"run: expected a rope_set from 0 to {self.rope_sets - 1}, got {part.rope_set}")
            self.slices[s].adapter = PyNumber_Index(part.adapter)
            if self.slices[s].adapter < 0 or self.slices[s].adapter > self.adapters:
                raise ShapeError(f"run: expected an adapter from 0 to {self.adapters}, got {part.adapter}")
            for i in range(count):
                token = PyNumber_Index(tokens[i])  # no fraction is cut off
                if token < 0 or token >= self.vocabulary:
                    raise ShapeError(f"run: token id {token} is outside the vocabulary of {self.vocabulary}")
                self.ids[row + i] = <int32_t>token
                self.position[row + i] = <int32_t>(start + i)
                self.token_slice[row + i] = <int32_t>s
            last = -1
            for index in part.outputs:
                i = PyNumber_Index(index)
                if i <= last or i >= count:
                    raise ShapeError(f"run: wanted positions must ascend within 0..{count - 1}, got {i}")
                last = i
                self.output_rows[wanted] = <int32_t>(row + i)
                wanted += 1
            for i in range(0, count, max(1, self.p.run.tile_tokens)):
                self.tiles[tile].slice = <int32_t>s
                self.tiles[tile].first = <int32_t>i
                self.tiles[tile].count = <int32_t>min(count - i, max(1, self.p.run.tile_tokens))
                tile += 1
            row += count
            s += 1
        self.p.run.tokens, self.p.run.outputs = row, wanted
        self.p.run.n_slices, self.p.run.n_tiles = s, tile
        return tables

    cdef dict _start_captures(self, captures):
        """Let operations write their captures to new arrays: {(operation, what): array}."""
        cdef pyml_op *op
        cdef pyml_capture *capture
        cdef dict arrays = {}
        cdef int64_t s, keys, floats = 0
        self.capturing = True
        for s in range(self.p.run.n_slices):
            keys = _captured_keys(&self.slices[s])
            floats += self.slices[s].count * keys
        for wanted in captures:
            operation, what = wanted.operation, wanted.what
            if (operation, what) in arrays:
                continue
            if operation not in self.span:
                raise ShapeError(f"capture: {operation.name} is not an operation of this program")
            first, last = self.span[operation]
            if what == "output":
                op = &self.p.ops[last]
                rows = self.p.run.outputs if op.out.outputs else self.p.run.tokens * op.out.copies
                array = aligned_empty((rows, op.out.width), np.float32)
                op.copy = <float *>_address(array)
            else:
                op = &self.p.ops[first]
                capture = &self.captures[first]
                array = aligned_empty((op.n_heads * floats,), np.float32)
                array.fill(-np.inf if what == "scores" else 0.0)
                if what == "scores":
                    capture.scores = <float *>_address(array)
                else:
                    capture.probabilities = <float *>_address(array)
                    maxima = aligned_empty((op.n_heads * floats // PAGE_TOKENS,), np.float32)
                    capture.maxima = <float *>_address(maxima)
                    arrays[operation, "maxima"] = maxima  # kept alive
                op.capture = capture
            arrays[operation, what] = array
        return arrays

    cdef int _end_captures(self) except -1:
        cdef int64_t i
        for i in range(self.p.n_ops):
            self.p.ops[i].copy = NULL
            self.p.ops[i].capture = NULL
            self.captures[i].scores = self.captures[i].probabilities = self.captures[i].maxima = NULL
        self.capturing = False
        return 0

    cdef list _slice_arrays(self, wanted, array, slices):
        """Views of a captured array, one for each slice."""
        cdef int64_t s, keys, heads, begin = 0
        cdef list parts = []
        for s in range(self.p.run.n_slices):
            if wanted.what == "output":
                output = wanted.operation.output
                rows = len(slices[s].outputs) if output.rows == "outputs" else self.slices[s].count * output.copies
                end = begin + rows
                parts.append(array[begin:end])
            else:
                keys, heads = _captured_keys(&self.slices[s]), wanted.operation.params["n_heads"]
                end = begin + heads * self.slices[s].count * keys
                part = array[begin:end].reshape(heads, self.slices[s].count, keys)
                parts.append(part[:, :, : self.slices[s].start + self.slices[s].count])
            begin = end
        return parts

    def run(self, slices, bint timed=False, captures=(), StopFlag stop=None, int64_t top=0):
        """Run every operation once; float32 rows of the last one's output. Fills the captures' arrays.

        With ``top``, the head is screened for the ``top`` largest logits of each position: a list of (ids, logits, rows rescored).

        Raises:
            ShapeError: slices that do not fit. Cancelled: :meth:`cancel` was called, or ``stop`` told it to.
        """
        cdef bint done
        slices = list(slices)
        tables = self._begin(slices, top)
        rows = self.p.run.outputs if self.result.outputs else self.p.run.tokens * self.result.copies
        out = self.screened if top else np.empty((rows, self.result.width), np.float32)
        self.result.f = <float *>_address(out)
        _listen(&self.p.watch, self.signals, stop)
        try:
            arrays = self._start_captures(captures) if captures else None
            if self.p.run.tokens:
                with nogil:
                    done = pyml_program_run(&self.p, timed)
                if not done:
                    self._raise_unfinished()
        finally:
            if captures:
                self._end_captures()
        for wanted in captures:
            wanted.arrays = self._slice_arrays(wanted, arrays[wanted.operation, wanted.what], slices)
        return self._candidates() if top else out

    cdef int _raise_unfinished(self) except -1:
        """Raise the error of a run that was stopped, or could not begin."""
        if pyml_flag_is_set(&self.p.watch.cancel):
            _raise_stopped(self.signals)
        raise OutOfMemoryError(f"{self.p.threads} threads could not be started: no memory, or no more are allowed")

    cdef list _begin(self, list slices, int64_t top):
        """Make everything ready for these slices; see :meth:`_load_batch`."""
        if self.capturing:  # in the child of a fork, of a run that is not here
            self._end_captures()
        if self.needs_pages:
            for i, part in enumerate(slices):
                if not isinstance(part.pages, PageTable):
                    slices[i] = _with_table(part, self.kv_page_bytes)
        try:
            tables = self._load_batch(slices)
        except (OverflowError, TypeError) as error:
            raise ShapeError(f"run: expected whole numbers for ids, wanted positions and start: {error}") from None
        self._choose_head(top)
        return tables

    cdef list _candidates(self):
        ids, logits, counts, rescored = self.candidates
        cdef list found = []
        for s, count in enumerate(counts[: self.p.run.outputs].tolist()):
            found.append((ids[s, :count].astype(np.int64), logits[s, :count].copy(), int(rescored[s])))
        return found

    def cancel(self):
        """Stop the run in progress, from any thread."""
        pyml_flag_set(&self.p.watch.cancel, True)

    def timings(self):
        """The ticks of the last timed run, for :class:`pyml_core.timing.Timings`.

        Returns the first and last native operation of every Operation, then the arguments of :func:`read_thread_timings`.
        """
        clock = self.p.start_ns, self.p.end_ns, self.p.start, self.p.end
        return _stamps(self.span, self.p.n_ops, self.p.threads, self.p.spans, self.p.copied, clock)


cdef int64_t _captured_keys(const pyml_slice *part):
    """Positions of a slice's pages, which is the length of a row of captured scores."""
    return (part.start + part.count + PAGE_TOKENS - 1) // PAGE_TOKENS * PAGE_TOKENS


def _with_table(part, page_bytes):
    """A slice whose pages are plain arrays, with their address table."""
    for page in part.pages:
        if page.dtype != np.uint8 or not page.flags.c_contiguous or page.nbytes != page_bytes:
            raise ShapeError(f"run: expected KV pages of {page_bytes} contiguous bytes, got {page.nbytes}")
    return part._replace(pages=PageTable(part.pages))
