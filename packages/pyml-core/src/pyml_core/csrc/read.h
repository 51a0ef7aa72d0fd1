/* read.h: reading weights from files and packing them, on all threads. */
#ifndef PYML_READ_H
#define PYML_READ_H

#include "lock.h"
#include "types.h"

typedef struct {
    int fd;
    int stored, type;      /* types in the file and of the panels: equal, or floats and q8_0 */
    int64_t n, k;          /* number of rows of the part, and their width */
    int64_t offset;        /* offset of row 0 in the file */
    const int64_t *rows;   /* index of each row in the file; NULL: consecutive */
    uint8_t *packed, *low; /* first panel of the part */
    atomic_ullong hash;    /* incremented by pyml_hash_rows of the rows that were read */
} pyml_part;

typedef struct {
    int64_t index;               /* part or range */
    int error;                   /* errno; 0: end of file; -1: `scale` cannot be stored in q8_0; -2: not finite */
    int64_t offset, wanted, got; /* of the read that failed, in bytes */
    float scale;
} pyml_read_fault;

/* These return false after a fault, or if stopped. */
bool pyml_read_parts(int threads, pyml_part *, int64_t n_parts, pyml_read_fault *, pyml_watch *);
bool pyml_read_ranges(const int64_t *fds, const int64_t *offsets, const int64_t *sizes, int64_t n, uint8_t *target,
                      pyml_read_fault *);

#endif
