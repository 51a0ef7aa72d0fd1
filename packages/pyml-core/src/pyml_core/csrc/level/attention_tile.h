/* attention_tile.h: shared by all attention code: a tile and its memory, the keys that its rows attend to, and the
 * merge of two results (online softmax).
 *
 * Letters: R rows of a tile (tokens times G), D head_dim, G query heads for each key/value head.
 */
#ifndef PYML_LEVEL_ATTENTION_TILE_H
#define PYML_LEVEL_ATTENTION_TILE_H

#include "../attention_layout.h"
#include "kernels.h"

static const float log2_e = 1.44269504f, ln_2 = 0.693147181f, int8_weight_of_1 = 255.0f;

enum { PHASE_SCORES, PHASE_SOFTMAX, PHASE_VALUES };

/* ---- a tile */

/* The result of some rows over some keys: weighted values, sums of the exponentials, and largest scores. */
typedef struct {
    float *o; /* [R][width], width being D rounded up to whole panels */
    float *l; /* [R][16]: the sum in sixteen lanes */
    float *m; /* [R], exponents of 2 */
} partial;

INLINE partial partial_at(float *memory, int64_t rows, int64_t width) {
    return (partial){memory, memory + rows * width, memory + rows * (width + PANEL)};
}

/* Scaled queries as int8, in the blocks of keys: B elements share a scale. */
typedef struct {
    int8_t *codes;   /* [R][D] */
    float *scales;   /* [R][D / B] */
    int32_t *starts; /* [R][D / B]: initial values of the dot products, which cancel the bias of the keys' codes */
} quantized_queries;

/* One tile and its working memory. Row r is token r / G, query head (head * G + r % G). */
typedef struct {
    const pyml_op *op;
    const pyml_run *run;
    pyml_thread *thread;
    const pyml_slice *slice;
    int64_t start, row; /* position of the tile's first token, and its row in the buffers */
    int64_t end;        /* position after the last key that its tokens attend to */
    int64_t tokens, group, rows, head, width;
    float *q;                         /* float keys: [R][D], scaled queries */
    quantized_queries q8;             /* int8 keys */
    float *p;                         /* [R][KEYS]: scores, then their exponentials */
    uint8_t *weights;                 /* int8 values: [R][KEYS], exponentials times the scales of values */
    partial block, result;            /* of one block of keys, and of all blocks so far */
    float *rescale_old, *rescale_new; /* [R]: factors of the result and of the block when the two are merged */
} tile_state;

/* The head's keys in a page; its values follow them. */
INLINE const uint8_t *keys_of(const tile_state *s, int64_t page) {
    const pyml_kv *kv = &s->run->kv;
    return s->slice->pages[page] + s->op->layer * kv->layer_bytes + s->head * (kv->key_bytes + kv->value_bytes);
}

/* ---- visible keys: those that rows attend to */

/* The keys of one block that are visible to any row of the tile: first..last-1, in pages from..to-1 of the block. */
typedef struct {
    int64_t first, last, from, to;
    const float *scales[KEY_PAGES]; /* int8 values: logarithms of the scales, then their inverses; else NULL */
} key_range;

INLINE key_range key_range_of(const tile_state *s, int64_t b) {
    int64_t start = b * KEYS, window = s->op->window ? s->start + 1 - s->op->window - start : 0;
    key_range in = {.first = window < 0 ? 0 : window, .last = min_i64(KEYS, s->end - start)};
    in.from = in.first / PAGE;
    in.to = (in.last + PAGE - 1) / PAGE;
    return in;
}

/* Convert a key of the block to a key of one of its pages, clamped to 0..PAGE. */
INLINE int64_t key_in_page(int64_t key, int64_t page) {
    return key < page * PAGE ? 0 : min_i64(key - page * PAGE, PAGE);
}

/* The keys of a block that are visible to one row: low..high-1. */
typedef struct {
    int64_t low, high;
} visible_keys;

INLINE visible_keys visible_to(const tile_state *s, int64_t b, int64_t r) {
    int64_t high = (s->op->bidirectional ? s->end : s->start + r / s->group + 1) - b * KEYS;
    return (visible_keys){s->op->window ? high - s->op->window : 0, high};
}

/* Whether a key of block b is masked for a row of the tile. */
INLINE bool is_masked(const tile_state *s, int64_t b) {
    int64_t window = s->op->window, first = s->op->bidirectional ? s->end : s->start + 1;
    return first < (b + 1) * KEYS || (window && s->start + s->tokens - window > b * KEYS);
}

/* The key panels to process: those of the range, or all panels of the block if no key is masked. */
INLINE int64_t first_panel(const key_range *in, const bool masked) { return masked ? in->from * PAGE / PANEL : 0; }
INLINE int64_t end_panel(const key_range *in, const bool masked) { return (masked ? in->to * PAGE : KEYS) / PANEL; }

/* Replace the scores of invisible keys of key panel i by -infinity. */
INLINE vf mask_invisible(visible_keys visible, int64_t i, vf v) {
    static const float lane[PANEL] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    vf key = f_add(f_load(lane), f_set1((float)(i * PANEL))), invisible = f_set1(-INFINITY);
    v = f_greater(f_set1((float)visible.high), key, v, invisible);
    return f_greater(key, f_set1((float)visible.low - 0.5f), v, invisible);
}

/* A row's maximum, or 0 if no key is visible: the difference of two infinities would be NaN. */
INLINE vf finite_maximum(vf m) { return f_greater(m, f_set1(-INFINITY), m, f_set1(0.0f)); }

/* ---- merging a block into the result */

INLINE void merge_into(float *o, vf block, float rescale_new, float rescale_old) {
    f_store(o, f_fma(block, f_set1(rescale_new), f_mul(f_load(o), f_set1(rescale_old))));
}

/* Merge the maxima and sums of a block into the result, and compute the factors of the values. */
static void merge_sums(const tile_state *s) {
    for (int64_t first = 0; first < s->rows; first += PANEL) {
        vf m = f_load(s->result.m + first), m_b = f_load(s->block.m + first), top = f_max(m, m_b);
        vf base = finite_maximum(top);
        f_store(s->result.m + first, top);
        f_store(s->rescale_old + first, f_exp2(f_sub(m, base)));
        f_store(s->rescale_new + first, f_exp2(f_sub(m_b, base)));
    }
    for (int64_t r = 0; r < s->rows; r++)
        merge_into(s->result.l + r * PANEL, f_load(s->block.l + r * PANEL), s->rescale_new[r], s->rescale_old[r]);
}

static void merge(const tile_state *s) {
    merge_sums(s);
    for (int64_t r = 0; r < s->rows; r++)
        for (int64_t i = r * s->width; i < (r + 1) * s->width; i += PANEL)
            merge_into(s->result.o + i, f_load(s->block.o + i), s->rescale_new[r], s->rescale_old[r]);
}

#endif
