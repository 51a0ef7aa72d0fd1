/* read.c: reads matrices from files into panels, on all threads. A thread reads a piece into a buffer that stays in its
 * cache, hashes it, checks that all numbers are finite, and packs it, as stored or quantised. Reads are positional. The
 * caller has checked sizes and offsets.
 */
#define _GNU_SOURCE
#include "formats.h"
#include "pool.h"
#include "read.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PIECE_BYTES = 256 << 10 };

typedef struct {
    pyml_part *parts;
    int64_t n_parts;
    atomic_llong next; /* next piece, counted over all parts */
    atomic_bool failed;
    pyml_read_fault *fault;
    pyml_watch *watch;
} reading;

/* Returns the number of bytes read: less than n at the end of the file or after an error, which is put in `error`. */
static int64_t read_at(int fd, uint8_t *target, int64_t n, int64_t offset, int *error) {
    int64_t done = 0;
    while (done < n) {
        ssize_t count = pread(fd, target + done, (size_t)(n - done), (off_t)(offset + done));
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) *error = errno;
        if (count <= 0) break;
        done += count;
    }
    return done;
}

static int64_t panels_at_a_time(int64_t row_bytes) {
    int64_t panels = PIECE_BYTES / (PANEL * row_bytes);
    return panels ? panels : 1;
}

static int64_t pieces_of(const pyml_part *part) {
    int64_t panels = (part->n + PANEL - 1) / PANEL,
            step = panels_at_a_time(pyml_stored_row_bytes(part->stored, part->k));
    return (panels + step - 1) / step;
}

static void fail(reading *r, pyml_read_fault fault) {
    if (!atomic_exchange(&r->failed, true)) *r->fault = fault;
}

static bool read_piece(reading *r, int64_t part, uint8_t *target, int64_t n, int64_t offset) {
    int error = 0;
    int64_t got = read_at(r->parts[part].fd, target, n, offset, &error);
    if (got < n) fail(r, (pyml_read_fault){.index = part, .error = error, .offset = offset, .wanted = n, .got = got});
    return got == n;
}

/* Read rows begin..end-1 of a part into consecutive memory. Reordered rows are mostly close together in the file; they
 * are then read as one span and copied. */
static bool read_rows(reading *r, int64_t index, int64_t begin, int64_t end, uint8_t *rows, uint8_t *span) {
    const pyml_part *part = &r->parts[index];
    int64_t row_bytes = pyml_stored_row_bytes(part->stored, part->k), count = end - begin;
    if (!part->rows) return read_piece(r, index, rows, count * row_bytes, part->offset + begin * row_bytes);
    int64_t first = part->rows[begin], last = first;
    for (int64_t row = begin; row < end; row++) {
        first = part->rows[row] < first ? part->rows[row] : first;
        last = part->rows[row] > last ? part->rows[row] : last;
    }
    bool together = last - first < 4 * count;
    if (together && !read_piece(r, index, span, (last - first + 1) * row_bytes, part->offset + first * row_bytes))
        return false;
    for (int64_t row = begin; row < end; row++) {
        uint8_t *target = rows + (row - begin) * row_bytes;
        if (together) memcpy(target, span + (part->rows[row] - first) * row_bytes, (size_t)row_bytes);
        else if (!read_piece(r, index, target, row_bytes, part->offset + part->rows[row] * row_bytes)) return false;
    }
    return true;
}

static void pack_piece(reading *r, int64_t index, int64_t piece, uint8_t *memory) {
    pyml_part *part = &r->parts[index];
    int64_t row_bytes = pyml_stored_row_bytes(part->stored, part->k), step = panels_at_a_time(row_bytes);
    int64_t panel = piece * step, begin = panel * PANEL, end = begin + step * PANEL;
    if (end > part->n) end = part->n;
    uint8_t *behind = memory + step * PANEL * row_bytes;
    if (!read_rows(r, index, begin, end, memory, behind)) return;
    uint64_t hash = pyml_hash_rows(memory, end - begin, row_bytes, begin, part->rows ? part->rows + begin : NULL);
    atomic_fetch_add_explicit(&part->hash, hash, memory_order_relaxed);
    float scale;
    if (part->stored == part->type && !pyml_all_finite(part->type, memory, (end - begin) * row_bytes)) {
        fail(r, (pyml_read_fault){.index = index, .error = -2, .offset = part->offset});
        return;
    }
    if (part->stored != part->type && !pyml_to_q8_0(part->stored, memory, (end - begin) * part->k, behind, &scale)) {
        fail(r, (pyml_read_fault){.index = index, .error = -1, .offset = part->offset, .scale = scale});
        return;
    }
    const uint8_t *rows = part->stored == part->type ? memory : behind;
    uint8_t *low = part->low ? part->low + panel * pyml_low_bytes(part->type, part->k) : NULL;
    uint8_t *packed = part->packed + panel * pyml_panel_bytes(part->type, part->k);
    pyml_pack_panels(part->type, end - begin, part->k, rows, packed, low, 0, (end - begin + PANEL - 1) / PANEL);
}

/* Buffer bytes of a thread: a piece and its quantised form; with reordered rows, also a span of up to four pieces. */
static int64_t memory_for(const reading *r) {
    int64_t most = 0;
    for (int64_t i = 0; i < r->n_parts; i++) {
        const pyml_part *part = &r->parts[i];
        int64_t row_bytes = pyml_stored_row_bytes(part->stored, part->k);
        int64_t bytes = panels_at_a_time(row_bytes) * PANEL * row_bytes
                        * (part->rows                   ? 5
                           : part->stored != part->type ? 2
                                                        : 1);
        most = bytes > most ? bytes : most;
    }
    return most;
}

static void some_pieces(void *argument, int thread) {
    reading *r = argument;
    uint8_t *memory = malloc((size_t)memory_for(r));
    if (!memory) {
        fail(r, (pyml_read_fault){.error = ENOMEM});
        return;
    }
    int64_t part = 0, before = 0; /* number of pieces in earlier parts */
    while (!atomic_load(&r->failed) && !pyml_stopped(r->watch, thread)) {
        int64_t piece = atomic_fetch_add(&r->next, 1);
        while (part < r->n_parts && piece - before >= pieces_of(&r->parts[part]))
            before += pieces_of(&r->parts[part++]);
        if (part == r->n_parts) break;
        pack_piece(r, part, piece - before, memory);
    }
    free(memory);
}

bool pyml_read_parts(int threads, pyml_part *parts, int64_t n_parts, pyml_read_fault *fault, pyml_watch *watch) {
    reading r = {.parts = parts, .n_parts = n_parts, .fault = fault, .watch = watch};
    pyml_pool *pool = pyml_pool_get(threads);
    if (!pool) {
        some_pieces(&r, 0);
    } else {
        if (!pyml_pool_lock(pool, watch)) return false;
        pyml_pool_run(pool, POOL_ALL, some_pieces, &r);
        pyml_pool_unlock(pool);
    }
    return !r.failed && !pyml_flag_is_set(&watch->cancel);
}

bool pyml_read_ranges(const int64_t *fds, const int64_t *offsets, const int64_t *sizes, int64_t n, uint8_t *target,
                      pyml_read_fault *fault) {
    for (int64_t i = 0; i < n; i++) {
        int error = 0;
        int64_t got = read_at((int)fds[i], target, sizes[i], offsets[i], &error);
        if (got < sizes[i]) {
            *fault =
                (pyml_read_fault){.index = i, .error = error, .offset = offsets[i], .wanted = sizes[i], .got = got};
            return false;
        }
        target += sizes[i];
    }
    return true;
}
