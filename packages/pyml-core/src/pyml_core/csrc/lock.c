/* lock.c: locks that threads get in the order in which they ask for them. A waiting thread can be stopped. In the child
 * of a fork, locks held by other threads are free, because those threads do not exist there.
 */
#define _GNU_SOURCE
#include "lock.h"

#include <pthread.h>
#include <stdlib.h>

enum { POLL_NS = 50 * 1000 * 1000, STEP_NS = 20 * 1000 * 1000 };

/* A waiting thread. Lives on the stack of that thread. */
typedef struct waiter {
    struct waiter *next;
    pthread_t thread;
    pthread_cond_t changed;
    bool turn, dismissed;
} waiter;

struct pyml_lock {
    pthread_mutex_t mutex; /* guards the other fields; held for a few instructions at a time */
    bool held;
    pthread_t owner;
    waiter *first, *last;
    pyml_lock *next, **place; /* list of all locks */
};

static pyml_lock *locks;
static pthread_mutex_t locks_mutex = PTHREAD_MUTEX_INITIALIZER;
static bool forks_handled;
static atomic_uint forks;

/* ---- forks */

static void before_fork(void) {
    pthread_mutex_lock(&locks_mutex);
    for (pyml_lock *l = locks; l; l = l->next) pthread_mutex_lock(&l->mutex);
}

static void in_parent(void) {
    for (pyml_lock *l = locks; l; l = l->next) pthread_mutex_unlock(&l->mutex);
    pthread_mutex_unlock(&locks_mutex);
}

static void in_child(void) {
    atomic_fetch_add(&forks, 1);
    for (pyml_lock *l = locks; l; l = l->next) {
        l->held = l->held && pthread_equal(l->owner, pthread_self());
        l->first = l->last = NULL;
    }
    in_parent();
}

/* ---- stopping */

static int64_t cheap_now_ns(void) {
    struct timespec t;
#if defined(CLOCK_MONOTONIC_COARSE)
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
#else
    clock_gettime(CLOCK_MONOTONIC, &t);
#endif
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void pyml_watch_begin(pyml_watch *w) {
    pyml_flag_set(&w->cancel, false);
    w->polled = cheap_now_ns();
    w->forks = atomic_load(&forks);
}

bool pyml_told_to_stop(pyml_watch *w) {
    if (pyml_flag_is_set(&w->cancel)) return true;
    int64_t deadline = w->stop ? w->stop->deadline_ns : 0;
    int64_t now = w->poll || deadline ? cheap_now_ns() : 0;
    bool told = (w->stop && pyml_flag_is_set(&w->stop->cancelled)) || (deadline && now >= deadline);
    if (!told && w->poll && now - w->polled >= POLL_NS) {
        w->polled = now;
        /* If a signal handler has forked, this is the child, which does not have the other threads: stop. */
        told = w->poll(w->poll_argument) || w->forks != atomic_load(&forks);
    }
    if (told) pyml_flag_set(&w->cancel, true);
    return told;
}

/* ---- locks */

pyml_lock *pyml_lock_new(void) {
    pyml_lock *l = calloc(1, sizeof *l);
    if (!l) return NULL;
    if (pthread_mutex_init(&l->mutex, NULL)) {
        free(l);
        return NULL;
    }
    pthread_mutex_lock(&locks_mutex);
    bool handled = forks_handled || !pthread_atfork(before_fork, in_parent, in_child);
    forks_handled = handled;
    l->next = locks, l->place = &locks;
    if (locks) locks->place = &l->next;
    locks = l;
    pthread_mutex_unlock(&locks_mutex);
    if (handled) return l;
    pyml_lock_free(l);
    return NULL;
}

void pyml_lock_free(pyml_lock *l) {
    if (!l) return;
    pthread_mutex_lock(&locks_mutex);
    *l->place = l->next;
    if (l->next) l->next->place = l->place;
    pthread_mutex_unlock(&locks_mutex);
    pthread_mutex_destroy(&l->mutex);
    free(l);
}

static void hold(pyml_lock *l, pthread_t thread) { l->held = true, l->owner = thread; }

/* Pass the lock to the caller that has waited longest, or release it. */
static void hand_on(pyml_lock *l) {
    waiter *first = l->first;
    if (!first) {
        l->held = false;
        return;
    }
    l->first = first->next;
    if (!l->first) l->last = NULL;
    hold(l, first->thread);
    first->turn = true;
    pthread_cond_signal(&first->changed);
}

static void leave_queue(pyml_lock *l, const waiter *me) {
    waiter *before = NULL;
    for (waiter *w = l->first; w; before = w, w = w->next) {
        if (w != me) continue;
        *(before ? &before->next : &l->first) = w->next;
        if (l->last == w) l->last = before;
        return;
    }
}

#if defined(__APPLE__) /* condition variables support no other clock */
#define WAIT_CLOCK CLOCK_REALTIME
#else
#define WAIT_CLOCK CLOCK_MONOTONIC
#endif

static void init_condition(pthread_cond_t *condition) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
#if !defined(__APPLE__)
    pthread_condattr_setclock(&attributes, WAIT_CLOCK);
#endif
    pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
}

/* Wait until another thread changes this one's state, or until it is time to poll for a reason to stop. */
static void wait_a_step(waiter *me, pthread_mutex_t *mutex) {
    struct timespec until;
    clock_gettime(WAIT_CLOCK, &until);
    until.tv_nsec += STEP_NS;
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    pthread_cond_timedwait(&me->changed, mutex, &until);
}

bool pyml_lock_try(pyml_lock *l) {
    pthread_mutex_lock(&l->mutex);
    bool free = !l->held;
    if (free) hold(l, pthread_self());
    pthread_mutex_unlock(&l->mutex);
    return free;
}

/* Wait in the queue of a lock that is held. The caller has its mutex. Returns whether the caller got the lock. */
static bool wait_for_turn(pyml_lock *l, pyml_watch *watch) {
    waiter me = {.thread = pthread_self()};
    init_condition(&me.changed);
    *(l->last ? &l->last->next : &l->first) = &me;
    l->last = &me;
    bool told = false;
    while (!me.turn && !me.dismissed && !told) {
        wait_a_step(&me, &l->mutex);
        if (me.turn || me.dismissed) break;
        pthread_mutex_unlock(&l->mutex); /* polling may run signal handlers */
        told = pyml_told_to_stop(watch);
        pthread_mutex_lock(&l->mutex);
    }
    if (!me.turn) leave_queue(l, &me);
    else if (told) hand_on(l);
    pthread_cond_destroy(&me.changed);
    return me.turn && !told;
}

pyml_lock_outcome pyml_lock_take(pyml_lock *l, pyml_watch *watch) {
    pyml_lock_outcome outcome = LOCK_TAKEN;
    pthread_mutex_lock(&l->mutex);
    if (!l->held) hold(l, pthread_self());
    else if (pthread_equal(l->owner, pthread_self())) outcome = LOCK_OWN;
    else if (!wait_for_turn(l, watch)) outcome = LOCK_STOPPED;
    pthread_mutex_unlock(&l->mutex);
    return outcome;
}

void pyml_lock_give(pyml_lock *l) {
    pthread_mutex_lock(&l->mutex);
    hand_on(l);
    pthread_mutex_unlock(&l->mutex);
}

int pyml_lock_waiting(pyml_lock *l) {
    int count = 0;
    pthread_mutex_lock(&l->mutex);
    for (waiter *w = l->first; w; w = w->next) count++;
    pthread_mutex_unlock(&l->mutex);
    return count;
}

void pyml_lock_dismiss(pyml_lock *l) {
    pthread_mutex_lock(&l->mutex);
    for (waiter *w = l->first; w; w = w->next) {
        w->dismissed = true;
        pthread_cond_signal(&w->changed);
    }
    l->first = l->last = NULL;
    pthread_mutex_unlock(&l->mutex);
}
