/* greedy.c: runs of one token after the other, each of the token with the largest logit of the run before. Between two
 * runs Python would take tens of times as long: the weights of a run drive its code and data out of the caches.
 */
#include "program.h"

#include <math.h>
#include <string.h>

enum { LANES = 16 };

/* Index of the largest number, or of the first NaN if there is one, as NumPy's argmax has it. */
static int64_t argmax(const float *x, int64_t n) {
    float best[LANES];
    int odd[LANES] = {0};
    for (int lane = 0; lane < LANES; lane++) best[lane] = -INFINITY;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int lane = 0; lane < LANES; lane++) {
            best[lane] = x[i + lane] > best[lane] ? x[i + lane] : best[lane];
            odd[lane] |= x[i + lane] != x[i + lane];
        }
    for (int lane = 0; i + lane < n; lane++) {
        best[lane] = x[i + lane] > best[lane] ? x[i + lane] : best[lane];
        odd[lane] |= x[i + lane] != x[i + lane];
    }
    for (int lane = 1; lane < LANES; lane++) {
        best[0] = best[lane] > best[0] ? best[lane] : best[0];
        odd[0] |= odd[lane];
    }
    i = 0;
    while (odd[0] ? x[i] == x[i] : x[i] != best[0]) i++;
    return i;
}

static bool contains(int64_t token, const int64_t *ends, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (ends[i] == token) return true;
    return false;
}

/* Whether the last `match` tokens of a text occur in it before. */
static bool ends_in_repetition(const int32_t *text, int64_t n, int64_t match) {
    for (int64_t end = match; match && end < n; end++) {
        int64_t same = 0;
        while (same < match && text[end - 1 - same] == text[n - 1 - same]) same++;
        if (same == match) return true;
    }
    return false;
}

static void store_timings(const pyml_program *p, const pyml_greedy *g, int64_t run) {
    int64_t spans = p->n_ops * p->threads, *clock = g->clock + 4 * run;
    memcpy(g->spans + run * spans, p->spans, (size_t)spans * sizeof *p->spans);
    clock[0] = p->start_ns, clock[1] = p->end_ns, clock[2] = (int64_t)p->start, clock[3] = (int64_t)p->end;
}

int64_t pyml_program_run_greedy(pyml_program *p, pyml_greedy *g) {
    for (int64_t done = 0; done < g->count;) {
        if (!pyml_program_run(p, g->spans)) return -1;
        if (g->spans) store_timings(p, g, done);
        int64_t n = g->screen ? g->screen->count[0] : g->n_logits;
        const float *logits = g->screen ? g->screen->logits : g->logits;
        int64_t at = argmax(logits, n), token = g->screen ? g->screen->ids[at] : at;
        int64_t rescored = g->screen ? g->screen->rescored[0] : 0;
        g->found[done++] = (pyml_greedy_token){token, logits[at], p->end_ns - p->start_ns, rescored};
        g->history[g->n_history++] = (int32_t)token;
        if (done == g->count || !isfinite(logits[at]) || contains(token, g->ends, g->n_ends)) return done;
        if (ends_in_repetition(g->history, g->n_history, g->repeat)) return done;
        g->ids[0] = (int32_t)token;
        g->positions[0]++;
        g->slice->start++;
    }
    return 0;
}
