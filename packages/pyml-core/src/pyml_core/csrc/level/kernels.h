/* kernels.h: what one level's files share. */
#ifndef PYML_LEVEL_KERNELS_H
#define PYML_LEVEL_KERNELS_H

#include "../pyml.h"
#include "simd.h"

#if defined(UNROLL)
#elif defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

enum { TOKEN_BLOCK = 256 }; /* tokens that a thread takes through a tile of panels at a time */

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* The rows of a buffer in this run. */
INLINE int64_t rows_of(const pyml_buffer *b, const pyml_run *run) { return b->outputs ? run->outputs : run->tokens * b->copies; }

/* sum[t][p] (+)= A B: rows of A (float32, `lda` apart) times vectors of B (16 elements, `ldb` apart), k in ascending order,
 * one accumulator an output. The one float inner loop: linear layers, QK^T and A*V are all this. */
INLINE vf load_b(const int type, const void *b, int64_t at) {
    if (type == TYPE_F32) return f_load((const float *)b + at);
    if (type == TYPE_F16) return f_load_f16((const uint16_t *)b + at);
    return f_load_bf16((const uint16_t *)b + at);
}

INLINE void fma_tile(const int nt, const int np, const int type, const float *a, int64_t lda, const void *const *b, int64_t ldb,
                     int64_t k, float *sums, int64_t ld_sums, bool first) {
    vf sum[TILE_TOKENS][TILE_PANELS];
    UNROLL for (int t = 0; t < nt; t++)
        UNROLL for (int p = 0; p < np; p++) sum[t][p] = first ? f_set1(0.0f) : f_load(sums + t * ld_sums + p * PANEL);
    for (int64_t i = 0; i < k; i++) {
        vf w[TILE_PANELS];
        UNROLL for (int p = 0; p < np; p++) w[p] = load_b(type, b[p], i * ldb);
        UNROLL for (int t = 0; t < nt; t++) {
            vf x = f_set1(a[t * lda + i]);
            UNROLL for (int p = 0; p < np; p++) sum[t][p] = f_fma(x, w[p], sum[t][p]);
        }
    }
    UNROLL for (int t = 0; t < nt; t++)
        UNROLL for (int p = 0; p < np; p++) f_store(sums + t * ld_sums + p * PANEL, sum[t][p]);
}

/* Any number of rows through fma_tile. */
INLINE void fma_rows(const int np, const int type, const float *a, int64_t lda, const void *const *b, int64_t ldb, int64_t k,
                     float *sums, int64_t ld_sums, int64_t rows, bool first) {
    int64_t t = 0;
    for (; t + TILE_TOKENS <= rows; t += TILE_TOKENS)
        fma_tile(TILE_TOKENS, np, type, a + t * lda, lda, b, ldb, k, sums + t * ld_sums, ld_sums, first);
    a += t * lda, sums += t * ld_sums, rows -= t;
    if (rows >= 4 && TILE_TOKENS > 4) {
        fma_tile(4, np, type, a, lda, b, ldb, k, sums, ld_sums, first);
        a += 4 * lda, sums += 4 * ld_sums, rows -= 4;
    }
    for (; rows > 0; rows--, a += lda, sums += ld_sums) fma_tile(1, np, type, a, lda, b, ldb, k, sums, ld_sums, first);
}

/* linear.c */
int64_t FN(linear_items)(const pyml_op *, const pyml_run *, int);
void FN(linear)(const pyml_op *, const pyml_run *, pyml_thread *, int, int64_t, int64_t);
int64_t FN(expert_linear_items)(const pyml_op *, const pyml_run *, int);
void FN(expert_linear)(const pyml_op *, const pyml_run *, pyml_thread *, int, int64_t, int64_t);
void FN(unpack_rows)(const pyml_matrix *, const int64_t *, int64_t, float *);

/* rows.c */
int64_t FN(row_items)(const pyml_op *, const pyml_run *, int);
void FN(embed)(const pyml_op *, const pyml_run *, pyml_thread *, int, int64_t, int64_t);
void FN(add_positions)(const pyml_op *, const pyml_run *, pyml_thread *, int, int64_t, int64_t);
void FN(rms_norm)(const pyml_op *, const pyml_run *, pyml_thread *, int, int64_t, int64_t);
void FN(layer_norm)(const pyml_op *, const pyml_run *, pyml_thread *, int, int64_t, int64_t);
void FN(activate)(const pyml_op *, const pyml_run *, pyml_thread *, int, int64_t, int64_t);
void FN(gated)(const pyml_op *, const pyml_run *, pyml_thread *, int, int64_t, int64_t);
void FN(soft_cap)(const pyml_op *, const pyml_run *, pyml_thread *, int, int64_t, int64_t);
void FN(select)(const pyml_op *, const pyml_run *, pyml_thread *, int, int64_t, int64_t);
void FN(rope_angles)(const pyml_op *, const pyml_run *, pyml_thread *, int, int64_t, int64_t);
void FN(quantize)(const pyml_op *, const pyml_run *, pyml_thread *, int, int64_t, int64_t);
void FN(dispatch)(const pyml_op *, const pyml_run *, pyml_thread *, int, int64_t, int64_t);
void FN(combine)(const pyml_op *, const pyml_run *, pyml_thread *, int, int64_t, int64_t);
void FN(normalize_head)(float *x, const float *weight, float eps, int64_t n);

/* route.c */
int64_t FN(route_items)(const pyml_op *, const pyml_run *, int);
void FN(route)(const pyml_op *, const pyml_run *, pyml_thread *, int, int64_t, int64_t);

/* attention.c */
int64_t FN(prepare_qkv_items)(const pyml_op *, const pyml_run *, int);
void FN(prepare_qkv)(const pyml_op *, const pyml_run *, pyml_thread *, int, int64_t, int64_t);
int64_t FN(attention_items)(const pyml_op *, const pyml_run *, int);
void FN(attention)(const pyml_op *, const pyml_run *, pyml_thread *, int, int64_t, int64_t);

#endif
