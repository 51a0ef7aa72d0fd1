/* read.h: weights from files: reads and packs by all threads. */
#ifndef PYML_READ_H
#define PYML_READ_H

#include "lock.h"
#include "types.h"

typedef struct {
    int fd;
    int stored, type;      /* in the file, and of the panels: the same, or floats and q8_0 */
    int64_t n, k;          /* rows of the part, and their width */
    int64_t offset;        /* in the file, of row 0 */
    const int64_t *rows;   /* which row each is; NULL: in order */
    uint8_t *packed, *low; /* of the part's first panel */
    atomic_ullong hash;    /* pyml_hash_rows of the rows that were read is added to it */
} pyml_part;

typedef struct {
    int64_t index;               /* of the part or range */
    int error;                   /* errno; 0: the file ended; -1: a block with this scale has no q8_0; -2: not finite */
    int64_t offset, wanted, got; /* bytes of the read that failed */
    float scale;
} pyml_read_fault;

/* False after a fault, or if it was told to stop. */
bool pyml_read_parts(int threads, pyml_part *, int64_t n_parts, pyml_read_fault *, pyml_watch *);
bool pyml_read_ranges(const int64_t *fds, const int64_t *offsets, const int64_t *sizes, int64_t n, uint8_t *target,
                      pyml_read_fault *);

#endif
