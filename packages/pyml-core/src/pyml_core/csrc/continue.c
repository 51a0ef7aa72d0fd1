/* continue.c: runs that go on by themselves. After a run the next token of every text is chosen, and the next run is of
 * these tokens. Between two runs Python would take tens of times as long as otherwise: the weights of a run drive its
 * code and data out of the caches.
 */
#define _GNU_SOURCE
#include "continue.h"
#include "pool.h"

#include <fenv.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

static bool contains(int64_t token, const int64_t *ends, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (ends[i] == token) return true;
    return false;
}

/* Whether the last `match` tokens of a text occur in it before. */
static bool ends_in_repetition(const int32_t *text, int64_t n, int64_t match) {
    for (int64_t end = match; end < n; end++) {
        int64_t same = 0;
        while (same < match && text[end - 1 - same] == text[n - 1 - same]) same++;
        if (same == match) return true;
    }
    return false;
}

static void store_timings(const pyml_program *p, const pyml_continuation *c, int64_t run) {
    int64_t spans = p->n_ops * p->threads, *clock = c->clock + 4 * run;
    memcpy(c->spans + run * spans, p->spans, (size_t)spans * sizeof *p->spans);
    clock[0] = p->start_ns, clock[1] = p->end_ns, clock[2] = (int64_t)p->start, clock[3] = (int64_t)p->end;
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- choosing */

typedef struct {
    pyml_program *program;
    pyml_continuation *c;
    atomic_llong next;
} choice;

/* Choose the token of every wanted row, up to the first that is not the drafted one. */
static void choose_for(const pyml_program *p, const pyml_continuation *c, pyml_text *t, void *workspace) {
    for (int64_t i = 0; i < t->wanted; i++) {
        pyml_sampled *found = &t->found[t->n_found];
        const int64_t row = t->row + i;
        if (c->requests) *found = c->requests[row].chosen;
        else
            p->kernels->sample(t->sampler, t->position, c->logits + row * c->n_logits, NULL, c->n_logits, workspace,
                               found);
        t->n_found++, t->new_ones++;
        t->ended = found->status != SAMPLE_OK || contains(found->token, c->ends, c->n_ends)
                   || (t->stops && t->stops[found->token / 32] >> found->token % 32 & 1);
        if (found->status != SAMPLE_OK) return;
        pyml_sampler_add(t->sampler, (int32_t)found->token);
        t->position++;
        if (t->ended || (i + 1 < t->wanted && found->token != t->drafted[i])) return;
    }
}

static void choose_some(void *argument, int index) {
    choice *w = argument;
    pyml_program *p = w->program;
    p->kernels->enter();
    for (;;) {
        int64_t i = atomic_fetch_add_explicit(&w->next, 1, memory_order_relaxed);
        if (i >= w->c->n_texts) return;
        choose_for(p, w->c, &w->c->texts[i], w->c->scratch + index * w->c->scratch_bytes);
    }
}

/* The next tokens of all texts. A screened head has chosen them already. Otherwise those of several texts are chosen by
 * all threads; if these are not to be had any more, by this one. */
static void choose(pyml_program *p, pyml_continuation *c) {
    if (c->requests) {
        for (int64_t i = 0; i < c->n_texts; i++) choose_for(p, c, &c->texts[i], NULL);
        return;
    }
    choice w = {.program = p, .c = c};
    fenv_t callers;
    fegetenv(&callers);
    pyml_pool *pool = c->n_texts > 1 && p->threads > 1 ? pyml_pool_get(p->threads) : NULL;
    if (pool && pyml_pool_lock(pool, &p->watch)) {
        if (pyml_pool_team(pool) > 1) pyml_pool_run(pool, POOL_ALL, choose_some, &w);
        else choose_some(&w, 0); /* the machine is busy: the run had this thread alone */
        pyml_pool_unlock(pool);
    } else {
        choose_some(&w, 0);
    }
    fesetenv(&callers);
}

/* ---- one run after the other */

/* Whether all texts go on without the caller, who follows their new tokens. */
static bool goes_on(pyml_continuation *c) {
    bool more = true;
    for (int64_t i = 0; i < c->n_texts; i++) {
        pyml_text *t = &c->texts[i];
        for (int64_t j = t->n_found - t->new_ones; j < t->n_found; j++) {
            const pyml_sampled *found = &t->found[j];
            if (found->status != SAMPLE_OK) continue;
            if (t->follows && !c->follow(c->argument, i, found->token)) t->ended = true;
            if (!t->repeat) continue;
            t->history[t->n_history++] = (int32_t)found->token;
            if (ends_in_repetition(t->history, t->n_history, t->repeat)) more = false;
        }
        more = more && !t->ended;
    }
    return more && !(c->pause && pyml_flag_is_set(c->pause));
}

/* Make the next run one of the last token of every text. */
static void prepare(pyml_program *p, pyml_continuation *c) {
    for (int64_t i = 0; i < c->n_texts; i++) {
        pyml_text *t = &c->texts[i];
        pyml_slice *s = &c->slices[i]; /* every slice is of a text, so i is its slice from the first run on */
        s->start += t->first + t->new_ones;
        s->count = 1, s->row = i;
        c->ids[i] = (int32_t)t->found[t->n_found - 1].token;
        c->positions[i] = (int32_t)s->start;
        c->token_slice[i] = c->output_rows[i] = (int32_t)i;
        c->tiles[i] = (pyml_tile){.slice = (int32_t)i, .first = 0, .count = 1};
        t->row = i, t->wanted = 1, t->first = 0;
        if (c->requests) c->requests[i].sampler = t->sampler, c->requests[i].position = t->position;
    }
    p->run.tokens = p->run.outputs = p->run.n_slices = p->run.n_tiles = c->n_texts;
}

int64_t pyml_program_continue(pyml_program *p, pyml_continuation *c) {
    for (int64_t done = 0;;) {
        /* Without threads for a later run, the tokens so far are the result. */
        if (!pyml_program_run(p, c->spans)) return done && !pyml_flag_is_set(&p->watch.cancel) ? done : -1;
        pyml_continued_run *run = &c->runs[done];
        if (c->spans) store_timings(p, c, done);
        done++;
        *run = (pyml_continued_run){.ns = p->end_ns - p->start_ns};
        for (int64_t i = 0; c->requests && i < p->run.outputs; i++)
            for (int round = 0; round < SETTLE_ROUNDS; round++) run->rescored[round] += c->requests[i].rows[round];
        for (int64_t i = 0; i < c->n_texts; i++) c->texts[i].new_ones = 0;
        const int64_t before = now_ns();
        choose(p, c);
        run->choosing_ns = now_ns() - before;
        for (int64_t i = 0; i < c->n_texts && done == 1; i++) c->texts[i].n_first = c->texts[i].new_ones;
        if (!goes_on(c) || done == c->count) return done;
        prepare(p, c);
    }
}
