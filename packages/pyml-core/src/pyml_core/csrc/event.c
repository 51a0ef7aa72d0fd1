/* event.c: see event.h. */
#define _GNU_SOURCE
#include "event.h"

#include <sched.h>
#include <stddef.h>

enum { SHORT_WAIT = 100 }; /* turns after which reading the clock is cheap in comparison */

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

int pyml_processor(void) {
#if defined(__linux__)
    return sched_getcpu();
#else
    return -1;
#endif
}

bool pyml_event_init(pyml_event *e, uint64_t value) {
    atomic_init(&e->value, value);
    atomic_init(&e->sleepers, 0);
    e->since_ns = e->changed_ns = 0, e->processor = -1;
    if (pthread_mutex_init(&e->mutex, NULL)) return false;
    if (!pthread_cond_init(&e->changed, NULL)) return true;
    pthread_mutex_destroy(&e->mutex);
    return false;
}

void pyml_event_destroy(pyml_event *e) {
    pthread_cond_destroy(&e->changed);
    pthread_mutex_destroy(&e->mutex);
}

void pyml_event_set(pyml_event *e, uint64_t value) {
    atomic_store(&e->value, value);
    if (atomic_load(&e->sleepers)) {
        pthread_mutex_lock(&e->mutex);
        e->changed_ns = pyml_clock_ns(CLOCK_MONOTONIC);
        pthread_cond_broadcast(&e->changed);
        pthread_mutex_unlock(&e->mutex);
    }
}

static int64_t sleep_until_changed(pyml_event *e, uint64_t seen, int64_t arrived_ns) {
    pthread_mutex_lock(&e->mutex);
    int64_t began = pyml_clock_ns(CLOCK_MONOTONIC);
    if (atomic_fetch_add(&e->sleepers, 1) == 0) e->since_ns = arrived_ns ? arrived_ns : began;
    e->processor = pyml_processor();
    while (atomic_load(&e->value) == seen) pthread_cond_wait(&e->changed, &e->mutex);
    atomic_fetch_sub(&e->sleepers, 1);
    int64_t slept = e->changed_ns - began;
    pthread_mutex_unlock(&e->mutex);
    return slept > 0 ? slept : 0;
}

int64_t pyml_event_wait(pyml_event *e, uint64_t seen, const pyml_patience *patience) {
    int64_t arrived_ns = 0;
    for (int i = 0; i < patience->spins; i++) {
        if (atomic_load_explicit(&e->value, memory_order_acquire) != seen) return 0;
        if (i == SHORT_WAIT) arrived_ns = pyml_clock_ns(CLOCK_MONOTONIC);
        if (!patience->idle || !patience->idle(patience->argument)) relax();
    }
    return sleep_until_changed(e, seen, arrived_ns);
}
