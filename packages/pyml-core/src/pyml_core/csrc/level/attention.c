/* attention.c: attention over the KV pages.
 *
 * Letters: R rows (a token's query heads that share a key/value head, times the tokens of a tile), D head_dim, G query
 * heads a key/value head.
 *
 * The unit of work is a tile (some tokens of one sequence) and a key/value head. Key blocks are KEY_PAGES pages, at
 * fixed absolute positions; of pages that nobody sees, in the last block or before a window, nothing is read. Each
 * block is reduced from scratch (scores, maximum, exponentials, their sum, weighted values) and merged into the running
 * result in ascending order, so that an output does not depend on who computed which block, nor on the tokens around
 * it:
 *
 *     m' = max(m, m_b);  o = o 2^(m - m') + o_b 2^(m_b - m');  l = l 2^(m - m') + l_b 2^(m_b - m')
 *
 * Queries are scaled by log2(e) as well, so that exponentials are powers of 2.
 *
 * The sum l is kept as sixteen, lane by lane, and added up at the end.
 *
 * Where there are fewer units than threads (decoding), blocks are split over threads too: stage 0 leaves each block's
 * result in run->partials, stage 1 merges them in the same order by the same code.
 */
#include "heads.h"
#include "softmax.h"

enum { PHASE_SCORES, PHASE_SOFTMAX, PHASE_VALUES };

/* How one operation's work is cut: blocks of a tile split into `splits` items where units alone would leave threads
 * idle. */
typedef struct {
    int64_t splits, blocks, rows, partial; /* blocks: most of any tile; partial: floats of a block's result: o, m, l */
} cut;

INLINE int64_t whole_panels(int64_t n) { return (n + PANEL - 1) / PANEL * PANEL; }

/* Of a partial. */
INLINE int64_t floats_of(int64_t rows, int64_t width) { return rows * (width + PANEL) + whole_panels(rows); }

INLINE const pyml_tile *tile_of(const pyml_run *run, int64_t unit) { /* late tiles are the long ones: first */
    return &run->tiles[run->n_tiles - 1 - unit % run->n_tiles];
}

INLINE int64_t first_page(const pyml_op *op, int64_t position) {
    return op->window && position >= op->window ? (position - op->window + 1) / PAGE : 0;
}

INLINE int64_t first_block(const pyml_op *op, int64_t position) { return first_page(op, position) / KEY_PAGES; }

static cut cut_work(const pyml_op *op, const pyml_run *run) {
    int64_t group = op->n_heads / run->kv.n_kv_heads, units = run->n_tiles * run->kv.n_kv_heads, tokens = 0;
    cut c = {.splits = 1, .rows = run->tile_tokens * group};
    c.partial = floats_of(c.rows, whole_panels(run->kv.head_dim));
    if (run->threads == 1 || units >= 2 * run->threads) return c;
    for (int64_t i = 0; i < run->n_tiles; i++) {
        const pyml_tile *tile = &run->tiles[i];
        int64_t start = run->slices[tile->slice].start + tile->first;
        int64_t blocks = (start + tile->count - 1) / KEYS + 1 - first_block(op, start);
        if (blocks > c.blocks) c.blocks = blocks;
        if (tile->count > tokens) tokens = tile->count;
    }
    c.rows = tokens * group; /* close together: what a thread leaves for another has to come from far away */
    c.partial = floats_of(c.rows, whole_panels(run->kv.head_dim));
    if (units * c.blocks * c.partial <= run->partials_floats)
        c.splits = least(c.blocks, (4 * run->threads + units - 1) / units);
    return c;
}

int64_t FN(attention_items)(const pyml_op *op, const pyml_run *run, int stage) {
    cut c = cut_work(op, run);
    int64_t units = run->n_tiles * run->kv.n_kv_heads;
    return stage == 0 ? units * c.splits : stage == 1 && c.splits > 1 ? units : 0;
}

/* What some rows have of some keys: weighted values, the sum of the exponentials, and the largest score (in powers of
 * 2). */
typedef struct {
    float *o; /* [R][D], D rounded up to whole panels */
    float *l; /* [R][16] */
    float *m; /* [R], rounded up likewise */
} partial;

/* Scaled queries as int8, in the blocks of the keys: B elements share a scale. */
typedef struct {
    int8_t *codes;   /* [R][D] */
    float *scales;   /* [R][D / B] */
    int32_t *starts; /* [R][D / B]: what takes the bias of the keys' codes off */
} quantized_queries;

/* One tile's working memory. Row r is token r / G, query head (head * G + r % G). */
typedef struct {
    const pyml_op *op;
    const pyml_run *run;
    pyml_thread *thread;
    const pyml_slice *slice;
    int64_t start, tokens, group, rows, head, row; /* start: position of the tile's first token; row: its buffer row */
    float *q;                                      /* [R][D], scaled */
    quantized_queries q8;                          /* instead, where keys are int8 */
    float *p;                                      /* [R][KEYS]: scores, then their exponentials */
    uint8_t *weights; /* [R][KEYS]: instead of exponentials, where values are int8: times the values' scales */
    partial block, result;
    float *keep, *add; /* [R]: factors of what there was and of the block, when that is merged */
    int64_t width;     /* D rounded up to whole panels */
} tile_state;

INLINE partial partial_at(float *memory, int64_t rows, int64_t width) {
    return (partial){memory, memory + rows * width, memory + rows * (width + PANEL)};
}

/* Rows of A times panels of keys or values, `next` bytes apart, each output from scratch. */
static void fma_pages(const tile_state *s, const float *a, int64_t lda, const uint8_t *b, int64_t ldb, int64_t next,
                      int64_t panels, int64_t k, float *out, int64_t ld_out, bool first, upcoming ahead) {
    int64_t element = s->run->kv.f16 ? 2 : 4;
    if (s->rows > TILE_TOKENS) ahead.lines = 0; /* many rows for each load: it is arithmetic that takes the time */
    for (int64_t p = 0; p < panels;) {
        const void *from[FLOAT_PANELS];
        for (int i = 0; i < FLOAT_PANELS; i++) from[i] = b + (p + i) * next * element;
#define PAGES(np, type) fma_rows(np, type, a, lda, from, ldb, k, out + p * PANEL, ld_out, s->rows, first, ahead)
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
enum { HALF_PANELS = (FLOAT_PANELS + 1) / 2 };

#define FOR_ROWS(count, tile)                     \
    switch (count) {                              \
    case 1: tile(1); break;                       \
    case 2: tile(2); break;                       \
    case 3: tile(TILE_TOKENS < 3 ? 1 : 3); break; \
    case 4: tile(TILE_TOKENS < 4 ? 1 : 4); break; \
    case 5: tile(TILE_TOKENS < 5 ? 1 : 5); break; \
    case 6: tile(TILE_TOKENS < 6 ? 1 : 6); break; \
    }

/* What comes next is asked for by one tile after the other: a line at each step where there are many rows to a page,
 * else several. */
INLINE upcoming ask(const tile_state *s, const uint8_t *next) {
    return (upcoming){next, !next ? 0 : s->rows > TILE_TOKENS ? 1 : FLOAT_PANELS + FLOAT_PANELS / 4};
}
/* Few rows wait for memory: it comes as near as can be. Many would lose what they have there. */
INLINE void ask_for(const int nt, upcoming next, int64_t step) {
    for (int64_t line = step * next.lines; line < (step + 1) * next.lines; line++)
        if (nt < TILE_TOKENS) PREFETCH_NEAR(next.from + line * 64);
        else PREFETCH(next.from + line * 64);
}
INLINE upcoming share(upcoming *ahead, int64_t steps) {
    upcoming mine = *ahead;
    ahead->from += ahead->lines * steps * 64;
    return mine;
}

/* Scores of a block of elements of int8 keys, from panel `keys` on, are added to what was `before`, rows of which are
 * `step` apart: out = fma(float(sum_d code_q code_k) * scale_k, scale_q, before). */
INLINE void key_tile(const int nt, const int np, quantized_queries q, int64_t d, int64_t size, const uint8_t *keys,
                     const float *before, int64_t step, float *out, upcoming next) {
    int64_t blocks = d / size;
    vd dot[TILE_TOKENS][FLOAT_PANELS];
    UNROLL for (int t = 0; t < nt; t++) {
        vd bias = d_set1(q.starts[t * blocks]);
        UNROLL for (int p = 0; p < np; p++) dot[t][p] = bias;
    }
    for (int64_t word = 0; word < size / 4; word++) {
        ask_for(nt, next, word);
        vb w[FLOAT_PANELS];
        UNROLL for (int p = 0; p < np; p++) w[p] = b_load(keys + KEY_SCALES + (word * PAGE + p * PANEL) * 4);
        UNROLL for (int t = 0; t < nt; t++) {
            vi x = i_load4(q.codes + t * d + word * 4);
            UNROLL for (int p = 0; p < np; p++) dot[t][p] = d_dot_wide(dot[t][p], w[p], x);
        }
    }
    vf scale[FLOAT_PANELS];
    UNROLL for (int p = 0; p < np; p++) scale[p] = f_load((const float *)(keys + p * PANEL * 4));
    UNROLL for (int t = 0; t < nt; t++, q.scales += blocks, before += step) {
        MOVED(q.scales);
        MOVED(before);
        vf scale_q = f_set1(*q.scales);
        UNROLL for (int p = 0; p < np; p++)
            f_store(out + t * KEYS + p * PANEL,
                    f_fma(f_mul(f_from_d(dot[t][p]), scale[p]), scale_q, f_load(before + p * PANEL)));
    }
}

/* Scores of key panels from..to-1 of a page, with what is to be `added` to each key's. */
static void dot_page(const tile_state *s, const uint8_t *keys, int64_t page, int64_t from, int64_t to,
                     const float *added, upcoming ahead) {
    int64_t d = s->run->kv.head_dim, size = pyml_key_block(d), blocks = d / size;
    for (int64_t b = 0; b < blocks; b++, keys += KEY_SCALES + PAGE * size) {
        for (int64_t p = from; p < to;) {
            bool many = p + FLOAT_PANELS <= to;
            for (int64_t r = 0; r < s->rows; r += TILE_TOKENS) {
                quantized_queries q = {s->q8.codes + r * d + b * size, s->q8.scales + r * blocks + b,
                                       s->q8.starts + r * blocks + b};
                float *out = s->p + r * KEYS + page * PAGE + p * PANEL;
                const float *before = b ? out : added + p * PANEL;
#define SCORES(n, np) \
    key_tile(n, np, q, d, size, keys + p * PANEL * 4, before, b ? KEYS : 0, out, share(&ahead, size / 4))
#define MANY(n) SCORES(n, FLOAT_PANELS)
#define HALF(n) SCORES(n, HALF_PANELS)
                if (many) FOR_ROWS(least(TILE_TOKENS, s->rows - r), MANY)
                else FOR_ROWS(least(TILE_TOKENS, s->rows - r), HALF)
#undef SCORES
#undef MANY
#undef HALF
            }
            p += many ? FLOAT_PANELS : HALF_PANELS;
        }
    }
}

INLINE void merge_into(float *o, vf block, float add, float keep) {
    f_store(o, f_fma(block, f_set1(add), f_mul(f_load(o), f_set1(keep))));
}

/* Put a block's maxima and sums to what there is of the blocks before it, and find the factors of the values. */
static void merge_sums(const tile_state *s) {
    for (int64_t first = 0; first < s->rows; first += PANEL) {
        vf m = f_load(s->result.m + first), m_b = f_load(s->block.m + first), top = f_max(m, m_b);
        vf base = or_zero(top); /* nothing seen, neither before nor now */
        f_store(s->result.m + first, top);
        f_store(s->keep + first, f_exp2(f_sub(m, base))), f_store(s->add + first, f_exp2(f_sub(m_b, base)));
    }
    for (int64_t r = 0; r < s->rows; r++)
        merge_into(s->result.l + r * PANEL, f_load(s->block.l + r * PANEL), s->add[r], s->keep[r]);
}

static void merge(const tile_state *s) {
    merge_sums(s);
    for (int64_t r = 0; r < s->rows; r++)
        for (int64_t i = r * s->width; i < (r + 1) * s->width; i += PANEL)
            merge_into(s->result.o + i, f_load(s->block.o + i), s->add[r], s->keep[r]);
}

/* Of a block, what any row of the tile sees: keys first..last-1, in these pages. */
typedef struct {
    int64_t first, last;
    block_pages pages;
    const uint8_t *values[KEY_PAGES]; /* int8 codes */
} reach;

INLINE int64_t key_of(int64_t key, int64_t page) { /* of the block, as one of a page */
    return key < page * PAGE ? 0 : least(key - page * PAGE, PAGE);
}

/* Weights times int8 values of a block, four keys at a time: put to the result at once, or left `alone`, to be merged
 * later. The integers are exact in float32, so that either way gives the same. */
INLINE void value_tile(const int nt, const int np, bool alone, const uint8_t *weights, const reach *in, int64_t panel,
                       const float *keep, const float *add, float *out, int64_t ld_out, const upcoming *next,
                       int64_t step) {
    vd dot[TILE_TOKENS][FLOAT_PANELS];
    UNROLL for (int t = 0; t < nt; t++) UNROLL for (int p = 0; p < np; p++) dot[t][p] = d_zero();
    for (int64_t page = in->pages.from; page < in->pages.to; page++) {
        const uint8_t *values = in->values[page] + panel * PANEL * PAGE, *w_page = weights + page * PAGE;
        int64_t last = (key_of(in->last, page) + 3) / 4;
        for (int64_t word = key_of(in->first, page) / 4; word < last; word++) {
            ask_for(nt, next[page], step + word);
            vb v[FLOAT_PANELS];
            UNROLL for (int p = 0; p < np; p++) v[p] = b_load(values + (p * PAGE / 4 + word) * 64);
            UNROLL for (int t = 0; t < nt; t++) {
                vi w = i_load4(w_page + t * KEYS + word * 4);
                UNROLL for (int p = 0; p < np; p++) dot[t][p] = d_dot_signed(dot[t][p], v[p], w);
            }
        }
    }
    UNROLL for (int t = 0; t < nt; t++, out += ld_out) {
        MOVED(out);
        vf k = f_set1(alone ? 0.0f : keep[t]), a = f_set1(alone ? 0.0f : add[t]);
        UNROLL for (int p = 0; p < np; p++) {
            vf block = f_from_d(dot[t][p]);
            f_store(out + p * PANEL, alone ? block : f_fma(block, a, f_mul(f_load(out + p * PANEL), k)));
        }
    }
}

/* The weighted values of a block, merged into the result or left in the block. */
static void weigh_values(const tile_state *s, const reach *in, bool alone, const upcoming *ahead) {
    int64_t panels = s->run->kv.head_dim / PANEL, step = 0;
    float *out = alone ? s->block.o : s->result.o;
    for (int64_t p = 0; p < panels;) {
        bool many = p + FLOAT_PANELS <= panels;
        for (int64_t r = 0; r < s->rows; r += TILE_TOKENS, step += PAGE / 4) {
#define VALUES(n, np)                                                                                               \
    value_tile(n, np, alone, s->weights + r * KEYS, in, p, s->keep + r, s->add + r, out + r * s->width + p * PANEL, \
               s->width, ahead, step)
#define MANY(n) VALUES(n, FLOAT_PANELS)
#define ONE(n) VALUES(n, 1)
            if (many) FOR_ROWS(least(TILE_TOKENS, s->rows - r), MANY)
            else FOR_ROWS(least(TILE_TOKENS, s->rows - r), ONE)
#undef VALUES
#undef MANY
#undef ONE
        }
        p += many ? FLOAT_PANELS : 1;
    }
}

/* Keys of block b that row r sees. */
static sight sight_of(const tile_state *s, int64_t b, int64_t r) {
    int64_t high = s->start + r / s->group + 1 - b * KEYS;
    return (sight){s->op->window ? high - s->op->window : 0, high};
}

/* ---- what a trace wants: see pyml_capture */

INLINE int64_t captured_keys(const pyml_slice *slice) { return (slice->start + slice->count + PAGE - 1) / PAGE * PAGE; }

/* Where the keys of a block, for row r of a tile, are in a captured array; NULL where it is not wanted. */
static float *captured(const tile_state *s, float *array, int64_t b, int64_t r) {
    if (!array) return NULL;
    int64_t head = s->head * s->group + r % s->group, token = s->start - s->slice->start + r / s->group;
    for (const pyml_slice *slice = s->run->slices; slice < s->slice; slice++)
        array += s->op->n_heads * slice->count * captured_keys(slice);
    return array + (head * s->slice->count + token) * captured_keys(s->slice) + b * KEYS;
}

/* A block's scores, without the scales of int8 values, which have been added. */
static void capture_scores(const tile_state *s, int64_t b, const block_pages *in, bool masked) {
    const pyml_capture *c = s->op->capture;
    for (int64_t r = 0; c->scores && r < s->rows; r++) {
        float *to = captured(s, c->scores, b, r);
        FOR_PANELS(in, masked) {
            const float *scales = in->scales[i * PANEL / PAGE];
            vf v = f_load(s->p + r * KEYS + i * PANEL);
            if (scales) v = f_sub(v, f_load(scales + i * PANEL % PAGE));
            if (masked) v = seen_only(sight_of(s, b, r), i, v);
            f_store(to + i * PANEL, f_mul(v, f_set1(ln_2)));
        }
    }
}

/* A block's exponentials and maxima as they are, before they are merged: of int8 values from the scores again. */
static void capture_block(const tile_state *s, int64_t b, const block_pages *in, bool masked) {
    const pyml_capture *c = s->op->capture;
    for (int64_t r = 0; c->probabilities && r < s->rows; r++) {
        float *to = captured(s, c->probabilities, b, r), m = s->block.m[r];
        FOR_PANELS(in, masked) {
            const float *scales = in->scales[i * PANEL / PAGE];
            vf v = f_load(s->p + r * KEYS + i * PANEL);
            if (scales) {
                v = f_sub(v, or_zero(f_set1(m)));
                f_exp2_short(1, &v);
                v = f_mul(v, f_load(scales + PAGE + i * PANEL % PAGE));
            }
            f_store(to + i * PANEL, v);
            c->maxima[(to - c->probabilities + i * PANEL) / PAGE] = m;
        }
    }
}

/* The exponentials of all blocks, rescaled as merge and finish rescale the values: e 2^(m_b - m) / l. */
static void capture_probabilities(const tile_state *s, int64_t first, int64_t last) {
    const pyml_capture *c = s->op->capture;
    for (int64_t r = 0; c->probabilities && r < s->rows; r++) {
        for (int64_t page = first; page < last; page++) {
            float *p = captured(s, c->probabilities, 0, r) + page * PAGE,
                  m_b = c->maxima[(p - c->probabilities) / PAGE];
            vf scale = m_b == -INFINITY ? f_set1(0.0f) : f_exp2(f_set1(m_b - s->result.m[r]));
            vf l = f_set1(f_sum(f_load(s->result.l + r * PANEL)));
            for (int64_t i = 0; i < PAGE; i += PANEL) f_store(p + i, f_div(f_mul(f_load(p + i), scale), l));
        }
    }
}

/* Scores of block b to exponentials or weights. */
static void softmax(const tile_state *s, int64_t b, const block_pages *in) {
    const pyml_op *op = s->op;
    bool masked = s->start + 1 < (b + 1) * KEYS || (op->window && s->start + s->tokens - op->window > b * KEYS);
    bool int8 = s->run->kv.int8;
    for (int64_t r = 0; op->cap > 0 && r < s->rows; r++)
        FOR_PANELS(in, masked) {
            const float *scales = in->scales[i * PANEL / PAGE];
            float *p = s->p + r * KEYS + i * PANEL;
            vf v = f_mul(f_set1(op->cap * log2_e), f_tanh(f_load(p)));
            f_store(p, scales ? f_add(v, f_load(scales + i * PANEL % PAGE)) : v);
        }
    if (op->capture) capture_scores(s, b, in, masked);
    for (int64_t r = 0; r < s->rows;) {
        int64_t n = s->rows - r < TILE_TOKENS ? 1 : TILE_TOKENS;
        sight seen[TILE_TOKENS];
        for (int64_t t = 0; t < n; t++) seen[t] = sight_of(s, b, r + t);
        float *p = s->p + r * KEYS, *m = s->block.m + r, *l = s->block.l + r * PANEL;
        uint8_t *weights = s->weights + r * KEYS;
#define SOFTMAX(n, masked)                                         \
    if (int8) weights_rows(n, masked, seen, in, p, weights, m, l); \
    else softmax_rows(n, masked, seen, in, p, m, l)
        if (n == 1) {
            SOFTMAX(1, masked);
        } else if (masked) {
            SOFTMAX(TILE_TOKENS, true);
        } else {
            SOFTMAX(TILE_TOKENS, false);
        }
#undef SOFTMAX
        r += n;
    }
    if (op->capture) capture_block(s, b, in, masked);
}

/* The head's keys in a page; its values follow on them. */
INLINE const uint8_t *keys_of(const tile_state *s, int64_t page) {
    const pyml_kv *kv = &s->run->kv;
    return s->slice->pages[page] + s->op->layer * kv->layer_bytes + s->head * (kv->key_bytes + kv->value_bytes);
}

/* Scores, softmax and weighted values of key block b: merged into s->result, or left `alone` in s->block. While a
 * page's keys are worked on its values are asked for, and meanwhile the keys of the page that follows two on. */
static void attend_block(const tile_state *s, int64_t b, bool alone) {
    static const float nothing[PAGE] = {0};
    const pyml_kv *kv = &s->run->kv;
    int64_t d = kv->head_dim, end = s->start + s->tokens, start = b * KEYS,
            window = s->op->window ? s->start + 1 - s->op->window - start : 0;
    int64_t group = (kv->int8 ? HALF_PANELS : FLOAT_PANELS) * PANEL, element = kv->f16 ? 2 : 4,
            lines = FLOAT_PANELS * PANEL * element / 64;
    reach in = {.first = window < 0 ? 0 : window, .last = least(KEYS, end - start)}; /* keys that no row sees have
                                                                                        weight 0 */
    in.pages = (block_pages){.from = in.first / PAGE, .to = (in.last + PAGE - 1) / PAGE};
    upcoming ahead[KEY_PAGES];

    uint64_t time = s->thread->timed ? pyml_ticks() : 0;
    for (int64_t page = in.pages.from; page < in.pages.to; page++) {
        const uint8_t *keys = keys_of(s, b * KEY_PAGES + page), *values = keys + kv->key_bytes;
        int64_t from = key_of(in.first, page) / group * group / PANEL,
                to = (key_of(in.last, page) + group - 1) / group * group / PANEL;
        in.values[page] = values + VALUE_SCALES;
        if (kv->int8) {
            in.pages.scales[page] = (const float *)values;
            dot_page(s, keys, page, from, to, s->op->cap > 0 ? nothing : in.pages.scales[page], ask(s, values));
        } else {
            fma_pages(s, s->q, d, keys, PANEL, d * PANEL, to, d, s->p + page * PAGE, KEYS, true,
                      (upcoming){values, lines});
        }
    }
    time = lap(s->thread, PHASE_SCORES, time);
    softmax(s, b, &in.pages);
    time = lap(s->thread, PHASE_SOFTMAX, time);
    if (kv->int8 && !alone) merge_sums(s);
    for (int64_t page = in.pages.from; page < in.pages.to; page++) {
        int64_t then = (b + 1) * KEY_PAGES + page;
        const uint8_t *next = then * PAGE < end ? keys_of(s, then) : NULL;
        ahead[page] = ask(s, next);
        if (kv->int8) continue;
        fma_pages(s, s->p + page * PAGE, KEYS, in.values[page] - VALUE_SCALES, d, PANEL, whole_panels(d) / PANEL,
                  key_of(in.last, page), s->block.o, s->width, page == in.pages.from,
                  (upcoming){next, next ? lines : 0});
    }
    if (kv->int8) weigh_values(s, &in, alone, ahead);
    else if (!alone) merge(s);
    lap(s->thread, PHASE_VALUES, time);
}

static void reset(partial result, int64_t rows, int64_t width) {
    memset(result.o, 0, (size_t)(rows * width) * sizeof(float));
    memset(result.l, 0, (size_t)(rows * PANEL) * sizeof(float));
    for (int64_t r = 0; r < whole_panels(rows); r++) result.m[r] = -INFINITY;
}

/* o / l to the output, a token's heads together: to the buffer's floats, or only to int8 where nobody reads these.
 * Weights in 8 bits are 255 times as much. */
static void finish(const tile_state *s) {
    int64_t d = s->run->kv.head_dim, column = s->head * s->group * d;
    pyml_buffer *buffer = s->op->out;
    bool codes = buffer->codes && d % BLOCK == 0, floats = !buffer->codes_only || s->op->copy;
    for (int64_t token = 0; token < s->tokens; token++) {
        int64_t row = s->row + token, at = row * buffer->blocks + column / BLOCK;
        float *heads = s->result.o + token * s->group * s->width;
        for (int64_t g = 0; g < s->group; g++) {
            float *o = heads + g * s->width, sum = f_sum(f_load(s->result.l + (token * s->group + g) * PANEL));
            vf inverse = f_set1(1.0f / (sum * (s->run->kv.int8 ? weight_of_1 : 1.0f)));
            for (int64_t i = 0; i < d; i += PANEL) {
                vf v = f_mul(f_load(o + i), inverse);
                if (codes) f_store(o + i, v);
                if (floats) f_store_n(buffer->f + row * buffer->width + column + g * d + i, v, least(PANEL, d - i));
            }
        }
        block_run run = {heads,
                         buffer->codes + row * buffer->stride8 + column,
                         buffer->scales + at,
                         buffer->sums + at,
                         buffer->half_sums + 2 * at,
                         BLOCK,
                         BLOCK,
                         1};
        if (codes) quantize_blocks(&run, s->group * d / BLOCK);
    }
}

/* The tile's queries, times the scores' scale (and log2(e), where no cap comes between). */
static void load_queries(tile_state *s) {
    const pyml_op *op = s->op;
    int64_t d = s->run->kv.head_dim, size = pyml_key_block(d), blocks = d / size;
    vf scale = f_set1(op->cap > 0 ? op->scale / op->cap : op->scale * log2_e), inverse = f_set1(1.0f / (float)size);
    s->q8 = (quantized_queries){(int8_t *)(s->q + 2 * s->rows * blocks), s->q, (int32_t *)(s->q + s->rows * blocks)};
    for (int64_t r = 0; r < s->rows; r++) {
        const float *q = op->in->f + (s->row + r / s->group) * op->in->width + (s->head * s->group + r % s->group) * d;
        if (s->run->kv.int8) {
            for (int64_t b = r * blocks; b < (r + 1) * blocks; b++, q += size) {
                head_facts facts = round_head(q, size, f_mul(scale, inverse), s->q8.codes + b * size);
                s->q8.scales[b] = facts.scale;
                s->q8.starts[b] = -WIDE_BIAS * facts.sum;
            }
        } else {
            for (int64_t i = 0; i < d; i += PANEL) {
                int64_t n = least(PANEL, d - i);
                f_store_n(s->q + r * d + i, f_mul(f_load_n(q + i, n), scale), n);
            }
        }
    }
}

/* Queries come from far away: a part of the next unit's are asked for with each of this one's blocks. */
static void ask_for_queries(const pyml_op *op, const pyml_run *run, int64_t unit, int64_t part, int64_t parts) {
    if (unit >= run->n_tiles * run->kv.n_kv_heads) return;
    const pyml_tile *tile = tile_of(run, unit);
    int64_t wide = op->n_heads / run->kv.n_kv_heads * run->kv.head_dim, lines = (wide + PANEL - 1) / PANEL,
            all = tile->count * lines;
    const float *first =
        op->in->f + (run->slices[tile->slice].row + tile->first) * op->in->width + unit / run->n_tiles * wide;
    for (int64_t i = all * part / parts; i < all * (part + 1) / parts; i++)
        PREFETCH(first + i / lines * op->in->width + i % lines * PANEL);
}

static tile_state open_tile(const pyml_op *op, const pyml_run *run, pyml_thread *thread, int64_t unit, const cut *c) {
    const pyml_tile *tile = tile_of(run, unit);
    int64_t d = run->kv.head_dim;
    tile_state s = {
        .op = op,
        .run = run,
        .thread = thread,
        .slice = &run->slices[tile->slice],
        .tokens = tile->count,
        .group = op->n_heads / run->kv.n_kv_heads,
        .head = unit / run->n_tiles,
        .width = whole_panels(d),
    };
    s.start = s.slice->start + tile->first;
    s.row = s.slice->row + tile->first;
    s.rows = s.tokens * s.group;
    s.p = (float *)thread->scratch;
    s.block = partial_at(s.p + c->rows * KEYS, c->rows, s.width);
    s.result = partial_at(s.p + c->rows * KEYS + c->partial, c->rows, s.width);
    s.q = s.p + c->rows * KEYS + 2 * c->partial;
    s.keep = s.q + c->rows * d;
    s.add = s.keep + whole_panels(c->rows);
    s.weights = (uint8_t *)(s.add + whole_panels(c->rows));
    return s;
}

void FN(attention)(const pyml_op *op, const pyml_run *run, pyml_thread *thread, int stage, int64_t begin, int64_t end) {
    cut c = cut_work(op, run);
    for (int64_t item = begin; item < end; item++) {
        int64_t unit = stage == 0 ? item / c.splits : item;
        tile_state s = open_tile(op, run, thread, unit, &c);
        if (stage == 0) load_queries(&s);
        int64_t from = first_block(op, s.start), to = (s.start + s.tokens - 1) / KEYS + 1;
        float *partials = run->partials + unit * c.blocks * c.partial; /* a partial for every block */
        if (c.splits > 1 && stage == 0) {
            int64_t split = item % c.splits;
            for (int64_t b = from + (to - from) * split / c.splits; b < from + (to - from) * (split + 1) / c.splits;
                 b++) {
                s.block = partial_at(partials + (b - from) * c.partial, c.rows, s.width);
                attend_block(&s, b, true);
            }
            continue;
        }
        reset(s.result, s.rows, s.width);
        for (int64_t b = from; b < to; b++) {
            if (stage == 0) {
                ask_for_queries(op, run, unit + 1, b - from, to - from);
                attend_block(&s, b, false);
                continue;
            }
            uint64_t time = thread->timed ? pyml_ticks() : 0;
            s.block = partial_at(partials + (b - from) * c.partial, c.rows, s.width);
            merge(&s);
            lap(thread, PHASE_VALUES, time);
        }
        if (op->capture) capture_probabilities(&s, first_page(op, s.start), (s.start + s.tokens - 1) / PAGE + 1);
        finish(&s);
    }
}
