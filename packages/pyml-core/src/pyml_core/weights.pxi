# Packing, reading and unpacking weights: see csrc/pack.c and csrc/read.c.


def pack_into(packed, const uint8_t[::1] stored, int type_id, int64_t first_panel, int64_t n, int64_t k, int threads):
    """Pack n stored rows of k elements into panels ``first_panel``.. of ``packed``; see csrc/pack.c. The caller checks the sizes."""
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
    """Read and pack parts of matrices that from_file.py has checked. Returns their hashes, and the fault or None."""
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
        raise OutOfMemoryError("no memory for the list of parts to read")
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
    """Return the hash of ``n_rows`` rows, as in :func:`read_parts`; see csrc/hash.c. The caller checks the size."""
    cdef uint64_t found = 0
    if data.shape[0]:
        with nogil:
            found = pyml_hash_rows(&data[0], n_rows, data.shape[0] // n_rows, 0, NULL)
    return found


def read_ranges(const int64_t[::1] fds, const int64_t[::1] offsets, const int64_t[::1] sizes, uint8_t[::1] target):
    """Read ranges of files, one after the other. Returns the fault or None. The caller checks the sizes."""
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
    """Return rows of a PackedMatrix as float32 (len(rows), K). The caller checks the indices."""
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


def row_stats(packed, str level, int threads):
    """Return the statistics of every row of a split matrix: float16 (panels, 4, 16), see csrc/level/screen.c."""
    cdef pyml_matrix m
    _fill_matrix(&m, packed)
    if m.type != TYPE_Q8_0_SPLIT:
        raise ShapeError(f"screen: expected a split q8_0 matrix, got {packed.dtype}")
    stats = aligned_empty(((m.n + PANEL - 1) // PANEL, ROW_STATS, PANEL), np.float16)
    cdef uint16_t *target = <uint16_t *>_address(stats)
    cdef const pyml_kernels *kernels = pyml_level_kernels(_level_index(level))
    cdef bint done
    cdef pyml_watch watch
    cdef _Signals signals = _Signals()
    _listen(&watch, signals, None)
    with nogil:
        done = pyml_row_stats(kernels, threads, &m, target, &watch)
    if not done:
        _raise_stopped(signals)
    return stats


def all_finite(const uint8_t[::1] data, int ggml_id):
    """Whether all floats, or all scales and minima, are finite. The data must be whole blocks of the type."""
    cdef bint finite = True
    if data.shape[0]:
        with nogil:
            finite = pyml_all_finite(ggml_id, &data[0], data.shape[0])
    return finite
