/* program.h: programs, CPU levels, runs, timings, limits. */
#ifndef PYML_PROGRAM_H
#define PYML_PROGRAM_H

#include "lock.h"
#include "types.h"

/* dispatch.c */
const char *pyml_operation_name(int kind);
int pyml_level_count(void);
const char *pyml_level_name(int level);
int pyml_level_compiled(int level);
int pyml_level_supported(int level); /* by this CPU and operating system */
const pyml_kernels *pyml_level_kernels(int level);

/* program.c */
typedef struct {
    uint64_t busy, phase[MAX_PHASES]; /* ticks of one thread in one operation */
    uint64_t began, arrived; /* ticks when it began the operation (0: it had no work), and when it had no work left */
} pyml_thread_span;

typedef struct {
    int64_t n_ops;
    pyml_op *ops;
    const pyml_kernels *kernels;
    int32_t threads;
    int64_t scratch_bytes; /* for each thread */
    pyml_watch watch;      /* checked before every batch of items */
    pyml_run run;
    uint8_t *scratch; /* [threads][scratch_bytes] */
    void *counters;
    /* Filled by a timed run: */
    pyml_thread_span *spans;  /* [threads][n_ops] */
    uint64_t *copied;         /* [n_ops] ticks when the output had been copied; 0: not copied */
    int64_t start_ns, end_ns; /* of the whole run, by CLOCK_MONOTONIC; ticks are cheaper to read in between */
    uint64_t start, end;      /* ticks at start_ns and end_ns */
} pyml_program;

int64_t pyml_scratch_for(const pyml_op *, const pyml_kv *, int64_t tile_tokens);
bool pyml_program_allocate(pyml_program *); /* scratch, counters, spans; false: out of memory */
void pyml_program_free(pyml_program *);
bool pyml_program_run(pyml_program *, bool timed); /* false: cancelled, or its threads could not be started */
/* These two return false if stopped. */
bool pyml_pack_threaded(int threads, int type, int64_t n, int64_t k, const uint8_t *stored, uint8_t *packed,
                        uint8_t *low, pyml_watch *);
bool pyml_row_stats(const pyml_kernels *, int threads, const pyml_matrix *, uint16_t *stats, pyml_watch *);

/* timings.c */
typedef struct {
    const pyml_thread_span *spans; /* [threads][n_ops] of a timed run */
    const uint64_t *copied;        /* [n_ops] */
    int64_t n_ops;
    int threads;
    int64_t start_ns, end_ns, start, end; /* of the run, in ns and in ticks */
} pyml_timings;

/* Computes the begin and end of each operation, and the spans as [n_ops][threads] with `began` and `arrived` in ns.
 * Returns the nanoseconds of a tick. */
double pyml_read_timings(const pyml_timings *, int64_t *begin_ns, int64_t *end_ns, pyml_thread_span *spans);

/* limits.c */
int64_t pyml_measure_limit(const pyml_kernels *, int threads, int what, const uint8_t *data, int64_t amount,
                           int64_t *done, pyml_watch *);

#endif
