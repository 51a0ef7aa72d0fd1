/* program.c: the run loop. All threads walk the list of operations together: they take items of work, then wait for the
 * others at a barrier. Each thread starts with its own range of items, so that it streams consecutive weights, and then
 * helps the others with their ranges. At a barrier, the last thread to arrive does the work that is not worth dividing,
 * while waiting threads prefetch the next weights.
 */
#define _GNU_SOURCE
#include "attention_layout.h"
#include "clock.h"
#include "formats.h"
#include "pool.h"
#include "program.h"

#include <fenv.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    STAGES = 2,
    BATCHES = 16,               /* approximate number of batches of a thread's range of items */
    ROWS_PER_ITEM = 64,         /* from this number of rows on, a batch is one item of a linear layer */
    SCRATCH_PADDING = 64 << 10, /* bytes between the scratch of two threads: a core prefetches up to 30 kB further */
    PREFETCH_BYTES = 128 << 10, /* bytes of weights that a thread prefetches while it waits */
    PREFETCH_LINES = 8,         /* lines of 64 bytes prefetched between checks of the barrier */
};

typedef struct {
    _Alignas(64) atomic_llong taken; /* items taken from one thread's range */
} counter;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

/* Scratch bytes that an operation needs for each thread: see linear.c (sums, unpacked chunks), attention.c (a tile). */
int64_t pyml_scratch_for(const pyml_op *op, const pyml_kv *kv, int64_t tile_tokens) {
    int64_t factors = op->kind == OP_SCREEN ? 2 * SCREEN_STATES * op->in->blocks * (int64_t)sizeof(float) : 0;
    if (pyml_is_product(op->kind))
        return factors + LINEAR_SCRATCH + (op->fused_next ? TOKEN_BLOCK * 2 * BLOCK * (int64_t)sizeof(float) : 0);
    if (op->kind != OP_ATTENTION) return op->out->codes_only ? op->out->width * 4 : 0; /* a row, see rows.c */
    const pyml_attention_layout layout = pyml_attention_layout_of(kv, tile_tokens * op->n_heads / kv->n_kv_heads);
    return aligned(layout.end * (int64_t)sizeof(float));
}

bool pyml_program_allocate(pyml_program *p) {
    p->scratch_bytes = aligned(p->scratch_bytes + SCRATCH_PADDING);
    p->scratch = aligned_alloc(64, (size_t)(p->scratch_bytes * p->threads));
    p->counters = aligned_alloc(64, sizeof(counter) * (size_t)p->threads);
    p->copied = calloc((size_t)p->n_ops + 1, sizeof *p->copied);
    p->spans = calloc((size_t)(p->n_ops * p->threads) + 1, sizeof *p->spans);
    return p->scratch && p->counters && p->copied && p->spans;
}

void pyml_program_free(pyml_program *p) { free(p->scratch), free(p->counters), free(p->copied), free(p->spans); }

typedef struct {
    pyml_program *program;
    pyml_pool *pool;
    bool timed;
    int64_t op, items; /* the current pass, a stage of an operation; set by the last thread of the previous pass */
    int stage;
} job;

/* Number of items that a thread takes at a time. Threads check between batches whether to stop, so batches must be
 * short. */
static int64_t batch_size(const pyml_program *p, const pyml_op *op, int64_t range) {
    int64_t batch = range / BATCHES, rows = op->out->outputs ? p->run.outputs : p->run.tokens;
    return batch < 1 || (pyml_is_product(op->kind) && rows >= ROWS_PER_ITEM) ? 1 : batch;
}

static void reset_counters(const pyml_program *p) {
    counter *counters = p->counters;
    for (int i = 0; i < p->threads; i++) atomic_store_explicit(&counters[i].taken, 0, memory_order_relaxed);
}

/* The state of a thread that walks the operations. */
typedef struct {
    job *job;
    pyml_thread thread;
    pyml_thread_span *spans;    /* [n_ops], apart from those of other threads to avoid false sharing */
    int64_t prefetched_op;      /* the operation whose weights are prefetched */
    const uint8_t *prefetch_at; /* the next weights to prefetch */
    int64_t prefetch_left;      /* bytes left to prefetch */
} worker;

/* Take items of this pass until none is left: first from this thread's range, then from the others'. */
static void run_items(worker *w, const pyml_op *op, int stage, int64_t items) {
    pyml_program *p = w->job->program;
    counter *counters = p->counters;
    for (int help = 0; help < p->threads; help++) {
        int owner = (w->thread.index + help) % p->threads;
        int64_t first = items * owner / p->threads, last = items * (owner + 1) / p->threads;
        int64_t batch = batch_size(p, op, last - first);
        w->thread.last = last;
        for (;;) {
            if (pyml_stopped(&p->watch, w->thread.index)) break;
            int64_t begin = first + atomic_fetch_add_explicit(&counters[owner].taken, batch, memory_order_relaxed);
            if (begin >= last) break;
            p->kernels->work[op->kind](op, &p->run, &w->thread, stage, begin,
                                       begin + batch < last ? begin + batch : last);
        }
    }
}

/* This thread's part in a pass of an operation, or the whole pass if `alone`. */
static void pass(worker *w, int64_t i, int stage, int64_t items, bool alone) {
    pyml_program *p = w->job->program;
    const pyml_op *op = &p->ops[i];
    pyml_thread_span *span = &w->spans[i];
    uint64_t began = 0;
    if (w->thread.timed) {
        __builtin_prefetch(span + 1, 1); /* weights have evicted it from the caches */
        memset(w->thread.phase, 0, sizeof w->thread.phase);
        began = pyml_ticks();
        if (!span->began) span->began = began;
    }
    if (!alone) {
        run_items(w, op, stage, items);
    } else {
        w->thread.last = items;
        if (!pyml_stopped(&p->watch, w->thread.index))
            p->kernels->work[op->kind](op, &p->run, &w->thread, stage, 0, items);
    }
    if (!w->thread.timed) return;
    span->arrived = pyml_ticks();
    span->busy += span->arrived - began;
    for (int phase = 0; phase < MAX_PHASES; phase++) span->phase[phase] += w->thread.phase[phase];
}

/* Copy an output for a trace. Dispatched rows are copied in the order of tokens, then of each token's experts. */
static void copy_output(pyml_program *p, int64_t i) {
    const pyml_op *op = &p->ops[i];
    const pyml_buffer *out = op->out;
    int64_t rows = out->outputs ? p->run.outputs : p->run.tokens * out->copies, width = out->width;
    if (!out->order) memcpy(op->copy, out->f, (size_t)(rows * width) * sizeof(float));
    else
        for (int64_t row = 0; row < rows; row++)
            memcpy(op->copy + row * width, out->f + out->order->row[row] * width, (size_t)width * sizeof(float));
    p->copied[i] = pyml_ticks();
}

/* Called by the last thread to finish a pass: advance to the next pass with several items. Passes of a single item are
 * done here. So is the copy of an output, because a later operation may overwrite the buffer. */
static void advance(void *argument) {
    worker *w = argument;
    job *j = w->job;
    pyml_program *p = j->program;
    reset_counters(p);
    while (!pyml_flag_is_set(&p->watch.cancel)) {
        if (++j->stage == STAGES
            || (j->items = p->kernels->items[p->ops[j->op].kind](&p->ops[j->op], &p->run, j->stage)) == 0) {
            if (j->op >= 0 && p->ops[j->op].copy) copy_output(p, j->op);
            do j->op++;
            while (j->op < p->n_ops && p->ops[j->op].skip);
            if (j->op == p->n_ops) return;
            j->stage = -1;
        } else if (j->items > 1) {
            return;
        } else {
            pass(w, j->op, j->stage, 1, true);
        }
    }
    j->op = p->n_ops;
}

/* Called repeatedly while a thread waits: prefetch the weights that it will read next, to keep the memory bus busy. */
static bool prefetch_some(void *argument) {
    worker *w = argument;
    if (w->prefetch_left <= 0) return false;
    for (int i = 0; i < PREFETCH_LINES; i++) __builtin_prefetch(w->prefetch_at + i * 64, 0, 2);
    w->prefetch_at += PREFETCH_LINES * 64;
    w->prefetch_left -= PREFETCH_LINES * 64;
    return true;
}

/* Find the weights that this thread reads first after the current operation. */
static void plan_prefetch(worker *w) {
    const pyml_program *p = w->job->program;
    int64_t i = w->job->op + 1;
    while (i < p->n_ops && (p->ops[i].skip || !p->kernels->weights[p->ops[i].kind])) i++;
    if (i == w->prefetched_op) return;
    w->prefetched_op = i, w->prefetch_left = 0, w->thread.next_weights = NULL;
    if (i == p->n_ops) return;
    int64_t items = p->kernels->items[p->ops[i].kind](&p->ops[i], &p->run, 0);
    w->prefetch_left =
        p->kernels->weights[p->ops[i].kind](&p->ops[i], &p->run, items * w->thread.index / p->threads, &w->prefetch_at);
    if (w->prefetch_left > PREFETCH_BYTES) w->prefetch_left = PREFETCH_BYTES;
    if (w->prefetch_left) w->thread.next_weights = w->prefetch_at;
}

static void work(void *argument, int index) {
    job *j = argument;
    pyml_program *p = j->program;
    worker w = {
        .job = j,
        .spans = p->spans + index * p->n_ops,
        .thread = {.index = index, .scratch = p->scratch + index * p->scratch_bytes, .timed = j->timed},
    };
    p->kernels->enter();
    if (j->timed) memset(w.spans, 0, (size_t)p->n_ops * sizeof *w.spans);
    if (index == 0) {
        const int64_t team = pyml_pool_team(j->pool), missing = p->threads - team;
        if (j->timed) memset(p->spans + team * p->n_ops, 0, (size_t)(missing * p->n_ops) * sizeof *p->spans);
        advance(&w);
    }
    pyml_pool_barrier(j->pool);
    while (j->op < p->n_ops) {
        plan_prefetch(&w);
        pass(&w, j->op, j->stage, j->items, false);
        pyml_pool_barrier_with_work(j->pool, advance, prefetch_some, &w);
    }
}

/* Move the time that a linear layer spent on its fused activation to the activation's span, as if the activation had
 * run last. An equal fraction of each thread's time is moved, so that one operation ends when the other begins. */
static void split_fused_spans(const pyml_program *p, int64_t i) {
    double busy = 0, activating = 0;
    for (int t = 0; t < p->threads; t++) {
        const pyml_thread_span *span = &p->spans[t * p->n_ops + i];
        busy += (double)span->busy, activating += (double)span->phase[0];
    }
    for (int t = 0; t < p->threads && busy > 0; t++) {
        pyml_thread_span *span = &p->spans[t * p->n_ops + i];
        uint64_t length = (uint64_t)((double)(span->arrived - span->began) * activating / busy);
        uint64_t worked = (uint64_t)((double)span->busy * activating / busy);
        span[1] = (pyml_thread_span){
            .busy = worked, .began = span->began ? span->arrived - length : 0, .arrived = span->arrived};
        span->arrived -= length, span->busy -= worked, span->phase[0] = 0;
    }
}

bool pyml_program_run(pyml_program *p, bool timed) {
    pyml_pool *pool = pyml_pool_get(p->threads);
    if (!pool) return false;
    job j = {.program = p, .pool = pool, .timed = timed, .op = -1, .stage = STAGES - 1};
    if (!pyml_pool_lock(pool, &p->watch)) return false;
    fenv_t callers;
    fegetenv(&callers);
    if (timed) memset(p->copied, 0, (size_t)p->n_ops * sizeof *p->copied);
    p->start_ns = now_ns(), p->start = pyml_ticks();
    pyml_pool_run(pool, p->run.tokens > FEW_TOKENS ? POOL_CHUNK : POOL_STEP, work, &j);
    p->end_ns = now_ns(), p->end = pyml_ticks();
    for (int64_t i = 0; timed && i < p->n_ops; i++)
        if (pyml_fuses_activation(&p->ops[i], &p->run)) split_fused_spans(p, i);
    pyml_pool_unlock(pool);
    fesetenv(&callers);
    return !pyml_flag_is_set(&p->watch.cancel);
}

/* ---- packing, and other work on the panels of a matrix, on all threads */

enum { PANELS_AT_A_TIME = 16 };

typedef struct {
    int type;
    int64_t n, k, panels;
    const uint8_t *stored;
    uint8_t *packed, *low;
    const pyml_kernels *kernels; /* for row_stats */
    const pyml_matrix *matrix;   /* for row_stats */
    uint16_t *stats;             /* NULL: pack the panels */
    atomic_llong next;
    pyml_watch *watch;
} panel_work;

static void pack_panels(void *argument, int index) {
    panel_work *p = argument;
    while (!pyml_stopped(p->watch, index)) {
        int64_t begin = atomic_fetch_add(&p->next, PANELS_AT_A_TIME), end = begin + PANELS_AT_A_TIME;
        if (begin >= p->panels) return;
        if (end > p->panels) end = p->panels;
        if (p->stats) p->kernels->row_stats(p->matrix, begin, end, p->stats);
        else pyml_pack_panels(p->type, p->n, p->k, p->stored, p->packed, p->low, begin, end);
    }
}

static bool run_panels(panel_work *p, int threads) {
    pyml_pool *pool = p->panels > PANELS_AT_A_TIME ? pyml_pool_get(threads) : NULL;
    if (!pool) {
        pack_panels(p, 0);
    } else {
        if (!pyml_pool_lock(pool, p->watch)) return false;
        pyml_pool_run(pool, POOL_ALL, pack_panels, p);
        pyml_pool_unlock(pool);
    }
    return !pyml_flag_is_set(&p->watch->cancel);
}

bool pyml_pack_threaded(int threads, int type, int64_t n, int64_t k, const uint8_t *stored, uint8_t *packed,
                        uint8_t *low, pyml_watch *watch) {
    panel_work p = {
        .type = type,
        .n = n,
        .k = k,
        .panels = (n + PANEL - 1) / PANEL,
        .stored = stored,
        .packed = packed,
        .low = low,
        .watch = watch,
    };
    return run_panels(&p, threads);
}

bool pyml_row_stats(const pyml_kernels *kernels, int threads, const pyml_matrix *m, uint16_t *stats,
                    pyml_watch *watch) {
    panel_work p = {
        .panels = (m->n + PANEL - 1) / PANEL, .kernels = kernels, .matrix = m, .stats = stats, .watch = watch};
    return run_panels(&p, threads);
}
