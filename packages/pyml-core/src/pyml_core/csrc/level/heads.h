/* heads.h: queries (attention_i8.h) and keys (prepare.c) in int8: transformed and rounded in blocks of pyml_key_block.
 */
#ifndef PYML_LEVEL_HEADS_H
#define PYML_LEVEL_HEADS_H

#include "kernels.h"

/* The scale of a block and the sum of its codes; element = code * scale, approximately. If an element is not finite,
 * the scale is not finite either, and the codes are 0. */
typedef struct {
    float scale;
    int32_t sum; /* of the codes */
} quant_params;

/* The Hadamard transform H of some panels (a power of two), not normalised: for n numbers H H = n. Applied to both
 * queries and keys, it preserves their dot products and spreads large elements, which makes int8 codes more precise.
 * Additions are in the order of the reference. */
INLINE void hadamard(const int panels, vf *x) {
    static const float signs[4][PANEL] = {
        {1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1},
        {1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1},
        {1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1},
        {1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1},
    };
#define ACROSS(distance)                                          \
    UNROLL for (int i = 0; i < panels / 2; i++) {                 \
        const int p = i / distance * 2 * distance + i % distance; \
        vf a = x[p], b = x[p + distance];                         \
        x[p] = f_add(a, b), x[p + distance] = f_sub(a, b);        \
    }
#define WITHIN(stage, distance) \
    UNROLL for (int p = 0; p < panels; p++) x[p] = f_fma(x[p], f_load(signs[stage]), f_swap(distance, x[p]))
    if (panels > 4) ACROSS(4)
    if (panels > 2) ACROSS(2)
    ACROSS(1)
    WITHIN(0, 8);
    WITHIN(1, 4);
    WITHIN(2, 2);
    WITHIN(3, 1);
#undef ACROSS
#undef WITHIN
}

/* Multiply a block by a factor, transform it, and round it to int8 codes with one scale: scale = max|x| / 127, code = x
 * * (127 / max|x|) rounded to nearest even. */
INLINE quant_params quantize_panels(const int panels, const float *from, vf factor, int8_t *codes) {
    vf x[KEY_BLOCK_MAX / PANEL], tops = f_set1(0.0f), zeros = f_set1(0.0f);
    UNROLL for (int p = 0; p < panels; p++) x[p] = f_mul(f_load(from + p * PANEL), factor);
    hadamard(panels, x);
    UNROLL for (int p = 0; p < panels; p++) tops = f_max(tops, f_abs(x[p])), zeros = f_fma(x[p], f_set1(0.0f), zeros);
    float top = f_top(tops), finite = f_sum(zeros); /* 0, or NaN */
    float inverse = 127.0f / top;
    if (!(inverse <= FLT_MAX)) inverse = 0.0f; /* zero, or nearly */
    vi sum = i_set1(0);
    UNROLL for (int p = 0; p < panels; p++) {
        vi code = i_round(f_mul(finite == 0.0f ? x[p] : f_set1(0.0f), f_set1(inverse)));
        i_store_s8(codes + p * PANEL, code);
        sum = i_add(sum, code);
    }
    return (quant_params){top / 127.0f + finite, i_sum(sum)};
}

/* quantize_panels for a block of pyml_key_block elements. */
static quant_params quantize_head(const float *from, int64_t size, vf factor, int8_t *codes) {
    if (size == 128) return quantize_panels(8, from, factor, codes);
    if (size == 64) return quantize_panels(4, from, factor, codes);
    return quantize_panels(2, from, factor, codes);
}

#endif
