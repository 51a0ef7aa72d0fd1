/* kernels.h: shared by the files of one level. */
#ifndef PYML_LEVEL_KERNELS_H
#define PYML_LEVEL_KERNELS_H

#include "../clock.h"
#include "../formats.h"
#include "../sample.h"
#include "../types.h"
#include "simd.h"

#include <float.h>

/* Compiler barrier: forces reloads. In long unrolled code, compilers would otherwise keep values shared between blocks
 * in registers and spill. */
#define FORGET() __asm__ volatile("" ::: "memory")

/* Hides the value of a pointer that unrolled code advances. Compilers would otherwise compute all its values in advance
 * and run out of registers. */
#define MOVED(pointer) __asm__ volatile("" : "+r"(pointer))

INLINE int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }

/* Evaluate `call` with the constant N that equals n, 1 <= n <= MAX <= 6, so that its loops to N are unrolled. */
#define WITH_CONST(n, MAX, call) \
    do {                         \
        switch (n) {             \
            CASE_N(1, MAX, call) \
            CASE_N(2, MAX, call) \
            CASE_N(3, MAX, call) \
            CASE_N(4, MAX, call) \
            CASE_N(5, MAX, call) \
            CASE_N(6, MAX, call) \
        }                        \
    } while (0)
#define CASE_N(i, MAX, call)               \
    case i:                                \
        if (i <= (MAX)) {                  \
            enum { N = i <= MAX ? i : 1 }; \
            call;                          \
        }                                  \
        break;

/* The number of rows of a buffer in this run. */
INLINE int64_t rows_of(const pyml_buffer *b, const pyml_run *run) {
    return b->outputs ? run->outputs : run->tokens * b->copies;
}

INLINE vf load_b(const int type, const void *b, int64_t at) {
    if (type == TYPE_F32) return f_load((const float *)b + at);
    if (type == TYPE_F16) return f_load_f16((const uint16_t *)b + at);
    return f_load_bf16((const uint16_t *)b + at);
}

/* Memory to prefetch while a tile is computed: `lines` of 64 bytes at every step. */
typedef struct {
    const uint8_t *from;
    int64_t lines;
} prefetch_plan;

/* sum[t][p] (+)= A B: rows of A (float32, `lda` apart) times vectors of B (16 elements, `ldb` apart), k in ascending
 * order, one accumulator for each output. This is the inner loop of all float products: linear layers, QK^T and A*V. */
INLINE void fma_tile(const int nt, const int np, const int type, const float *a, int64_t lda, const void *const *b,
                     int64_t ldb, int64_t k, float *sums, int64_t ld_sums, bool first, prefetch_plan prefetch) {
    vf sum[TILE_TOKENS][FLOAT_PANELS];
    UNROLL for (int t = 0; t < nt; t++) UNROLL for (int p = 0; p < np; p++) sum[t][p] =
        first ? f_set1(0.0f) : f_load(sums + t * ld_sums + p * PANEL);
    for (int64_t i = 0; i < k; i++) {
        for (int64_t line = 0; line < prefetch.lines; line++)
            PREFETCH(prefetch.from + (i * prefetch.lines + line) * 64);
        vf w[FLOAT_PANELS];
        UNROLL for (int p = 0; p < np; p++) w[p] = load_b(type, b[p], i * ldb);
        UNROLL for (int t = 0; t < nt; t++) {
            vf x = f_set1(a[t * lda + i]);
            UNROLL for (int p = 0; p < np; p++) sum[t][p] = f_fma(x, w[p], sum[t][p]);
        }
    }
    UNROLL for (int t = 0; t < nt; t++) UNROLL for (int p = 0; p < np; p++)
        f_store(sums + t * ld_sums + p * PANEL, sum[t][p]);
}

/* fma_tile for any number of rows; the last tile has the remaining rows. */
INLINE void fma_rows(const int np, const int type, const float *a, int64_t lda, const void *const *b, int64_t ldb,
                     int64_t k, float *sums, int64_t ld_sums, int64_t rows, bool first, prefetch_plan prefetch) {
    for (; rows >= TILE_TOKENS; rows -= TILE_TOKENS, a += TILE_TOKENS * lda, sums += TILE_TOKENS * ld_sums) {
        fma_tile(TILE_TOKENS, np, type, a, lda, b, ldb, k, sums, ld_sums, first, prefetch);
        prefetch.lines = 0;
    }
    if (rows)
        WITH_CONST(rows, TILE_TOKENS - 1, fma_tile(N, np, type, a, lda, b, ldb, k, sums, ld_sums, first, prefetch));
}

/* The parameters of 32 numbers rounded to int8: scale = max|x| / 127, code = x * (127 / max|x|) rounded to nearest
 * even. If a number is not finite, the scale is not finite either. */
typedef struct {
    float scale;
    int32_t first, second; /* sums of the codes of the two halves */
} block_quant_params;

INLINE block_quant_params quantize_block(vf low, vf high, int8_t *codes) {
    float top = f_top(f_max(f_abs(low), f_abs(high)));
    float finite = f_sum(f_add(f_mul(low, f_set1(0.0f)), f_mul(high, f_set1(0.0f)))); /* 0, or NaN */
    if (finite != 0.0f) low = high = f_set1(0.0f);
    float inverse = 127.0f / top;
    if (!(inverse <= FLT_MAX)) inverse = 0.0f; /* zero, nearly zero, or not finite */
    vi a = i_round(f_mul(low, f_set1(inverse))), c = i_round(f_mul(high, f_set1(inverse)));
    i_store_s8(codes, a);
    i_store_s8(codes + PANEL, c);
    return (block_quant_params){top / 127.0f + finite, i_sum(a), i_sum(c)};
}

/* Blocks of 32 numbers, and the destination of their codes, scales and sums. Steps are distances between blocks, in
 * elements. */
typedef struct {
    const float *x;
    int8_t *codes;
    float *scales;
    int32_t *sums, *half_sums;
    int64_t x_step, codes_step, params_step;
} block_run;

/* quantize_block for four blocks at[0..3] together, which share the operations across lanes. */
INLINE void quantize_four(const block_run *run, const int64_t at[4]) {
    vi top[4];
    vf low[4], high[4];
    UNROLL for (int i = 0; i < 4; i++) {
        low[i] = f_load(run->x + at[i] * run->x_step), high[i] = f_load(run->x + at[i] * run->x_step + PANEL);
        top[i] = i_max(i_abs_bits(low[i]), i_abs_bits(high[i]));
    }
    UNROLL for (int i = 0; i < 4; i += 2) top[i] =
        i_max(i_quarters(0, top[i], top[i + 1]), i_quarters(1, top[i], top[i + 1]));
    vi tops = i_max(i_quarters(0, top[0], top[2]), i_quarters(1, top[0], top[2])); /* quarter i belongs to block i */
    tops = i_max(tops, i_swap(2, tops));
    tops = i_max(tops, i_swap(1, tops));
    if (i_any_above(tops, 0x7f7fffff)) { /* a number is not finite */
        for (int i = 0; i < 4; i++) {
            int64_t f = at[i] * run->params_step;
            block_quant_params params = quantize_block(low[i], high[i], run->codes + at[i] * run->codes_step);
            run->scales[f] = params.scale, run->sums[f] = params.first + params.second;
            run->half_sums[2 * f] = params.first, run->half_sums[2 * f + 1] = params.second;
        }
        return;
    }
    vf largest = f_from_bits(tops), inverse = f_div(f_set1(127.0f), largest);
    inverse = f_greater(inverse, f_set1(FLT_MAX), f_set1(0.0f), inverse); /* zero, or nearly */
    _Alignas(64) float scales[PANEL];
    _Alignas(64) int32_t halves[2][PANEL];
    _Alignas(64) uint8_t codes[2][2 * BLOCK];
    f_store(scales, f_div(largest, f_set1(127.0f)));
    UNROLL for (int i = 0; i < 4; i += 2) {
        vf first = f_quarter(i, inverse), second = f_quarter(i + 1, inverse);
        vb both = b_narrow(i_round(f_mul(low[i], first)), i_round(f_mul(high[i], first)),
                           i_round(f_mul(low[i + 1], second)), i_round(f_mul(high[i + 1], second)));
        b_store(codes[i / 2], both);
        vi sums = i_dot(i_set1(0), b_set1(1), i_from_b(both)); /* sums of four codes; a quarter is half a block */
        sums = i_add(sums, i_swap(2, sums));
        i_store(halves[i / 2], i_add(sums, i_swap(1, sums)));
    }
    UNROLL for (int i = 0; i < 4; i++) {
        int64_t f = at[i] * run->params_step;
        const int32_t *half = halves[i / 2] + i % 2 * 8;
        memcpy(run->codes + at[i] * run->codes_step, codes[i / 2] + i % 2 * BLOCK, BLOCK);
        run->scales[f] = scales[4 * i], run->sums[f] = half[0] + half[4];
        run->half_sums[2 * f] = half[0], run->half_sums[2 * f + 1] = half[4];
    }
}

INLINE void quantize_blocks(const block_run *run, int64_t count) {
    for (int64_t i = 0; i < count; i += 4) /* the last block is repeated if count is not a multiple of 4 */
        quantize_four(run,
                      (int64_t[4]){i, min_i64(i + 1, count - 1), min_i64(i + 2, count - 1), min_i64(i + 3, count - 1)});
}

/* The current ticks if the run is timed, else 0. */
INLINE uint64_t phase_start(const pyml_thread *thread) { return thread->timed ? pyml_ticks() : 0; }

/* Add the ticks since `since` to a phase. Returns the current ticks. */
INLINE uint64_t charge_phase(pyml_thread *thread, int phase, uint64_t since) {
    if (!thread->timed) return 0;
    uint64_t now = pyml_ticks();
    thread->phase[phase] += now - since;
    return now;
}

/* For every operation: the number of items of its work, and the function that computes some of them. */
#define OPERATION(KIND, name, items, product)                        \
    int64_t FN(items)(const pyml_op *, const pyml_run *, int stage); \
    void FN(name)(const pyml_op *, const pyml_run *, pyml_thread *, int stage, int64_t begin, int64_t end);
#include "../operations.def"

/* linear.c */
int64_t FN(linear_weights)(const pyml_op *, const pyml_run *, int64_t, const uint8_t **);
void FN(unpack_rows)(const pyml_matrix *, const int64_t *, int64_t, float *);

void FN(panel_product)(const pyml_matrix *, int64_t panel, const pyml_buffer *x, int64_t row, int64_t rows,
                       uint8_t *scratch, float *sums);

/* screen.c, row_stats.c */
int64_t FN(screen_weights)(const pyml_op *, const pyml_run *, int64_t, const uint8_t **);
void FN(row_stats)(const pyml_matrix *, int64_t begin, int64_t end, uint16_t *stats);

/* rows.c */
void FN(activate_tile)(const pyml_op *, float *x, int64_t column, int64_t row, int64_t rows);
void FN(normalize_head)(float *x, const float *weight, float eps, int64_t n);

/* sample.c */
void FN(sample)(const pyml_sampler *, int64_t position, const float *logits, const int32_t *ids, int64_t n,
                void *scratch, pyml_sampled *);
void FN(logprobs)(const float *logits, int64_t n, int32_t count, void *scratch, pyml_sampled *);
void FN(elementary)(bool logarithm, const double *x, int64_t n, double *result);

/* limits.c */
int64_t FN(limit_read)(const uint8_t *data, int64_t bytes, uint8_t *sink);
int64_t FN(limit_int8)(const uint8_t *data, int64_t steps, uint8_t *sink);
int64_t FN(limit_f32)(const uint8_t *data, int64_t steps, uint8_t *sink);

#endif
