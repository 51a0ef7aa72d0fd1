/* pool.h: the worker threads of runs, and their barrier. */
#ifndef PYML_POOL_H
#define PYML_POOL_H

#include "lock.h"

typedef struct pyml_pool pyml_pool;
pyml_pool *pyml_pool_get(int threads);          /* NULL: out of memory, or threads could not be started */
bool pyml_pool_lock(pyml_pool *, pyml_watch *); /* one job at a time; false: stopped while waiting */
void pyml_pool_unlock(pyml_pool *);
/* The kinds of jobs for which the number of threads is chosen separately, see crew.c. POOL_ALL: always all threads. */
typedef enum { POOL_STEP, POOL_CHUNK, POOL_CREWS, POOL_ALL = POOL_CREWS } pyml_pool_crew;
/* Run a job on as many threads as its kind has; the caller is thread 0. */
void pyml_pool_run(pyml_pool *, pyml_pool_crew, void (*job)(void *, int), void *argument);
int pyml_pool_team(const pyml_pool *); /* the number of threads of the current job */
void pyml_pool_barrier(pyml_pool *);
/* A barrier at which the last thread to arrive calls `last` before any continues. The waiting threads call `idle`
 * repeatedly; it returns false if it had nothing to do. Each thread passes its own argument. */
void pyml_pool_barrier_with_work(pyml_pool *, void (*last)(void *), bool (*idle)(void *), void *argument);

#endif
