/* limits.c: one measurement of the machine on all threads of a pool, with the loops of level/limits.c. */
#define _GNU_SOURCE
#include "clock.h"
#include "pool.h"
#include "program.h"

#include <fenv.h>
#include <stdatomic.h>
#include <time.h>

typedef struct {
    pyml_limit_fn limit;
    const pyml_kernels *kernels;
    const uint8_t *data;
    int64_t amount; /* steps, or bytes for each thread */
    bool shared;    /* data is divided among the threads */
    atomic_llong done;
} measurement;

static void measure(void *argument, int index) {
    measurement *m = argument;
    _Alignas(64) uint8_t sink[64];
    m->kernels->enter();
    const uint8_t *data = m->shared ? m->data + index * m->amount : m->data;
    atomic_fetch_add(&m->done, m->limit(data, m->amount, sink));
}

/* Returns nanoseconds, and in *done the operations or bytes of all threads; 0: no threads, or stopped. */
int64_t pyml_measure_limit(const pyml_kernels *kernels, int threads, int what, const uint8_t *data, int64_t amount,
                           int64_t *done, pyml_watch *watch) {
    pyml_pool *pool = pyml_pool_get(threads);
    *done = 0;
    if (!pool || !pyml_pool_lock(pool, watch)) return 0;
    measurement m = {kernels->limits[what], kernels, data, amount, what == LIMIT_READ, 0};
    fenv_t callers;
    struct timespec start, end;
    fegetenv(&callers);
    clock_gettime(CLOCK_MONOTONIC, &start);
    pyml_pool_run(pool, POOL_ALL, measure, &m);
    clock_gettime(CLOCK_MONOTONIC, &end);
    pyml_pool_unlock(pool);
    fesetenv(&callers);
    *done = m.done;
    return (end.tv_sec - start.tv_sec) * 1000000000LL + end.tv_nsec - start.tv_nsec;
}
