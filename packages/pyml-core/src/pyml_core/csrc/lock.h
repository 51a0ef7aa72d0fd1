/* lock.h: locks whose waiting threads can be stopped, and requests to stop runs. */
#ifndef PYML_LOCK_H
#define PYML_LOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* A flag that any thread may set while others poll it. It does not order other memory accesses. */
typedef atomic_bool pyml_flag;

static inline void pyml_flag_set(pyml_flag *flag, bool value) {
    atomic_store_explicit(flag, value, memory_order_relaxed);
}

static inline bool pyml_flag_is_set(const pyml_flag *flag) { return atomic_load_explicit(flag, memory_order_relaxed); }

/* A request to stop. It outlives the runs that check it, so that a request made before a run stops it too. */
typedef struct {
    pyml_flag cancelled;
    int64_t deadline_ns; /* by CLOCK_MONOTONIC; 0: none */
} pyml_stop;

/* How a native call (a run, a job, a wait) is stopped. Only the calling thread polls; any thread may set `cancel`. */
typedef struct {
    pyml_flag cancel;      /* also set when polling finds a reason to stop, so that the other threads see it */
    const pyml_stop *stop; /* or NULL */
    int (*poll)(void *);   /* called every 50 ms, returns true to stop; or NULL */
    void *poll_argument;
    int64_t polled; /* time of the last call of `poll` */
    unsigned forks; /* number of forks of the process when the call began */
} pyml_watch;

void pyml_watch_begin(pyml_watch *); /* the caller sets stop, poll and poll_argument */
bool pyml_told_to_stop(pyml_watch *);

/* Whether a thread of a job must stop. Thread 0, the caller, polls; the others read the flag that it sets. */
static inline bool pyml_stopped(pyml_watch *watch, int thread) {
    return thread == 0 ? pyml_told_to_stop(watch) : pyml_flag_is_set(&watch->cancel);
}

typedef struct pyml_lock pyml_lock;
typedef enum { LOCK_TAKEN, LOCK_STOPPED, LOCK_OWN } pyml_lock_outcome; /* LOCK_OWN: the caller already has it */

pyml_lock *pyml_lock_new(void); /* NULL: out of memory */
void pyml_lock_free(pyml_lock *);
bool pyml_lock_try(pyml_lock *); /* false: the lock is held */
pyml_lock_outcome pyml_lock_take(pyml_lock *, pyml_watch *);
void pyml_lock_give(pyml_lock *);    /* release it; the thread that has waited longest gets it */
int pyml_lock_waiting(pyml_lock *);  /* number of waiting threads */
void pyml_lock_dismiss(pyml_lock *); /* stop all waiting threads */

#endif
