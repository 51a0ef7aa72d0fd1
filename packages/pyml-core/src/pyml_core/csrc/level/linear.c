/* linear.c: out = x W^T for weights in panels (pack.c), of every block type.
 *
 * There are three inner loops. fma_tile multiplies plain weights (f32, f16, bf16). Quantised weights are unpacked to
 * unsigned bytes. For a few rows, stream_chunk unpacks them in registers. For more rows, up to DEPTH columns of one or
 * two panels are unpacked into the L1 cache, and dot_tile multiplies all rows by them. The order of summation of an
 * output does not depend on the number of rows. For each block of 32 in ascending order:
 *
 *     part = scale_w * float(sum_k code_w code_a)
 *     part = fma(scale_w', float(sum_k code_w code_a), part)     for the second half, if 16 weights share a scale
 *     part = fma(min_w, float(sum_k code_a), part)               after each of these, if the type has minima
 *     sum = fma(part, scale_a, sum)
 *
 * The integer sums are exact, so that results do not depend on the byte instructions of a level.
 */
#include "dots.h"

/* ---- drivers: a tile of one or two panels, for up to TOKEN_BLOCK rows; sums is [rows][TILE_PANELS * 16] */

/* The results of an operation that a tile computes (columns from `column` on, rows from `row` on), and their
 * destination. */
typedef struct {
    const pyml_op *op;
    int64_t row, column, columns;
    float *out;
    int64_t stride;
} target;

/* Prefetch the output of some rows before it is written: the rows are far apart. */
INLINE void prefetch_output(const target *to, int64_t t, int64_t rows) {
    for (int64_t r = t; r < t + rows; r++)
        for (int64_t c = 0; c < to->columns; c += PANEL) PREFETCH_WRITE(to->out + r * to->stride + c);
}

/* The output from row t on, for a tile of whole panels. */
INLINE tile_results results_of(const target *to, int64_t t) {
    return (tile_results){to->out + t * to->stride, to->stride, to->op->weight ? to->op->weight + to->column : NULL,
                          to->op->accumulate};
}

/* Write sums + bias to the output from row t on, or add them to it. */
INLINE void finish(const target *to, int64_t t, int64_t rows, const float *sums) {
    const pyml_op *op = to->op;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < to->columns; c += PANEL) {
            int64_t n = min_i64(PANEL, to->columns - c);
            float *out = to->out + (t + r) * to->stride + c;
            vf v = f_load(sums + r * TILE_PANELS * PANEL + c);
            if (op->weight) v = f_add(v, f_load_n(op->weight + to->column + c, n));
            if (op->accumulate) v = f_add(f_load_n(out, n), v);
            f_store_n(out, v, n);
        }
}

static quantized_rows rows_from(const quantized_type *q, const pyml_buffer *x, int64_t row, int64_t k0) {
    int64_t halves = q->block == BLOCK ? 1 : 2; /* there are sums for blocks of 32 and for half blocks */
    return (quantized_rows){
        .codes = x->codes + row * x->stride8 + k0,
        .stride8 = x->stride8,
        .scales = x->scales + row * x->blocks + k0 / BLOCK,
        .blocks = x->blocks,
        .sums = (halves == 1 ? x->sums : x->half_sums) + (row * x->blocks + k0 / BLOCK) * halves,
        .sum_stride = x->blocks * halves,
    };
}

static const uint8_t *low_nibbles(const pyml_matrix *m, int64_t panel, int64_t k0) {
    return m->low ? m->low + panel * m->low_bytes + k0 / 2 * PANEL : NULL;
}

/* Weights are consecutive up to `end`; after that, those at `next` (or NULL) are read. */
typedef struct {
    const uint8_t *end, *next;
} prefetch_range;

static const uint8_t *ahead_of(const prefetch_range *range, const uint8_t *at, int64_t distance) {
    return at + distance < range->end || !range->next ? at + distance : range->next + (at + distance - range->end);
}

/* Compute the outputs of one panel for a few rows from `row` on. Rows of `sums` are TILE_PANELS panels apart. */
static void stream_panel(const pyml_matrix *m, int64_t panel, const prefetch_range *range, const pyml_buffer *x,
                         int64_t row, int64_t rows, uint8_t *scratch, float *sums) {
    const quantized_type *q = &quantized_types[m->type];
    const uint8_t *chunk = m->data + panel * m->panel_bytes;
    const int64_t chunk_bytes = pyml_chunk_bytes(m->type, CHUNK);
    unpacked *u = (unpacked *)scratch;
    for (int64_t k0 = 0; k0 < m->k; k0 += CHUNK) {
        int k = (int)min_i64(CHUNK, m->k - k0);
        weights_ahead ahead = {ahead_of(range, chunk, FAR_AHEAD), ahead_of(range, chunk, NEAR_AHEAD)};
        u->low = low_nibbles(m, panel, k0);
        for (int64_t t = 0; t < rows; t += STREAM_ROWS) {
            quantized_rows a = rows_from(q, x, row + t, k0);
            q->stream((int)min_i64(STREAM_ROWS, rows - t), chunk, ahead, k, u, &a, sums + t * TILE_PANELS * PANEL,
                      k0 == 0);
        }
        chunk += chunk_bytes;
    }
}

static void streamed_panels(const pyml_matrix *m, int64_t panel, int np, const prefetch_range *range,
                            const pyml_buffer *x, int64_t rows, const target *to, uint8_t *scratch, float *sums) {
    for (int p = 0; p < np; p++) stream_panel(m, panel + p, range, x, to->row, rows, scratch, sums + p * PANEL);
    finish(to, 0, rows, sums);
}

/* Multiply one panel of a quantised matrix by some rows of x, for screen.c: sums is [rows][16]. */
void FN(panel_product)(const pyml_matrix *m, int64_t panel, const pyml_buffer *x, int64_t row, int64_t rows,
                       uint8_t *scratch, float *sums) {
    float *wide = (float *)scratch;
    const prefetch_range range = {m->data, NULL};
    for (int64_t t = 0, nt; t < rows; t += nt) {
        nt = min_i64(STREAM_ROWS, rows - t);
        stream_panel(m, panel, &range, x, row + t, nt, scratch + TOKEN_BLOCK * TILE_PANELS * PANEL * sizeof(float),
                     wide);
        for (int64_t i = 0; i < nt; i++) f_store(sums + (t + i) * PANEL, f_load(wide + i * TILE_PANELS * PANEL));
    }
}

static void quantized_tile(const pyml_matrix *m, int64_t panel, int np, const pyml_buffer *x, int64_t rows,
                           const target *to, uint8_t *scratch, float *sums) {
    const quantized_type *q = &quantized_types[m->type];
    unpacked_panels *w = (unpacked_panels *)scratch;
    const uint8_t *chunk[TILE_PANELS];
    for (int p = 0; p < np; p++) chunk[p] = m->data + (panel + p) * m->panel_bytes;
    int64_t tiles = (rows + TILE_TOKENS - 1) / TILE_TOKENS, rows_a_tile = (rows + tiles - 1) / tiles;
    int64_t passes = (m->k + DEPTH - 1) / DEPTH, depth = (m->k + passes * CHUNK - 1) / (passes * CHUNK) * CHUNK;
    for (int64_t k0 = 0; k0 < m->k; k0 += depth) {
        int64_t k = min_i64(depth, m->k - k0);
        const uint8_t *next = chunk[0] + np * m->panel_bytes; /* the next tile, prefetched meanwhile */
        for (int64_t i = 0; i * CHUNK < k; i++) {
            int part = (int)min_i64(CHUNK, k - i * CHUNK);
            for (int p = 0; p < np; p++) {
                w->chunks[i][p].low = low_nibbles(m, panel + p, k0 + i * CHUNK);
                w->codes[i][p] = q->unpack(chunk[p], part, &w->chunks[i][p]);
                chunk[p] += pyml_chunk_bytes(m->type, part);
            }
        }
        int64_t bytes_ahead = (chunk[0] + np * m->panel_bytes - next + 64 * tiles - 1) / (64 * tiles) * 64;
        bool last = k0 + depth >= m->k, direct = last && to->columns == np * PANEL;
        for (int64_t t = 0, nt; t < rows; t += nt) {
            nt = min_i64(rows_a_tile, rows - t);
            quantized_rows a = rows_from(q, x, to->row + t, k0);
            for (int64_t i = 0; i < bytes_ahead; i += 64, next += 64)
                for (int p = 0; p < np; p++) PREFETCH(next + p * m->panel_bytes);
            float *part = sums + t * TILE_PANELS * PANEL;
            tile_results results = direct ? results_of(to, t) : (tile_results){part, TILE_PANELS * PANEL, NULL, false};
            if (last) prefetch_output(to, t, nt);
            dot_tokens[nt](q, np, w, k, &a, k0 ? part : NULL, &results);
            if (last && !direct) finish(to, t, nt, part);
        }
    }
}

INLINE void plain_rows(const int type, int np, const float *a, int64_t lda, const void *const *b, int64_t k,
                       float *sums, int64_t rows, bool first) {
    const prefetch_plan nothing = {NULL, 0};
    if (np == 1) fma_rows(1, type, a, lda, b, PANEL, k, sums, TILE_PANELS * PANEL, rows, first, nothing);
    else fma_rows(TILE_PANELS, type, a, lda, b, PANEL, k, sums, TILE_PANELS * PANEL, rows, first, nothing);
}

static void plain_tile(const pyml_matrix *m, int64_t panel, int np, const pyml_buffer *x, int64_t rows,
                       const target *to, float *sums) {
    int64_t element = m->type == TYPE_F32 ? 4 : 2;
    for (int64_t k0 = 0; k0 < m->k; k0 += CHUNK) {
        int64_t k = min_i64(CHUNK, m->k - k0);
        const float *a = x->f + to->row * x->width + k0;
        const void *b[TILE_PANELS] = {NULL};
        for (int p = 0; p < np; p++) b[p] = m->data + (panel + p) * m->panel_bytes + k0 * PANEL * element;
        if (m->type == TYPE_F32) plain_rows(TYPE_F32, np, a, x->width, b, k, sums, rows, k0 == 0);
        else if (m->type == TYPE_F16) plain_rows(TYPE_F16, np, a, x->width, b, k, sums, rows, k0 == 0);
        else plain_rows(TYPE_BF16, np, a, x->width, b, k, sums, rows, k0 == 0);
    }
    finish(to, 0, rows, sums);
}

static bool is_plain(int type) { return type == TYPE_F32 || type == TYPE_F16 || type == TYPE_BF16; }

static int64_t tiles_of(const pyml_matrix *m) {
    int64_t panels = (m->n + PANEL - 1) / PANEL;
    return (panels + TILE_PANELS - 1) / TILE_PANELS;
}

/* Tiles of all matrices with adjacent outputs (of one expert). */
static int64_t tiles_of_all(const pyml_op *op) {
    int64_t tiles = 0;
    for (int i = 0; i < op->n_matrices; i++) tiles += tiles_of(&op->matrices[i]);
    return tiles;
}

int64_t FN(linear_items)(const pyml_op *op, const pyml_run *run, int stage) {
    int64_t blocks = (rows_of(op->out, run) + TOKEN_BLOCK - 1) / TOKEN_BLOCK;
    return stage ? 0 : (pyml_fuses_activation(op, run) ? op->fused_next->out->blocks : tiles_of_all(op)) * blocks;
}

/* The scratch of a thread for a tile: sums, then unpacked codes. */
enum { SUMS_BYTES = TOKEN_BLOCK * TILE_PANELS * PANEL * 4 };
_Static_assert(SUMS_BYTES + sizeof(unpacked_panels) <= LINEAR_SCRATCH, "a tile fits in its scratch");

/* Multiply one or two panels by `count` rows of the input. */
static void linear_panels(const pyml_matrix *m, int64_t panel, int np, const prefetch_range *range, int64_t count,
                          const target *to, pyml_thread *thread) {
    float *sums = (float *)thread->scratch;
    uint8_t *scratch = thread->scratch + SUMS_BYTES;
    if (is_plain(m->type)) plain_tile(m, panel, np, to->op->in, count, to, sums);
    else if (count <= FEW_ROWS) streamed_panels(m, panel, np, range, to->op->in, count, to, scratch, sums);
    else quantized_tile(m, panel, np, to->op->in, count, to, scratch, sums);
}

/* Compute tile number `tile` of the adjacent matrices for `count` rows. The thread takes the tiles up to `end` next. */
static void linear_tile(const pyml_op *op, const pyml_matrix *m, int64_t tile, int64_t end, int64_t row, int64_t count,
                        pyml_thread *thread) {
    const pyml_matrix *last = m + op->n_matrices - 1;
    int64_t column = 0;
    for (; tile >= tiles_of(m); m++) {
        tile -= tiles_of(m), end -= tiles_of(m);
        column += m->n;
    }
    int64_t panel = tile * TILE_PANELS, from = panel * PANEL;
    int np = (int)min_i64(TILE_PANELS, (m->n + PANEL - 1) / PANEL - panel);
    target to = {op,
                 row,
                 column + from,
                 min_i64(np * PANEL, m->n - from),
                 op->out->f + row * op->out->width + column + from,
                 op->out->width};
    prefetch_range range = {m->data + min_i64(end, tiles_of(m)) * TILE_PANELS * m->panel_bytes,
                            end <= tiles_of(m) || m == last ? thread->next_weights : m[1].data};
    linear_panels(m, panel, np, &range, count, &to, thread);
}

/* Compute a block of 32 columns of the fused activation for `count` rows: first its inputs, then the activation.
 * Matrices are whole blocks (see find_fusions in lower.py). */
static void activated_tile(const pyml_op *op, int64_t block, int64_t row, int64_t count, pyml_thread *thread) {
    float *x = (float *)(thread->scratch + LINEAR_SCRATCH);
    const int64_t parts = op->fused_next->kind == OP_GATED ? 2 : 1; /* gate and up are adjacent */
    for (int64_t part = 0; part < parts; part++) {
        int64_t column = part * op->fused_next->out->width + block * BLOCK, from = column;
        const pyml_matrix *m = op->matrices;
        for (; from >= m->n; m++) from -= m->n;
        prefetch_range range = {m->data, NULL};
        for (int p = 0; p < BLOCK / PANEL; p += TILE_PANELS) {
            target to = {op, row, column + p * PANEL, TILE_PANELS * PANEL, x + part * BLOCK + p * PANEL, parts * BLOCK};
            linear_panels(m, from / PANEL + p, TILE_PANELS, &range, count, &to, thread);
        }
    }
    uint64_t time = phase_start(thread);
    FN(activate_tile)(op->fused_next, x, block * BLOCK, row, count);
    charge_phase(thread, 0, time);
}

void FN(linear)(const pyml_op *op, const pyml_run *run, pyml_thread *thread, int stage, int64_t begin, int64_t end) {
    (void)stage;
    int64_t both = pyml_fuses_activation(op, run), tiles = both ? op->fused_next->out->blocks : tiles_of_all(op),
            rows = rows_of(op->out, run);
    for (int64_t item = begin; item < end; item++) {
        int64_t row = item / tiles * TOKEN_BLOCK, count = min_i64(TOKEN_BLOCK, rows - row);
        if (both) activated_tile(op, item % tiles, row, count, thread);
        else linear_tile(op, op->matrices, item % tiles, thread->last, row, count, thread);
    }
}

/* Only for a few rows, where reading weights dominates. */
int64_t FN(linear_weights)(const pyml_op *op, const pyml_run *run, int64_t item, const uint8_t **from) {
    if (rows_of(op->out, run) > FEW_ROWS) return 0;
    const pyml_matrix *m = op->matrices;
    for (; item >= tiles_of(m); m++) item -= tiles_of(m);
    int64_t panels = (m->n + PANEL - 1) / PANEL;
    *from = m->data + item * TILE_PANELS * m->panel_bytes;
    return (panels - item * TILE_PANELS) * m->panel_bytes;
}

/* ---- linear layers of experts: the rows of each expert times its matrices. Experts without rows are not read. */

static int64_t blocks_of(const pyml_routes *routes, int64_t expert) {
    return (routes->first[expert + 1] - routes->first[expert] + TOKEN_BLOCK - 1) / TOKEN_BLOCK;
}

int64_t FN(expert_linear_items)(const pyml_op *op, const pyml_run *run, int stage) {
    (void)run;
    const pyml_routes *routes = op->in2->routes;
    int64_t blocks = 0;
    for (int64_t e = 0; e < routes->experts; e++) blocks += blocks_of(routes, e);
    return stage ? 0 : tiles_of_all(op) * blocks;
}

void FN(expert_linear)(const pyml_op *op, const pyml_run *run, pyml_thread *thread, int stage, int64_t begin,
                       int64_t end) {
    (void)run, (void)stage;
    const pyml_routes *routes = op->in2->routes;
    int64_t tiles = tiles_of_all(op);
    for (int64_t item = begin; item < end; item++) {
        int64_t expert = 0, block = item / tiles;
        for (; block >= blocks_of(routes, expert); expert++) block -= blocks_of(routes, expert);
        int64_t row = routes->first[expert] + block * TOKEN_BLOCK;
        int64_t count = min_i64(TOKEN_BLOCK, routes->first[expert + 1] - row);
        linear_tile(op, op->matrices + expert * op->n_matrices, item % tiles, tiles, row, count, thread);
    }
}

/* ---- low_rank: out += B (A x), with the matrices of the adapter that a row's slice has. Consecutive slices of one
 * adapter are multiplied together. Slices without an adapter, or whose adapter has no part here, make no items. */

/* Tile number `tile` of A (stage 0) or B (stage 1) of a part, for `count` rows. A x is written, B (A x) is added. */
static void low_rank_tile(const pyml_op *op, int64_t part, int stage, int64_t tile, int64_t row, int64_t count,
                          float *sums) {
    const pyml_matrix *m = &op->matrices[2 * part + stage];
    const pyml_low_rank *at = &op->parts[part];
    const pyml_op finished = {.accumulate = stage == 1};
    const pyml_buffer *out = stage ? op->out : op->in2;
    pyml_buffer x = stage ? *op->in2 : *op->in;
    if (stage) x.f += at->low;
    int64_t panel = tile * TILE_PANELS, from = panel * PANEL, column = from + (stage ? at->column : at->low);
    int np = (int)min_i64(TILE_PANELS, (m->n + PANEL - 1) / PANEL - panel);
    target to = {&finished, row, 0, min_i64(np * PANEL, m->n - from), out->f + row * out->width + column, out->width};
    plain_tile(m, panel, np, &x, count, &to, sums);
}

/* Compute the items from `begin` to `end`, if `sums` is not NULL. Returns the number of items up to there. */
static int64_t low_rank_walk(const pyml_op *op, const pyml_run *run, int stage, int64_t begin, int64_t end,
                             float *sums) {
    int64_t item = 0;
    for (int64_t s = 0, next; s < run->n_slices && item < end; s = next) {
        const pyml_slice *slice = &run->slices[s];
        int64_t rows = slice->count;
        for (next = s + 1; next < run->n_slices && slice->adapter == run->slices[next].adapter; next++)
            rows += run->slices[next].count;
        for (int64_t part = 0; slice->adapter && part < op->n_matrices / 2; part++) {
            if (op->parts[part].adapter != slice->adapter) continue;
            int64_t tiles = tiles_of(&op->matrices[2 * part + stage]);
            int64_t items = tiles * ((rows + TOKEN_BLOCK - 1) / TOKEN_BLOCK);
            int64_t last = sums ? min_i64(end - item, items) : 0;
            for (int64_t i = begin > item ? begin - item : 0; i < last; i++) {
                int64_t first = i / tiles * TOKEN_BLOCK;
                low_rank_tile(op, part, stage, i % tiles, slice->row + first, min_i64(TOKEN_BLOCK, rows - first), sums);
            }
            item += items;
        }
    }
    return item;
}

int64_t FN(low_rank_items)(const pyml_op *op, const pyml_run *run, int stage) {
    return low_rank_walk(op, run, stage, 0, INT64_MAX, NULL);
}

void FN(low_rank)(const pyml_op *op, const pyml_run *run, pyml_thread *thread, int stage, int64_t begin, int64_t end) {
    low_rank_walk(op, run, stage, begin, end, (float *)thread->scratch);
}

/* ---- rows of a packed matrix as float32: embedding look-up, and dequantisation. The order of operations is ggml's. */

static void unpack_row(const pyml_matrix *m, int64_t row, float *out) {
    int64_t lane = row % PANEL;
    const uint8_t *data = m->data + row / PANEL * m->panel_bytes;
    if (is_plain(m->type)) {
        for (int64_t i = 0; i < m->k; i++) {
            _Alignas(64) float lanes[PANEL];
            f_store(lanes, m->type == TYPE_F32   ? f_load((const float *)data + i * PANEL)
                           : m->type == TYPE_F16 ? f_load_f16((const uint16_t *)data + i * PANEL)
                                                 : f_load_bf16((const uint16_t *)data + i * PANEL));
            out[i] = lanes[lane];
        }
        return;
    }
    const quantized_type *q = &quantized_types[m->type];
    unpacked u;
    for (int64_t k0 = 0; k0 < m->k; k0 += CHUNK) {
        int k = (int)min_i64(CHUNK, m->k - k0);
        u.low = low_nibbles(m, row / PANEL, k0);
        const uint8_t *codes = q->unpack(data, k, &u);
        data += pyml_chunk_bytes(m->type, k);
        for (int i = 0; i < k; i++) {
            float x = u.scales[i / q->block][lane] * (float)(codes[i / 4 * 64 + lane * 4 + i % 4] - q->zero);
            out[k0 + i] = q->mins ? x + u.mins[i / q->block][lane] : x;
        }
    }
}

void FN(unpack_rows)(const pyml_matrix *m, const int64_t *rows, int64_t count, float *out) {
    for (int64_t i = 0; i < count; i++) unpack_row(m, rows[i], out + i * m->k);
}
