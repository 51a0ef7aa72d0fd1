# cython: language_level=3, boundscheck=True, wraparound=False, freethreading_compatible=False
"""The thin wall between Python and C: checks, pointers, and the GIL. No arithmetic here; see csrc/.

Everything that native code reads has been checked on this side: types, widths, contiguity, ids and positions in range, pages
enough for the positions.

No list comprehension makes new objects here: the C that Cython 3.3 makes of one frees an item twice where the list
cannot grow.
"""

from cpython.exc cimport PyErr_CheckSignals
from cpython.number cimport PyNumber_Index
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint16_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy
from posix.unistd cimport usleep

from dataclasses import replace
from os import register_at_fork
from threading import get_ident, main_thread
from time import monotonic, sleep

import numpy as np

from .dtypes import BLOCK_TYPES
from .errors import Cancelled, OutOfMemoryError, PymlError, ShapeError
from .kv_layout import PAGE_TOKENS, PageTable
from .shortcuts import codes_only, done_together


cdef extern from *:
    const char *PYML_SOURCE_HASH


include "stopping.pxi"


cdef extern from "pyml.h":
    enum:
        PANEL, CHUNK, BLOCK, MAX_PHASES, MAX_THREADS, MAX_EXPERTS
        TYPE_F32, TYPE_Q8_0_SPLIT
        OP_EMBED, OP_ADD_POSITIONS, OP_RMS_NORM, OP_LAYER_NORM, OP_LINEAR, OP_ACTIVATE, OP_GATED, OP_SOFT_CAP, OP_SELECT
        OP_ROPE_ANGLES, OP_PREPARE_QKV, OP_ATTENTION, OP_ROUTE, OP_DISPATCH, OP_EXPERT_LINEAR, OP_COMBINE, OP_QUANTIZE
        ACT_GELU_TANH, ACT_GELU_ERF, ACT_SILU
        LIMIT_READ, LIMIT_INT8, LIMIT_F32
        OP_SCREEN, OP_RESCORE, SCREEN_STATES, SCREEN_MAX_TOP, SCREEN_FACTS

    ctypedef struct pyml_routes:
        int64_t experts, chosen
        int32_t *row
        int32_t *token
        int32_t *first

    ctypedef struct pyml_buffer:
        float *f
        int64_t width, stride8, blocks
        int8_t *codes
        float *scales
        int32_t *sums
        int32_t *half_sums
        bint codes_only
        bint outputs
        int64_t copies
        pyml_routes *routes
        const pyml_routes *order

    ctypedef struct pyml_matrix:
        int32_t type
        int64_t n, k
        const uint8_t *data
        int64_t panel_bytes
        const uint8_t *low
        int64_t low_bytes

    ctypedef struct pyml_capture:
        float *scores
        float *probabilities
        float *maxima

    ctypedef struct pyml_screen:
        const uint16_t *facts
        int64_t k
        float *lower
        float *upper
        float *threshold
        float *heap
        int32_t *ids
        float *logits
        int64_t *count
        int64_t *rescored

    ctypedef struct pyml_op:
        int32_t kind
        pyml_buffer *input "in"
        pyml_buffer *in2
        pyml_buffer *out
        const pyml_matrix *matrices
        int32_t n_matrices
        const float *weight
        const float *weight2
        float eps, scale, cap
        int32_t layer, n_heads, window, activation
        bint accumulate, normalize, skip
        const pyml_screen *screen
        const pyml_op *then
        const pyml_op *by
        float *copy
        const pyml_capture *capture

    ctypedef struct pyml_slice:
        uint8_t **pages
        int64_t start, count, row, rope_set

    ctypedef struct pyml_tile:
        int32_t slice, first, count

    ctypedef struct pyml_kv:
        int64_t n_layers, n_kv_heads, head_dim, key_bytes, value_bytes, layer_bytes
        bint f16, int8

    ctypedef struct pyml_run:
        int64_t tokens, outputs
        const int32_t *ids
        const int32_t *positions
        const int32_t *token_slice
        const int32_t *output_rows
        const pyml_slice *slices
        int64_t n_slices
        const pyml_tile *tiles
        int64_t n_tiles, tile_tokens
        pyml_kv kv
        float *partials
        int64_t partials_floats
        int32_t threads

    ctypedef struct pyml_kernels:
        void (*unpack_rows)(const pyml_matrix *, const int64_t *, int64_t, float *) nogil

    ctypedef struct pyml_lap:
        uint64_t busy
        uint64_t phase[4]
        uint64_t began, arrived  # in ticks

    ctypedef struct pyml_program:
        int64_t n_ops
        pyml_op *ops
        const pyml_kernels *kernels
        int32_t threads
        int64_t scratch_bytes
        pyml_watch watch
        pyml_run run
        uint64_t *copied
        int64_t start_ns
        int64_t end_ns
        uint64_t start
        uint64_t end
        pyml_lap *laps

    ctypedef struct pyml_part:
        int fd, stored, type
        int64_t n, k, offset
        const int64_t *rows
        uint8_t *packed
        uint8_t *low
        uint64_t hash

    ctypedef struct pyml_read_fault:
        int64_t index
        int error
        int64_t offset, wanted, got
        float scale

    ctypedef struct pyml_laps:
        const pyml_lap *laps
        const uint64_t *copied
        int64_t n_ops, start_ns, end_ns, start, end
        int threads

    ctypedef struct pyml_greedy_token:
        int64_t token, ns, rescored
        float logit

    ctypedef struct pyml_greedy:
        int64_t count
        int32_t *ids
        int32_t *positions
        pyml_slice *slice
        const float *logits
        int64_t n_logits
        const pyml_screen *screen
        const int64_t *ends
        int64_t n_ends
        int32_t *text
        int64_t n_text, repeat
        pyml_greedy_token *found
        pyml_lap *laps
        int64_t *clock

    int pyml_level_count()
    const char *pyml_level_name(int)
    int pyml_level_compiled(int)
    int pyml_level_supported(int)
    const pyml_kernels *pyml_level_kernels(int)
    int64_t pyml_panel_bytes(int, int64_t)
    int64_t pyml_low_bytes(int, int64_t)
    int64_t pyml_scratch_for(const pyml_op *, const pyml_kv *, int64_t)
    bint pyml_program_allocate(pyml_program *)
    void pyml_program_free(pyml_program *)
    bint pyml_program_run(pyml_program *, bint) nogil
    double pyml_read_laps(const pyml_laps *, int64_t *, int64_t *, pyml_lap *)
    int64_t pyml_program_run_greedy(pyml_program *, pyml_greedy *) nogil
    int64_t pyml_measure_limit(const pyml_kernels *, int, int, const uint8_t *, int64_t, int64_t *, pyml_watch *) nogil
    bint pyml_screen_facts(const pyml_kernels *, int, const pyml_matrix *, uint16_t *, pyml_watch *) nogil
    bint pyml_read_parts(int, pyml_part *, int64_t, pyml_read_fault *, pyml_watch *) nogil
    uint64_t pyml_hash_rows(const uint8_t *, int64_t, int64_t, int64_t, const int64_t *) nogil
    bint pyml_read_ranges(const int64_t *, const int64_t *, const int64_t *, int64_t, uint8_t *, pyml_read_fault *) nogil
    bint pyml_pack_threaded(int, int, int64_t, int64_t, const uint8_t *, uint8_t *, uint8_t *, pyml_watch *) nogil


SOURCE_HASH = (<bytes>PYML_SOURCE_HASH).decode()
THREADS_MAX = MAX_THREADS
SPLIT_Q8_0 = TYPE_Q8_0_SPLIT
EXPERTS_MAX = MAX_EXPERTS
SCREEN_STATES_MAX = SCREEN_STATES
SCREEN_TOP_MAX = SCREEN_MAX_TOP

cdef enum:
    PARTIALS_FLOATS = 1 << 20  # 4 MB: attention's per-block results when key blocks are split over threads
    GREEDY_RUNS = 64           # most of one call
    TILE_ROWS = 24             # rows (tokens times grouped heads) that share a key block's loads

GREEDY_MAX = GREEDY_RUNS

_KINDS = {
    "embed": OP_EMBED, "add_positions": OP_ADD_POSITIONS, "rms_norm": OP_RMS_NORM, "layer_norm": OP_LAYER_NORM,
    "linear": OP_LINEAR, "activate": OP_ACTIVATE, "gated": OP_GATED, "soft_cap": OP_SOFT_CAP, "select": OP_SELECT,
    "rope_angles": OP_ROPE_ANGLES, "prepare_qkv": OP_PREPARE_QKV, "attention": OP_ATTENTION,
    "route": OP_ROUTE, "dispatch": OP_DISPATCH, "expert_linear": OP_EXPERT_LINEAR, "combine": OP_COMBINE,
    "screen": OP_SCREEN, "rescore": OP_RESCORE,
}
_ACTIVATIONS = {"gelu_tanh": ACT_GELU_TANH, "gelu_erf": ACT_GELU_ERF, "silu": ACT_SILU}


def levels():
    """[(name, compiled, supported by this CPU)] of every CPU level, from the plainest to the best."""
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
    """An uninitialised array whose data is aligned to 64 bytes, with 64 bytes to spare behind it."""
    return _aligned(np.empty, shape, dtype)


cdef _aligned(make, shape, dtype):
    dtype = np.dtype(dtype)
    count = int(np.prod(shape, dtype=np.int64))
    raw = make(count * dtype.itemsize + 128, np.uint8)
    start = -raw.__array_interface__["data"][0] % 64
    return raw[start : start + count * dtype.itemsize].view(dtype).reshape(shape)


cdef void *_address(array) except NULL:
    return <void *><size_t>(<object>array.__array_interface__["data"][0])


def pack_into(packed, const uint8_t[::1] stored, int type_id, int64_t first_panel, int64_t n, int64_t k, int threads):
    """Pack n stored rows of k elements into panels ``first_panel``.. of ``packed``; see csrc/pack.c. Sizes are the caller's."""
    if n == 0 or k == 0:
        return
    cdef const uint8_t *source = &stored[0]
    cdef int64_t panel_bytes = pyml_panel_bytes(type_id, k), low_bytes = pyml_low_bytes(type_id, k)
    cdef int64_t panels = packed.nbytes // (panel_bytes + low_bytes)
    cdef uint8_t *start = <uint8_t *>_address(packed)
    cdef uint8_t *target = start + first_panel * panel_bytes
    cdef uint8_t *low = start + panels * panel_bytes + first_panel * low_bytes if low_bytes else NULL
    cdef bint done
    cdef pyml_watch watch
    cdef _Signals signals = _Signals()
    _listen(&watch, signals, None)
    with nogil:
        done = pyml_pack_threaded(threads, type_id, n, k, source, target, low, &watch)
    if not done:
        _raise_stopped(signals)


def read_parts(parts, int threads):
    """Read and pack parts of matrices (see from_file.py, which has checked them): their hashes, and None or what went wrong."""
    cdef pyml_read_fault fault
    cdef pyml_watch watch
    cdef _Signals signals = _Signals()
    cdef bint done
    cdef int64_t n_parts = 0, i
    cdef list hashes = []
    cdef pyml_part *part
    cdef int64_t low_bytes, first_panel
    cdef pyml_part *table = <pyml_part *>calloc(len(parts) + 1, sizeof(pyml_part))
    if not table:
        raise OutOfMemoryError("no memory for the list of what is to be read")
    try:
        for matrix, first, count, fd, offset, stored, rows in parts:
            part = &table[n_parts]
            part.fd, part.type = fd, matrix.kernel_type
            part.stored = part.type if stored == matrix.dtype else BLOCK_TYPES[stored].ggml_id
            part.n, part.k, part.offset = count, matrix.shape[1], offset
            part.rows = <const int64_t *>_address(rows) if rows is not None else NULL
            first_panel = first // PANEL
            part.packed = <uint8_t *>_address(matrix.data) + first_panel * pyml_panel_bytes(part.type, part.k)
            low_bytes = pyml_low_bytes(part.type, part.k)
            if low_bytes:
                part.low = <uint8_t *>_address(matrix.data) + first_panel * low_bytes
                part.low += (matrix.shape[0] + PANEL - 1) // PANEL * pyml_panel_bytes(part.type, part.k)
            n_parts += 1
        _listen(&watch, signals, None)
        with nogil:
            done = pyml_read_parts(threads, table, n_parts, &fault, &watch)
        if pyml_flag_is_set(&watch.cancel):
            _raise_stopped(signals)
        for i in range(n_parts):
            hashes.append(table[i].hash)
    finally:
        free(table)
    return hashes, None if done else (fault.index, fault.error, fault.offset, fault.wanted, fault.got, fault.scale)


def hash_rows(const uint8_t[::1] data, int64_t n_rows):
    """The hash of so many rows, as :func:`read_parts` has it (see csrc/hash.c). The size is the caller's."""
    cdef uint64_t found = 0
    if data.shape[0]:
        with nogil:
            found = pyml_hash_rows(&data[0], n_rows, data.shape[0] // n_rows, 0, NULL)
    return found


def read_ranges(const int64_t[::1] fds, const int64_t[::1] offsets, const int64_t[::1] sizes, uint8_t[::1] target):
    """Bytes of files, one range behind the other; None, or what went wrong. Sizes are the caller's."""
    cdef pyml_read_fault fault
    cdef bint done
    if not offsets.shape[0] or not target.shape[0]:
        return None
    with nogil:
        done = pyml_read_ranges(&fds[0], &offsets[0], &sizes[0], offsets.shape[0], &target[0], &fault)
    return None if done else (fault.index, fault.error, fault.offset, fault.wanted, fault.got, fault.scale)


cdef int _fill_matrix(pyml_matrix *m, object packed) except -1:
    m.type = packed.kernel_type
    m.n, m.k = packed.shape
    m.panel_bytes = pyml_panel_bytes(m.type, m.k)
    m.low_bytes = pyml_low_bytes(m.type, m.k)
    cdef int64_t panels = (m.n + PANEL - 1) // PANEL
    if m.panel_bytes < 0 or packed.data.nbytes != panels * (m.panel_bytes + m.low_bytes):
        raise ShapeError(f"packed matrix {packed.shape} {packed.dtype}: not in panels")
    m.data = <const uint8_t *>_address(packed.data)
    m.low = m.data + panels * m.panel_bytes if m.low_bytes else NULL
    return 0


def unpack_rows(packed, rows, str level):
    """Rows of a PackedMatrix (indices checked by the caller) as float32 (len(rows), K)."""
    cdef pyml_matrix m
    _fill_matrix(&m, packed)
    index = np.ascontiguousarray(rows, np.int64)
    out = np.empty((len(index), packed.shape[1]), np.float32)
    cdef const int64_t *wanted
    cdef float *target
    cdef int64_t count = len(index)
    cdef const pyml_kernels *kernels = pyml_level_kernels(_level_index(level))
    if out.size:
        wanted = <const int64_t *>_address(index)
        target = <float *>_address(out)
        with nogil:
            kernels.unpack_rows(&m, wanted, count, target)
    return out


def screen_facts(packed, str level, int threads):
    """What a screen knows of every row of a split matrix: float16 (panels, 4, 16), see csrc/level/screen.c."""
    cdef pyml_matrix m
    _fill_matrix(&m, packed)
    if m.type != TYPE_Q8_0_SPLIT:
        raise ShapeError(f"screen: expected a split q8_0 matrix, got {packed.dtype}")
    facts = aligned_empty(((m.n + PANEL - 1) // PANEL, SCREEN_FACTS, PANEL), np.float16)
    cdef uint16_t *target = <uint16_t *>_address(facts)
    cdef const pyml_kernels *kernels = pyml_level_kernels(_level_index(level))
    cdef bint done
    cdef pyml_watch watch
    cdef _Signals signals = _Signals()
    _listen(&watch, signals, None)
    with nogil:
        done = pyml_screen_facts(kernels, threads, &m, target, &watch)
    if not done:
        _raise_stopped(signals)
    return facts


_LIMITS = {"read": LIMIT_READ, "int8": LIMIT_INT8, "f32": LIMIT_F32}


def measure_limit(str level, int threads, str what, data, int64_t amount):
    """Bytes or operations of all threads and the nanoseconds they took; sizes are the caller's (limits.py)."""
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
        raise OutOfMemoryError(f"no {threads} threads are to be had")
    return done, ns


include "text.pxi"
include "finite.pxi"


include "timings.pxi"


cdef class NativeProgram:
    """A Program's operations with their pointers, ready to run. Keeps every array it points to alive."""

    cdef pyml_program p
    cdef pyml_buffer *buffers
    cdef pyml_matrix *matrices
    cdef pyml_buffer *result
    cdef int64_t max_tokens, vocabulary, positions, rope_sets
    cdef bint needs_pages
    cdef int64_t kv_page_bytes
    cdef list alive
    cdef int32_t[::1] ids, position, token_slice, output_rows
    cdef pyml_capture *captures
    cdef dict span         # Operation -> its first and last native operation
    cdef pyml_slice *slices
    cdef pyml_tile *tiles
    cdef pyml_screen screen
    cdef pyml_op *full_head  # what screen and rescore stand in for
    cdef object screened     # their output, of a row a state, of which they write what they need
    cdef object candidates   # ids and logits, counts of both kinds
    cdef int64_t slices_room
    cdef object row        # of all logits, of greedy runs
    cdef int32_t *greedy_text
    cdef int64_t *greedy_ends
    cdef int64_t greedy_text_room, greedy_ends_room
    cdef _Signals signals
    cdef bint capturing

    def __cinit__(self, program, str level, int threads):
        operations = [*program.operations, *program.screening]
        cdef int64_t n_matrices = sum(self._count_matrices(op) for op in operations)
        self.alive = []
        self.span = {}
        self.signals = _Signals()
        self.max_tokens = program.max_tokens
        self.vocabulary = self.positions = self.rope_sets = 1 << 31
        self.p.kernels = pyml_level_kernels(_level_index(level))
        self.p.threads = self.p.run.threads = threads
        self.buffers = <pyml_buffer *>calloc(len(program.buffers) + 1, sizeof(pyml_buffer))
        self.matrices = <pyml_matrix *>calloc(n_matrices + 1, sizeof(pyml_matrix))
        self.p.ops = <pyml_op *>calloc(2 * len(operations) + 1, sizeof(pyml_op))
        self.captures = <pyml_capture *>calloc(2 * len(operations) + 1, sizeof(pyml_capture))
        if not self.buffers or not self.matrices or not self.p.ops or not self.captures:
            raise OutOfMemoryError("no memory for the program's tables")
        self._set_geometry(program)
        for buf in program.buffers:
            self._allocate_buffer(buf, buf is program.result)
        for buf in codes_only(program, self._whole_blocks()):
            self.buffers[buf.index].codes_only = True
        self.result = &self.buffers[program.result.index]
        cdef int64_t matrix = 0
        for op in operations:
            matrix += self._add(op, matrix)
        for linear, activation in done_together(program):
            self.p.ops[self.span[linear][0]].then = &self.p.ops[self.span[activation][0]]
            self.p.ops[self.span[activation][0]].by = &self.p.ops[self.span[linear][0]]
        if self.p.run.kv.head_dim:
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
        self.slices_room = self.max_tokens
        self.slices = <pyml_slice *>calloc(self.slices_room, sizeof(pyml_slice))
        self.tiles = <pyml_tile *>calloc(self.max_tokens, sizeof(pyml_tile))
        if not self.slices or not self.tiles:
            raise OutOfMemoryError("no memory for the program's tables")
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
        free(self.greedy_text)
        free(self.greedy_ends)

    @staticmethod
    def _count_matrices(op):
        return 1 if op.kind == "embed" else len(op.params.get("matrices", ()))

    cdef void *_new(self, count, dtype) except NULL:
        return self._keep(aligned_empty((count,), dtype))

    cdef void *_zeros(self, count, dtype) except NULL:
        """Zeros; of large arrays these are pages that take no memory before they are used."""
        return self._keep(_aligned(np.zeros, (count,), dtype))

    cdef void *_keep(self, array) except NULL:
        self.alive.append(array)
        return _address(array)

    cdef const float *_floats(self, array) except? NULL:
        if array is None:
            return NULL
        self.alive.append(array)
        return <const float *>_address(array)

    cdef int _set_geometry(self, program) except -1:
        kv = program.kv
        if kv is None:
            return 0
        self.p.run.kv.n_layers = kv.n_layers
        self.p.run.kv.n_kv_heads = kv.n_kv_heads
        self.p.run.kv.head_dim = kv.head_dim
        self.p.run.kv.key_bytes = kv.key_bytes
        self.p.run.kv.value_bytes = kv.value_bytes
        self.p.run.kv.layer_bytes = kv.layer_bytes
        self.p.run.kv.f16 = kv.numpy_dtype.itemsize == 2
        self.p.run.kv.int8 = kv.int8
        self.kv_page_bytes = kv.page_bytes
        cdef int64_t group = 1
        for op in program.operations:
            if op.kind == "attention":
                group = max(group, op.params["n_heads"] // kv.n_kv_heads)
        self.p.run.tile_tokens = max(1, TILE_ROWS // group)
        return 0

    cdef bint _whole_blocks(self) noexcept:
        """Whether heads are of whole blocks of activations, so that attention itself writes those of its output."""
        return self.p.run.kv.head_dim % BLOCK == 0

    cdef int _allocate_buffer(self, buf, bint is_result) except -1:
        cdef pyml_buffer *b = &self.buffers[buf.index]
        b.width = buf.width
        b.outputs = buf.rows == "outputs"
        b.copies = buf.copies
        cdef int64_t rows = self.max_tokens * b.copies
        if not is_result:
            b.f = <float *>self._new(rows * buf.width, np.float32)
        if buf.quantized:
            if buf.width % BLOCK:
                raise ShapeError(f"{buf.name}: expected a width that is a multiple of {BLOCK} for a quantised matrix, "
                                 f"got {buf.width}")
            b.blocks = buf.width // BLOCK
            b.stride8 = buf.width + 64  # rows a power of two apart would share cache sets
            # Few rows are multiplied in groups of up to eight, and sums are taken sixteen at a time: rows that no run has
            # written are read with others, and what comes of them is left. They are zero, so that all of it is defined.
            rows += 7
            b.codes = <int8_t *>self._zeros(rows * b.stride8, np.int8)
            b.scales = <float *>self._zeros(rows * b.blocks, np.float32)
            b.sums = <int32_t *>self._zeros(rows * b.blocks, np.int32)
            b.half_sums = <int32_t *>self._zeros(rows * b.blocks * 2, np.int32)
        return 0

    cdef int _allocate_routes(self, pyml_buffer *b, int64_t experts, int64_t chosen) except -1:
        if b.routes == NULL:  # layers share the buffer
            b.routes = <pyml_routes *>self._new(sizeof(pyml_routes), np.uint8)
            b.routes.experts, b.routes.chosen = experts, chosen
            b.routes.row = <int32_t *>self._new(self.max_tokens * chosen, np.int32)
            b.routes.token = <int32_t *>self._new(self.max_tokens * chosen, np.int32)
            b.routes.first = <int32_t *>self._new(experts + 1, np.int32)
        elif b.routes.experts != experts or b.routes.chosen != chosen:
            raise ShapeError(f"route: expected {b.routes.chosen} of {b.routes.experts} experts as before, "
                             f"got {chosen} of {experts}")
        return 0

    cdef int64_t _add(self, op, int64_t matrix) except -1:
        cdef pyml_op *o = &self.p.ops[self.p.n_ops]
        cdef int64_t used = 0
        q = op.params
        o.kind = _KINDS[op.kind]
        o.out = &self.buffers[op.output.index]
        if op.inputs:
            o.input = &self.buffers[op.inputs[0].index]
        if len(op.inputs) > 1:
            o.in2 = &self.buffers[op.inputs[1].index]
        o.eps = q.get("eps", 0.0)
        o.scale = q.get("scale", 1.0)
        o.cap = q.get("cap", q.get("soft_cap", 0.0))
        o.layer = q.get("layer", 0)
        o.n_heads = q.get("n_heads", 0)
        o.window = q.get("window", 0)
        o.accumulate = q.get("accumulate", False)
        o.normalize = q.get("normalize", False)
        o.activation = _ACTIVATIONS.get(q.get("activation"), 0)
        if op.kind in ("linear", "expert_linear", "embed", "screen", "rescore"):
            weights = (q["table"],) if op.kind == "embed" else q["matrices"]
            o.matrices = &self.matrices[matrix]
            o.n_matrices = len(weights) // q.get("n_experts", 1)
            for weight in weights:
                _fill_matrix(&self.matrices[matrix + used], weight)
                self.alive.append(weight)
                used += 1
        if op.kind in ("screen", "rescore"):
            self._add_screen(o, op)
        elif op.kind == "linear":
            o.weight = self._floats(q["bias"])
        elif op.kind == "embed":
            self.vocabulary = min(self.vocabulary, q["table"].shape[0])
        elif op.kind == "add_positions":
            o.weight = self._floats(q["table"])
            self.positions = min(self.positions, q["table"].shape[0])
        elif op.kind in ("rms_norm", "layer_norm"):
            o.weight = self._floats(q["weight"])
            o.weight2 = self._floats(q.get("bias"))
        elif op.kind == "rope_angles":
            o.weight = self._floats(q["inv_freq"])
            self.rope_sets = min(self.rope_sets, q["inv_freq"].shape[0])
        elif op.kind == "prepare_qkv":
            o.weight = self._floats(q["q_norm"])
            o.weight2 = self._floats(q["k_norm"])
            self.needs_pages = True
        elif op.kind == "attention":
            self.needs_pages = True
        elif op.kind == "route":
            self._allocate_routes(o.out, op.inputs[0].width, q["n_chosen"])
        if op.kind in ("dispatch", "expert_linear"):
            o.out.order = o.in2.routes
        elif o.input != NULL and op.kind not in ("combine", "select"):
            o.out.order = o.input.order
        self.span[op] = (self.p.n_ops, self.p.n_ops)
        self.p.n_ops += 1
        # These write a row in pieces, by several threads: its int8 copy is made when all of it is there.
        pieces = ("linear", "expert_linear", "prepare_qkv", "rope_angles", "soft_cap")
        if op.output.quantized and (op.kind in pieces or op.kind == "attention" and not self._whole_blocks()):
            self.p.ops[self.p.n_ops].kind = OP_QUANTIZE
            self.p.ops[self.p.n_ops].out = o.out
            self.span[op] = (self.p.n_ops - 1, self.p.n_ops)
            self.p.n_ops += 1
        return used

    cdef int _add_screen(self, pyml_op *o, op) except -1:
        """Tables of the states that a run may screen for. Their pages take memory as they are used."""
        o.skip = True
        o.scale = op.params["margin"]
        o.screen = &self.screen
        if op.kind == "rescore":  # the same matrix, after it was screened
            return 0
        cdef int64_t n = o.matrices.n, panels = (o.matrices.n + PANEL - 1) // PANEL
        self.full_head = o - 1
        self.alive.append(op.params["facts"])
        self.screen.facts = <const uint16_t *>_address(op.params["facts"])
        self.screen.lower = <float *>self._new(SCREEN_STATES * panels, np.float32)
        self.screen.upper = <float *>self._new(SCREEN_STATES * panels, np.float32)
        self.screen.threshold = <float *>self._new(SCREEN_STATES, np.float32)
        self.screen.heap = <float *>self._new(SCREEN_STATES * SCREEN_MAX_TOP, np.float32)
        ids, logits = aligned_empty((SCREEN_STATES, n), np.int32), aligned_empty((SCREEN_STATES, n), np.float32)
        counts, rescored = aligned_empty((2, SCREEN_STATES), np.int64)
        self.screen.ids, self.screen.logits = <int32_t *>_address(ids), <float *>_address(logits)
        self.screen.count, self.screen.rescored = <int64_t *>_address(counts), <int64_t *>_address(rescored)
        self.candidates = ids, logits, counts, rescored
        self.screened = aligned_empty((SCREEN_STATES, n), np.float32)
        return 0

    cdef int _choose_head(self, int64_t top) except -1:
        """All logits, or with ``top`` > 0 the largest ones alone."""
        if not self.full_head:
            if top:
                raise ShapeError("run: this program has no head that can be screened")
            return 0
        self.full_head[0].skip = top > 0
        self.full_head[1].skip = self.full_head[2].skip = top == 0
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
        if len(slices) > self.slices_room:
            raise ShapeError(f"run: expected at most {self.slices_room} slices, got {len(slices)}")
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
        """Let operations leave what is wanted in new arrays: {(operation, what): array}."""
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
        """What each slice has of a captured array, as views."""
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

        With ``top``, the head is screened for so many of the largest logits: a list of (ids, logits, rows rescored).

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

    def run_greedy(
        self, part, int64_t count, ends, const int32_t[::1] text, int64_t repeat, StopFlag stop=None, bint timed=False
    ):
        """Run a slice of one token, then the token with the largest logit after it, and so on: at most ``count`` runs.

        Nothing is run after a token of ``ends``, one whose logit is not finite, or one with which the last ``repeat`` > 0
        tokens stand for a second time in ``text`` and what was found. Returns (token, logit, ns, rows rescored) of every run in order, and,
        if ``timed``, what :meth:`timings` returns of each, else an empty list.

        Raises:
            ShapeError: a slice that does not fit, or has no room for so many tokens. Cancelled: as :meth:`run`.
        """
        cdef pyml_greedy greedy
        cdef pyml_greedy_token found[GREEDY_RUNS]
        cdef int64_t done, i
        cdef int64_t n_text = text.shape[0]
        tables = self._begin([part], 1 if self.full_head else 0)
        start = self.slices[0].start
        if self.p.run.tokens != 1 or self.p.run.outputs != 1 or not self.result.outputs:
            raise ShapeError(f"run: expected one token that wants logits, got {self.p.run.tokens}")
        if self.result.width > self.vocabulary:
            raise ShapeError(f"run: expected at most {self.vocabulary} logits, as many as tokens, got {self.result.width}")
        if count < 1 or count > GREEDY_RUNS or start > self.positions - count:
            raise ShapeError(f"run: expected 1 to {min(GREEDY_RUNS, self.positions - start)} runs, got {count}")
        if self.needs_pages and len(part.pages) * PAGE_TOKENS < start + count:
            raise ShapeError(f"run: {start + count} positions need more than {len(part.pages)} KV pages")
        if self.row is None:
            self.row = self.screened if self.full_head else aligned_empty((1, self.result.width), np.float32)
        self.result.f = <float *>_address(self.row)
        ends = tuple(ends)
        self._make_greedy_room(n_text + GREEDY_RUNS, len(ends))
        for i in range(len(ends)):
            self.greedy_ends[i] = ends[i]
        if n_text:
            memcpy(self.greedy_text, &text[0], n_text * sizeof(int32_t))
        greedy.text, greedy.n_text, greedy.repeat = self.greedy_text, n_text, max(repeat, 0)
        greedy.ends, greedy.n_ends = self.greedy_ends, len(ends)
        greedy.count, greedy.found, greedy.laps, greedy.clock = count, found, NULL, NULL
        cdef int64_t n_laps = self.p.n_ops * self.p.threads
        if timed:
            laps = np.empty(count * n_laps * sizeof(pyml_lap), np.uint8)
            clock = np.empty((count, 4), np.int64)
            greedy.laps, greedy.clock = <pyml_lap *>_address(laps), <int64_t *>_address(clock)
        greedy.ids, greedy.positions = <int32_t *>self.p.run.ids, <int32_t *>self.p.run.positions
        greedy.slice = self.slices
        greedy.logits, greedy.n_logits = self.result.f, self.result.width
        greedy.screen = &self.screen if self.full_head else NULL
        _listen(&self.p.watch, self.signals, stop)
        with nogil:
            done = pyml_program_run_greedy(&self.p, &greedy)
        if done < 0:
            self._raise_unfinished()
        cdef list tokens = [], stamps = []
        for i in range(done):
            tokens.append((found[i].token, found[i].logit, found[i].ns, found[i].rescored))
            if timed:
                stamps.append(_stamps(self.span, self.p.n_ops, self.p.threads, greedy.laps + i * n_laps, self.p.copied, clock[i].tolist()))
        return tokens, stamps

    cdef int _make_greedy_room(self, int64_t n_text, int64_t n_ends) except -1:
        """For a text of so many tokens, and so many that end it. NumPy would be called out of cold caches."""
        cdef void *memory
        if n_text > self.greedy_text_room:
            memory = realloc(self.greedy_text, 2 * n_text * sizeof(int32_t))
            if not memory:
                raise OutOfMemoryError("no memory for a text's tokens")
            self.greedy_text, self.greedy_text_room = <int32_t *>memory, 2 * n_text
        if n_ends > self.greedy_ends_room:
            memory = realloc(self.greedy_ends, n_ends * sizeof(int64_t))
            if not memory:
                raise OutOfMemoryError("no memory for the tokens that end a text")
            self.greedy_ends, self.greedy_ends_room = <int64_t *>memory, n_ends
        return 0

    cdef int _raise_unfinished(self) except -1:
        """What a run raises that was told to stop, or could not begin."""
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
        """What the last timed run left, to be read by :class:`pyml_core.timing.Timings`.

        Returns the first and last native operation of every Operation, then the arguments of :func:`read_laps`.
        """
        clock = self.p.start_ns, self.p.end_ns, self.p.start, self.p.end
        return _stamps(self.span, self.p.n_ops, self.p.threads, self.p.laps, self.p.copied, clock)


cdef int64_t _captured_keys(const pyml_slice *part):
    """The positions of a slice's pages: what a row of captured scores holds."""
    return (part.start + part.count + PAGE_TOKENS - 1) // PAGE_TOKENS * PAGE_TOKENS


def _with_table(part, page_bytes):
    """A slice whose pages are plain arrays, with their address table."""
    for page in part.pages:
        if page.dtype != np.uint8 or not page.flags.c_contiguous or page.nbytes != page_bytes:
            raise ShapeError(f"run: expected KV pages of {page_bytes} contiguous bytes, got {page.nbytes}")
    return replace(part, pages=PageTable(part.pages))
