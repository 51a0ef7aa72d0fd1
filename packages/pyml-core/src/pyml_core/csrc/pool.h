/* pool.h: the worker threads of runs, and their barrier. */
#ifndef PYML_POOL_H
#define PYML_POOL_H

#include "lock.h"

typedef struct pyml_pool pyml_pool;
pyml_pool *pyml_pool_get(int threads);          /* NULL: out of memory, or threads could not be started */
bool pyml_pool_lock(pyml_pool *, pyml_watch *); /* one job at a time; false: stopped while waiting */
void pyml_pool_unlock(pyml_pool *);
/* Run a job on every thread; the caller is thread 0. */
void pyml_pool_run(pyml_pool *, void (*job)(void *, int), void *argument);
void pyml_pool_barrier(pyml_pool *);
/* A barrier at which the last thread to arrive calls `last` before any continues. The waiting threads call `idle`
 * repeatedly; it returns false if it had nothing to do. Each thread passes its own argument. */
void pyml_pool_barrier_with_work(pyml_pool *, void (*last)(void *), bool (*idle)(void *), void *argument);

#endif
