/* pool.c: persistent worker threads and the barrier between operations.
 *
 * A pool of n threads is n - 1 workers and the caller of pyml_pool_run. Workers waiting for a job, and threads waiting
 * at a barrier, spin for a bounded time and then sleep. A pool has at most one thread for each processor: more threads
 * would wait for each other at every barrier. Work for more threads is still divided into that number of shares, which
 * the existing threads process. Where other processes take processors, jobs use fewer threads: see crew.c. Pools are
 * created on first use, kept for the life of the process, and created anew after a fork, which threads do not survive.
 */
#define _GNU_SOURCE
#include "pool.h"
#include "crew.h"
#include "event.h"
#include "types.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    SPINS_AT_BARRIER = 4000,
    SPINS_FOR_JOB = 20000,
    TEAM_BITS = 16,
    START_NS = 200 * 1000, /* time that a worker may take to wake up for a job */
    LATE_NS = 20 * 1000,   /* time without a processor from which on a thread is late */
};

/* Fraction of a job's time, times its threads, that may be lost before one thread fewer is faster. A step is bound by
 * memory, whose bandwidth fewer threads nearly reach too; a chunk is bound by arithmetic. */
#define TOLERANCE_OF_STEPS 0.67
#define TOLERANCE_OF_CHUNKS 1.3

struct pyml_pool {
    int threads;
    int team; /* threads of the current job: those below this number */
    _Alignas(64) atomic_int arrived;
    pyml_event barrier, jobs, recall; /* the value of `jobs` is a job's number and its team: see job_value */
    void (*job)(void *, int);
    void *argument;
    int64_t began_ns; /* start of the current job */
    int64_t lost_ns;  /* lost time of the current job, see note_late; changed by the last thread at a barrier */
    int lates;        /* number of times that a thread was late; changed by the last thread at a barrier */
    int late_at;      /* processor of the last late thread; changed by the last thread at a barrier */
    pyml_crew crews[POOL_CREWS];
    pyml_lock *busy;
};

/* A thread in a job: when it began or was last late, by the clock and by its processor time; the time slept since. */
static _Thread_local struct {
    int index;
    int64_t wall_ns, cpu_ns, slept_ns;
} self;

typedef struct {
    pyml_pool *pool;
    int index;
} worker_start;

static pyml_pool *pools[MAX_THREADS + 1];
static pthread_mutex_t pools_mutex = PTHREAD_MUTEX_INITIALIZER;
static bool fork_handled;

/* ---- processors */

static int processors(void) {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

/* Two threads of a team share a processor. Each sleeps while the other works, so that the system has no reason to move
 * one. Move this thread to another processor; after that, the system may move it again. */
static void leave_processor(int processor) {
#if defined(__linux__)
    cpu_set_t all, others;
    if (processor < 0 || sched_getaffinity(0, sizeof all, &all)) return;
    others = all;
    CPU_CLR(processor, &others);
    if (CPU_COUNT(&others) && !sched_setaffinity(0, sizeof others, &others)) sched_setaffinity(0, sizeof all, &all);
#else
    (void)processor;
#endif
}

/* ---- late threads */

/* Record that this thread begins its part of a job. */
static void begin_part(const pyml_pool *pool, int index) {
    int64_t now = pyml_clock_ns(CLOCK_MONOTONIC), latest = pool->began_ns + START_NS;
    self.index = index, self.wall_ns = now < latest ? now : latest;
    self.cpu_ns = pyml_clock_ns(CLOCK_THREAD_CPUTIME_ID), self.slept_ns = 0;
}

/* Called by the last thread at a barrier where others sleep. If it was late because it had no processor, the time that
 * they have waited is lost. */
static void note_late(pyml_pool *pool) {
    int64_t now = pyml_clock_ns(CLOCK_MONOTONIC), cpu = pyml_clock_ns(CLOCK_THREAD_CPUTIME_ID);
    int64_t lost = now - self.wall_ns - self.slept_ns - (cpu - self.cpu_ns);
    pthread_mutex_lock(&pool->barrier.mutex);
    int64_t waited = now - pool->barrier.since_ns;
    int sleeper_at = pool->barrier.processor;
    pthread_mutex_unlock(&pool->barrier.mutex);
    if (lost > LATE_NS) pool->lost_ns += lost < waited ? lost : waited, pool->lates++;
    self.wall_ns = now, self.cpu_ns = cpu, self.slept_ns = 0;
    pool->late_at = pyml_processor();
    if (self.index > 0 && pool->late_at == sleeper_at) leave_processor(sleeper_at);
}

/* ---- jobs and teams */

static uint64_t job_value(uint64_t number, int team) { return number << TEAM_BITS | (uint64_t)team; }

static bool is_in_team(uint64_t job, int index) { return index < (int)(job & ((1 << TEAM_BITS) - 1)); }

static uint64_t next_job_value(pyml_pool *pool, int team) {
    return job_value((atomic_load(&pool->jobs.value) >> TEAM_BITS) + 1, team);
}

/* Wait for a job after `seen` that has this worker in its team. A worker outside the current team does not check each
 * new job, but sleeps until a team grows. */
static uint64_t wait_for_job(pyml_pool *pool, int index, uint64_t seen) {
    const pyml_patience spin = {SPINS_FOR_JOB, NULL, NULL}, sleep = {0, NULL, NULL};
    for (;;) {
        uint64_t recalled = atomic_load(&pool->recall.value), job = atomic_load(&pool->jobs.value);
        if (!is_in_team(job, index)) pyml_event_wait(&pool->recall, recalled, &sleep);
        else if (job == seen) pyml_event_wait(&pool->jobs, job, &spin);
        else return job;
    }
}

static void *worker(void *start) {
    pyml_pool *pool = ((worker_start *)start)->pool;
    int index = ((worker_start *)start)->index;
    free(start);
    for (uint64_t job = job_value(0, pool->threads);;) {
        job = wait_for_job(pool, index, job);
        if (!pool->job) return NULL; /* not all threads of the pool could be started */
        begin_part(pool, index);
        pool->job(pool->argument, index);
        pyml_pool_barrier(pool);
    }
}

/* Run a job on the first `team` threads. */
static void run_on(pyml_pool *pool, int team, void (*job)(void *, int), void *argument) {
    const bool grows = team > pool->team;
    pool->job = job, pool->argument = argument, pool->team = team;
    pool->began_ns = pyml_clock_ns(CLOCK_MONOTONIC), pool->lost_ns = 0, pool->lates = 0;
    if (team > 1) {
        pyml_event_set(&pool->jobs, next_job_value(pool, team));
        if (grows) pyml_event_set(&pool->recall, atomic_load(&pool->recall.value) + 1);
        begin_part(pool, 0);
    }
    job(argument, 0);
    pyml_pool_barrier(pool);
}

void pyml_pool_run(pyml_pool *pool, pyml_pool_crew kind, void (*job)(void *, int), void *argument) {
    if (kind == POOL_ALL || pool->threads == 1) {
        run_on(pool, pool->threads, job, argument);
        return;
    }
    pyml_crew *crew = &pool->crews[kind];
    run_on(pool, pyml_crew_size(crew, pyml_clock_ns(CLOCK_MONOTONIC)), job, argument);
    int64_t ended_ns = pyml_clock_ns(CLOCK_MONOTONIC);
    pyml_crew_note(crew, ended_ns, ended_ns - pool->began_ns, pool->lost_ns, pool->lates);
}

int pyml_pool_team(const pyml_pool *pool) { return pool->team; }

void pyml_pool_barrier_with_work(pyml_pool *pool, void (*last)(void *), bool (*idle)(void *), void *argument) {
    const int team = pool->team; /* the next job may have another team, once all threads have arrived */
    if (team == 1) {
        if (last) last(argument);
        return;
    }
    uint64_t seen = atomic_load(&pool->barrier.value);
    if (atomic_fetch_add(&pool->arrived, 1) == team - 1) {
        atomic_store(&pool->arrived, 0);
        if (last) last(argument);
        if (atomic_load(&pool->barrier.sleepers)) note_late(pool);
        pyml_event_set(&pool->barrier, seen + 1);
        return;
    }
    int64_t slept = pyml_event_wait(&pool->barrier, seen, &(pyml_patience){SPINS_AT_BARRIER, idle, argument});
    self.slept_ns += slept;
    if (slept && self.index > 0 && pool->late_at == pyml_processor()) leave_processor(pool->late_at);
}

void pyml_pool_barrier(pyml_pool *pool) { pyml_pool_barrier_with_work(pool, NULL, NULL, NULL); }

/* ---- pools */

static void forget_pools(void) { /* in the child of a fork: the workers do not exist; their memory is leaked */
    for (int i = 0; i <= MAX_THREADS; i++) {
        if (pools[i]) pools[i]->team = 1; /* a thread that forked within a job must not wait for the others */
        pools[i] = NULL;
    }
    pthread_mutex_init(&pools_mutex, NULL);
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
    pool->threads = pool->team = threads;
    pool->job = NULL;
    atomic_init(&pool->arrived, 0);
    pyml_crew_init(&pool->crews[POOL_STEP], threads, TOLERANCE_OF_STEPS);
    pyml_crew_init(&pool->crews[POOL_CHUNK], threads, TOLERANCE_OF_CHUNKS);
    pool->busy = pyml_lock_new();
    pyml_event *events[] = {&pool->barrier, &pool->jobs, &pool->recall};
    int n = 0;
    while (n < 3 && pyml_event_init(events[n], events[n] == &pool->jobs ? job_value(0, threads) : 0)) n++;
    if (pool->busy && n == 3) {
        pthread_t workers[MAX_THREADS];
        int made = make_workers(pool, workers);
        for (int i = 0; made == threads - 1 && i < made; i++) pthread_detach(workers[i]);
        if (made == threads - 1) return pool;
        pyml_event_set(&pool->jobs, next_job_value(pool, threads)); /* no job: the workers return */
        for (int i = 0; i < made; i++) pthread_join(workers[i], NULL);
    }
    while (n) pyml_event_destroy(events[--n]);
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
