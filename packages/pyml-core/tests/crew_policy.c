/* crew_policy.c: the number of threads that crew.c gives to jobs, on machines whose processors are taken as a function
 * of time says. Compiled and run by test_crew.py.
 */
#include "crew.h"

#include <stdbool.h>
#include <stdio.h>

#define MS 1000000LL

typedef int (*free_fn)(int64_t now_ms); /* processors that no other process uses */

typedef struct {
    int64_t ended_ms; /* when the last job ended */
    int64_t with[9];  /* milliseconds of jobs with that many threads */
    int size;         /* of the next job */
} history;

static double slower = 1; /* how many times as long a job takes with one thread fewer */

/* Jobs of `job_ns` for `seconds`; where threads are more than processors, a job takes longer by `stall_ns`, in `times`
 * parts. */
static history run(int threads, double tolerance, int64_t job_ns, int64_t stall_ns, int times, free_fn processors,
                   double seconds) {
    pyml_crew crew;
    history h = {0};
    pyml_crew_init(&crew, threads, tolerance);
    int64_t now = 12345678;
    const int64_t start = now;
    while (now - start < seconds * 1e9) {
        const int size = pyml_crew_size(&crew, now);
        const double length = size < threads ? slower * job_ns : job_ns;
        const int64_t lost = size > processors((now - start) / MS) ? stall_ns : 0, took = (int64_t)length + lost;
        now += took;
        pyml_crew_note(&crew, now, took, lost, lost ? times : 0);
        h.with[size] += took / 1000;
    }
    h.ended_ms = (now - start) / MS, h.size = crew.size;
    for (int i = 0; i < 9; i++) h.with[i] /= 1000;
    return h;
}

static int two(int64_t now_ms) { return (void)now_ms, 2; }
static int one(int64_t now_ms) { return (void)now_ms, 1; }
static int five(int64_t now_ms) { return (void)now_ms, 5; }
static int one_for_a_second(int64_t now_ms) { return now_ms < 1000 ? 1 : 2; }
static int interrupted_once(int64_t now_ms) { return now_ms >= 500 && now_ms < 504 ? 1 : 2; }
static int interrupted_first(int64_t now_ms) { return now_ms < 4 ? 1 : 2; }
static int suspended(int64_t now_ms) { return now_ms % 1000 < 2 ? 1 : 2; }
static int interrupted_often(int64_t now_ms) { return now_ms % 50 < 5 ? 1 : 2; }

static int failures;

static void check(bool right, const char *what, const history *h) {
    if (right) return;
    failures++;
    printf("%s: size %d after %lld ms;", what, h->size, (long long)h->ended_ms);
    for (int i = 1; i < 9; i++) printf(" %lld", (long long)h->with[i]);
    printf("\n");
}

int main(void) {
    history h;
    const int64_t lengths[] = {20 * 1000, 400 * 1000, 4 * MS, 90 * MS, 3000 * MS};
    for (int i = 0; i < 5; i++) {
        h = run(2, 0.67, lengths[i], 0, 1, two, 9);
        check(h.with[1] == 0 && h.size == 2, "quiet", &h);
        h = run(1, 0.67, lengths[i], lengths[i], 1, one, 9);
        check(h.with[1] == h.ended_ms, "one thread waits for no other", &h);
    }
    h = run(2, 0.67, 4 * MS, 4 * MS, 1, one, 10);
    check(h.with[2] < 600 && h.with[2] > 50, "a processor is taken", &h); /* and it is tried again and again */
    h = run(2, 0.67, 300 * MS, 300 * MS, 100, one, 30);
    check(h.with[1] > 12000, "long jobs", &h);
    h = run(2, 0.67, 4 * MS, 4 * MS, 1, one_for_a_second, 2.3);
    check(h.with[2] > 200 && h.size == 2, "all threads once the machine is quiet", &h);
    h = run(2, 0.67, 4 * MS, 4 * MS, 1, interrupted_once, 1);
    check(h.with[1] == 0, "one interruption", &h);
    h = run(2, 0.67, MS / 50, MS / 2, 1, interrupted_first, 1);
    check(h.with[1] == 0, "one interruption of the first short jobs", &h);
    h = run(2, 0.67, 1 * MS, 50 * MS, 1, suspended, 5);
    check(h.with[1] == 0, "a suspension each second", &h);
    h = run(2, 0.67, 4 * MS, 4 * MS, 1, interrupted_often, 10);
    check(h.with[2] > 9000, "interruptions that cost less than a thread", &h);
    h = run(2, 1.3, 4 * MS, 4 * MS, 1, one, 10);
    check(h.with[1] == 0, "a chunk at half speed is not faster with one thread", &h);
    h = run(8, 1.3, 4 * MS, 4 * MS, 1, five, 20);
    check(h.with[5] > 16000 && h.with[4] == 0, "three of eight processors are taken", &h);
    slower = 2.5; /* a job that loses half of its time is faster than one with fewer threads */
    h = run(2, 0.67, 4 * MS, 4 * MS, 1, one, 10);
    check(h.with[2] > 7500, "fewer threads are slower", &h);
    return failures > 0;
}
