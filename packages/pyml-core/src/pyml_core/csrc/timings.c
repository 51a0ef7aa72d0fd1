/* timings.c: converts the ticks of a timed run to nanoseconds. timings.pxi documents the results. */
#include "program.h"

#include <math.h>

static int64_t max_i64(int64_t a, int64_t b) { return a > b ? a : b; }

double pyml_read_timings(const pyml_timings *l, int64_t *begin_ns, int64_t *end_ns, pyml_thread_span *spans) {
    double ns_a_tick = l->end > l->start ? (double)(l->end_ns - l->start_ns) / (double)(l->end - l->start) : 1.0;
#define TO_NS(ticks) (l->start_ns + (int64_t)rint((double)((ticks) - l->start) * ns_a_tick))
    int64_t own[MAX_THREADS], edge = l->start;
    for (int t = 0; t < l->threads; t++) own[t] = l->start;
    for (int64_t i = 0; i < l->n_ops; i++) {
        begin_ns[i] = TO_NS(edge);
        for (int t = 0; t < l->threads; t++) {
            pyml_thread_span span = l->spans[t * l->n_ops + i];
            if (span.began) { /* keep a thread's times monotonic: CPUs may read ticks slightly early or late */
                int64_t began = max_i64(own[t], (int64_t)span.began);
                own[t] = max_i64(began, (int64_t)span.arrived);
                span.began = (uint64_t)TO_NS(began), span.arrived = (uint64_t)TO_NS(own[t]);
            } else {
                span.arrived = 0;
            }
            spans[i * l->threads + t] = span;
            edge = max_i64(edge, own[t]);
        }
        end_ns[i] = TO_NS(edge);
        edge = max_i64(edge, (int64_t)l->copied[i]);
    }
#undef TO_NS
    return ns_a_tick;
}
