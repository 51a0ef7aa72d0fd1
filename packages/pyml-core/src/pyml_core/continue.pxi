# Runs that go on by themselves: the texts of a call, their rules, and what Python does between runs. See csrc/continue.c.

cdef enum:
    CONTINUED_RUNS = 64   # most of one call
    SCREENED_OUTPUTS = 8  # most of a run that screens the head: for more, all logits take less time

CONTINUED_MAX = CONTINUED_RUNS


cdef class NativeProgram(_NativeRuns):
    """A Program's operations with their pointers, ready to run."""

    cdef object rows  # float32 of all logits, as many as a call has wanted
    cdef pyml_text *texts  # [max_tokens]
    cdef pyml_sampled *found
    cdef int64_t found_room
    cdef int32_t *history
    cdef int64_t history_room
    cdef int64_t *ends
    cdef int64_t ends_room
    cdef object choosing  # memory of the choices, for every thread
    cdef list reported  # of the present call: arrays of the most probable tokens
    cdef list choices  # of the present call, one for each text
    cdef dict errors  # of the present call: text -> exception

    def __cinit__(self, lowered, str level, int threads):
        self.texts = <pyml_text *>calloc(self.max_tokens, sizeof(pyml_text))
        if not self.texts:
            raise OutOfMemoryError("no memory for the program's tables")

    def __dealloc__(self):
        free(self.texts)
        free(self.found)
        free(self.history)
        free(self.ends)

    def run_sampled(
        self,
        slices,
        choices,
        int64_t count,
        ends,
        StopFlag pause=None,
        StopFlag stop=None,
        bint timed=False,
        captures=(),
        bint screen=False,
    ):
        """Run the slices, choose the next token of each that wants logits, run these tokens, and so on: ``count`` runs.

        ``choices`` has a :class:`pyml_core.want.Choice` for each slice that wants logits. With ``screen``, the head is
        screened if the rules of all texts allow it. Nothing is run after a token of ``ends`` or of a choice's ``stops``, after an error of a text, once
        ``pause`` is set, or once a text repeats itself as its choice's ``repeat`` says.

        Returns for each slice its tokens and the number of those that the first run gave; for each run the rows
        rescored in each round, None if the head was not screened; and the :meth:`timings` of each run if ``timed``, else
        an empty list. Fills the captures' arrays.

        Raises:
            ShapeError: slices that do not fit, or have no room for ``count`` tokens. Cancelled: as :meth:`run`.
        """
        cdef pyml_continuation c
        cdef pyml_continued_run runs[CONTINUED_RUNS]
        cdef int64_t done, i
        slices = list(slices)
        choices = list(choices)
        screen = screen and self._can_screen(slices, choices)
        tables = self._begin(slices, 1 if screen else 0)
        self._check_texts(slices, choices, count)
        self.choices, self.errors, self.reported = choices, {}, []
        self._make_room(len(ends), count)
        self._fill_texts(slices, count)
        self._fill_buffers(&c, ends, screen)
        c.n_texts, c.texts, c.count = len(choices), self.texts, count
        c.pause = NULL if pause is None else &pause.stop.cancelled
        c.follow, c.argument = _follow, <void *>self
        c.runs, c.spans, c.clock = runs, NULL, NULL
        cdef int64_t n_spans = self.p.n_ops * self.p.threads
        if timed:
            spans = np.empty(count * n_spans * sizeof(pyml_thread_span), np.uint8)
            clock = np.empty((count, 4), np.int64)
            c.spans, c.clock = <pyml_thread_span *>_address(spans), <int64_t *>_address(clock)
        _listen(&self.p.watch, self.signals, stop)
        try:
            arrays = self._start_captures(captures) if captures else None
            with nogil:
                done = pyml_program_continue(&self.p, &c)
            if done < 0:
                self._raise_unfinished()
            found = self._found(slices, runs)
        finally:
            self.choices = self.errors = self.reported = None
            if captures:
                self._end_captures()
        for wanted in captures:
            wanted.arrays = self._slice_arrays(wanted, arrays[wanted.operation, wanted.what], slices)
        cdef list rescored = [], stamps = []
        for i in range(done):
            rescored.append((runs[i].rescored[0], runs[i].rescored[1], runs[i].rescored[2]) if screen else None)
            if timed:
                stamps.append(_stamps(self.span, self.p.n_ops, self.p.threads, c.spans + i * n_spans, self.p.copied, clock[i].tolist()))
        return found, rescored, stamps

    cdef int _check_texts(self, slices, choices, int64_t count) except -1:
        cdef int64_t first, wanted, texts = 0
        if not self.result.outputs:
            raise ShapeError("run: expected a program that makes logits, to choose tokens from")
        if count < 1 or count > CONTINUED_RUNS:
            raise ShapeError(f"run: expected 1 to {CONTINUED_RUNS} runs, got {count}")
        if count > 1 and self.result.width > self.vocabulary:
            raise ShapeError(f"run: expected at most {self.vocabulary} logits, as many as tokens, got {self.result.width}")
        for i, part in enumerate(slices):
            first = self.slices[i].start + self.slices[i].count
            wanted = len(part.outputs)
            texts += wanted > 0
            if wanted and part.outputs[wanted - 1] - part.outputs[0] != wanted - 1:
                raise ShapeError(f"run: expected wanted positions one behind the other, to choose tokens, got {part.outputs}")
            if count == 1:
                continue
            if not wanted or part.outputs[wanted - 1] != self.slices[i].count - 1:
                raise ShapeError("run: expected every slice to want logits of its last token, to go on with the next one")
            if first + count - 1 > self.positions:
                raise ShapeError(f"run: expected 1 to {self.positions - first + 1} runs, got {count}")
            if self.needs_pages and len(part.pages) * PAGE_TOKENS < first + count - 1:
                raise ShapeError(f"run: {first + count - 1} positions need more than {len(part.pages)} KV pages")
        if texts != len(choices):
            raise ShapeError(f"run: expected a choice for each of the {texts} slices that want logits, got {len(choices)}")
        samplers = {id(choice.sampler) for choice in choices}
        if len(samplers) != texts:
            raise ShapeError("run: expected a sampler for each text, got one twice")
        for choice in choices:
            if (<Sampler?>choice.sampler).vocabulary != self.result.width:
                raise ShapeError(
                    f"run: expected samplers of {self.result.width} tokens, got one of {choice.sampler.vocabulary}")
            stops = choice.stops
            if stops is not None and (stops.dtype != np.uint32 or stops.size * 32 < self.result.width):
                raise ShapeError(f"run: expected a bit of uint32 for each of {self.result.width} tokens")
        return 0

    cdef int _make_room(self, int64_t n_ends, int64_t count) except -1:
        """Allocate the buffers of a call. (NumPy would run out of cold caches.)"""
        cdef void *memory
        cdef int64_t n_found = self.p.run.outputs + self.p.run.n_slices * count, n_history = n_found
        for choice in self.choices:
            if choice.repeat > 0:
                n_history += len(choice.history)
        if n_history > self.history_room:
            memory = realloc(self.history, 2 * n_history * sizeof(int32_t))
            if not memory:
                raise OutOfMemoryError("no memory for a text's tokens")
            self.history, self.history_room = <int32_t *>memory, 2 * n_history
        if n_ends > self.ends_room:
            memory = realloc(self.ends, n_ends * sizeof(int64_t))
            if not memory:
                raise OutOfMemoryError("no memory for the tokens that end a text")
            self.ends, self.ends_room = <int64_t *>memory, n_ends
        if n_found > self.found_room:
            memory = realloc(self.found, n_found * sizeof(pyml_sampled))
            if not memory:
                raise OutOfMemoryError("no memory for the tokens of a run")
            self.found, self.found_room = <pyml_sampled *>memory, n_found
        return 0

    cdef int _fill_texts(self, slices, int64_t count) except -1:
        cdef pyml_text *text = self.texts
        cdef pyml_sampled *found = self.found
        cdef int32_t *history = self.history
        cdef const int32_t[::1] past
        cdef int64_t i, row = 0, n = 0
        for i, part in enumerate(slices):
            if not part.outputs:
                continue
            choice = self.choices[n]
            text.sampler = &(<Sampler>choice.sampler).s
            text.row, text.wanted, text.first = row, len(part.outputs), part.outputs[0]
            text.drafted = &self.ids[0] + self.slices[i].row + text.first + 1
            text.position = choice.position
            text.stops = NULL if choice.stops is None else <const uint32_t *>_address(choice.stops)
            text.follows = choice.follow is not None
            if text.wanted > 1 and text.follows:
                raise ShapeError("run: expected one wanted position of a text whose tokens are followed")
            text.repeat = max(0, choice.repeat)
            if text.repeat:
                past = choice.history
                text.history, text.n_history = history, past.shape[0]
                if past.shape[0]:
                    memcpy(history, &past[0], past.shape[0] * sizeof(int32_t))
                history += past.shape[0] + text.wanted + count - 1
            text.ended = False
            text.found, text.n_found, text.n_first, text.new_ones = found, 0, 0, 0
            (<Sampler>choice.sampler)._reserve(text.wanted + count - 1)
            self._report(text, (<Sampler>choice.sampler).s.logprobs, text.wanted + count - 1)
            found += text.wanted + count - 1
            row += text.wanted
            text += 1
            n += 1
        return 0

    cdef int _report(self, pyml_text *text, int64_t logprobs, int64_t n_found) except -1:
        """Let the most probable tokens of a text be written to arrays of this call."""
        cdef int64_t i
        cdef int32_t *top_id = NULL
        cdef double *top_logprob = NULL
        if logprobs > 0:
            ids, values = np.empty((n_found, logprobs), np.int32), np.empty((n_found, logprobs), np.float64)
            self.reported += [ids, values]
            top_id, top_logprob = <int32_t *>_address(ids), <double *>_address(values)
        for i in range(n_found):
            text.found[i].top_id = NULL if top_id == NULL else top_id + i * logprobs
            text.found[i].top_logprob = NULL if top_logprob == NULL else top_logprob + i * logprobs
        return 0

    cdef bint _can_screen(self, slices, choices) except -1:
        """Whether a screened head can choose the tokens of all texts, see csrc/demand.h."""
        cdef int64_t outputs = 0, most = 0
        cdef const pyml_sampler *sampler
        for part in slices:
            outputs += len(part.outputs)
            most = max(most, len(part.outputs))
        if not self.full_head or not 0 < outputs <= SCREENED_OUTPUTS:
            return False
        for choice in choices:
            sampler = &(<Sampler?>choice.sampler).s
            if not pyml_demand_of(sampler).screened or (most > 1 and sampler.penalised):  # drafted tokens would count
                return False
        return True

    cdef int _fill_buffers(self, pyml_continuation *c, ends, bint screen) except -1:
        cdef int64_t i = 0, j, row = 0, outputs = self.p.run.outputs
        c.ids, c.positions = <int32_t *>self.p.run.ids, <int32_t *>self.p.run.positions
        c.token_slice, c.output_rows = <int32_t *>self.p.run.token_slice, <int32_t *>self.p.run.output_rows
        c.slices, c.tiles = self.slices, self.tiles
        c.requests = NULL
        if screen:
            self.result.f = <float *>_address(self.screened)
            self.full_head[3].skip = self.full_head[4].skip = False
            self.screen.requests = c.requests = self.requests
            for i in range(len(self.choices)):
                for j in range(self.texts[i].wanted):
                    self.requests[row].sampler = self.texts[i].sampler
                    self.requests[row].position = self.texts[i].position + j
                    row += 1
            i = 0
        else:
            if self.rows is None or len(self.rows) < outputs:
                self.rows = aligned_empty((max(1, outputs), self.result.width), np.float32)
            self.result.f = <float *>_address(self.rows)
        c.logits, c.n_logits = self.result.f, self.result.width
        c.scratch_bytes = (pyml_sample_scratch(self.result.width) + 63) // 64 * 64
        if self.choosing is None:  # its pages take memory as they are used
            self.choosing = aligned_empty((self.p.threads * c.scratch_bytes,), np.uint8)
        c.scratch = <uint8_t *>_address(self.choosing)
        c.ends, c.n_ends = self.ends, len(ends)
        for end in ends:
            self.ends[i] = end
            i += 1
        return 0

    cdef list _found(self, slices, const pyml_continued_run *runs):
        """For each slice its tokens, and how many of them the first run gave."""
        cdef pyml_text *text = self.texts
        cdef list results = [], tokens
        cdef int64_t j, run, n = 0
        cdef double ms, choosing_ms
        for part in slices:
            tokens = []
            if not part.outputs:
                results.append((tokens, 0))
                continue
            sampler = <Sampler>self.choices[n].sampler
            for j in range(text.n_found):
                run = max(0, j - max(0, text.n_first - 1))
                ms, choosing_ms = runs[run].ns * 1e-6, runs[run].choosing_ns * 1e-6 / len(self.choices)
                if 0 < j < text.n_first:  # drafted: it took no run of its own
                    ms = choosing_ms = 0.0
                tokens.append(_sampled_token(sampler, &text.found[j], text.position, ms, choosing_ms))
            error = self.errors.get(n)
            if error is not None:
                if not isinstance(error, Exception):
                    raise error
                tokens.append(tokens.pop()._replace(error=error))
            results.append((tokens, text.n_first))
            text += 1
            n += 1
        return results


cdef object _sampled_token(Sampler sampler, const pyml_sampled *found, int64_t position, double ms, double choosing_ms):
    if found.status != SAMPLE_OK:
        return SampledToken(found.token, found.logit, ms, None, None, choosing_ms, _error_of(sampler, found, position))
    if sampler.s.logprobs < 0:
        return SampledToken(found.token, found.logit, ms, None, None, choosing_ms)
    return SampledToken(found.token, found.logit, ms, found.logprob, _pairs(found), choosing_ms)


cdef object _error_of(Sampler sampler, const pyml_sampled *found, int64_t position):
    """Why no token could be chosen."""
    try:
        sampler._raise_unsettled(found, position)
    except PymlError as error:
        return error


cdef bint _follow(void *argument, int64_t text, int64_t token) noexcept with gil:
    """Hand a token to a choice's ``follow``; whether the text can go on without Python."""
    program = <NativeProgram>argument
    try:
        return program.choices[text].follow(token)
    except BaseException as error:
        program.errors[text] = error
        return False
