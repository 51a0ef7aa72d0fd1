/* event.h: numbers that threads wait to change, by spinning for a bounded time, then by sleeping. */
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
    pthread_mutex_t mutex; /* guards the other fields */
    pthread_cond_t changed;
    int64_t since_ns;   /* when the first of the current sleepers began to wait */
    int64_t changed_ns; /* when the value last changed while a thread slept */
    int processor;      /* processor of a thread that went to sleep; -1: unknown */
} pyml_event;

/* How to wait: the number of turns before the thread sleeps, and a function to call in each; it returns false if it had
 * nothing to do. */
typedef struct {
    int spins;
    bool (*idle)(void *);
    void *argument;
} pyml_patience;

bool pyml_event_init(pyml_event *, uint64_t value); /* false: out of memory */
void pyml_event_destroy(pyml_event *);
void pyml_event_set(pyml_event *, uint64_t value);
/* Wait until the value is not `seen`. Returns the nanoseconds that the thread has slept up to the change of the value;
 * after that, it waits for a processor. */
int64_t pyml_event_wait(pyml_event *, uint64_t seen, const pyml_patience *);

static inline int64_t pyml_clock_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int pyml_processor(void); /* the processor that this thread runs on; -1: unknown */

#endif
