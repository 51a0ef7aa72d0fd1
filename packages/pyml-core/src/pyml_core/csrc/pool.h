/* pool.h: the threads of runs, and the barrier at which they meet. */
#ifndef PYML_POOL_H
#define PYML_POOL_H

#include "lock.h"

typedef struct pyml_pool pyml_pool;
pyml_pool *pyml_pool_get(int threads);          /* NULL: out of memory or threads not to be had */
bool pyml_pool_lock(pyml_pool *, pyml_watch *); /* one job at a time; false: told to stop before its turn came */
void pyml_pool_unlock(pyml_pool *);
void pyml_pool_run(pyml_pool *, void (*job)(void *, int), void *argument); /* on every thread, the caller being number 0
                                                                            */
void pyml_pool_barrier(pyml_pool *);
/* A barrier at which the last thread to come does something before any goes on, and the others meanwhile, again and
 * again until it returns false; with an argument of each thread's own. */
void pyml_pool_barrier_with_work(pyml_pool *, void (*last)(void *), bool (*idle)(void *), void *argument);

#endif
