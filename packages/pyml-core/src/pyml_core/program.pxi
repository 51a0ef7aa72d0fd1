# The C structs of a program, filled from the records of lower.py, and the memory that they point to.

cdef enum:
    PARTIALS_FLOATS = 1 << 20  # 4 MB: attention's per-block results when key blocks are split over threads

_KINDS = {pyml_operation_name(kind).decode(): kind for kind in range(OP_KINDS)}
_ACTIVATIONS = {"": 0, "gelu_tanh": ACT_GELU_TANH, "gelu_erf": ACT_GELU_ERF, "silu": ACT_SILU}


def operation_names():
    """Return the names of the operations in the order of csrc/operations.def."""
    return list(_KINDS)


def has_kernel(str level, str name):
    """Whether a CPU level has the kernel of an operation."""
    cdef const pyml_kernels *kernels = pyml_level_kernels(_level_index(level))
    cdef int kind = _KINDS[name]
    return kernels.items[kind] != NULL and kernels.work[kind] != NULL


cdef class _NativeTables:
    """The structs of a program. Keeps every array that they point to alive."""

    cdef pyml_program p
    cdef pyml_buffer *buffers
    cdef pyml_matrix *matrices
    cdef pyml_buffer *result
    cdef int64_t max_tokens, vocabulary, positions, rope_sets, adapters
    cdef bint needs_pages
    cdef int64_t kv_page_bytes
    cdef list alive
    cdef int32_t[::1] ids, position, token_slice, output_rows
    cdef pyml_capture *captures
    cdef object span         # Operation -> its first and last native operation
    cdef pyml_slice *slices
    cdef pyml_tile *tiles
    cdef pyml_screen screen
    cdef pyml_request *requests  # of runs that choose tokens from a screened head
    cdef pyml_op *full_head  # replaced by screen and rescore in runs for the largest logits, and two more rounds in choices
    cdef object screened     # output of rescore, one row for each state; only the rescored elements are written
    cdef object candidates   # arrays: ids, logits, counts, rescored (see pyml_screen)

    def __cinit__(self, lowered, str level, int threads):
        cdef int64_t n_matrices = 0
        for record in lowered.operations:
            n_matrices += len(record.matrices)
        self.alive = []
        self.span = lowered.spans
        self.max_tokens = lowered.max_tokens
        self.vocabulary, self.positions, self.rope_sets = lowered.vocabulary, lowered.positions, lowered.rope_sets
        self.adapters = lowered.adapters
        self.needs_pages = lowered.needs_pages
        self.p.kernels = pyml_level_kernels(_level_index(level))
        self.p.threads = self.p.run.threads = threads
        self.buffers = <pyml_buffer *>calloc(len(lowered.buffers) + 1, sizeof(pyml_buffer))
        self.matrices = <pyml_matrix *>calloc(n_matrices + 1, sizeof(pyml_matrix))
        self.p.ops = <pyml_op *>calloc(len(lowered.operations) + 1, sizeof(pyml_op))
        self.captures = <pyml_capture *>calloc(len(lowered.operations) + 1, sizeof(pyml_capture))
        self.slices = <pyml_slice *>calloc(self.max_tokens, sizeof(pyml_slice))
        self.tiles = <pyml_tile *>calloc(self.max_tokens, sizeof(pyml_tile))
        if not (self.buffers and self.matrices and self.p.ops and self.captures and self.slices and self.tiles):
            raise OutOfMemoryError("no memory for the program's tables")
        if lowered.kv is not None:
            self._set_geometry(lowered.kv, lowered.tile_tokens)
        cdef int64_t i, n_buffers = len(lowered.buffers), matrix = 0
        for i in range(n_buffers):
            self._fill_buffer(i, lowered.buffers[i], i == lowered.result)
        self.result = &self.buffers[<int64_t>lowered.result]
        for record in lowered.operations:
            self._add(record, matrix)
            matrix += len(record.matrices)
        for linear, activation in lowered.fusions:
            self.p.ops[<int64_t>linear].fused_next = &self.p.ops[<int64_t>activation]
            self.p.ops[<int64_t>activation].fused_into = &self.p.ops[<int64_t>linear]
        if lowered.kv is not None:
            self.p.run.partials = <float *>self._new(PARTIALS_FLOATS, np.float32)
            self.p.run.partials_floats = PARTIALS_FLOATS
        for i in range(self.p.n_ops):
            self.p.scratch_bytes = max(
                self.p.scratch_bytes, pyml_scratch_for(&self.p.ops[i], &self.p.run.kv, self.p.run.tile_tokens))
        if not pyml_program_allocate(&self.p):
            raise OutOfMemoryError(f"no memory for the scratch space of {threads} threads")
        self.ids, self.position, self.token_slice, self.output_rows = np.zeros((4, self.max_tokens), np.int32)
        self.p.run.ids, self.p.run.positions = &self.ids[0], &self.position[0]
        self.p.run.token_slice, self.p.run.output_rows = &self.token_slice[0], &self.output_rows[0]
        self.p.run.slices = self.slices
        self.p.run.tiles = self.tiles

    def __dealloc__(self):
        pyml_program_free(&self.p)
        free(self.p.ops)
        free(self.captures)
        free(self.buffers)
        free(self.matrices)
        free(self.slices)
        free(self.tiles)

    cdef void *_new(self, count, dtype) except NULL:
        return self._keep(aligned_empty((count,), dtype))

    cdef void *_zeros(self, count, dtype) except NULL:
        """Zeros. The pages of large arrays take no memory before they are used."""
        return self._keep(_aligned(np.zeros, (count,), dtype))

    cdef void *_keep(self, array) except NULL:
        self.alive.append(array)
        return _address(array)

    cdef int _set_geometry(self, kv, int64_t tile_tokens) except -1:
        self.p.run.kv.n_layers = kv.n_layers
        self.p.run.kv.n_kv_heads = kv.n_kv_heads
        self.p.run.kv.head_dim = kv.head_dim
        self.p.run.kv.key_bytes = kv.key_bytes
        self.p.run.kv.value_bytes = kv.value_bytes
        self.p.run.kv.layer_bytes = kv.layer_bytes
        self.p.run.kv.f16 = kv.numpy_dtype.itemsize == 2
        self.p.run.kv.int8 = kv.int8
        self.p.run.tile_tokens = tile_tokens
        self.kv_page_bytes = kv.page_bytes
        return 0

    cdef int _fill_buffer(self, int64_t index, record, bint is_result) except -1:
        cdef pyml_buffer *b = &self.buffers[index]
        b.width = record.width
        b.outputs = record.outputs
        b.copies = record.copies
        b.codes_only = record.codes_only
        cdef int64_t rows = self.max_tokens * b.copies
        if not is_result:
            b.f = <float *>self._new(rows * b.width, np.float32)
        if record.quantized:
            b.blocks = b.width // BLOCK
            b.stride8 = b.width + 64  # rows a power of two apart would share cache sets
            # Rows are multiplied in groups of up to eight: up to seven rows are read that no run has written. Their results
            # are not used; the rows are zeroed so that no read is undefined.
            rows += 7
            b.codes = <int8_t *>self._zeros(rows * b.stride8, np.int8)
            b.scales = <float *>self._zeros(rows * b.blocks, np.float32)
            b.sums = <int32_t *>self._zeros(rows * b.blocks, np.int32)
            b.half_sums = <int32_t *>self._zeros(rows * b.blocks * 2, np.int32)
        if record.routes is not None:
            b.routes = <pyml_routes *>self._new(sizeof(pyml_routes), np.uint8)
            b.routes.experts, b.routes.chosen = record.routes
            b.routes.row = <int32_t *>self._new(self.max_tokens * b.routes.chosen, np.int32)
            b.routes.token = <int32_t *>self._new(self.max_tokens * b.routes.chosen, np.int32)
            b.routes.first = <int32_t *>self._new(b.routes.experts + 1, np.int32)
        if record.order >= 0:
            b.order = self.buffers[<int64_t>record.order].routes
        return 0

    cdef int _add(self, record, int64_t matrix) except -1:
        cdef pyml_op *o = &self.p.ops[self.p.n_ops]
        cdef tuple inputs = record.inputs, vectors = record.vectors
        o.kind = _KINDS[record.kind]
        o.out = &self.buffers[<int64_t>record.output]
        if len(inputs) > 0:
            o.input = &self.buffers[<int64_t>inputs[0]]
        if len(inputs) > 1:
            o.in2 = &self.buffers[<int64_t>inputs[1]]
        if len(vectors) > 0 and vectors[0] is not None:
            o.weight = <const float *>self._keep(vectors[0])
        if len(vectors) > 1 and vectors[1] is not None:
            o.weight2 = <const float *>self._keep(vectors[1])
        o.eps, o.scale, o.cap = record.eps, record.scale, record.cap
        o.layer, o.n_heads, o.window = record.layer, record.n_heads, record.window
        o.activation = _ACTIVATIONS[record.activation]
        o.accumulate, o.normalize = record.accumulate, record.normalize
        o.bidirectional = record.bidirectional
        if record.matrices:
            o.matrices = &self.matrices[matrix]
            o.n_matrices = record.n_matrices
        for weight in record.matrices:
            _fill_matrix(&self.matrices[matrix], weight)
            self.alive.append(weight)
            matrix += 1
        if record.parts is not None:
            o.parts = <const pyml_low_rank *>self._keep(record.parts)
        if record.screen is not None:
            self._add_screen(o, record.screen.params["row_stats"])
        self.p.n_ops += 1
        return 0

    cdef int _add_screen(self, pyml_op *o, row_stats) except -1:
        """Allocate the tables of a screen. Their pages take memory only when they are used."""
        o.skip = True
        o.screen = &self.screen
        if self.full_head:  # rounds of rescore: the same matrix, after it was screened
            return 0
        cdef int64_t n = o.matrices.n, panels = (o.matrices.n + PANEL - 1) // PANEL
        self.full_head = o - 1
        self.screen.row_stats = <const uint16_t *>self._keep(row_stats)
        self.screen.lower = <float *>self._new(SCREEN_STATES * panels, np.float32)
        self.screen.upper = <float *>self._new(SCREEN_STATES * panels, np.float32)
        self.screen.threshold = <float *>self._new(SCREEN_STATES, np.float32)
        self.screen.heap = <float *>self._new(SCREEN_STATES * SCREEN_MAX_TOP, np.float32)
        ids, logits = aligned_empty((SCREEN_STATES, n), np.int32), aligned_empty((SCREEN_STATES, n), np.float32)
        counts, rescored = aligned_empty((2, SCREEN_STATES), np.int64)
        self.screen.ids, self.screen.logits = <int32_t *>_address(ids), <float *>_address(logits)
        self.screen.count, self.screen.rescored = <int64_t *>_address(counts), <int64_t *>_address(rescored)
        self.screen.noisy = <float *>self._new(SCREEN_STATES * panels, np.float32)
        self.screen.center = <float *>self._new(SCREEN_STATES * panels, np.float32)
        self.screen.mass = <float *>self._new(SCREEN_STATES * panels, np.float32)
        self.screen.variance = <float *>self._new(SCREEN_STATES * panels, np.float32)
        self.screen.round = <uint8_t *>self._new(SCREEN_STATES * panels, np.uint8)
        self.requests = <pyml_request *>self._zeros(SCREEN_STATES * sizeof(pyml_request), np.uint8)
        self.screen.scratch_bytes = (pyml_sample_scratch(n) + 63) // 64 * 64
        self.screen.scratch = <uint8_t *>self._new(SCREEN_STATES * self.screen.scratch_bytes, np.uint8)
        self.candidates = ids, logits, counts, rescored
        self.screened = aligned_empty((SCREEN_STATES, n), np.float32)
        return 0
