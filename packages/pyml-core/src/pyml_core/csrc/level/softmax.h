/* softmax.h: from the scores of some rows of a key block to weights. Rows are done together: each is a chain of
 * operations that wait for one another.
 */
#ifndef PYML_LEVEL_SOFTMAX_H
#define PYML_LEVEL_SOFTMAX_H

#include "kernels.h"

static const float log2_e = 1.44269504f, ln_2 = 0.693147181f, weight_of_1 = 255.0f;

/* Keys of a block that a row sees: low..high-1. */
typedef struct {
    int64_t low, high;
} sight;

/* Pages from..to-1 of a block, those that any row of a tile sees something of; and what they have of int8 values, or
 * NULL: logarithms of the scales, and their inverses. */
typedef struct {
    int64_t from, to;
    const float *scales[KEY_PAGES];
} block_pages;

/* Key panels of the pages: all, where no row is masked. */
#define FOR_PANELS(in, masked)                                 \
    for (int64_t i = (masked) ? (in)->from * PAGE / PANEL : 0; \
         i < ((masked) ? (in)->to * PAGE / PANEL : KEYS / PANEL); i++)

/* Scores of key panel i where the key is seen, else minus infinity. */
INLINE vf seen_only(sight seen, int64_t i, vf v) {
    static const float lane[PANEL] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    vf key = f_add(f_load(lane), f_set1((float)(i * PANEL))), unseen = f_set1(-INFINITY);
    v = f_greater(f_set1((float)seen.high), key, v, unseen);
    return f_greater(key, f_set1((float)seen.low - 0.5f), v, unseen);
}

/* For a row that sees nothing. */
INLINE vf or_zero(vf base) { return f_greater(base, f_set1(-INFINITY), base, f_set1(0.0f)); }

/* The largest score of a row where it is seen; others become minus infinity. */
INLINE vf largest(const bool masked, sight seen, const block_pages *in, float *p) {
    vf top = f_set1(-INFINITY);
    FOR_PANELS(in, masked) {
        vf v = f_load(p + i * PANEL);
        if (masked) v = seen_only(seen, i, v), f_store(p + i * PANEL, v);
        top = f_max(top, v);
    }
    return top;
}

/* Exponentials of n rows: p = 2^(p - m), m being the largest, and their sums lane by lane. */
INLINE void softmax_rows(const int n, const bool masked, const sight *seen, const block_pages *in, float *p, float *m,
                         float *l) {
    vf base[TILE_TOKENS];
    UNROLL for (int t = 0; t < n; t++) {
        vf top = f_top_everywhere(largest(masked, seen[t], in, p + t * KEYS));
        m[t] = f_first(top);
        base[t] = or_zero(top);
    }
    UNROLL for (int t = 0; t < n; t++) {
        vf sum = f_set1(0.0f);
        FOR_PANELS(in, masked) {
            vf e = f_exp2(f_sub(f_load(p + t * KEYS + i * PANEL), base[t]));
            sum = f_add(sum, e);
            f_store(p + t * KEYS + i * PANEL, e);
        }
        f_store(l + t * PANEL, sum);
    }
}

/* The same for int8 values, of scores that the logarithms of the values' scales have been added to: a value's scale is
 * part of its key's weight. The largest weight of a block is 255, and the others are rounded as that is; the sums are
 * of the exponentials alone. */
INLINE void weights_rows(const int n, const bool masked, const sight *seen, const block_pages *in, float *p,
                         uint8_t *weights, float *m, float *l) {
    vf base[TILE_TOKENS];
    UNROLL for (int t = 0; t < n; t++) {
        vf top = f_top_everywhere(largest(masked, seen[t], in, p + t * KEYS));
        m[t] = f_first(top);
        base[t] = or_zero(top);
    }
    UNROLL for (int t = 0; t < n; t++) {
        vf total = f_set1(0.0f);
        for (int64_t page = masked ? in->from : 0; page < (masked ? in->to : KEY_PAGES); page++) {
            const float *inverses = in->scales[page] + PAGE, *scores = p + t * KEYS + page * PAGE;
            vf e[PAGE / PANEL], sum[2];
            vi codes[PAGE / PANEL];
            UNROLL for (int i = 0; i < PAGE / PANEL; i++) e[i] = f_sub(f_load(scores + i * PANEL), base[t]);
            f_exp2_short(PAGE / PANEL, e);
            UNROLL for (int i = 0; i < 2; i++) sum[i] = f_mul(e[i], f_load(inverses + i * PANEL));
            UNROLL for (int i = 0; i < 2; i++) sum[i] = f_fma(e[i + 2], f_load(inverses + (i + 2) * PANEL), sum[i]);
            total = f_add(total, f_add(sum[0], sum[1]));
            UNROLL for (int i = 0; i < PAGE / PANEL; i++) codes[i] = i_round(f_mul(e[i], f_set1(weight_of_1)));
            b_store(weights + t * KEYS + page * PAGE, b_narrow_unsigned(codes[0], codes[1], codes[2], codes[3]));
        }
        f_store(l + t * PANEL, total);
    }
}

#endif
