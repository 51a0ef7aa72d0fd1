/* crew.c: how many threads a pool's next job has.
 *
 * All of them, as long as each has a processor. Where another process takes a processor for a while, one of the threads
 * is taken off in the middle of its work, and the others wait for it: n threads are then slower than n - 1. So the time
 * that jobs lose in this way is added up, and where it is more than one thread is worth, the next jobs have one fewer.
 * After a pause they try with one more again, and stay with it if jobs are faster all the same. A trial that fails
 * costs some milliseconds, so pauses double with each of them. Nothing is lost on a quiet machine, however long
 * operations take, and all threads stay.
 */
#include "crew.h"

#include <stdbool.h>

#define MS 1000000LL

enum {
    LEAST_WORK = 16 * MS, /* that a loss is compared with */
    RECENT_WORK = 48 * MS,
    RECENT_INTERRUPTIONS = 250 * MS, /* work after which they are forgotten */
    STEADY_WORK = 200 * MS,          /* after which a trial has succeeded */
    FIRST_PAUSE = 100 * MS,
    LAST_PAUSE = 1000 * MS,
};
#define MEMORY (4000 * MS) /* of the time of jobs with one thread fewer */

#define LEAST_TOLERATED 0.15
#define LEAST_INTERRUPTIONS 2.5

void pyml_crew_init(pyml_crew *c, int threads, double tolerance) {
    *c = (pyml_crew){.size = threads, .most = threads, .tolerance = tolerance, .pause_ns = FIRST_PAUSE};
}

static void resize(pyml_crew *c, int size, int64_t now_ns) {
    c->size = size, c->worked_ns = c->lost_ns = c->steady_ns = 0, c->jobs = c->interruptions = 0;
    c->trial_at_ns = now_ns + c->pause_ns;
}

int pyml_crew_size(pyml_crew *c, int64_t now_ns) {
    if (c->size < c->most && now_ns >= c->trial_at_ns) {
        c->fewer_ns = c->jobs > 0 ? (double)c->worked_ns / c->jobs : 0, c->fewer_until_ns = now_ns + MEMORY;
        resize(c, c->size + 1, now_ns);
    }
    return c->size;
}

static bool loses_too_much(const pyml_crew *c) {
    double tolerated = c->tolerance / c->size;
    if (tolerated < LEAST_TOLERATED) tolerated = LEAST_TOLERATED;
    int64_t worked = c->worked_ns > LEAST_WORK ? c->worked_ns : LEAST_WORK;
    return c->interruptions > LEAST_INTERRUPTIONS && (double)c->lost_ns > tolerated * (double)worked;
}

static bool is_slower_with_fewer(const pyml_crew *c, int64_t now_ns) {
    return c->fewer_ns > (double)c->worked_ns / c->jobs && now_ns < c->fewer_until_ns;
}

void pyml_crew_note(pyml_crew *c, int64_t now_ns, int64_t job_ns, int64_t lost_ns, int interruptions) {
    double kept = 1 - (double)job_ns / RECENT_INTERRUPTIONS;
    c->interruptions = interruptions + (kept > 0 ? kept * c->interruptions : 0);
    c->jobs++, c->worked_ns += job_ns, c->steady_ns += job_ns, c->lost_ns += lost_ns;
    if (c->size > 1 && loses_too_much(c) && !is_slower_with_fewer(c, now_ns)) {
        c->refused = c->size, c->fewer_ns = 0;
        resize(c, c->size - 1, now_ns);
        c->pause_ns = 2 * c->pause_ns < LAST_PAUSE ? 2 * c->pause_ns : LAST_PAUSE;
        return;
    }
    if (c->size >= c->refused && c->steady_ns > STEADY_WORK) c->pause_ns = FIRST_PAUSE;
    if (c->worked_ns > RECENT_WORK) c->jobs /= 2, c->worked_ns /= 2, c->lost_ns /= 2;
}
