/* pool.c: persistent worker threads and the barrier between operations.
 *
 * A pool of n threads is n - 1 workers and whoever calls pyml_pool_run. Workers wait for a job, and threads for each other at a
 * barrier, by spinning for a bounded time and then sleeping. There is no more than one for each processor: more would wait for each
 * other's turn at every barrier. Whoever wants more has work shared out for so many, and these do the others' shares too.
 * Pools are made on first use, kept for the life of the process, and made anew after a fork (threads do not survive it).
 */
#define _GNU_SOURCE
#include "pyml.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

enum { SPINS_AT_BARRIER = 4000, SPINS_FOR_JOB = 20000 };

/* A number that grows, and threads that wait for it to change. */
typedef struct {
    _Alignas(64) atomic_uint value;
    _Alignas(64) atomic_int sleepers;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
} event;

struct pyml_pool {
    int threads;
    _Alignas(64) atomic_int arrived;
    event barrier, job_number;
    void (*job)(void *, int);
    void *argument;
    pyml_lock *busy;
};

typedef struct {
    pyml_pool *pool;
    int index;
} worker_start;

static pyml_pool *pools[MAX_THREADS + 1];
static pthread_mutex_t pools_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t fork_handler = PTHREAD_ONCE_INIT;

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int event_init(event *e) {
    atomic_init(&e->value, 0);
    atomic_init(&e->sleepers, 0);
    return pthread_mutex_init(&e->mutex, NULL) || pthread_cond_init(&e->changed, NULL);
}

static void event_advance(event *e) {
    atomic_fetch_add(&e->value, 1);
    if (atomic_load(&e->sleepers)) {
        pthread_mutex_lock(&e->mutex);
        pthread_cond_broadcast(&e->changed);
        pthread_mutex_unlock(&e->mutex);
    }
}

static void event_wait(event *e, unsigned seen, int spins, bool (*idle)(void *), void *argument) {
    for (int i = 0; i < spins; i++) {
        if (atomic_load_explicit(&e->value, memory_order_acquire) != seen) return;
        if (!idle || !idle(argument)) relax();
    }
    pthread_mutex_lock(&e->mutex);
    atomic_fetch_add(&e->sleepers, 1);
    while (atomic_load(&e->value) == seen) pthread_cond_wait(&e->changed, &e->mutex);
    atomic_fetch_sub(&e->sleepers, 1);
    pthread_mutex_unlock(&e->mutex);
}

static void *worker(void *start) {
    pyml_pool *pool = ((worker_start *)start)->pool;
    int index = ((worker_start *)start)->index;
    free(start);
    for (unsigned seen = 0;; seen++) {
        event_wait(&pool->job_number, seen, SPINS_FOR_JOB, NULL, NULL);
        pool->job(pool->argument, index);
        pyml_pool_barrier(pool);
    }
    return NULL;
}

static void forget_pools(void) { /* in the child of a fork: the workers are gone, their memory is not worth chasing */
    for (int i = 0; i <= MAX_THREADS; i++) {
        if (pools[i]) pools[i]->threads = 1; /* should this thread be in a job, it meets nobody */
        pools[i] = NULL;
    }
    pthread_mutex_init(&pools_mutex, NULL);
}

static void install_fork_handler(void) { pthread_atfork(NULL, NULL, forget_pools); }

static int processors(void) {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

static pyml_pool *pool_new(int threads) {
    pyml_pool *pool = aligned_alloc(64, (sizeof(pyml_pool) + 63) / 64 * 64);
    if (!pool) return NULL;
    pool->threads = threads;
    atomic_init(&pool->arrived, 0);
    pool->busy = pyml_lock_new();
    if (!pool->busy || event_init(&pool->barrier) || event_init(&pool->job_number)) {
        pyml_lock_free(pool->busy);
        free(pool);
        return NULL;
    }
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    int made = 1;
    for (; made < threads; made++) {
        pthread_t thread;
        worker_start *start = malloc(sizeof *start);
        if (!start) break;
        *start = (worker_start){pool, made};
        if (pthread_create(&thread, &attributes, worker, start)) {
            free(start);
            break;
        }
    }
    pthread_attr_destroy(&attributes);
    return made == threads ? pool : NULL; /* workers of a half-made pool sleep on: a rare failure's small leak */
}

pyml_pool *pyml_pool_get(int threads) {
    if (threads < 1 || threads > MAX_THREADS) return NULL;
    pthread_once(&fork_handler, install_fork_handler);
    pthread_mutex_lock(&pools_mutex);
    int available = processors();
    if (threads > available) threads = available;
    if (!pools[threads]) pools[threads] = pool_new(threads);
    pyml_pool *pool = pools[threads];
    pthread_mutex_unlock(&pools_mutex);
    return pool;
}

bool pyml_pool_lock(pyml_pool *pool, pyml_watch *watch) { return pyml_lock_take(pool->busy, watch) == LOCK_TAKEN; }

void pyml_pool_unlock(pyml_pool *pool) { pyml_lock_give(pool->busy); }

void pyml_pool_run(pyml_pool *pool, void (*job)(void *, int), void *argument) {
    pool->job = job;
    pool->argument = argument;
    if (pool->threads > 1) event_advance(&pool->job_number);
    job(argument, 0);
    pyml_pool_barrier(pool);
}

void pyml_pool_meet(pyml_pool *pool, void (*last)(void *), bool (*idle)(void *), void *argument) {
    if (pool->threads == 1) {
        if (last) last(argument);
        return;
    }
    unsigned seen = atomic_load(&pool->barrier.value);
    if (atomic_fetch_add(&pool->arrived, 1) == pool->threads - 1) {
        atomic_store(&pool->arrived, 0);
        if (last) last(argument);
        event_advance(&pool->barrier);
    } else {
        event_wait(&pool->barrier, seen, SPINS_AT_BARRIER, idle, argument);
    }
}

void pyml_pool_barrier(pyml_pool *pool) { pyml_pool_meet(pool, NULL, NULL, NULL); }
