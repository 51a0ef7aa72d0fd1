/* attention.c: attention over the KV pages: units of work, their split over threads, and the loop over blocks of keys.
 *
 * A unit of work is a tile (some tokens of one sequence) and a key/value head. A block of keys is KEY_PAGES pages at
 * fixed absolute positions; pages that no row attends to, in the last block or before a window, are not read. Each
 * block is reduced on its own (scores, maximum, exponentials, their sum, weighted values) and merged into the running
 * result in ascending order, so that an output depends neither on the thread that computed a block nor on other tokens:
 *
 *     m' = max(m, m_b);  o = o 2^(m - m') + o_b 2^(m_b - m');  l = l 2^(m - m') + l_b 2^(m_b - m')
 *
 * This is online softmax (Milakov and Gimelshein, arXiv 1805.02867; for attention Dao et al., arXiv 2205.14135).
 * Queries are also scaled by log2(e), so that exponentials are powers of 2. The sum l is kept in sixteen lanes, which
 * are added at the end.
 *
 * If there are too few units for all threads (decoding), the blocks of a unit are split over threads too (split-KV,
 * "flash decoding"): stage 0 stores the result of each block in run->partials, stage 1 merges them in the same order.
 *
 * ladder/attention.c develops this kernel in four steps of plain C.
 */
#include "attention_f.h"
#include "attention_i8.h"

/* The functions for a type of keys and values; selected once in each call. */
typedef struct {
    void (*load_queries)(tile_state *, float scale);
    void (*attend_block)(const tile_state *, int64_t b, bool deferred);
    float weight_of_1; /* the weighted values are too large by this factor */
} attention_path;

static const attention_path path_f = {load_queries_f, attend_block_f, 1.0f};
static const attention_path path_i8 = {load_queries_i8, attend_block_i8, int8_weight_of_1};

/* ---- units of work */

/* The division of an operation's work: the blocks of each unit are split into `splits` items. */
typedef struct {
    int64_t splits, blocks; /* blocks: the maximum of all tiles */
    int64_t rows, partial;  /* rows: the maximum of all tiles; partial: floats of the result of one block */
} split_plan;

INLINE const pyml_tile *tile_of(const pyml_run *run, int64_t unit) { /* last tiles first: they have the most keys */
    return &run->tiles[run->n_tiles - 1 - unit % run->n_tiles];
}

INLINE int64_t first_page(const pyml_op *op, int64_t position) {
    return op->window && position >= op->window ? (position - op->window + 1) / PAGE : 0;
}

INLINE int64_t first_block(const pyml_op *op, int64_t position) { return first_page(op, position) / KEY_PAGES; }

/* Returns the position after the last key that the tokens of a tile attend to. */
INLINE int64_t end_of(const pyml_op *op, const pyml_run *run, const pyml_tile *tile) {
    const pyml_slice *slice = &run->slices[tile->slice];
    return slice->start + (op->bidirectional ? slice->count : tile->first + tile->count);
}

static split_plan plan_splits(const pyml_op *op, const pyml_run *run) {
    int64_t group = op->n_heads / run->kv.n_kv_heads, units = run->n_tiles * run->kv.n_kv_heads, tokens = 0;
    split_plan plan = {.splits = 1, .rows = run->tile_tokens * group};
    plan.partial = pyml_partial_floats(plan.rows, run->kv.head_dim);
    if (run->threads == 1 || units >= 2 * run->threads) return plan;
    for (int64_t i = 0; i < run->n_tiles; i++) {
        const pyml_tile *tile = &run->tiles[i];
        int64_t start = run->slices[tile->slice].start + tile->first;
        int64_t blocks = (end_of(op, run, tile) - 1) / KEYS + 1 - first_block(op, start);
        if (blocks > plan.blocks) plan.blocks = blocks;
        if (tile->count > tokens) tokens = tile->count;
    }
    plan.rows = tokens * group; /* compact: other threads read these results from this thread's cache */
    plan.partial = pyml_partial_floats(plan.rows, run->kv.head_dim);
    if (units * plan.blocks * plan.partial <= run->partials_floats)
        plan.splits = min_i64(plan.blocks, (4 * run->threads + units - 1) / units);
    return plan;
}

int64_t FN(attention_items)(const pyml_op *op, const pyml_run *run, int stage) {
    split_plan plan = plan_splits(op, run);
    int64_t units = run->n_tiles * run->kv.n_kv_heads;
    return stage == 0 ? units * plan.splits : stage == 1 && plan.splits > 1 ? units : 0;
}

/* ---- one tile */

static tile_state open_tile(const pyml_op *op, const pyml_run *run, pyml_thread *thread, int64_t unit,
                            const split_plan *plan) {
    const pyml_tile *tile = tile_of(run, unit);
    const pyml_slice *slice = &run->slices[tile->slice];
    const pyml_attention_layout at = pyml_attention_layout_of(&run->kv, plan->rows);
    const int64_t group = op->n_heads / run->kv.n_kv_heads, width = pyml_whole_panels(run->kv.head_dim);
    float *scratch = (float *)thread->scratch;
    return (tile_state){
        .op = op,
        .run = run,
        .thread = thread,
        .slice = slice,
        .start = slice->start + tile->first,
        .row = slice->row + tile->first,
        .end = end_of(op, run, tile),
        .tokens = tile->count,
        .group = group,
        .rows = tile->count * group,
        .head = unit / run->n_tiles,
        .width = width,
        .q = scratch + at.queries,
        .q8 = {(int8_t *)(scratch + at.query_codes), scratch + at.query_scales, (int32_t *)(scratch + at.query_starts)},
        .p = scratch + at.scores,
        .weights = (uint8_t *)(scratch + at.weights),
        .block = partial_at(scratch + at.block, plan->rows, width),
        .result = partial_at(scratch + at.result, plan->rows, width),
        .rescale_old = scratch + at.rescale_old,
        .rescale_new = scratch + at.rescale_new,
    };
}

static void reset(partial result, int64_t rows, int64_t width) {
    memset(result.o, 0, (size_t)(rows * width) * sizeof(float));
    memset(result.l, 0, (size_t)(rows * PANEL) * sizeof(float));
    for (int64_t r = 0; r < pyml_whole_panels(rows); r++) result.m[r] = -INFINITY;
}

/* Queries are rarely in the cache: with each block of a unit, prefetch a part of the next unit's queries. */
static void prefetch_queries(const pyml_op *op, const pyml_run *run, int64_t unit, int64_t part, int64_t parts) {
    if (unit >= run->n_tiles * run->kv.n_kv_heads) return;
    const pyml_tile *tile = tile_of(run, unit);
    int64_t wide = op->n_heads / run->kv.n_kv_heads * run->kv.head_dim;
    int64_t lines = (wide + PANEL - 1) / PANEL, all = tile->count * lines;
    int64_t row = run->slices[tile->slice].row + tile->first;
    const float *first = op->in->f + row * op->in->width + unit / run->n_tiles * wide;
    for (int64_t i = all * part / parts; i < all * (part + 1) / parts; i++)
        PREFETCH(first + i / lines * op->in->width + i % lines * PANEL);
}

/* Write o / l to the output: to the buffer's floats, and to its int8 copy if it has one. */
static void write_heads(const tile_state *s, float weight_of_1) {
    int64_t d = s->run->kv.head_dim, column = s->head * s->group * d;
    pyml_buffer *buffer = s->op->out;
    bool codes = buffer->codes && d % BLOCK == 0, floats = !buffer->codes_only || s->op->copy;
    for (int64_t token = 0; token < s->tokens; token++) {
        int64_t row = s->row + token, at = row * buffer->blocks + column / BLOCK;
        float *heads = s->result.o + token * s->group * s->width;
        for (int64_t g = 0; g < s->group; g++) {
            float *o = heads + g * s->width, sum = f_sum(f_load(s->result.l + (token * s->group + g) * PANEL));
            vf inverse = f_set1(1.0f / (sum * weight_of_1));
            for (int64_t i = 0; i < d; i += PANEL) {
                vf v = f_mul(f_load(o + i), inverse);
                if (codes) f_store(o + i, v);
                if (floats) f_store_n(buffer->f + row * buffer->width + column + g * d + i, v, min_i64(PANEL, d - i));
            }
        }
        block_run run = {
            .x = heads,
            .codes = buffer->codes + row * buffer->stride8 + column,
            .scales = buffer->scales + at,
            .sums = buffer->sums + at,
            .half_sums = buffer->half_sums + 2 * at,
            .x_step = BLOCK,
            .codes_step = BLOCK,
            .params_step = 1,
        };
        if (codes) quantize_blocks(&run, s->group * d / BLOCK);
    }
}

/* ---- the loop over blocks */

void FN(attention)(const pyml_op *op, const pyml_run *run, pyml_thread *thread, int stage, int64_t begin, int64_t end) {
    const attention_path *path = run->kv.int8 ? &path_i8 : &path_f;
    const float scale = op->cap > 0 ? op->scale / op->cap : op->scale * log2_e;
    split_plan plan = plan_splits(op, run);
    for (int64_t item = begin; item < end; item++) {
        int64_t unit = stage == 0 ? item / plan.splits : item;
        tile_state s = open_tile(op, run, thread, unit, &plan);
        if (stage == 0) path->load_queries(&s, scale);
        int64_t from = first_block(op, s.start), to = (s.end - 1) / KEYS + 1;
        float *partials = run->partials + unit * plan.blocks * plan.partial; /* one for each block */
        if (plan.splits > 1 && stage == 0) {
            int64_t split = item % plan.splits;
            int64_t first = from + (to - from) * split / plan.splits;
            int64_t last = from + (to - from) * (split + 1) / plan.splits;
            for (int64_t b = first; b < last; b++) {
                s.block = partial_at(partials + (b - from) * plan.partial, plan.rows, s.width);
                path->attend_block(&s, b, true);
            }
            continue;
        }
        reset(s.result, s.rows, s.width);
        for (int64_t b = from; b < to; b++) {
            if (stage == 0) {
                prefetch_queries(op, run, unit + 1, b - from, to - from);
                path->attend_block(&s, b, false);
            } else {
                uint64_t time = phase_start(thread);
                s.block = partial_at(partials + (b - from) * plan.partial, plan.rows, s.width);
                merge(&s);
                charge_phase(thread, PHASE_VALUES, time);
            }
        }
        if (op->capture) capture_probabilities(&s, first_page(op, s.start), (s.end - 1) / PAGE + 1);
        write_heads(&s, path->weight_of_1);
    }
}
