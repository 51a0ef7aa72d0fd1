/* crew.h: how many threads a pool's next job has, see crew.c. */
#ifndef PYML_CREW_H
#define PYML_CREW_H

#include <stdint.h>

typedef struct {
    int size, most;   /* threads of the next job, and at most */
    int refused;      /* the size that last lost too much */
    double tolerance; /* share of a job's time that may be lost, times its threads */
    double jobs;      /* recently, with this size, as the next two */
    int64_t worked_ns, lost_ns;
    double interruptions;          /* recently */
    int64_t steady_ns;             /* of work with this size */
    double fewer_ns;               /* of a job with one thread fewer, before a trial; 0: unknown */
    int64_t fewer_until_ns;        /* when that is forgotten */
    int64_t pause_ns, trial_at_ns; /* between two trials of a larger size, and when the next one is */
} pyml_crew;

void pyml_crew_init(pyml_crew *, int threads, double tolerance);
int pyml_crew_size(pyml_crew *, int64_t now_ns);
/* After a job, that ended now: the time in which it waited for threads that other processes had taken off, and how
 * often. */
void pyml_crew_note(pyml_crew *, int64_t now_ns, int64_t job_ns, int64_t lost_ns, int interruptions);

#endif
