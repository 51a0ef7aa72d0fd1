/* limits.c: peak rates with the instructions of this level, to compare kernels with: the tile of a matrix product with
 * all data in the L1 cache, and a sequential read of memory. */
#include "kernels.h"

/* Keeps the compiler from reusing loaded values in the next step, or merging steps. */
#define STEP() __asm__ volatile("" ::: "memory")

/* As in a product with codes of four bits, the fastest: levels without an instruction for sums of four products add
 * pairs of products first. */
int64_t FN(limit_int8)(const uint8_t *data, int64_t steps, uint8_t *sink) {
    vi sum[TILE_TOKENS][TILE_PANELS];
    UNROLL for (int t = 0; t < TILE_TOKENS; t++) UNROLL for (int p = 0; p < TILE_PANELS; p++) sum[t][p] = i_set1(0);
    for (int64_t i = 0; i < steps; i += BLOCK / 4) {
        vi pairs[TILE_TOKENS][TILE_PANELS];
        UNROLL for (int word = 0; word < BLOCK / 4; word++) {
            STEP();
            vb w[TILE_PANELS];
            UNROLL for (int p = 0; p < TILE_PANELS; p++) w[p] = b_load(data + 64 * p);
            UNROLL for (int t = 0; t < TILE_TOKENS; t++) {
                vi x = i_load4(data + 64 * TILE_PANELS + 4 * t);
                UNROLL for (int p = 0; p < TILE_PANELS; p++) {
                    if (!SUMS_PAIRS) sum[t][p] = i_dot(sum[t][p], w[p], x);
                    else if (word == 0) pairs[t][p] = i_pairs(w[p], x);
                    else pairs[t][p] = i_add_pairs(pairs[t][p], i_pairs(w[p], x));
                    if (SUMS_PAIRS) i_stay(&pairs[t][p]);
                }
            }
        }
        if (SUMS_PAIRS)
            UNROLL for (int t = 0; t < TILE_TOKENS; t++) UNROLL for (int p = 0; p < TILE_PANELS; p++) sum[t][p] =
                i_add(sum[t][p], i_sum_pairs(pairs[t][p]));
    }
    UNROLL for (int t = 0; t < TILE_TOKENS; t++) UNROLL for (int p = 0; p < TILE_PANELS; p++) {
        i_store_s8((int8_t *)sink, sum[t][p]);
        STEP();
    }
    return 2 * 4 * PANEL * TILE_TOKENS * TILE_PANELS * steps;
}

int64_t FN(limit_f32)(const uint8_t *data, int64_t steps, uint8_t *sink) {
    const float *b = (const float *)data;
    vf sum[TILE_TOKENS][TILE_PANELS];
    UNROLL for (int t = 0; t < TILE_TOKENS; t++) UNROLL for (int p = 0; p < TILE_PANELS; p++) sum[t][p] = f_set1(0.0f);
    for (int64_t i = 0; i < steps; i++) {
        STEP();
        vf w[TILE_PANELS];
        UNROLL for (int p = 0; p < TILE_PANELS; p++) w[p] = f_load(b + PANEL * p);
        UNROLL for (int t = 0; t < TILE_TOKENS; t++) {
            vf x = f_set1(b[PANEL * TILE_PANELS + t]);
            UNROLL for (int p = 0; p < TILE_PANELS; p++) sum[t][p] = f_fma(x, w[p], sum[t][p]);
        }
    }
    UNROLL for (int t = 0; t < TILE_TOKENS; t++) UNROLL for (int p = 0; p < TILE_PANELS; p++) {
        f_store((float *)sink, sum[t][p]);
        STEP();
    }
    return 2 * PANEL * TILE_TOKENS * TILE_PANELS * steps;
}

int64_t FN(limit_read)(const uint8_t *data, int64_t bytes, uint8_t *sink) {
    vb sum[4] = {b_set1(0), b_set1(0), b_set1(0), b_set1(0)};
    for (int64_t i = 0; i < bytes; i += 256) {
        for (int line = 0; line < 256; line += 64) PREFETCH(data + i + 4096 + line);
        UNROLL for (int p = 0; p < 4; p++) sum[p] = b_or(sum[p], b_load(data + i + 64 * p));
    }
    UNROLL for (int p = 0; p < 4; p++) {
        b_store(sink, sum[p]);
        STEP();
    }
    return bytes;
}
