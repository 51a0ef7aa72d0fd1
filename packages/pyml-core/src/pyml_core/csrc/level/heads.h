/* heads.h: queries and keys in int8, which prepare.c writes and attention.c reads: transformed and rounded in blocks of pyml_key_block.
 */
#ifndef PYML_LEVEL_HEADS_H
#define PYML_LEVEL_HEADS_H

#include "kernels.h"

/* The Hadamard transform of n numbers (a power of two from 32 on) in place, not normalised: H H = n. Applied to queries and keys it
 * leaves their products as they are and spreads what stands out in either, so that int8 codes are finer. Its additions are in the
 * order of the reference's. */
INLINE void hadamard(float *x, int64_t n) {
    static const float signs[4][PANEL] = {
        {1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1}, {1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1},
        {1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1}, {1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1},
    };
    for (int64_t distance = n / 2; distance >= PANEL; distance /= 2)
        for (int64_t first = 0; first < n; first += 2 * distance)
            for (int64_t i = first; i < first + distance; i += PANEL) {
                vf a = f_load(x + i), b = f_load(x + i + distance);
                f_store(x + i, f_add(a, b)), f_store(x + i + distance, f_sub(a, b));
            }
    for (int64_t i = 0; i < n; i += PANEL) {
        vf a = f_load(x + i);
        a = f_fma(a, f_load(signs[0]), f_swap(8, a));
        a = f_fma(a, f_load(signs[1]), f_swap(4, a));
        a = f_fma(a, f_load(signs[2]), f_swap(2, a));
        f_store(x + i, f_fma(a, f_load(signs[3]), f_swap(1, a)));
    }
}

/* n numbers as int8 codes of one scale: scale = max|x| / 127, code = x * (127 / max|x|) rounded to even. What is not finite has a
 * scale that is not. */
typedef struct {
    float scale;
    int32_t sum; /* of the codes */
} head_facts;

INLINE head_facts quantize_head(const float *x, int64_t n, int8_t *codes) {
    vf tops = f_set1(0.0f), zeros = f_set1(0.0f);
    for (int64_t i = 0; i < n; i += PANEL) {
        vf v = f_load(x + i);
        tops = f_max(tops, f_abs(v));
        zeros = f_fma(v, f_set1(0.0f), zeros);
    }
    float top = f_top(tops), finite = f_sum(zeros); /* 0, or NaN */
    float inverse = 127.0f / top;
    if (!(inverse <= FLT_MAX)) inverse = 0.0f; /* nothing, or next to it */
    vi sum = i_set1(0);
    for (int64_t i = 0; i < n; i += PANEL) {
        vi code = finite == 0.0f ? i_round(f_mul(f_load(x + i), f_set1(inverse))) : i_set1(0);
        i_store_s8(codes + i, code);
        sum = i_add(sum, code);
    }
    return (head_facts){top / 127.0f + finite, i_sum(sum)};
}

#endif
