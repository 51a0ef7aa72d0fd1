/* dots.h: the int8 inner loops: a few rows times one panel that is unpacked in registers (stream_chunk), and a tile of
 * rows times one or two unpacked panels (dot_tile). linear.c defines the order of summation of both.
 */
#ifndef PYML_LEVEL_DOTS_H
#define PYML_LEVEL_DOTS_H

#include "unpack.h"

/* Rows of int8 activations, from a column on. */
typedef struct {
    const int8_t *codes;
    const float *scales;
    const int32_t *sums; /* sums of the codes of blocks; the block size is that of the weight's scales */
    int64_t stride8, blocks, sum_stride;
} quantized_rows;

/* For levels that first sum pairs of products in 16 bits: the number of words whose pairs fit in such a sum. Codes of 4
 * bits allow eight (2 * 8 * 15 * 127 = 30480), 5 bits four, 6 bits two. */
INLINE int words_of_pairs(int block, int bits) {
    int words = bits == 8 ? 1 : bits == 6 ? 2 : bits == 5 ? 4 : 8;
    return words < block / 4 ? words : block / 4;
}

/* Add word g of a block: four codes of each row times four activations. */
INLINE void add_word(vi *dot, vi *pairs, const int bits, const int run, const int g, vb w, vi x) {
    if (!SUMS_PAIRS || run == 1) {
        *dot = bits == 8 ? i_dot_wide(*dot, w, x) : i_dot(*dot, w, x);
        if (SUMS_PAIRS) i_stay(dot);
        return;
    }
    *pairs = g % run ? i_add_pairs(*pairs, i_pairs(w, x)) : i_pairs(w, x);
    i_stay(pairs);
    if (g % run == run - 1) *dot = i_add(*dot, i_sum_pairs(*pairs));
}

/* Add a sub-block to the block's part of the sum; `first` starts a new part. */
INLINE void add_part(vf *part, const bool first, const bool mins, vi dot, vf scale, vf min, vf total) {
    *part = first ? f_mul(f_from_i(dot), scale) : f_fma(f_from_i(dot), scale, *part);
    if (mins) *part = f_fma(min, total, *part);
}

/* One, two, four or eight rows times one panel: codes are unpacked in registers, so that the time is that of reading
 * memory. Other numbers of rows are rounded up: buffers have spare rows, which are zero until they are written. Sums
 * are in the order of dot_tile. */

/* Weights are prefetched twice: well ahead into the second-level cache, and from there into the first. The first waits
 * for few lines at a time: if these come from memory, its other misses wait for them (decision 11). */
enum { FAR_AHEAD = 32 << 10, NEAR_AHEAD = 4 << 10 };

typedef struct {
    const uint8_t *far, *near;
} weights_ahead;

INLINE void prefetch_ahead(weights_ahead *ahead, int lines) {
    for (int i = 0; i < lines; i++, ahead->far += 64, ahead->near += 64) {
        PREFETCH(ahead->far);
        PREFETCH_NEAR(ahead->near);
    }
}

/* Lines of 64 bytes in 32 columns of a panel. */
INLINE int lines_of_block(const int type) {
    const int bytes = type == TYPE_Q8_0_SPLIT ? params_of(type).bytes - 16 : params_of(type).bytes; /* without `low` */
    return (bytes * 8 + params_of(type).block - 1) / params_of(type).block;
}

INLINE void stream_block(const int nt, const int type, const uint8_t *planes, int blocks, const int b,
                         const unpacked *u, const quantized_rows *a, vf *sum) {
    const type_params params = params_of(type);
    const int halves = BLOCK / params.share, words = WORDS / halves;
    const bool mins = params.minimum;
    const int run = words_of_pairs(params.share, params.bits);
    vf part[STREAM_ROWS];
    UNROLL for (int t = 0; t < nt; t++) part[t] = f_set1(0.0f); /* otherwise compilers may warn */
    UNROLL for (int h = 0; h < halves; h++) {
        const int at = b * halves + h;
        vi dot[STREAM_ROWS], pairs[STREAM_ROWS];
        UNROLL for (int t = 0; t < nt; t++) dot[t] =
            i_set1(mins && params.bits != 8 ? 0 : -BIAS_OF(params.bits, params.zero) * a->sums[t * a->sum_stride + at]);
        UNROLL for (int j = 0; j < words; j++) {
            vb w = load_codes(type, planes, u->low, blocks, b, h * words + j);
            UNROLL for (int t = 0; t < nt; t++) {
                vi x = i_load4(a->codes + t * a->stride8 + b * BLOCK + (h * words + j) * 4);
                add_word(&dot[t], &pairs[t], params.bits, run, j, w, x);
            }
        }
        vf scale = f_load(u->scales[at]), min = mins ? f_load(u->mins[at]) : scale;
        UNROLL for (int t = 0; t < nt; t++) {
            vf total = mins ? f_from_i(i_load4(a->sums + t * a->sum_stride + at)) : scale;
            add_part(&part[t], h == 0, mins, dot[t], scale, min, total);
        }
    }
    UNROLL for (int t = 0; t < nt; t++) sum[t] = f_fma(part[t], f_set1(a->scales[t * a->blocks + b]), sum[t]);
}

INLINE void stream_chunk(const int nt, const int type, const uint8_t *chunk, weights_ahead ahead, int k, unpacked *u,
                         const quantized_rows *a, float *sums, bool first) {
    const int ld_sums = TILE_PANELS * PANEL, blocks = k / BLOCK;
    const int lines = lines_of_block(type);
    const uint8_t *planes = unpack_scales(type, chunk, k, u);
    vf sum[STREAM_ROWS];
    UNROLL for (int t = 0; t < nt; t++) sum[t] = first ? f_set1(0.0f) : f_load(sums + t * ld_sums);
#define STREAM_BLOCK(b)                                                                \
    prefetch_ahead(&ahead, lines);                                                     \
    if (type == TYPE_Q8_0_SPLIT)                                                       \
        for (int i = 0; i < 4; i++) PREFETCH_NEAR(u->low + ((b) * 4 + i) * 64 + 4096); \
    FORGET();                                                                          \
    stream_block(nt, type, planes, blocks, (b), u, a, sum)
    if (is_super(type)) {
        UNROLL for (int b = 0; b < CHUNK / BLOCK; b++) { STREAM_BLOCK(b); }
    } else {
        for (int b = 0; b < blocks; b++) { STREAM_BLOCK(b); }
    }
#undef STREAM_BLOCK
    UNROLL for (int t = 0; t < nt; t++) f_store(sums + t * ld_sums, sum[t]);
}

#define BLOCK_TYPE(NAME, ...)                                                                                 \
    static void stream_##NAME(int nt, const uint8_t *chunk, weights_ahead ahead, int k, unpacked *u,          \
                              const quantized_rows *a, float *sums, bool first) {                             \
        if (nt == 1) stream_chunk(1, TYPE_##NAME, chunk, ahead, k, u, a, sums, first);                        \
        else if (nt == 2) stream_chunk(2, TYPE_##NAME, chunk, ahead, k, u, a, sums, first);                   \
        else if (nt <= 4)                                                                                     \
            stream_chunk(STREAM_ROWS < 4 ? STREAM_ROWS : 4, TYPE_##NAME, chunk, ahead, k, u, a, sums, first); \
        else stream_chunk(STREAM_ROWS, TYPE_##NAME, chunk, ahead, k, u, a, sums, first);                      \
    }
#include "../block_types.def"

/* The functions and constants of a block type. */
typedef struct {
    unpack_fn unpack;
    void (*stream)(int nt, const uint8_t *chunk, weights_ahead ahead, int k, unpacked *u, const quantized_rows *a,
                   float *sums, bool first);
    int block, bits, zero, bias;
    bool mins;
} quantized_type;

static const quantized_type quantized_types[] = {
#define BLOCK_TYPE(NAME, name, number, block, bytes, share, bits, zero, minimum, ...) \
    [TYPE_##NAME] = {unpack_##NAME, stream_##NAME, share, bits, zero, BIAS_OF(bits, zero), minimum},
#include "../block_types.def"
};

/* Columns that dot_tile processes at a time: sums are rarely stored and reloaded, and the codes of two panels still fit
 * in the L1 cache. */
enum {
    DEPTH_CHUNKS = 3,
    DEPTH = DEPTH_CHUNKS * CHUNK,
    DEPTH_BLOCKS = DEPTH / 16 /* maximum number of blocks, a multiple of 16 */
};

typedef struct {
    const uint8_t *codes[DEPTH_CHUNKS][TILE_PANELS];
    unpacked chunks[DEPTH_CHUNKS][TILE_PANELS];
} unpacked_panels;

/* The output of a tile. `bias` may be NULL; with `accumulate`, results are added to the values in `out`. */
typedef struct {
    float *out;
    int64_t stride;
    const float *bias;
    bool accumulate;
} tile_results;

/* Multiply up to TILE_TOKENS rows by one or two panels, over up to DEPTH columns. `sums` has the sums of the earlier
 * columns; NULL: these are the first. */
INLINE void dot_tile(const int nt, const int np, const int block, const int bits, const bool mins, int bias,
                     const unpacked_panels *w, int64_t k, const quantized_rows *a, const float *sums,
                     const tile_results *to) {
    const int ld_sums = TILE_PANELS * PANEL, halves = BLOCK / block, words = WORDS / halves,
              run = words_of_pairs(block, bits);
    /* Rows 0..2 and 3..5, so that few registers address them all. */
    const int64_t codes_stride = a->stride8, scale_stride = a->blocks, sum_stride = scale_stride * halves;
    const int8_t *codes_low = a->codes, *codes_high = codes_low + 3 * codes_stride;
    const float *scales_low = a->scales, *scales_high = scales_low + 3 * scale_stride;
    const int32_t *sums_low = a->sums, *sums_high = sums_low + 3 * sum_stride;
    /* Initial values of the dot products, which cancel the bias of the codes. */
    _Alignas(64) int32_t starts[TILE_TOKENS][DEPTH_BLOCKS];
    const int32_t *start = starts[0];
    const bool biased = !mins || bits == 8;
    if (biased)
        UNROLL for (int t = 0; t < nt; t++) for (int64_t b = 0; b < k / block; b += PANEL)
            i_store(starts[t] + b, i_mul(i_load(a->sums + t * sum_stride + b), i_set1(bias)));
    vf sum[TILE_TOKENS][TILE_PANELS];
    UNROLL for (int t = 0; t < nt; t++) UNROLL for (int p = 0; p < np; p++) sum[t][p] =
        sums ? f_load(sums + t * ld_sums + p * PANEL) : f_set1(0.0f);
    for (int chunk = 0; k > 0; chunk++, k -= CHUNK) {
        const uint8_t *codes[TILE_PANELS];
        UNROLL for (int p = 0; p < np; p++) codes[p] = w->codes[chunk][p];
        const unpacked *u = w->chunks[chunk];
        const int blocks = (int)min_i64(CHUNK, k) / BLOCK;
        for (int b = 0; b < blocks; b++) {
            vf part[TILE_TOKENS][TILE_PANELS];
            UNROLL for (int t = 0; t < nt; t++) /* as in stream_block */
                UNROLL for (int p = 0; p < np; p++) part[t][p] = f_set1(0.0f);
            UNROLL for (int h = 0; h < halves; h++) {
                vi dot[TILE_TOKENS][TILE_PANELS], pairs[TILE_TOKENS][TILE_PANELS];
                UNROLL for (int t = 0; t < nt; t++) {
                    vi from = !biased ? i_set1(0) : i_load4(start + t * DEPTH_BLOCKS + h);
                    UNROLL for (int p = 0; p < np; p++) dot[t][p] = from;
                }
                UNROLL for (int g = 0; g < words; g++) {
                    vb v[TILE_PANELS];
                    UNROLL for (int p = 0; p < np; p++) v[p] = b_load(codes[p] + (h * words + g) * 64);
                    UNROLL for (int t = 0; t < nt; t++) {
                        vi x = i_load4((t < 3 ? codes_low : codes_high) + t % 3 * codes_stride + (h * words + g) * 4);
                        UNROLL for (int p = 0; p < np; p++) add_word(&dot[t][p], &pairs[t][p], bits, run, g, v[p], x);
                    }
                }
                vf scale[TILE_PANELS], min[TILE_PANELS];
                UNROLL for (int p = 0; p < np; p++) {
                    scale[p] = f_load(u[p].scales[b * halves + h]);
                    min[p] = mins ? f_load(u[p].mins[b * halves + h]) : scale[p];
                }
                UNROLL for (int t = 0; t < nt; t++) {
                    vf total =
                        mins ? f_from_i(i_load4((t < 3 ? sums_low : sums_high) + t % 3 * sum_stride + h)) : scale[0];
                    UNROLL for (int p = 0; p < np; p++)
                        add_part(&part[t][p], h == 0, mins, dot[t][p], scale[p], min[p], total);
                }
            }
            UNROLL for (int t = 0; t < nt; t++) {
                vf scale = f_set1(((t < 3 ? scales_low : scales_high) + t % 3 * scale_stride)[0]);
                UNROLL for (int p = 0; p < np; p++) sum[t][p] = f_fma(part[t][p], scale, sum[t][p]);
            }
            UNROLL for (int p = 0; p < np; p++) codes[p] += WORDS * 64;
            codes_low += BLOCK, codes_high += BLOCK;
            scales_low++, scales_high++, start += halves;
            sums_low += halves, sums_high += halves;
        }
    }
    float *out = to->out;
    if (to->bias) {
        UNROLL for (int t = 0; t < nt; t++) UNROLL for (int p = 0; p < np; p++) sum[t][p] =
            f_add(sum[t][p], f_load(to->bias + p * PANEL));
    }
    if (to->accumulate) {
        UNROLL for (int t = 0; t < nt; t++) UNROLL for (int p = 0; p < np; p++) sum[t][p] =
            f_add(f_load(out + t * to->stride + p * PANEL), sum[t][p]);
    }
    UNROLL for (int t = 0; t < nt; t++) UNROLL for (int p = 0; p < np; p++)
        f_store(out + t * to->stride + p * PANEL, sum[t][p]);
}

/* The variants of dot_tile: tokens 1..6, panels 1..2, and kinds of blocks. */
#define DOT_FORM(nt, np, block, bits, mins) dot_tile(nt, np, block, bits, mins, -q->bias, w, k, a, sums, to)
#define DOT_KIND(nt, np)                                                           \
    if (q->bits == 8 && q->mins) DOT_FORM(nt, np, 32, 8, true);                    \
    else if (q->bits == 8) DOT_FORM(nt, np, 32, 8, false);                         \
    else if (q->block == 16 && q->mins) DOT_FORM(nt, np, 16, 4, true);             \
    else if (q->block == 16) DOT_FORM(nt, np, 16, 6, false);                       \
    else if (SUMS_PAIRS && q->bits == 4 && q->mins) DOT_FORM(nt, np, 32, 4, true); \
    else if (SUMS_PAIRS && q->bits == 4) DOT_FORM(nt, np, 32, 4, false);           \
    else if (q->mins) DOT_FORM(nt, np, 32, 5, true);                               \
    else DOT_FORM(nt, np, 32, 5, false)

#define DOT_TOKENS(nt)                                                                         \
    static void dot_##nt(const quantized_type *q, int np, const unpacked_panels *w, int64_t k, \
                         const quantized_rows *a, const float *sums, const tile_results *to) { \
        if (np == 1) {                                                                         \
            DOT_KIND(nt, 1);                                                                   \
        } else {                                                                               \
            DOT_KIND(nt, TILE_PANELS);                                                         \
        }                                                                                      \
    }

DOT_TOKENS(1)
DOT_TOKENS(2)
#if PYML_TILE_TOKENS > 2
DOT_TOKENS(3)
DOT_TOKENS(4)
#endif
#if PYML_TILE_TOKENS > 4
DOT_TOKENS(5)
DOT_TOKENS(6)
#endif

typedef void (*dot_fn)(const quantized_type *, int, const unpacked_panels *, int64_t, const quantized_rows *,
                       const float *, const tile_results *);
static const dot_fn dot_tokens[TILE_TOKENS + 1] = {
    NULL,  dot_1, dot_2,
#if PYML_TILE_TOKENS > 2
    dot_3, dot_4,
#endif
#if PYML_TILE_TOKENS > 4
    dot_5, dot_6,
#endif
};

#endif
