/* pool.c: persistent worker threads and the barrier between operations.
 *
 * A pool of n threads is n - 1 workers and the caller of pyml_pool_run. Workers waiting for a job, and threads waiting
 * at a barrier, spin for a bounded time and then sleep. A pool has at most one thread for each processor: more threads
 * would wait for each other at every barrier. Work for more threads is still divided into that number of shares, which
 * the existing threads process. Pools are created on first use, kept for the life of the process, and created anew
 * after a fork, which threads do not survive.
 */
#define _GNU_SOURCE
#include "pool.h"
#include "types.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

enum { SPINS_AT_BARRIER = 4000, SPINS_FOR_JOB = 20000 };

/* A counter, and the threads that wait for it to change. */
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
static bool fork_handled;

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static bool event_init(event *e) {
    atomic_init(&e->value, 0);
    atomic_init(&e->sleepers, 0);
    if (pthread_mutex_init(&e->mutex, NULL)) return false;
    if (!pthread_cond_init(&e->changed, NULL)) return true;
    pthread_mutex_destroy(&e->mutex);
    return false;
}

static void event_destroy(event *e) {
    pthread_cond_destroy(&e->changed);
    pthread_mutex_destroy(&e->mutex);
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
        if (!pool->job) return NULL; /* not all threads of the pool could be started */
        pool->job(pool->argument, index);
        pyml_pool_barrier(pool);
    }
}

static void forget_pools(void) { /* in the child of a fork: the workers do not exist; their memory is leaked */
    for (int i = 0; i <= MAX_THREADS; i++) {
        if (pools[i]) pools[i]->threads = 1; /* a thread that forked within a job must not wait for the others */
        pools[i] = NULL;
    }
    pthread_mutex_init(&pools_mutex, NULL);
}

static int processors(void) {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

/* Start the workers of a pool. Returns the number that could be started. */
static int make_workers(pyml_pool *pool, pthread_t *workers) {
    int made = 0;
    for (; made < pool->threads - 1; made++) {
        worker_start *start = malloc(sizeof *start);
        if (!start) break;
        *start = (worker_start){pool, made + 1};
        if (pthread_create(&workers[made], NULL, worker, start)) {
            free(start);
            break;
        }
    }
    return made;
}

static pyml_pool *pool_new(int threads) {
    pyml_pool *pool = aligned_alloc(64, (sizeof(pyml_pool) + 63) / 64 * 64);
    if (!pool) return NULL;
    pool->threads = threads;
    pool->job = NULL;
    atomic_init(&pool->arrived, 0);
    pool->busy = pyml_lock_new();
    bool barrier = event_init(&pool->barrier), job_number = event_init(&pool->job_number);
    if (pool->busy && barrier && job_number) {
        pthread_t workers[MAX_THREADS];
        int made = make_workers(pool, workers);
        for (int i = 0; made == threads - 1 && i < made; i++) pthread_detach(workers[i]);
        if (made == threads - 1) return pool;
        event_advance(&pool->job_number); /* no job: the workers return */
        for (int i = 0; i < made; i++) pthread_join(workers[i], NULL);
    }
    if (barrier) event_destroy(&pool->barrier);
    if (job_number) event_destroy(&pool->job_number);
    pyml_lock_free(pool->busy);
    free(pool);
    return NULL;
}

pyml_pool *pyml_pool_get(int threads) {
    if (threads < 1 || threads > MAX_THREADS) return NULL;
    pthread_mutex_lock(&pools_mutex);
    if (!fork_handled) fork_handled = !pthread_atfork(NULL, NULL, forget_pools);
    int available = processors();
    if (threads > available) threads = available;
    if (fork_handled && !pools[threads]) pools[threads] = pool_new(threads);
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

void pyml_pool_barrier_with_work(pyml_pool *pool, void (*last)(void *), bool (*idle)(void *), void *argument) {
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

void pyml_pool_barrier(pyml_pool *pool) { pyml_pool_barrier_with_work(pool, NULL, NULL, NULL); }
