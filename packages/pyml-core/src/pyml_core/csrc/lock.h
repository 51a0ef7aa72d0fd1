/* lock.h: locks whose waiting can be stopped, and what stops a run. */
#ifndef PYML_LOCK_H
#define PYML_LOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* A flag that any thread sets and others look at while they work. It orders no other memory. */
typedef atomic_bool pyml_flag;

static inline void pyml_flag_set(pyml_flag *flag, bool value) {
    atomic_store_explicit(flag, value, memory_order_relaxed);
}

static inline bool pyml_flag_is_set(const pyml_flag *flag) { return atomic_load_explicit(flag, memory_order_relaxed); }

/* A request to stop. It outlives the runs that look at it, so that a request before a run counts too. */
typedef struct {
    pyml_flag cancelled;
    int64_t deadline_ns; /* of CLOCK_MONOTONIC; 0: none */
} pyml_stop;

/* How a call of native code (a run, a job, a wait) is stopped. Its own thread polls; `cancel` may be set by any
 * thread. */
typedef struct {
    pyml_flag cancel;      /* and set for the other threads once this one has been told */
    const pyml_stop *stop; /* or NULL */
    int (*poll)(void *);   /* asked every 50 ms; true: stop; or NULL */
    void *poll_argument;
    int64_t polled; /* when it was last asked */
    unsigned forks; /* of the process when the call began */
} pyml_watch;

void pyml_watch_begin(pyml_watch *); /* stop, poll and poll_argument are the caller's */
bool pyml_told_to_stop(pyml_watch *);

/* Whether a thread of a job is to stop: number 0, whose watch it is, looks; the others see that it was told. */
static inline bool pyml_stopped(pyml_watch *watch, int thread) {
    return thread == 0 ? pyml_told_to_stop(watch) : pyml_flag_is_set(&watch->cancel);
}

typedef struct pyml_lock pyml_lock;
typedef enum { LOCK_TAKEN, LOCK_STOPPED, LOCK_OWN } pyml_lock_outcome; /* LOCK_OWN: the caller has it already */

pyml_lock *pyml_lock_new(void); /* NULL: out of memory */
void pyml_lock_free(pyml_lock *);
bool pyml_lock_try(pyml_lock *); /* false: the lock is held */
pyml_lock_outcome pyml_lock_take(pyml_lock *, pyml_watch *);
void pyml_lock_give(pyml_lock *);    /* to the caller that has waited longest */
int pyml_lock_waiting(pyml_lock *);  /* callers */
void pyml_lock_dismiss(pyml_lock *); /* all that wait are told to stop */

#endif
