/* attention_f.h: attention with float32 or float16 keys and values. Both products, queries with keys and weights with
 * values, use the float inner loop of kernels.h.
 */
#ifndef PYML_LEVEL_ATTENTION_F_H
#define PYML_LEVEL_ATTENTION_F_H

#include "softmax.h"

/* Load the queries of a tile, multiplied by `scale`. */
static void load_queries_f(tile_state *s, float scale) {
    const pyml_op *op = s->op;
    int64_t d = s->run->kv.head_dim;
    for (int64_t r = 0; r < s->rows; r++) {
        const float *q = op->in->f + (s->row + r / s->group) * op->in->width + (s->head * s->group + r % s->group) * d;
        for (int64_t i = 0; i < d; i += PANEL) {
            int64_t n = min_i64(PANEL, d - i);
            f_store_n(s->q + r * d + i, f_mul(f_load_n(q + i, n), f_set1(scale)), n);
        }
    }
}

/* Multiply rows of A by panels of a page's keys or values, which are `panel_stride` elements apart. */
INLINE void fma_panels(const int type, const tile_state *s, const float *a, int64_t lda, const uint8_t *b, int64_t ldb,
                       int64_t panel_stride, int64_t panels, int64_t k, float *out, int64_t ld_out, bool first,
                       prefetch_plan prefetch) {
    const int64_t element = type == TYPE_F16 ? 2 : 4;
    for (int64_t p = 0; p < panels;) {
        const void *from[FLOAT_PANELS];
        for (int i = 0; i < FLOAT_PANELS; i++) from[i] = b + (p + i) * panel_stride * element;
        if (p + FLOAT_PANELS <= panels) {
            fma_rows(FLOAT_PANELS, type, a, lda, from, ldb, k, out + p * PANEL, ld_out, s->rows, first, prefetch);
            p += FLOAT_PANELS;
        } else {
            fma_rows(1, type, a, lda, from, ldb, k, out + p * PANEL, ld_out, s->rows, first, prefetch);
            p++;
        }
        prefetch.from += prefetch.lines * k * 64;
    }
}

/* Call fma_panels for the cache's type, and meanwhile prefetch `next` (or NULL). */
static void fma_page(const tile_state *s, const float *a, int64_t lda, const uint8_t *b, int64_t ldb,
                     int64_t panel_stride, int64_t panels, int64_t k, float *out, int64_t ld_out, bool first,
                     const uint8_t *next) {
    const bool f16 = s->run->kv.f16;
    prefetch_plan prefetch = {next, next ? FLOAT_PANELS * PANEL * (f16 ? 2 : 4) / 64 : 0};
    if (s->rows > TILE_TOKENS) prefetch.lines = 0; /* many rows for each load: bound by arithmetic */
    if (f16) fma_panels(TYPE_F16, s, a, lda, b, ldb, panel_stride, panels, k, out, ld_out, first, prefetch);
    else fma_panels(TYPE_F32, s, a, lda, b, ldb, panel_stride, panels, k, out, ld_out, first, prefetch);
}

/* Compute scores, softmax and weighted values of key block b; merge them into s->result, or leave them in s->block if
 * the merge is deferred. While the keys of a page are used, its values are prefetched; while its values are used, the
 * keys of the page KEY_PAGES later. */
static void attend_block_f(const tile_state *s, int64_t b, bool deferred) {
    const pyml_kv *kv = &s->run->kv;
    const int64_t d = kv->head_dim, group = FLOAT_PANELS * PANEL;
    key_range in = key_range_of(s, b);

    uint64_t time = phase_start(s->thread);
    for (int64_t page = in.from; page < in.to; page++) {
        const uint8_t *keys = keys_of(s, b * KEY_PAGES + page), *values = keys + kv->key_bytes;
        int64_t panels = (key_in_page(in.last, page) + group - 1) / group * group / PANEL;
        fma_page(s, s->q, d, keys, PANEL, d * PANEL, panels, d, s->p + page * PAGE, KEYS, true, values);
    }
    time = charge_phase(s->thread, PHASE_SCORES, time);
    softmax(false, s, b, &in);
    time = charge_phase(s->thread, PHASE_SOFTMAX, time);
    for (int64_t page = in.from; page < in.to; page++) {
        const uint8_t *values = keys_of(s, b * KEY_PAGES + page) + kv->key_bytes;
        int64_t after = (b + 1) * KEY_PAGES + page;
        const uint8_t *next = after * PAGE < s->end ? keys_of(s, after) : NULL;
        fma_page(s, s->p + page * PAGE, KEYS, values, d, PANEL, s->width / PANEL, key_in_page(in.last, page),
                 s->block.o, s->width, page == in.from, next);
    }
    if (!deferred) merge(s);
    charge_phase(s->thread, PHASE_VALUES, time);
}

#endif
