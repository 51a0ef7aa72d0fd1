/* attention_capture.h: captures for traces: the scores and probabilities of every key (see pyml_capture). */
#ifndef PYML_LEVEL_ATTENTION_CAPTURE_H
#define PYML_LEVEL_ATTENTION_CAPTURE_H

#include "attention_tile.h"

INLINE int64_t captured_keys(const pyml_slice *slice) { return (slice->start + slice->count + PAGE - 1) / PAGE * PAGE; }

/* The address of the keys of block b for row r of the tile in a captured array. */
static float *captured(const tile_state *s, float *array, int64_t b, int64_t r) {
    int64_t head = s->head * s->group + r % s->group, token = s->start - s->slice->start + r / s->group;
    for (const pyml_slice *slice = s->run->slices; slice < s->slice; slice++)
        array += s->op->n_heads * slice->count * captured_keys(slice);
    return array + (head * s->slice->count + token) * captured_keys(s->slice) + b * KEYS;
}

/* Capture the scores of a block, without the logarithms of value scales that are added to them with int8 values. */
static void capture_scores(const tile_state *s, int64_t b, const key_range *in, bool masked) {
    const pyml_capture *c = s->op->capture;
    for (int64_t r = 0; c->scores && r < s->rows; r++) {
        float *to = captured(s, c->scores, b, r);
        for (int64_t i = first_panel(in, masked); i < end_panel(in, masked); i++) {
            const float *scales = in->scales[i * PANEL / PAGE];
            vf v = f_load(s->p + r * KEYS + i * PANEL);
            if (scales) v = f_sub(v, f_load(scales + i * PANEL % PAGE));
            if (masked) v = mask_invisible(visible_to(s, b, r), i, v);
            f_store(to + i * PANEL, f_mul(v, f_set1(ln_2)));
        }
    }
}

/* Capture the exponentials and maxima of a block before it is merged. With int8 values, the exponentials are recomputed
 * from the scores. */
static void capture_block(const tile_state *s, int64_t b, const key_range *in, bool masked) {
    const pyml_capture *c = s->op->capture;
    for (int64_t r = 0; c->probabilities && r < s->rows; r++) {
        float *to = captured(s, c->probabilities, b, r), m = s->block.m[r];
        for (int64_t i = first_panel(in, masked); i < end_panel(in, masked); i++) {
            const float *scales = in->scales[i * PANEL / PAGE];
            vf v = f_load(s->p + r * KEYS + i * PANEL);
            if (scales) {
                v = f_sub(v, finite_maximum(f_set1(m)));
                f_exp2_short(1, &v);
                v = f_mul(v, f_load(scales + PAGE + i * PANEL % PAGE));
            }
            f_store(to + i * PANEL, v);
            c->maxima[(to - c->probabilities + i * PANEL) / PAGE] = m;
        }
    }
}

/* Rescale the captured exponentials of all blocks as merge and write_heads do: e 2^(m_b - m) / l. */
static void capture_probabilities(const tile_state *s, int64_t first_page, int64_t end_page) {
    const pyml_capture *c = s->op->capture;
    for (int64_t r = 0; c->probabilities && r < s->rows; r++) {
        float *row = captured(s, c->probabilities, 0, r);
        for (int64_t page = first_page; page < end_page; page++) {
            float *p = row + page * PAGE, m_b = c->maxima[(p - c->probabilities) / PAGE];
            vf scale = m_b == -INFINITY ? f_set1(0.0f) : f_exp2(f_set1(m_b - s->result.m[r]));
            vf l = f_set1(f_sum(f_load(s->result.l + r * PANEL)));
            for (int64_t i = 0; i < PAGE; i += PANEL) f_store(p + i, f_div(f_mul(f_load(p + i), scale), l));
        }
    }
}

#endif
