/* attention.c: attention over the KV pages.
 *
 * Letters: R rows (a token's query heads that share a key/value head, times the tokens of a tile), D head_dim, G query heads a
 * key/value head, P = 64 positions of a page.
 *
 * The unit of work is a tile (some tokens of one sequence) and a key/value head. Key blocks are the pages, at fixed absolute
 * positions. Each block is reduced from scratch (scores, maximum, exponentials, their sum, weighted values) and merged into the
 * running result in ascending order, so that an output does not depend on who computed which block, nor on the tokens around it:
 *
 *     m' = max(m, m_b);  o = o 2^(m - m') + o_b 2^(m_b - m');  l = l 2^(m - m') + l_b 2^(m_b - m')
 *
 * Queries are scaled by log2(e) as well, so that exponentials are powers of 2.
 *
 * Where there are fewer units than threads (decoding), blocks are split over threads too: stage 0 leaves each block's result in
 * run->partials, stage 1 merges them in the same order by the same code.
 */
#include "kernels.h"

enum { PHASE_SCORES, PHASE_SOFTMAX, PHASE_VALUES };

/* How one operation's work is cut: blocks of a tile split into `splits` items where units alone would leave threads idle. */
typedef struct {
    int64_t splits, blocks, rows, partial; /* blocks: most of any tile; partial: floats of a block's result: o, m, l */
} cut;

INLINE int64_t whole_panels(int64_t n) { return (n + PANEL - 1) / PANEL * PANEL; }

INLINE int64_t first_block(const pyml_op *op, int64_t position) {
    return op->window && position >= op->window ? (position - op->window + 1) / PAGE : 0;
}

static cut cut_work(const pyml_op *op, const pyml_run *run) {
    cut c = {.splits = 1, .rows = run->tile_tokens * (op->n_heads / run->kv.n_kv_heads)};
    c.partial = c.rows * whole_panels(run->kv.head_dim) + 2 * whole_panels(c.rows);
    int64_t units = run->n_tiles * run->kv.n_kv_heads;
    if (run->threads == 1 || units >= 2 * run->threads) return c;
    for (int64_t i = 0; i < run->n_tiles; i++) {
        const pyml_tile *tile = &run->tiles[i];
        int64_t start = run->slices[tile->slice].start + tile->first;
        int64_t blocks = (start + tile->count - 1) / PAGE + 1 - first_block(op, start);
        if (blocks > c.blocks) c.blocks = blocks;
    }
    if (units * c.blocks * c.partial <= run->partials_floats) c.splits = least(c.blocks, (4 * run->threads + units - 1) / units);
    return c;
}

int64_t FN(attention_items)(const pyml_op *op, const pyml_run *run, int stage) {
    cut c = cut_work(op, run);
    int64_t units = run->n_tiles * run->kv.n_kv_heads;
    return stage == 0 ? units * c.splits : stage == 1 && c.splits > 1 ? units : 0;
}

/* What some rows have of some keys: weighted values, the largest score (in powers of 2), and the sum of the exponentials. */
typedef struct {
    float *o;      /* [R][D], D rounded up to whole panels */
    float *m, *l;  /* [R], rounded up likewise; once a block's are merged, the factors of what was there and of the block */
} partial;

/* Scaled queries as int8. */
typedef struct {
    int8_t *codes;   /* [R][D] */
    float *scales;   /* [R][D / 32] */
    int32_t *starts; /* [R][D / 32]: what takes the bias of the keys' codes off */
} quantized_queries;

/* One tile's working memory. Row r is token r / G, query head (head * G + r % G). */
typedef struct {
    const pyml_op *op;
    const pyml_run *run;
    pyml_thread *thread;
    const pyml_slice *slice;
    int64_t start, tokens, group, rows, head, row; /* start: position of the tile's first token; row: its buffer row */
    float *q;      /* [R][D], scaled */
    quantized_queries q8; /* instead, where keys are int8 */
    float *p;      /* [R][64]: scores, then their exponentials */
    uint8_t *weights; /* [R][64]: instead of exponentials, where values are int8: times the values' scales */
    partial block, result;
    int64_t width; /* D rounded up to whole panels */
} tile_state;

INLINE partial partial_at(float *memory, int64_t rows, int64_t width) {
    return (partial){memory, memory + rows * width, memory + rows * width + whole_panels(rows)};
}

/* Rows of A times panels of keys or values, `next` bytes apart, each output from scratch. */
static void fma_pages(const tile_state *s, const float *a, int64_t lda, const uint8_t *b, int64_t ldb, int64_t next, int64_t panels,
                      int64_t k, float *out, int64_t ld_out, upcoming ahead) {
    int64_t element = s->run->kv.f16 ? 2 : 4;
    if (s->rows > TILE_TOKENS) ahead.lines = 0; /* many rows for each load: it is arithmetic that takes the time */
    for (int64_t p = 0; p < panels;) {
        const void *from[FLOAT_PANELS];
        for (int i = 0; i < FLOAT_PANELS; i++) from[i] = b + (p + i) * next * element;
#define PAGES(np, type) fma_rows(np, type, a, lda, from, ldb, k, out + p * PANEL, ld_out, s->rows, true, ahead)
        if (p + FLOAT_PANELS <= panels) {
            if (s->run->kv.f16) PAGES(FLOAT_PANELS, TYPE_F16);
            else PAGES(FLOAT_PANELS, TYPE_F32);
            p += FLOAT_PANELS;
        } else {
            if (s->run->kv.f16) PAGES(1, TYPE_F16);
            else PAGES(1, TYPE_F32);
            p++;
        }
        ahead.from += ahead.lines * k * 64;
#undef PAGES
    }
}

/* tile(n) for the constant n that is `count`. */
#define FOR_ROWS(count, tile)                                                                                                     \
    switch (count) {                                                                                                              \
    case 1: tile(1); break;                                                                                                       \
    case 2: tile(2); break;                                                                                                       \
    case 3: tile(TILE_TOKENS < 3 ? 1 : 3); break;                                                                                 \
    case 4: tile(TILE_TOKENS < 4 ? 1 : 4); break;                                                                                 \
    case 5: tile(TILE_TOKENS < 5 ? 1 : 5); break;                                                                                 \
    case 6: tile(TILE_TOKENS < 6 ? 1 : 6); break;                                                                                 \
    }

/* Scores of int8 keys: sum = fma(float(sum_d code_q code_k), scale_k * scale_q, sum) for each 32 elements in ascending order. */
INLINE void key_tile(const int nt, const int np, quantized_queries q, const uint8_t *keys, int64_t panel_bytes, int64_t d, float *out,
                     upcoming next) {
    vf sum[TILE_TOKENS][TILE_PANELS];
    UNROLL for (int t = 0; t < nt; t++)
        UNROLL for (int p = 0; p < np; p++) sum[t][p] = f_set1(0.0f);
    int64_t blocks = d / BLOCK;
    for (int64_t b = 0; b < blocks; b++, keys += KEY_BLOCK) {
        for (int64_t line = 0; line < next.lines; line++) PREFETCH(next.from + (b * next.lines + line) * 64);
        vi dot[TILE_TOKENS][TILE_PANELS];
        UNROLL for (int t = 0; t < nt; t++) {
            vi start = i_set1(q.starts[t * blocks + b]);
            UNROLL for (int p = 0; p < np; p++) dot[t][p] = start;
        }
        UNROLL for (int g = 0; g < BLOCK / 4; g++) {
            vb w[TILE_PANELS];
            UNROLL for (int p = 0; p < np; p++) w[p] = b_load(keys + p * panel_bytes + (g + 1) * PANEL * 4);
            UNROLL for (int t = 0; t < nt; t++) {
                vi x = i_load4(q.codes + t * d + b * BLOCK + g * 4);
                UNROLL for (int p = 0; p < np; p++) dot[t][p] = i_dot_wide(dot[t][p], w[p], x);
            }
        }
        UNROLL for (int p = 0; p < np; p++) {
            vf scale = f_load((const float *)(keys + p * panel_bytes));
            UNROLL for (int t = 0; t < nt; t++)
                sum[t][p] = f_fma(f_from_i(dot[t][p]), f_mul(scale, f_set1(q.scales[t * blocks + b])), sum[t][p]);
        }
    }
    UNROLL for (int t = 0; t < nt; t++)
        UNROLL for (int p = 0; p < np; p++) f_store(out + t * PAGE + p * PANEL, sum[t][p]);
}

static void dot_pages(const tile_state *s, const uint8_t *keys, int64_t panels, upcoming ahead) {
    int64_t d = s->run->kv.head_dim, panel_bytes = s->run->kv.key_bytes / (PAGE / PANEL);
    if (s->rows > TILE_TOKENS) ahead.lines = 0;
    for (int64_t p = 0; p < panels; p += TILE_PANELS) {
        for (int64_t r = 0; r < s->rows; r += TILE_TOKENS) {
            quantized_queries q = {s->q8.codes + r * d, s->q8.scales + r * (d / BLOCK), s->q8.starts + r * (d / BLOCK)};
#define KEYS(n) key_tile(n, TILE_PANELS, q, keys + p * panel_bytes, panel_bytes, d, s->p + r * PAGE + p * PANEL, ahead)
            FOR_ROWS(least(TILE_TOKENS, s->rows - r), KEYS);
#undef KEYS
        }
        ahead.from += ahead.lines * (d / BLOCK) * 64;
    }
}

static const float log2_e = 1.44269504f, ln_2 = 0.693147181f, log2_255 = 7.99435344f;

/* Keys of a block that a row sees: low..high-1. */
typedef struct {
    int64_t low, high;
} sight;

/* Scores of key panel i where the key is seen, else minus infinity; unless `masked`, all are. */
INLINE vf seen_only(const bool masked, sight seen, int i, vf v) {
    static const float lane[PANEL] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    if (!masked) return v;
    vf key = f_add(f_load(lane), f_set1((float)(i * PANEL))), unseen = f_set1(-INFINITY);
    v = f_greater(f_set1((float)seen.high), key, v, unseen);
    return f_greater(key, f_set1((float)seen.low - 0.5f), v, unseen);
}

/* One row's exponentials, their maximum and sum. Scores are left where they are wanted. */
INLINE void softmax_row(const bool masked, sight seen, float cap, float *p, float *m, float *l, float *scores) {
    vf score[PAGE / PANEL], top = f_set1(-INFINITY), sum = f_set1(0.0f);
    UNROLL for (int i = 0; i < PAGE / PANEL; i++) {
        vf v = f_load(p + i * PANEL);
        if (cap > 0) v = f_mul(f_set1(cap * log2_e), f_tanh(v));
        v = seen_only(masked, seen, i, v);
        score[i] = v;
        top = f_max(top, v);
        if (scores) f_store(scores + i * PANEL, f_mul(v, f_set1(ln_2)));
    }
    *m = f_top(top);
    vf base = f_set1(*m == -INFINITY ? 0.0f : *m);
    UNROLL for (int i = 0; i < PAGE / PANEL; i++) {
        vf e = f_exp2(f_sub(score[i], base));
        sum = f_add(sum, e);
        f_store(p + i * PANEL, e);
    }
    *l = f_sum(sum);
}

/* The same for int8 values: a value's scale is part of its key's weight, its logarithm is added to the score. The largest weight of
 * the block is 255, and the others are rounded as that is; the sum is that of the exponentials alone, times as much. */
INLINE void weights_row(const bool masked, sight seen, float cap, const float *scales, float *p, uint8_t *weights, float *m, float *l,
                        float *scores, bool keep) {
    vf score[PAGE / PANEL], top = f_set1(-INFINITY), sum = f_set1(0.0f);
    UNROLL for (int i = 0; i < PAGE / PANEL; i++) {
        vf v = f_load(p + i * PANEL);
        if (cap > 0) v = f_mul(f_set1(cap * log2_e), f_tanh(v));
        if (scores) f_store(scores + i * PANEL, f_mul(seen_only(masked, seen, i, v), f_set1(ln_2)));
        score[i] = seen_only(masked, seen, i, f_add(v, f_load(scales + i * PANEL)));
        top = f_max(top, score[i]);
    }
    *m = f_top(top);
    vf base = f_set1(*m == -INFINITY ? 0.0f : *m);
    UNROLL for (int i = 0; i < PAGE / PANEL; i++) {
        vf weight = f_exp2_short(f_add(f_sub(score[i], base), f_set1(log2_255))), inverse = f_load(scales + PAGE + i * PANEL);
        sum = f_fma(weight, inverse, sum);
        i_store_u8(weights + i * PANEL, i_round(weight));
        if (keep) f_store(p + i * PANEL, f_mul(weight, inverse));
    }
    *l = f_sum(sum);
}

/* Put a block's maxima and sums to what there is of the blocks before it, and leave the factors of the values in the block's. */
static void merge_sums(partial to, partial block, int64_t rows) {
    for (int64_t first = 0; first < rows; first += PANEL) {
        vf m = f_load(to.m + first), m_b = f_load(block.m + first), top = f_max(m, m_b);
        vf base = f_greater(top, f_set1(-INFINITY), top, f_set1(0.0f)); /* nothing seen, neither before nor now */
        vf k = f_exp2(f_sub(m, base)), a = f_exp2(f_sub(m_b, base));
        f_store(to.m + first, top);
        f_store(to.l + first, f_fma(f_load(block.l + first), a, f_mul(f_load(to.l + first), k)));
        f_store(block.m + first, k), f_store(block.l + first, a);
    }
}

static void merge(partial to, partial block, int64_t rows, int64_t width) {
    merge_sums(to, block, rows);
    for (int64_t r = 0; r < rows; r++) {
        float *o = to.o + r * width, *o_b = block.o + r * width;
        vf k = f_set1(block.m[r]), a = f_set1(block.l[r]);
        for (int64_t i = 0; i < width; i += PANEL) f_store(o + i, f_fma(f_load(o_b + i), a, f_mul(f_load(o + i), k)));
    }
}

INLINE void merge_into(float *o, vf block, float add, float keep) { f_store(o, f_fma(block, f_set1(add), f_mul(f_load(o), f_set1(keep)))); }

/* Weights times int8 values of a block, four keys at a time: put to the result at once, or left `alone`, to be merged later. The
 * integers are exact in float32, so that either way gives the same. */
INLINE void value_tile(const int nt, const int np, bool alone, const uint8_t *weights, const uint8_t *values, int64_t words,
                       const float *keep, const float *add, float *out, int64_t ld_out, upcoming next) {
    vd dot[TILE_TOKENS][FLOAT_PANELS];
    UNROLL for (int t = 0; t < nt; t++)
        UNROLL for (int p = 0; p < np; p++) dot[t][p] = d_zero();
    for (int64_t word = 0; word < words; word++) {
        for (int64_t line = 0; line < next.lines; line++) PREFETCH(next.from + (word * next.lines + line) * 64);
        vb v[FLOAT_PANELS];
        UNROLL for (int p = 0; p < np; p++) v[p] = b_load(values + (p * PAGE / 4 + word) * 64);
        UNROLL for (int t = 0; t < nt; t++) {
            vi w = i_load4(weights + t * PAGE + word * 4);
            UNROLL for (int p = 0; p < np; p++) dot[t][p] = d_dot_signed(dot[t][p], v[p], w);
        }
    }
    if (alone) {
        UNROLL for (int t = 0; t < nt; t++)
            UNROLL for (int p = 0; p < np; p++) f_store(out + t * ld_out + p * PANEL, f_from_d(dot[t][p]));
        return;
    }
    UNROLL for (int t = 0; t < nt; t++)
        UNROLL for (int p = 0; p < np; p++) merge_into(out + t * ld_out + p * PANEL, f_from_d(dot[t][p]), add[t], keep[t]);
}

/* The weighted values of a block's first `words` times four keys, merged into the result or left in the block. */
static void weigh_values(const tile_state *s, const uint8_t *values, int64_t words, bool alone, upcoming ahead) {
    int64_t panels = s->run->kv.head_dim / PANEL;
    float *to = alone ? s->block.o : s->result.o;
    if (s->rows > TILE_TOKENS) ahead.lines = 0;
    for (int64_t p = 0; p < panels;) {
        bool many = p + FLOAT_PANELS <= panels;
        for (int64_t r = 0; r < s->rows; r += TILE_TOKENS) {
#define VALUES(n, np)                                                                                                             \
    value_tile(n, np, alone, s->weights + r * PAGE, values + p * PANEL * PAGE, words, s->block.m + r, s->block.l + r,             \
               to + r * s->width + p * PANEL, s->width, ahead)
#define MANY(n) VALUES(n, FLOAT_PANELS)
#define ONE(n) VALUES(n, 1)
            if (many) FOR_ROWS(least(TILE_TOKENS, s->rows - r), MANY)
            else FOR_ROWS(least(TILE_TOKENS, s->rows - r), ONE)
#undef VALUES
#undef MANY
#undef ONE
        }
        p += many ? FLOAT_PANELS : 1;
        ahead.from += ahead.lines * words * 64;
    }
}

/* ---- what a trace wants: see pyml_capture */

INLINE int64_t captured_keys(const pyml_slice *slice) { return (slice->start + slice->count + PAGE - 1) / PAGE * PAGE; }

/* Where the keys of a block, for row r of a tile, are in a captured array; NULL where it is not wanted. */
static float *captured(const tile_state *s, float *array, int64_t b, int64_t r) {
    if (!array) return NULL;
    int64_t head = s->head * s->group + r % s->group, token = s->start - s->slice->start + r / s->group;
    for (const pyml_slice *slice = s->run->slices; slice < s->slice; slice++)
        array += s->op->n_heads * slice->count * captured_keys(slice);
    return array + (head * s->slice->count + token) * captured_keys(s->slice) + b * PAGE;
}

/* A block's exponentials and maxima as they are, before they are merged. */
static void capture_block(const tile_state *s, int64_t b) {
    const pyml_capture *c = s->op->capture;
    for (int64_t r = 0; c->probabilities && r < s->rows; r++) {
        float *to = captured(s, c->probabilities, b, r);
        memcpy(to, s->p + r * PAGE, PAGE * sizeof(float));
        c->maxima[(to - c->probabilities) / PAGE] = s->block.m[r];
    }
}

/* The exponentials of all blocks, rescaled as merge and finish rescale the values: e 2^(m_b - m) / l. */
static void capture_probabilities(const tile_state *s, int64_t from, int64_t to) {
    const pyml_capture *c = s->op->capture;
    for (int64_t r = 0; c->probabilities && r < s->rows; r++) {
        for (int64_t b = from; b < to; b++) {
            float *p = captured(s, c->probabilities, b, r), m_b = c->maxima[(p - c->probabilities) / PAGE];
            vf scale = m_b == -INFINITY ? f_set1(0.0f) : f_exp2(f_set1(m_b - s->result.m[r]));
            for (int64_t i = 0; i < PAGE; i += PANEL) f_store(p + i, f_div(f_mul(f_load(p + i), scale), f_set1(s->result.l[r])));
        }
    }
}

static void softmax(const tile_state *s, int64_t b, const float *value_scales) {
    const pyml_op *op = s->op;
    for (int64_t token = 0; token < s->tokens; token++) {
        int64_t position = s->start + token, high = position + 1 - b * PAGE;
        int64_t low = op->window && position >= op->window ? high - op->window : 0;
        bool masked = low > 0 || high < PAGE;
        sight seen = {low, high};
        for (int64_t r = token * s->group; r < (token + 1) * s->group; r++) {
            float *scores = op->capture ? captured(s, op->capture->scores, b, r) : NULL;
            float *p = s->p + r * PAGE, *m = s->block.m + r, *l = s->block.l + r;
            uint8_t *weights = s->weights + r * PAGE;
            if (value_scales && masked) weights_row(true, seen, op->cap, value_scales, p, weights, m, l, scores, op->capture);
            else if (value_scales) weights_row(false, seen, op->cap, value_scales, p, weights, m, l, scores, op->capture);
            else if (masked) softmax_row(true, seen, op->cap, p, m, l, scores);
            else softmax_row(false, seen, op->cap, p, m, l, scores);
        }
    }
}

/* The head's keys and values in page b. */
INLINE const uint8_t *keys_of(const tile_state *s, int64_t b) {
    const pyml_kv *kv = &s->run->kv;
    return s->slice->pages[b] + s->op->layer * kv->layer_bytes + s->head * kv->key_bytes;
}
INLINE const uint8_t *values_of(const tile_state *s, int64_t b) {
    const pyml_kv *kv = &s->run->kv;
    return s->slice->pages[b] + s->op->layer * kv->layer_bytes + kv->n_kv_heads * kv->key_bytes + s->head * kv->value_bytes;
}

/* Scores, softmax and weighted values of one key block: merged into s->result, or left `alone` in s->block. The next page's keys
 * are asked for meanwhile, and then its values. */
static void attend_block(const tile_state *s, int64_t b, bool alone) {
    const pyml_kv *kv = &s->run->kv;
    const pyml_op *op = s->op;
    int64_t d = kv->head_dim, last = s->start + s->tokens - 1;
    const uint8_t *keys = keys_of(s, b), *values = values_of(s, b);
    bool more = (b + 1) * PAGE <= last;
    const uint8_t *next_keys = more ? keys_of(s, b + 1) : NULL, *next_values = more ? values_of(s, b + 1) : NULL;
    int64_t lines = more ? FLOAT_PANELS * PANEL * (kv->f16 ? 2 : 4) / 64 : 0; /* what a tile of floats reads for every k */
    int64_t seen = least(PAGE, last + 1 - b * PAGE); /* by any row: keys after it have weight 0 */
    int64_t panels = (seen + PANEL - 1) / PANEL;
    int64_t tile = kv->int8 ? TILE_PANELS : FLOAT_PANELS;
    panels = (panels + tile - 1) / tile * tile; /* a page has as many, whatever is in the last ones */

    uint64_t time = s->thread->timed ? pyml_ticks() : 0;
    if (kv->int8) dot_pages(s, keys, panels, (upcoming){next_keys, more ? TILE_PANELS * KEY_BLOCK / 64 : 0});
    else fma_pages(s, s->q, d, keys, PANEL, d * PANEL, panels, d, s->p, PAGE, (upcoming){next_keys, lines});
    time = lap(s->thread, PHASE_SCORES, time);
    softmax(s, b, kv->int8 ? (const float *)values : NULL);
    if (op->capture) capture_block(s, b);
    time = lap(s->thread, PHASE_SOFTMAX, time);
    if (kv->int8) {
        if (!alone) merge_sums(s->result, s->block, s->rows);
        weigh_values(s, values + VALUE_SCALES, (seen + 3) / 4, alone, (upcoming){next_values, more ? FLOAT_PANELS + 1 : 0});
    } else {
        fma_pages(s, s->p, PAGE, values, d, PANEL, whole_panels(d) / PANEL, seen, s->block.o, s->width, (upcoming){next_values, lines});
        if (!alone) merge(s->result, s->block, s->rows, s->width);
    }
    lap(s->thread, PHASE_VALUES, time);
}

static void reset(partial result, int64_t rows, int64_t width) {
    memset(result.o, 0, (size_t)(rows * width) * sizeof(float));
    for (int64_t r = 0; r < whole_panels(rows); r++) result.m[r] = -INFINITY, result.l[r] = 0;
}

/* o / l to the output buffer. */
static void finish(const tile_state *s) {
    int64_t d = s->run->kv.head_dim;
    pyml_buffer *buffer = s->op->out;
    for (int64_t r = 0; r < s->rows; r++) {
        const float *o = s->result.o + r * s->width;
        float *out = buffer->f + (s->row + r / s->group) * buffer->width + (s->head * s->group + r % s->group) * d;
        vf l = f_set1(s->result.l[r]);
        for (int64_t i = 0; i < d; i += PANEL) f_store_n(out + i, f_div(f_load(o + i), l), least(PANEL, d - i));
    }
}

/* The tile's queries, times the scores' scale (and log2(e), where no cap comes between). */
static void load_queries(tile_state *s) {
    const pyml_op *op = s->op;
    int64_t d = s->run->kv.head_dim, blocks = d / BLOCK;
    vf scale = f_set1(op->cap > 0 ? op->scale / op->cap : op->scale * log2_e), inverse = f_set1(1.0f / BLOCK);
    s->q8 = (quantized_queries){(int8_t *)(s->q + 2 * s->rows * blocks), s->q, (int32_t *)(s->q + s->rows * blocks)};
    for (int64_t r = 0; r < s->rows; r++) {
        const float *q = op->in->f + (s->row + r / s->group) * op->in->width + (s->head * s->group + r % s->group) * d;
        if (s->run->kv.int8) {
            for (int64_t b = 0; b < blocks; b++, q += BLOCK) {
                vf low = f_mul(f_load(q), scale), high = f_mul(f_load(q + PANEL), scale);
                hadamard(&low, &high);
                low = f_mul(low, inverse), high = f_mul(high, inverse);
                block_facts facts = quantize_block(low, high, s->q8.codes + (r * blocks + b) * BLOCK);
                s->q8.scales[r * blocks + b] = facts.scale;
                s->q8.starts[r * blocks + b] = -WIDE_BIAS * (facts.first + facts.second);
            }
        } else {
            for (int64_t i = 0; i < d; i += PANEL) {
                int64_t n = least(PANEL, d - i);
                f_store_n(s->q + r * d + i, f_mul(f_load_n(q + i, n), scale), n);
            }
        }
    }
}

static tile_state open_tile(const pyml_op *op, const pyml_run *run, pyml_thread *thread, int64_t unit, const cut *c) {
    const pyml_tile *tile = &run->tiles[run->n_tiles - 1 - unit / run->kv.n_kv_heads]; /* late tiles are the long ones: first */
    int64_t d = run->kv.head_dim;
    tile_state s = {
        .op = op, .run = run, .thread = thread, .slice = &run->slices[tile->slice],
        .tokens = tile->count, .group = op->n_heads / run->kv.n_kv_heads, .head = unit % run->kv.n_kv_heads, .width = whole_panels(d),
    };
    s.start = s.slice->start + tile->first;
    s.row = s.slice->row + tile->first;
    s.rows = s.tokens * s.group;
    s.p = (float *)thread->scratch;
    s.block = partial_at(s.p + c->rows * PAGE, c->rows, s.width);
    s.result = partial_at(s.p + c->rows * PAGE + c->partial, c->rows, s.width);
    s.q = s.p + c->rows * PAGE + 2 * c->partial;
    s.weights = (uint8_t *)(s.q + c->rows * d);
    load_queries(&s);
    return s;
}

void FN(attention)(const pyml_op *op, const pyml_run *run, pyml_thread *thread, int stage, int64_t begin, int64_t end) {
    cut c = cut_work(op, run);
    int64_t per_split = c.splits > 1 ? (c.blocks + c.splits - 1) / c.splits : 0;
    for (int64_t item = begin; item < end; item++) {
        int64_t unit = stage == 0 ? item / c.splits : item;
        tile_state s = open_tile(op, run, thread, unit, &c);
        int64_t from = first_block(op, s.start), to = (s.start + s.tokens - 1) / PAGE + 1;
        float *partials = run->partials + unit * c.blocks * c.partial; /* a partial for every block */
        if (c.splits > 1 && stage == 0) {
            int64_t first = from + item % c.splits * per_split;
            for (int64_t b = first; b < least(first + per_split, to); b++) {
                s.block = partial_at(partials + (b - from) * c.partial, c.rows, s.width);
                attend_block(&s, b, true);
            }
            continue;
        }
        reset(s.result, s.rows, s.width);
        for (int64_t b = from; b < to; b++) {
            if (stage == 0) {
                attend_block(&s, b, false);
                continue;
            }
            uint64_t time = thread->timed ? pyml_ticks() : 0;
            s.block = partial_at(partials + (b - from) * c.partial, c.rows, s.width);
            merge(s.result, s.block, s.rows, s.width);
            lap(thread, PHASE_VALUES, time);
        }
        if (op->capture) capture_probabilities(&s, from, to);
        finish(&s);
    }
}
