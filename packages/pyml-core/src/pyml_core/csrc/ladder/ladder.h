/* ladder.h: shared by both ladders. They use only the vectors of the kernels, so that each can be read alone. */
#ifndef PYML_LADDER_H
#define PYML_LADDER_H

#include "../level/simd.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    PANEL = 16,      /* interleaved rows of a weight, or keys */
    BLOCK = 32,      /* elements of a row that share a scale */
    CHUNK = 256,     /* columns of a panel whose scales are stored together */
    PAGE = 64,       /* positions of a page of the cache */
    KEYS = 2 * PAGE, /* keys that are reduced together */
    HEAD_DIM_MAX = 256
};

static const float log2_e = 1.44269504f;

/* Round floats to int8 codes: code = round(x * 127 / max|x|). Returns their scale, max|x| / 127. */
static inline float quantize(const float *x, int64_t n, int8_t *codes, int32_t *sum) {
    float top = 0;
    for (int64_t i = 0; i < n; i++) top = fmaxf(top, fabsf(x[i]));
    float inverse = top > 0 ? 127.0f / top : 0;
    *sum = 0;
    for (int64_t i = 0; i < n; i++) {
        codes[i] = (int8_t)rintf(x[i] * inverse);
        *sum += codes[i];
    }
    return top / 127.0f;
}

/* Convert a finite float16 to float32: move its digits into a float32, whose exponent is then too small by 112. */
static inline float half_to_float(uint16_t half) {
    uint32_t bits = (uint32_t)(half & 0x7fff) << 13;
    float x;
    memcpy(&x, &bits, 4);
    x *= 0x1p112f;
    return half & 0x8000 ? -x : x;
}

#endif
