/* event.h: numbers that change, and threads that wait for it: by spinning for a bounded time, then by sleeping. */
#ifndef PYML_EVENT_H
#define PYML_EVENT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

typedef struct {
    _Alignas(64) atomic_uint_fast64_t value;
    _Alignas(64) atomic_int sleepers;
    pthread_mutex_t mutex; /* of the rest */
    pthread_cond_t changed;
    int64_t since_ns;   /* when the first of the present sleepers began to wait */
    int64_t changed_ns; /* when the value last changed while a thread slept */
    int processor;      /* of a thread that went to sleep; -1: unknown */
} pyml_event;

/* How to wait: turns until the thread sleeps, and what to do meanwhile, again and again until it returns false. */
typedef struct {
    int spins;
    bool (*idle)(void *);
    void *argument;
} pyml_patience;

bool pyml_event_init(pyml_event *, uint64_t value); /* false: out of memory */
void pyml_event_destroy(pyml_event *);
void pyml_event_set(pyml_event *, uint64_t value);
/* Wait until the value is not `seen`; returns for how many nanoseconds the thread has slept, which ends when the value
 * changes: after that, it waits for a processor. */
int64_t pyml_event_wait(pyml_event *, uint64_t seen, const pyml_patience *);

static inline int64_t pyml_clock_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int pyml_processor(void); /* that this thread runs on; -1: unknown */

#endif
