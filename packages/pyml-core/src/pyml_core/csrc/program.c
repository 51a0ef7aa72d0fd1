/* program.c: the run loop. Every thread walks the same list of operations, takes items of work, and waits for the
 * others at a barrier before the next operation. Each thread starts with a range of items of its own, so that it
 * streams weights that lie one behind the other, and then helps the others with theirs. At a barrier the last to come
 * does what is not worth sharing, and those that wait ask for the weights that come next.
 */
#define _GNU_SOURCE
#include "attention_layout.h"

#include <fenv.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    STAGES = 2,
    GRABS = 16,       /* times that a thread goes to its counter, about */
    MANY_ROWS = 64,   /* so many make one item of a linear layer long enough to go for each */
    APART = 64 << 10, /* bytes between threads' scratch: what a core fetches ahead of its strides, up to 30 kB, would be
                         its neighbour's */
    AHEAD = 128 << 10, /* bytes of weights that a thread asks for while it waits */
    LINES_AT_ONCE = 8, /* of 64 bytes, between looks at the barrier */
};

typedef struct {
    _Alignas(64) atomic_llong taken; /* of one thread's range */
} counter;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

/* Scratch that an operation needs of each thread: see linear.c (sums and unpacked chunks) and attention.c (a tile). */
int64_t pyml_scratch_for(const pyml_op *op, const pyml_kv *kv, int64_t tile_tokens) {
    int64_t factors = op->kind == OP_SCREEN ? 2 * SCREEN_STATES * op->in->blocks * (int64_t)sizeof(float) : 0;
    if (pyml_is_product(op->kind))
        return factors + LINEAR_SCRATCH + (op->fused_next ? TOKEN_BLOCK * 2 * BLOCK * (int64_t)sizeof(float) : 0);
    if (op->kind != OP_ATTENTION) return op->out->codes_only ? op->out->width * 4 : 0; /* a row, see rows.c */
    const pyml_attention_layout layout = pyml_attention_layout_of(kv, tile_tokens * op->n_heads / kv->n_kv_heads);
    return aligned(layout.end * (int64_t)sizeof(float));
}

bool pyml_program_allocate(pyml_program *p) {
    p->scratch_bytes = aligned(p->scratch_bytes + APART);
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
    int64_t op, items; /* the pass that all are in, a stage of an operation: what the last one to leave the one before
                          has said */
    int stage;
} job;

/* Items that a thread takes at a time. The calling thread looks in between whether to stop, so it must come round
 * often. */
static int64_t grab_of(const pyml_program *p, const pyml_op *op, int64_t range) {
    int64_t grab = range / GRABS, rows = op->out->outputs ? p->run.outputs : p->run.tokens;
    return grab < 1 || (pyml_is_product(op->kind) && rows >= MANY_ROWS) ? 1 : grab;
}

static void reset_counters(const pyml_program *p) {
    counter *counters = p->counters;
    for (int i = 0; i < p->threads; i++) atomic_store_explicit(&counters[i].taken, 0, memory_order_relaxed);
}

/* A thread on its way through the operations. */
typedef struct {
    job *job;
    pyml_thread thread;
    pyml_thread_span *spans; /* a thread's own, away from the others': they would share cache lines */
    int64_t coming;          /* the operation whose weights are asked for */
    const uint8_t *next;     /* the first of them that were not */
    int64_t left;            /* bytes */
} walker;

/* Take items of this pass until there are none: first of this thread's range, then of the others'. */
static void take_items(walker *w, const pyml_op *op, int stage, int64_t items) {
    pyml_program *p = w->job->program;
    counter *counters = p->counters;
    for (int help = 0; help < p->threads; help++) {
        int owner = (w->thread.index + help) % p->threads;
        int64_t first = items * owner / p->threads, last = items * (owner + 1) / p->threads;
        int64_t grab = grab_of(p, op, last - first);
        w->thread.last = last;
        for (;;) {
            if (pyml_stopped(&p->watch, w->thread.index)) break;
            int64_t begin = first + atomic_fetch_add_explicit(&counters[owner].taken, grab, memory_order_relaxed);
            if (begin >= last) break;
            p->kernels->work[op->kind](op, &p->run, &w->thread, stage, begin,
                                       begin + grab < last ? begin + grab : last);
        }
    }
}

/* One pass of an operation, by all threads or by this one alone. */
static void pass(walker *w, int64_t i, int stage, int64_t items, bool alone) {
    pyml_program *p = w->job->program;
    const pyml_op *op = &p->ops[i];
    pyml_thread_span *lap = &w->spans[i];
    uint64_t began = 0;
    if (w->thread.timed) {
        __builtin_prefetch(lap + 1, 1); /* weights have driven it out of the caches */
        memset(w->thread.phase, 0, sizeof w->thread.phase);
        began = pyml_ticks();
        if (!lap->began) lap->began = began;
    }
    if (!alone) {
        take_items(w, op, stage, items);
    } else {
        w->thread.last = items;
        if (!pyml_stopped(&p->watch, w->thread.index))
            p->kernels->work[op->kind](op, &p->run, &w->thread, stage, 0, items);
    }
    if (!w->thread.timed) return;
    lap->arrived = pyml_ticks();
    lap->busy += lap->arrived - began;
    for (int phase = 0; phase < MAX_PHASES; phase++) lap->phase[phase] += w->thread.phase[phase];
}

/* Dispatched rows are copied token by token, each token's in the order of its experts. */
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

/* When a pass is done, and before anybody goes on: on to the next one that is worth sharing. A single item is not, one
 * thread does it at once. Nor may a copy of an output wait, as a later operation may write to the same buffer. */
static void advance(void *argument) {
    walker *w = argument;
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

/* While a thread waits, it asks for what it will read first of the next weights: so memory has something to do. */
static bool fetch_ahead(void *argument) {
    walker *w = argument;
    if (w->left <= 0) return false;
    for (int i = 0; i < LINES_AT_ONCE; i++) __builtin_prefetch(w->next + i * 64, 0, 2);
    w->next += LINES_AT_ONCE * 64;
    w->left -= LINES_AT_ONCE * 64;
    return true;
}

static void look_ahead(walker *w) {
    const pyml_program *p = w->job->program;
    int64_t i = w->job->op + 1;
    while (i < p->n_ops && (p->ops[i].skip || !p->kernels->weights[p->ops[i].kind])) i++;
    if (i == w->coming) return;
    w->coming = i, w->left = 0, w->thread.then = NULL;
    if (i == p->n_ops) return;
    int64_t items = p->kernels->items[p->ops[i].kind](&p->ops[i], &p->run, 0);
    w->left = p->kernels->weights[p->ops[i].kind](&p->ops[i], &p->run, items * w->thread.index / p->threads, &w->next);
    if (w->left > AHEAD) w->left = AHEAD;
    if (w->left) w->thread.then = w->next;
}

static void work(void *argument, int index) {
    job *j = argument;
    pyml_program *p = j->program;
    walker w = {
        .job = j,
        .spans = p->spans + index * p->n_ops,
        .thread = {.index = index, .scratch = p->scratch + index * p->scratch_bytes, .timed = j->timed},
    };
    p->kernels->enter();
    if (j->timed) memset(w.spans, 0, (size_t)p->n_ops * sizeof *w.spans);
    if (index == 0) advance(&w);
    pyml_pool_barrier(j->pool);
    while (j->op < p->n_ops) {
        look_ahead(&w);
        pass(&w, j->op, j->stage, j->items, false);
        pyml_pool_meet(j->pool, advance, fetch_ahead, &w);
    }
}

/* What a linear layer took for the activation after it is told as that one's, as if it had come last: of each thread
 * the same share, so that one ends where the other begins. */
static void split_fused_spans(const pyml_program *p, int64_t i) {
    double busy = 0, activating = 0;
    for (int t = 0; t < p->threads; t++) {
        const pyml_thread_span *lap = &p->spans[t * p->n_ops + i];
        busy += (double)lap->busy, activating += (double)lap->phase[0];
    }
    for (int t = 0; t < p->threads && busy > 0; t++) {
        pyml_thread_span *lap = &p->spans[t * p->n_ops + i];
        uint64_t span = (uint64_t)((double)(lap->arrived - lap->began) * activating / busy);
        uint64_t worked = (uint64_t)((double)lap->busy * activating / busy);
        lap[1] =
            (pyml_thread_span){.busy = worked, .began = lap->began ? lap->arrived - span : 0, .arrived = lap->arrived};
        lap->arrived -= span, lap->busy -= worked, lap->phase[0] = 0;
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
    pyml_pool_run(pool, work, &j);
    p->end_ns = now_ns(), p->end = pyml_ticks();
    for (int64_t i = 0; timed && i < p->n_ops; i++)
        if (pyml_fuses_activation(&p->ops[i], &p->run)) split_fused_spans(p, i);
    pyml_pool_unlock(pool);
    fesetenv(&callers);
    return !pyml_flag_is_set(&p->watch.cancel);
}

/* ---- packing, and what else is done once with the panels of a matrix, by all threads */

enum { PANELS_AT_A_TIME = 16 };

typedef struct {
    int type;
    int64_t n, k, panels;
    const uint8_t *stored;
    uint8_t *packed, *low;
    const pyml_kernels *kernels; /* of screen_facts, with the matrix */
    const pyml_matrix *matrix;
    uint16_t *facts; /* NULL: to be packed */
    atomic_llong next;
    pyml_watch *watch;
} panel_work;

static void some_panels(void *argument, int index) {
    panel_work *p = argument;
    while (!pyml_stopped(p->watch, index)) {
        int64_t begin = atomic_fetch_add(&p->next, PANELS_AT_A_TIME), end = begin + PANELS_AT_A_TIME;
        if (begin >= p->panels) return;
        if (end > p->panels) end = p->panels;
        if (p->facts) p->kernels->screen_facts(p->matrix, begin, end, p->facts);
        else pyml_pack_panels(p->type, p->n, p->k, p->stored, p->packed, p->low, begin, end);
    }
}

static bool all_panels(panel_work *p, int threads) {
    pyml_pool *pool = p->panels > PANELS_AT_A_TIME ? pyml_pool_get(threads) : NULL;
    if (!pool) {
        some_panels(p, 0);
    } else {
        if (!pyml_pool_lock(pool, p->watch)) return false;
        pyml_pool_run(pool, some_panels, p);
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
    return all_panels(&p, threads);
}

bool pyml_screen_facts(const pyml_kernels *kernels, int threads, const pyml_matrix *m, uint16_t *facts,
                       pyml_watch *watch) {
    panel_work p = {
        .panels = (m->n + PANEL - 1) / PANEL, .kernels = kernels, .matrix = m, .facts = facts, .watch = watch};
    return all_panels(&p, threads);
}
