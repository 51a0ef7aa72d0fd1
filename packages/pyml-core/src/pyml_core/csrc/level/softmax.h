/* softmax.h: from the scores of a block of keys to weights. A few rows are computed together to hide the latency of
 * each row's dependent operations.
 */
#ifndef PYML_LEVEL_SOFTMAX_H
#define PYML_LEVEL_SOFTMAX_H

#include "attention_capture.h"

/* The largest score of a row. Replaces the scores of invisible keys by -infinity. */
INLINE vf row_maximum(const bool masked, visible_keys visible, const key_range *in, float *p) {
    vf top = f_set1(-INFINITY);
    for (int64_t i = first_panel(in, masked); i < end_panel(in, masked); i++) {
        vf v = f_load(p + i * PANEL);
        if (masked) v = mask_invisible(visible, i, v), f_store(p + i * PANEL, v);
        top = f_max(top, v);
    }
    return top;
}

/* Exponentials of n rows: p = 2^(p - m), where m is the largest score, and their sums in sixteen lanes. */
INLINE void exponentials(const int n, const bool masked, const visible_keys *visible, const key_range *in, float *p,
                         float *m, float *l) {
    vf base[TILE_TOKENS];
    UNROLL for (int t = 0; t < n; t++) {
        vf top = f_top_everywhere(row_maximum(masked, visible[t], in, p + t * KEYS));
        m[t] = f_first(top);
        base[t] = finite_maximum(top);
    }
    UNROLL for (int t = 0; t < n; t++) {
        vf sum = f_set1(0.0f);
        for (int64_t i = first_panel(in, masked); i < end_panel(in, masked); i++) {
            vf e = f_exp2(f_sub(f_load(p + t * KEYS + i * PANEL), base[t]));
            sum = f_add(sum, e);
            f_store(p + t * KEYS + i * PANEL, e);
        }
        f_store(l + t * PANEL, sum);
    }
}

/* Exponentials for int8 values. The logarithms of the value scales have been added to the scores, which folds the
 * scales into the weights. Weights are rounded to 8 bits, the largest of a block being 255. The sums are of the
 * exponentials without the scales. */
INLINE void int8_weights(const int n, const bool masked, const visible_keys *visible, const key_range *in, float *p,
                         uint8_t *weights, float *m, float *l) {
    vf base[TILE_TOKENS];
    UNROLL for (int t = 0; t < n; t++) {
        vf top = f_top_everywhere(row_maximum(masked, visible[t], in, p + t * KEYS));
        m[t] = f_first(top);
        base[t] = finite_maximum(top);
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
            UNROLL for (int i = 0; i < PAGE / PANEL; i++) codes[i] = i_round(f_mul(e[i], f_set1(int8_weight_of_1)));
            b_store(weights + t * KEYS + page * PAGE, b_narrow_unsigned(codes[0], codes[1], codes[2], codes[3]));
        }
        f_store(l + t * PANEL, total);
    }
}

/* Cap the scores of a block, which have been divided by the cap: cap tanh(score). */
static void soft_cap(const tile_state *s, const key_range *in, bool masked) {
    for (int64_t r = 0; r < s->rows; r++)
        for (int64_t i = first_panel(in, masked); i < end_panel(in, masked); i++) {
            const float *scales = in->scales[i * PANEL / PAGE];
            float *p = s->p + r * KEYS + i * PANEL;
            vf v = f_mul(f_set1(s->op->cap * log2_e), f_tanh(f_load(p)));
            f_store(p, scales ? f_add(v, f_load(scales + i * PANEL % PAGE)) : v);
        }
}

INLINE void softmax_rows(const int n, const bool masked, const bool int8, const tile_state *s, int64_t b, int64_t r,
                         const key_range *in) {
    visible_keys visible[TILE_TOKENS];
    for (int64_t t = 0; t < n; t++) visible[t] = visible_to(s, b, r + t);
    float *p = s->p + r * KEYS, *m = s->block.m + r, *l = s->block.l + r * PANEL;
    if (int8) int8_weights(n, masked, visible, in, p, s->weights + r * KEYS, m, l);
    else exponentials(n, masked, visible, in, p, m, l);
}

/* Convert the scores of block b to exponentials or, for int8 values, to weights. */
INLINE void softmax(const bool int8, const tile_state *s, int64_t b, const key_range *in) {
    const bool masked = is_masked(s, b);
    if (s->op->cap > 0) soft_cap(s, in, masked);
    if (s->op->capture) capture_scores(s, b, in, masked);
    int64_t r = 0;
    for (; r + TILE_TOKENS <= s->rows; r += TILE_TOKENS)
        if (masked) softmax_rows(TILE_TOKENS, true, int8, s, b, r, in);
        else softmax_rows(TILE_TOKENS, false, int8, s, b, r, in);
    for (; r < s->rows; r++) softmax_rows(1, masked, int8, s, b, r, in);
    if (s->op->capture) capture_block(s, b, in, masked);
}

#endif
