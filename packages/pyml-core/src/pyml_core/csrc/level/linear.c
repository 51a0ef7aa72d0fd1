/* linear.c: out = x W^T for weights in panels (pack.c), of every block type.
 *
 * Three inner loops do all the work. Plain weights (f32, f16, bf16) go through fma_tile. Quantised ones are unpacked to unsigned
 * bytes: for a few rows in registers, on their way from memory (stream_chunk); for more, up to DEPTH k of one or two panels at a
 * time, in the first-level cache, and dot_tile takes every row through them. However many rows there are, each output is summed in
 * one order, for each block of 32 in ascending order:
 *
 *     part = scale_w * float(sum_k code_w code_a)
 *     part = fma(scale_w', float(sum_k code_w code_a), part)     for the second half, where a scale is for 16
 *     part = fma(min_w, float(sum_k code_a), part)               after either of these, where the type has minima
 *     sum = fma(part, scale_a, sum)
 *
 * The integer sums are exact, so that results do not depend on how a level multiplies bytes.
 */
#include "kernels.h"

/* ---- unpacking: from a chunk's planes to bytes in the order of k, and a scale (and a minimum) for each block */

enum { WORDS = BLOCK / 4 }; /* vectors of 4 elements x 16 rows in 32 elements */

typedef struct {
    _Alignas(64) uint8_t codes[CHUNK / 4 * 64];
    _Alignas(64) float scales[CHUNK / 16][PANEL];
    _Alignas(64) float mins[CHUNK / 16][PANEL];
    const uint8_t *low; /* of a split q8_0, before it is unpacked: the chunk's low nibbles */
} unpacked;

static const uint8_t iq4_nl_codes[16] = {1,   24,  45,  63,  79,  93,  106, 118, /* ggml's kvalues_iq4nl + 128 */
                                         129, 141, 153, 166, 181, 197, 217, 241};

INLINE int64_t padded(int64_t bytes) { return (bytes + 63) / 64 * 64; }
INLINE vf scaled(vf d, vi n) { return f_mul(d, f_from_i(n)); }
INLINE vf negated(vf x) { return f_mul(x, f_set1(-1.0f)); } /* keeps the sign of zero */

INLINE const uint8_t *halves_to_floats(const uint8_t *plane, int blocks, float (*out)[PANEL]) {
    for (int b = 0; b < blocks; b++) f_store(out[b], f_load_f16((const uint16_t *)plane + b * PANEL));
    return plane + padded(blocks * PANEL * 2);
}

#define HAS_MINS(type)                                                                                                            \
    ((type) == TYPE_Q4_1 || (type) == TYPE_Q5_1 || (type) == TYPE_Q4_K || (type) == TYPE_Q5_K || (type) == TYPE_Q2_K)
INLINE bool is_super(const int type) { return type >= TYPE_Q2_K && type <= TYPE_Q6_K; } /* blocks of 256, with scales for parts */

/* Scales and minima of a chunk; returns where its planes of codes begin. */
INLINE const uint8_t *unpack_scales(const int type, const uint8_t *chunk, int k, unpacked *u) {
    if (!is_super(type)) {
        const uint8_t *plane = halves_to_floats(chunk, k / 32, u->scales);
        return HAS_MINS(type) ? halves_to_floats(plane, k / 32, u->mins) : plane;
    }
    const uint8_t *s = chunk + 64;
    vf d = f_load_f16((const uint16_t *)chunk);
    vi four = i_set1(15);
    if (type == TYPE_Q6_K) {
        for (int j = 0; j < 16; j++) f_store(u->scales[j], scaled(d, i_load_s8(s + j * PANEL)));
        return s + 16 * PANEL;
    }
    if (type == TYPE_Q3_K) {
        UNROLL for (int j = 0; j < 16; j++) { /* four bits from bytes 0..7, two from 8..11, less 32 */
            vi low = i_load_u8(s + j % 8 * PANEL), high = i_load_u8(s + (8 + j % 4) * PANEL);
            low = j < 8 ? i_and(low, four) : i_shr(low, 4);
            high = i_and(i_shr(high, 2 * (j / 4)), i_set1(3));
            f_store(u->scales[j], scaled(d, i_add(i_or(low, i_shl(high, 4)), i_set1(-32))));
        }
        return s + 12 * PANEL;
    }
    vf d_min = f_load_f16((const uint16_t *)chunk + PANEL);
    if (type == TYPE_Q2_K) {
        for (int j = 0; j < 16; j++) {
            vi both = i_load_u8(s + j * PANEL);
            f_store(u->scales[j], scaled(d, i_and(both, four)));
            f_store(u->mins[j], negated(scaled(d_min, i_shr(both, 4))));
        }
        return s + 16 * PANEL;
    }
    vi six = i_set1(63); /* q4_K and q5_K: six bits each, twelve bytes for eight blocks of 32 */
    for (int j = 0; j < 4; j++) {
        vi a = i_load_u8(s + j * PANEL), b = i_load_u8(s + (j + 4) * PANEL), c = i_load_u8(s + (j + 8) * PANEL);
        f_store(u->scales[j], scaled(d, i_and(a, six)));
        f_store(u->mins[j], negated(scaled(d_min, i_and(b, six))));
        f_store(u->scales[j + 4], scaled(d, i_or(i_and(c, four), i_shl(i_shr(a, 6), 4))));
        f_store(u->mins[j + 4], negated(scaled(d_min, i_or(i_shr(c, 4), i_shl(i_shr(b, 6), 4)))));
    }
    return s + 12 * PANEL;
}

/* v shifted so that its bit `from` becomes bit `to`; bits cross bytes. */
#define MOVE_BITS(v, from, to) ((from) > (to) ? b_shr((v), (from) - (to)) : (to) > (from) ? b_shl((v), (to) - (from)) : (v))

/* Word `j` (elements 4j..4j+3) of the 32 elements number `b` of a chunk, as bytes; `blocks` of 32 are in the chunk. */
INLINE vb load_codes(const int type, const uint8_t *planes, const uint8_t *low_plane, int blocks, const int b, const int j) {
    const vb nibble = b_set1(15);
    if (type == TYPE_Q8_0) return b_load(planes + (b * WORDS + j) * 64);
    if (type == TYPE_Q8_0_SPLIT) {
        vb high = b_load(planes + (b * 4 + j % 4) * 64), low = b_load(low_plane + (b * 4 + j % 4) * 64);
        return j < 4 ? b_or(b_and(b_shl(high, 4), b_set1(0xf0)), b_and(low, nibble))
                     : b_or(b_and(high, b_set1(0xf0)), b_and(b_shr(low, 4), nibble));
    }
    if (type == TYPE_Q4_K || type == TYPE_Q5_K) { /* words 8c.. hold block 2c in their low nibbles and 2c + 1 in the high ones */
        const uint8_t *low = planes + (type == TYPE_Q5_K ? WORDS * 64 : 0);
        vb v = b_load(low + (b / 2 * WORDS + j) * 64);
        v = b_and(b % 2 ? b_shr(v, 4) : v, nibble);
        if (type == TYPE_Q4_K) return v;
        vb h = b_load(planes + j * 64); /* a bit a block */
        return b_or(v, b_and(MOVE_BITS(h, b, 4), b_set1(16)));
    }
    if (type == TYPE_Q6_K) { /* 128 elements: two words of low nibbles for four, one of high pairs */
        const int n = b / 4, q = b % 4;
        vb v = b_load(planes + (16 + 16 * n + 8 * (q % 2) + j) * 64), h = b_load(planes + (8 * n + j) * 64);
        v = b_and(q / 2 ? b_shr(v, 4) : v, nibble);
        return b_or(v, b_and(MOVE_BITS(h, 2 * q, 4), b_set1(0x30)));
    }
    if (type == TYPE_Q2_K || type == TYPE_Q3_K) { /* word 8n + j holds elements 128n + 32q + 4j.. at bits 2q; q3_K's third is in hmask */
        const int n = b / 4, q = b % 4;
        const uint8_t *low = planes + (type == TYPE_Q3_K ? WORDS * 64 : 0);
        vb v = b_load(low + (8 * n + j) * 64);
        v = b_and(q ? b_shr(v, 2 * q) : v, b_set1(3));
        if (type == TYPE_Q2_K) return v;
        vb h = b_load(planes + j * 64);
        return b_or(v, b_and(MOVE_BITS(h, b, 2), b_set1(4)));
    }
    /* the 32-blocks of four and five bits: nibbles of words 0..3 are elements 0..15 (low) and 16..31 (high) */
    const bool fifth = type == TYPE_Q5_0 || type == TYPE_Q5_1;
    const uint8_t *low = planes + (fifth ? blocks * 64 : 0);
    vb v = b_load(low + (b * 4 + j % 4) * 64);
    v = b_and(j < 4 ? v : b_shr(v, 4), nibble);
    if (fifth) v = b_or(v, b_and(MOVE_BITS(b_load(planes + b * 64), j, 4), b_set1(16)));
    return type == TYPE_IQ4_NL ? b_lookup(iq4_nl_codes, v) : v;
}

typedef const uint8_t *(*unpack_fn)(const uint8_t *chunk, int k, unpacked *u); /* returns where the bytes are */

INLINE const uint8_t *unpack_chunk(const int type, const uint8_t *chunk, int k, unpacked *u) {
    const uint8_t *planes = unpack_scales(type, chunk, k, u);
    if (type == TYPE_Q8_0) return planes;
    const int blocks = k / BLOCK;
#define UNPACK_BLOCK(b)                                                                                                            \
    UNROLL for (int j = 0; j < WORDS; j++) b_store(u->codes + ((b) * WORDS + j) * 64, load_codes(type, planes, u->low, blocks, (b), j))
    if (is_super(type)) {
        UNROLL for (int b = 0; b < CHUNK / BLOCK; b++) UNPACK_BLOCK(b);
    } else {
        for (int b = 0; b < blocks; b++) UNPACK_BLOCK(b);
    }
#undef UNPACK_BLOCK
    return u->codes;
}

#define EVERY_QUANTIZED(DO)                                                                                                       \
    DO(Q8_0) DO(Q8_0_SPLIT) DO(IQ4_NL) DO(Q4_0) DO(Q4_1) DO(Q5_0) DO(Q5_1) DO(Q2_K) DO(Q3_K) DO(Q4_K) DO(Q5_K) DO(Q6_K)

#define UNPACKER(name)                                                                                                            \
    static const uint8_t *unpack_##name(const uint8_t *c, int k, unpacked *u) { return unpack_chunk(TYPE_##name, c, k, u); }
EVERY_QUANTIZED(UNPACKER)

#define BLOCK_OF(type) ((type) == TYPE_Q2_K || (type) == TYPE_Q3_K || (type) == TYPE_Q6_K ? 16 : 32) /* elements that share a scale */
#define IS_WIDE(type) ((type) == TYPE_Q8_0 || (type) == TYPE_Q8_0_SPLIT || (type) == TYPE_IQ4_NL) /* bytes may be 64 and more */
/* The byte that is code 0, and what the sum of the activations' codes is multiplied with to take it off the dot product. */
#define ZERO_OF(type)                                                                                                             \
    (IS_WIDE(type) ? 128 : (type) == TYPE_Q4_0 ? 8 : (type) == TYPE_Q5_0 ? 16 : (type) == TYPE_Q3_K ? 4 : (type) == TYPE_Q6_K ? 32 : 0)
#define BIAS_OF(type) (IS_WIDE(type) ? WIDE_BIAS : ZERO_OF(type))

/* ---- the int8 inner loops */

/* Some rows of int8 activations from some k on. */
typedef struct {
    const int8_t *codes;
    const float *scales;
    const int32_t *sums; /* of blocks of the weight's size */
    int64_t stride8, blocks, sum_stride;
} quantized_rows;

/* Levels that sum pairs of products in 16 bits first: the words whose pairs fit in one such sum. Codes below 32 allow four (2 * 4 * 31 * 127
 * = 31496), those below 64, of q6_K, two. */
INLINE int words_of_pairs(int block, bool wide, bool mins) { return wide ? 1 : block == 16 && !mins ? 2 : 4; }

/* Word number g of a block: four codes of every row times as many activations. */
INLINE void add_word(vi *dot, vi *pairs, const bool wide, const int run, const int g, vb w, vi x) {
    if (!SUMS_PAIRS || run == 1) {
        *dot = wide ? i_dot_wide(*dot, w, x) : i_dot(*dot, w, x);
        return;
    }
    *pairs = g % run ? i_add_pairs(*pairs, i_pairs(w, x)) : i_pairs(w, x);
    if (g % run == run - 1) *dot = i_add(*dot, i_sum_pairs(*pairs));
}

/* A block's part of the sum: its first sub-block's, to which the next one's is added. */
INLINE void add_part(vf *part, const bool first, const bool mins, vi dot, vf scale, vf min, vf total) {
    *part = first ? f_mul(f_from_i(dot), scale) : f_fma(f_from_i(dot), scale, *part);
    if (mins) *part = f_fma(min, total, *part);
}

/* One, two, four or eight rows and one panel: codes go from memory through registers, so that reading them is all that takes time.
 * Other numbers of rows are rounded up: buffers have rows to spare. The same sums in the same order as dot_tile. */

/* Bytes between what is read and what is asked for meanwhile. A plane of q8_0 is read from front to end, while the planes of other
 * types lie beside each other and need some chunks of lead; most those of 256 columns, half of which their first blocks read. */
INLINE int64_t lead_of(int type) { return type == TYPE_Q8_0 ? 4 << 10 : is_super(type) ? 16 << 10 : 8 << 10; }

INLINE int lines_of(const int type) { /* of 64 bytes, in 32 elements of a panel */
    return type == TYPE_Q8_0 ? 9 : type == TYPE_Q6_K ? 7 : type == TYPE_Q5_0 || type == TYPE_Q5_1 || type == TYPE_Q5_K ? 6
           : type == TYPE_Q2_K ? 3 : type == TYPE_Q3_K ? 4 : 5;
}

INLINE void stream_block(const int nt, const int type, const uint8_t *planes, int blocks, const int b, const unpacked *u,
                         const quantized_rows *a, vf *sum) {
    const int halves = BLOCK / BLOCK_OF(type), words = WORDS / halves;
    const bool mins = HAS_MINS(type);
    const int run = words_of_pairs(BLOCK_OF(type), IS_WIDE(type), mins);
    vf part[STREAM_ROWS];
    UNROLL for (int t = 0; t < nt; t++) part[t] = f_set1(0.0f); /* for compilers that do not see that the first half is there */
    UNROLL for (int h = 0; h < halves; h++) {
        const int at = b * halves + h;
        vi dot[STREAM_ROWS], pairs[STREAM_ROWS];
        UNROLL for (int t = 0; t < nt; t++) dot[t] = i_set1(mins ? 0 : -BIAS_OF(type) * a->sums[t * a->sum_stride + at]);
        UNROLL for (int j = 0; j < words; j++) {
            vb w = load_codes(type, planes, u->low, blocks, b, h * words + j);
            UNROLL for (int t = 0; t < nt; t++) {
                vi x = i_load4(a->codes + t * a->stride8 + b * BLOCK + (h * words + j) * 4);
                add_word(&dot[t], &pairs[t], IS_WIDE(type), run, j, w, x);
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

INLINE void stream_chunk(const int nt, const int type, const uint8_t *chunk, const uint8_t *next, int k, unpacked *u,
                         const quantized_rows *a, float *sums, bool first) {
    const int ld_sums = TILE_PANELS * PANEL, blocks = k / BLOCK;
    const int lines = lines_of(type);
    const uint8_t *planes = unpack_scales(type, chunk, k, u);
    vf sum[STREAM_ROWS];
    UNROLL for (int t = 0; t < nt; t++) sum[t] = first ? f_set1(0.0f) : f_load(sums + t * ld_sums);
#define STREAM_BLOCK(b)                                                                                                           \
    for (int i = 0; i < lines; i++, next += 64) PREFETCH_NEAR(next);                                                               \
    if (type == TYPE_Q8_0_SPLIT) for (int i = 0; i < 4; i++) PREFETCH_NEAR(u->low + ((b) * 4 + i) * 64 + 4096);                    \
    FORGET();                                                                                                                      \
    stream_block(nt, type, planes, blocks, (b), u, a, sum)
    if (is_super(type)) {
        UNROLL for (int b = 0; b < CHUNK / BLOCK; b++) { STREAM_BLOCK(b); }
    } else {
        for (int b = 0; b < blocks; b++) { STREAM_BLOCK(b); }
    }
#undef STREAM_BLOCK
    UNROLL for (int t = 0; t < nt; t++) f_store(sums + t * ld_sums, sum[t]);
}

#define STREAM(name)                                                                                                              \
    static void stream_##name(int nt, const uint8_t *chunk, const uint8_t *next, int k, unpacked *u, const quantized_rows *a,      \
                              float *sums, bool first) {                                                                           \
        if (nt == 1) stream_chunk(1, TYPE_##name, chunk, next, k, u, a, sums, first);                                              \
        else if (nt == 2) stream_chunk(2, TYPE_##name, chunk, next, k, u, a, sums, first);                                         \
        else if (nt <= 4) stream_chunk(STREAM_ROWS < 4 ? STREAM_ROWS : 4, TYPE_##name, chunk, next, k, u, a, sums, first);         \
        else stream_chunk(STREAM_ROWS, TYPE_##name, chunk, next, k, u, a, sums, first);                                            \
    }
EVERY_QUANTIZED(STREAM)

/* A block type's forms of all this. */
typedef struct {
    unpack_fn unpack;
    void (*stream)(int nt, const uint8_t *chunk, const uint8_t *next, int k, unpacked *u, const quantized_rows *a, float *sums, bool first);
    int block, zero, bias;
    bool wide, mins;
} quantized_type;

static const quantized_type quantized_types[] = {
#define DESCRIBE(name)                                                                                                            \
    [TYPE_##name] = {unpack_##name,         stream_##name,         BLOCK_OF(TYPE_##name), ZERO_OF(TYPE_##name),                    \
                     BIAS_OF(TYPE_##name), IS_WIDE(TYPE_##name), HAS_MINS(TYPE_##name)},
    EVERY_QUANTIZED(DESCRIBE)
};

/* The k of one or two panels that dot_tile is given at a time: sums are then rarely put down and taken up again, and the codes of
 * both still fit in the first-level cache. */
enum { DEPTH_CHUNKS = 3, DEPTH = DEPTH_CHUNKS * CHUNK, FACTS = DEPTH / 16 /* blocks at most, a multiple of 16 */ };

typedef struct {
    const uint8_t *codes[DEPTH_CHUNKS][TILE_PANELS];
    unpacked chunks[DEPTH_CHUNKS][TILE_PANELS];
} unpacked_panels;

/* Where a tile's results go: to `out`, with a bias (or NULL), over what is there or on top of it. */
typedef struct {
    float *out;
    int64_t stride;
    const float *bias;
    bool accumulate;
} tile_results;

/* Up to TILE_TOKENS rows and one or two panels, for up to DEPTH k. `sums` is where the sums of the k before are, or NULL. */
INLINE void dot_tile(const int nt, const int np, const int block, const bool wide, const bool mins, int bias, const unpacked_panels *w,
                     int64_t k, const quantized_rows *a, const float *sums, const tile_results *to) {
    const int ld_sums = TILE_PANELS * PANEL, halves = BLOCK / block, words = WORDS / halves, run = words_of_pairs(block, wide, mins);
    /* Rows 0..2 and 3..5: few registers address them all. */
    const int64_t codes_stride = a->stride8, scale_stride = a->blocks, sum_stride = scale_stride * halves;
    const int8_t *codes_low = a->codes, *codes_high = codes_low + 3 * codes_stride;
    const float *scales_low = a->scales, *scales_high = scales_low + 3 * scale_stride;
    const int32_t *sums_low = a->sums, *sums_high = sums_low + 3 * sum_stride;
    _Alignas(64) int32_t starts[TILE_TOKENS][FACTS]; /* of the dot products: what takes the bias off */
    const int32_t *start = starts[0];
    if (!mins)
        UNROLL for (int t = 0; t < nt; t++)
            for (int64_t b = 0; b < k / block; b += PANEL)
                i_store(starts[t] + b, i_mul(i_load(a->sums + t * sum_stride + b), i_set1(bias)));
    vf sum[TILE_TOKENS][TILE_PANELS];
    UNROLL for (int t = 0; t < nt; t++)
        UNROLL for (int p = 0; p < np; p++) sum[t][p] = sums ? f_load(sums + t * ld_sums + p * PANEL) : f_set1(0.0f);
    for (int chunk = 0; k > 0; chunk++, k -= CHUNK) {
        const uint8_t *codes[TILE_PANELS];
        UNROLL for (int p = 0; p < np; p++) codes[p] = w->codes[chunk][p];
        const unpacked *u = w->chunks[chunk];
        const int blocks = (int)least(CHUNK, k) / BLOCK;
        for (int b = 0; b < blocks; b++) {
            vf part[TILE_TOKENS][TILE_PANELS];
            UNROLL for (int t = 0; t < nt; t++) /* as in stream_block */
                UNROLL for (int p = 0; p < np; p++) part[t][p] = f_set1(0.0f);
            UNROLL for (int h = 0; h < halves; h++) {
                vi dot[TILE_TOKENS][TILE_PANELS], pairs[TILE_TOKENS][TILE_PANELS];
                UNROLL for (int t = 0; t < nt; t++) {
                    vi from = mins ? i_set1(0) : i_load4(start + t * FACTS + h);
                    UNROLL for (int p = 0; p < np; p++) dot[t][p] = from;
                }
                UNROLL for (int g = 0; g < words; g++) {
                    vb v[TILE_PANELS];
                    UNROLL for (int p = 0; p < np; p++) v[p] = b_load(codes[p] + (h * words + g) * 64);
                    UNROLL for (int t = 0; t < nt; t++) {
                        vi x = i_load4((t < 3 ? codes_low : codes_high) + t % 3 * codes_stride + (h * words + g) * 4);
                        UNROLL for (int p = 0; p < np; p++) add_word(&dot[t][p], &pairs[t][p], wide, run, g, v[p], x);
                    }
                }
                vf scale[TILE_PANELS], min[TILE_PANELS];
                UNROLL for (int p = 0; p < np; p++) {
                    scale[p] = f_load(u[p].scales[b * halves + h]);
                    min[p] = mins ? f_load(u[p].mins[b * halves + h]) : scale[p];
                }
                UNROLL for (int t = 0; t < nt; t++) {
                    vf total = mins ? f_from_i(i_load4((t < 3 ? sums_low : sums_high) + t % 3 * sum_stride + h)) : scale[0];
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
        UNROLL for (int t = 0; t < nt; t++)
            UNROLL for (int p = 0; p < np; p++) sum[t][p] = f_add(sum[t][p], f_load(to->bias + p * PANEL));
    }
    if (to->accumulate) {
        UNROLL for (int t = 0; t < nt; t++)
            UNROLL for (int p = 0; p < np; p++) sum[t][p] = f_add(f_load(out + t * to->stride + p * PANEL), sum[t][p]);
    }
    UNROLL for (int t = 0; t < nt; t++)
        UNROLL for (int p = 0; p < np; p++) f_store(out + t * to->stride + p * PANEL, sum[t][p]);
}

/* All of dot_tile's forms: tokens 1..6, panels 1..2, and the kinds of block. */
#define DOT_KIND(nt, np)                                                                                                         \
    if (q->block == 32 && q->wide) dot_tile(nt, np, 32, true, false, -q->bias, w, k, a, sums, to);                                \
    else if (q->block == 32 && q->mins) dot_tile(nt, np, 32, false, true, 0, w, k, a, sums, to);                                  \
    else if (q->block == 32) dot_tile(nt, np, 32, false, false, -q->bias, w, k, a, sums, to);                                     \
    else if (q->mins) dot_tile(nt, np, 16, false, true, 0, w, k, a, sums, to);                                                    \
    else dot_tile(nt, np, 16, false, false, -q->bias, w, k, a, sums, to)

#define DOT_TOKENS(nt)                                                                                                            \
    static void dot_##nt(const quantized_type *q, int np, const unpacked_panels *w, int64_t k, const quantized_rows *a,            \
                         const float *sums, const tile_results *to) {                                                              \
        if (np == 1) { DOT_KIND(nt, 1); } else { DOT_KIND(nt, TILE_PANELS); }                                                      \
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

typedef void (*dot_fn)(const quantized_type *, int, const unpacked_panels *, int64_t, const quantized_rows *, const float *,
                       const tile_results *);
static const dot_fn dot_tokens[TILE_TOKENS + 1] = {
    NULL, dot_1, dot_2,
#if PYML_TILE_TOKENS > 2
    dot_3, dot_4,
#endif
#if PYML_TILE_TOKENS > 4
    dot_5, dot_6,
#endif
};

/* ---- drivers: a tile of one or two panels, for up to TOKEN_BLOCK rows; sums is [rows][TILE_PANELS * 16] */

/* Which results of an operation a tile has, columns `column`.. of rows `row`.., and where they go. */
typedef struct {
    const pyml_op *op;
    int64_t row, column, columns;
    float *out;
    int64_t stride;
} target;

/* The output's lines for some rows, asked for before they are written: they are far apart. */
INLINE void expect(const target *to, int64_t t, int64_t rows) {
    for (int64_t r = t; r < t + rows; r++)
        for (int64_t c = 0; c < to->columns; c += PANEL) PREFETCH_WRITE(to->out + r * to->stride + c);
}

/* Rows t.. of the output, for a tile whose columns are all there. */
INLINE tile_results results_of(const target *to, int64_t t) {
    return (tile_results){to->out + t * to->stride, to->stride, to->op->weight ? to->op->weight + to->column : NULL, to->op->accumulate};
}

/* sums + bias (+ what is there) to rows t.. of the output. */
INLINE void finish(const target *to, int64_t t, int64_t rows, const float *sums) {
    const pyml_op *op = to->op;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < to->columns; c += PANEL) {
            int64_t n = least(PANEL, to->columns - c);
            float *out = to->out + (t + r) * to->stride + c;
            vf v = f_load(sums + r * TILE_PANELS * PANEL + c);
            if (op->weight) v = f_add(v, f_load_n(op->weight + to->column + c, n));
            if (op->accumulate) v = f_add(f_load_n(out, n), v);
            f_store_n(out, v, n);
        }
}

static quantized_rows rows_from(const quantized_type *q, const pyml_buffer *x, int64_t row, int64_t k0) {
    int64_t halves = q->block == BLOCK ? 1 : 2; /* sums are kept for blocks of 32 and for halves */
    return (quantized_rows){
        .codes = x->codes + row * x->stride8 + k0, .stride8 = x->stride8,
        .scales = x->scales + row * x->blocks + k0 / BLOCK, .blocks = x->blocks,
        .sums = (halves == 1 ? x->sums : x->half_sums) + (row * x->blocks + k0 / BLOCK) * halves, .sum_stride = x->blocks * halves,
    };
}

static const uint8_t *low_nibbles(const pyml_matrix *m, int64_t panel, int64_t k0) {
    return m->low ? m->low + panel * m->low_bytes + k0 / 2 * PANEL : NULL;
}

/* Up to where weights lie one behind the other, and where those are that are read next (or NULL): what is asked for ahead. */
typedef struct {
    const uint8_t *until, *then;
} weights_ahead;

static const uint8_t *further(const weights_ahead *ahead, const uint8_t *at, int64_t lead) {
    return at + lead < ahead->until || !ahead->then ? at + lead : ahead->then + (at + lead - ahead->until);
}

/* One panel's outputs for a few rows from `row` on; those of a row are TILE_PANELS panels from the last row's. */
static void stream_panel(const pyml_matrix *m, int64_t panel, const weights_ahead *ahead, const pyml_buffer *x, int64_t row,
                         int64_t rows, uint8_t *scratch, float *sums) {
    const quantized_type *q = &quantized_types[m->type];
    const uint8_t *chunk = m->data + panel * m->panel_bytes;
    const int64_t lead = lead_of(m->type), chunk_bytes = pyml_chunk_bytes(m->type, CHUNK);
    unpacked *u = (unpacked *)scratch;
    for (int64_t k0 = 0; k0 < m->k; k0 += CHUNK) {
        int k = (int)least(CHUNK, m->k - k0);
        u->low = low_nibbles(m, panel, k0);
        for (int64_t t = 0; t < rows; t += STREAM_ROWS) {
            quantized_rows a = rows_from(q, x, row + t, k0);
            q->stream((int)least(STREAM_ROWS, rows - t), chunk, further(ahead, chunk, lead), k, u, &a, sums + t * TILE_PANELS * PANEL, k0 == 0);
        }
        chunk += chunk_bytes;
    }
}

static void streamed_panels(const pyml_matrix *m, int64_t panel, int np, const weights_ahead *ahead, const pyml_buffer *x, int64_t rows,
                            const target *to, uint8_t *scratch, float *sums) {
    for (int p = 0; p < np; p++) stream_panel(m, panel + p, ahead, x, to->row, rows, scratch, sums + p * PANEL);
    finish(to, 0, rows, sums);
}

/* One panel of a quantised matrix times some rows of x, for screen.c: sums is [rows][16]. */
void FN(panel_product)(const pyml_matrix *m, int64_t panel, const pyml_buffer *x, int64_t row, int64_t rows, uint8_t *scratch, float *sums) {
    float *wide = (float *)scratch;
    const weights_ahead ahead = {m->data, NULL};
    for (int64_t t = 0, nt; t < rows; t += nt) {
        nt = least(STREAM_ROWS, rows - t);
        stream_panel(m, panel, &ahead, x, row + t, nt, scratch + TOKEN_BLOCK * TILE_PANELS * PANEL * sizeof(float), wide);
        for (int64_t i = 0; i < nt; i++) f_store(sums + (t + i) * PANEL, f_load(wide + i * TILE_PANELS * PANEL));
    }
}

static void quantized_tile(const pyml_matrix *m, int64_t panel, int np, const pyml_buffer *x, int64_t rows, const target *to,
                           uint8_t *scratch, float *sums) {
    const quantized_type *q = &quantized_types[m->type];
    unpacked_panels *w = (unpacked_panels *)scratch;
    const uint8_t *chunk[TILE_PANELS];
    for (int p = 0; p < np; p++) chunk[p] = m->data + (panel + p) * m->panel_bytes;
    int64_t tiles = (rows + TILE_TOKENS - 1) / TILE_TOKENS, rows_a_tile = (rows + tiles - 1) / tiles;
    int64_t passes = (m->k + DEPTH - 1) / DEPTH, depth = (m->k + passes * CHUNK - 1) / (passes * CHUNK) * CHUNK;
    for (int64_t k0 = 0; k0 < m->k; k0 += depth) {
        int64_t k = least(depth, m->k - k0);
        const uint8_t *next = chunk[0] + np * m->panel_bytes; /* what the next tile of panels has here, to be asked for meanwhile */
        for (int64_t i = 0; i * CHUNK < k; i++) {
            int part = (int)least(CHUNK, k - i * CHUNK);
            for (int p = 0; p < np; p++) {
                w->chunks[i][p].low = low_nibbles(m, panel + p, k0 + i * CHUNK);
                w->codes[i][p] = q->unpack(chunk[p], part, &w->chunks[i][p]);
                chunk[p] += pyml_chunk_bytes(m->type, part);
            }
        }
        int64_t ahead = (chunk[0] + np * m->panel_bytes - next + 64 * tiles - 1) / (64 * tiles) * 64;
        bool last = k0 + depth >= m->k, direct = last && to->columns == np * PANEL;
        for (int64_t t = 0, nt; t < rows; t += nt) {
            nt = least(rows_a_tile, rows - t);
            quantized_rows a = rows_from(q, x, to->row + t, k0);
            for (int64_t i = 0; i < ahead; i += 64, next += 64)
                for (int p = 0; p < np; p++) PREFETCH(next + p * m->panel_bytes);
            float *part = sums + t * TILE_PANELS * PANEL;
            tile_results results = direct ? results_of(to, t) : (tile_results){part, TILE_PANELS * PANEL, NULL, false};
            if (last) expect(to, t, nt);
            dot_tokens[nt](q, np, w, k, &a, k0 ? part : NULL, &results);
            if (last && !direct) finish(to, t, nt, part);
        }
    }
}

static void plain_tile(const pyml_matrix *m, int64_t panel, int np, const pyml_buffer *x, int64_t rows, const target *to,
                       float *sums) {
    int64_t element = m->type == TYPE_F32 ? 4 : 2;
    for (int64_t k0 = 0; k0 < m->k; k0 += CHUNK) {
        int64_t k = least(CHUNK, m->k - k0);
        const float *a = x->f + to->row * x->width + k0;
        const void *b[TILE_PANELS];
        for (int p = 0; p < np; p++) b[p] = m->data + (panel + p) * m->panel_bytes + k0 * PANEL * element;
#define PLAIN(type)                                                                                                               \
    if (np == 1) fma_rows(1, type, a, x->width, b, PANEL, k, sums, TILE_PANELS * PANEL, rows, k0 == 0, (upcoming){NULL, 0});                             \
    else fma_rows(TILE_PANELS, type, a, x->width, b, PANEL, k, sums, TILE_PANELS * PANEL, rows, k0 == 0, (upcoming){NULL, 0})
        if (m->type == TYPE_F32) { PLAIN(TYPE_F32); }
        else if (m->type == TYPE_F16) { PLAIN(TYPE_F16); }
        else { PLAIN(TYPE_BF16); }
#undef PLAIN
    }
    finish(to, 0, rows, sums);
}

static bool is_plain(int type) { return type == TYPE_F32 || type == TYPE_F16 || type == TYPE_BF16; }

static int64_t tiles_of(const pyml_matrix *m) {
    int64_t panels = (m->n + PANEL - 1) / PANEL;
    return (panels + TILE_PANELS - 1) / TILE_PANELS;
}

/* Of the matrices side by side; of one expert's. */
static int64_t tiles_of_all(const pyml_op *op) {
    int64_t tiles = 0;
    for (int i = 0; i < op->n_matrices; i++) tiles += tiles_of(&op->matrices[i]);
    return tiles;
}

int64_t FN(linear_items)(const pyml_op *op, const pyml_run *run, int stage) {
    int64_t blocks = (rows_of(op->out, run) + TOKEN_BLOCK - 1) / TOKEN_BLOCK;
    return stage ? 0 : (pyml_does_both(op, run) ? op->then->out->blocks : tiles_of_all(op)) * blocks;
}

/* What a thread has for a tile: sums, and unpacked codes behind them. */
enum { SUMS_BYTES = TOKEN_BLOCK * TILE_PANELS * PANEL * 4 };
_Static_assert(SUMS_BYTES + sizeof(unpacked_panels) <= LINEAR_SCRATCH, "a tile fits in its scratch");

/* One or two panels times `count` rows of the input. */
static void linear_panels(const pyml_matrix *m, int64_t panel, int np, const weights_ahead *ahead, int64_t count, const target *to,
                          pyml_thread *thread) {
    float *sums = (float *)thread->scratch;
    uint8_t *scratch = thread->scratch + SUMS_BYTES;
    if (is_plain(m->type)) plain_tile(m, panel, np, to->op->in, count, to, sums);
    else if (count <= FEW_ROWS) streamed_panels(m, panel, np, ahead, to->op->in, count, to, scratch, sums);
    else quantized_tile(m, panel, np, to->op->in, count, to, scratch, sums);
}

/* A tile of the matrices side by side, for `count` rows of the input. The thread goes on with the tiles before `end`. */
static void linear_tile(const pyml_op *op, const pyml_matrix *m, int64_t tile, int64_t end, int64_t row, int64_t count, pyml_thread *thread) {
    const pyml_matrix *last = m + op->n_matrices - 1;
    int64_t column = 0;
    for (; tile >= tiles_of(m); m++) {
        tile -= tiles_of(m), end -= tiles_of(m);
        column += m->n;
    }
    int64_t panel = tile * TILE_PANELS, from = panel * PANEL;
    int np = (int)least(TILE_PANELS, (m->n + PANEL - 1) / PANEL - panel);
    target to = {op, row, column + from, least(np * PANEL, m->n - from), op->out->f + row * op->out->width + column + from, op->out->width};
    weights_ahead ahead = {m->data + least(end, tiles_of(m)) * TILE_PANELS * m->panel_bytes,
                           end <= tiles_of(m) || m == last ? thread->then : m[1].data};
    linear_panels(m, panel, np, &ahead, count, &to, thread);
}

/* A block of 32 columns of the activation that follows, for `count` rows: what it is made of, and that put through it. Matrices
 * are whole blocks (_native.pyx sees to it). */
static void activated_tile(const pyml_op *op, int64_t block, int64_t row, int64_t count, pyml_thread *thread) {
    float *x = (float *)(thread->scratch + LINEAR_SCRATCH);
    const int64_t parts = op->then->kind == OP_GATED ? 2 : 1; /* gate and up are side by side */
    for (int64_t part = 0; part < parts; part++) {
        int64_t column = part * op->then->out->width + block * BLOCK, from = column;
        const pyml_matrix *m = op->matrices;
        for (; from >= m->n; m++) from -= m->n;
        weights_ahead ahead = {m->data, NULL};
        for (int p = 0; p < BLOCK / PANEL; p += TILE_PANELS) {
            target to = {op, row, column + p * PANEL, TILE_PANELS * PANEL, x + part * BLOCK + p * PANEL, parts * BLOCK};
            linear_panels(m, from / PANEL + p, TILE_PANELS, &ahead, count, &to, thread);
        }
    }
    uint64_t time = thread->timed ? pyml_ticks() : 0;
    FN(activate_tile)(op->then, x, block * BLOCK, row, count);
    lap(thread, 0, time);
}

void FN(linear)(const pyml_op *op, const pyml_run *run, pyml_thread *thread, int stage, int64_t begin, int64_t end) {
    (void)stage;
    int64_t both = pyml_does_both(op, run), tiles = both ? op->then->out->blocks : tiles_of_all(op), rows = rows_of(op->out, run);
    for (int64_t item = begin; item < end; item++) {
        int64_t row = item / tiles * TOKEN_BLOCK, count = least(TOKEN_BLOCK, rows - row);
        if (both) activated_tile(op, item % tiles, row, count, thread);
        else linear_tile(op, op->matrices, item % tiles, thread->last, row, count, thread);
    }
}

/* Of a few rows, for which weights are all that takes time. */
int64_t FN(linear_weights)(const pyml_op *op, const pyml_run *run, int64_t item, const uint8_t **from) {
    if (rows_of(op->out, run) > FEW_ROWS) return 0;
    const pyml_matrix *m = op->matrices;
    for (; item >= tiles_of(m); m++) item -= tiles_of(m);
    int64_t panels = (m->n + PANEL - 1) / PANEL;
    *from = m->data + item * TILE_PANELS * m->panel_bytes;
    return (panels - item * TILE_PANELS) * m->panel_bytes;
}

/* The same for the rows of each expert and its own matrices. An expert that nobody chose has no items: its bytes are not read. */

static int64_t blocks_of(const pyml_routes *routes, int64_t expert) {
    return (routes->first[expert + 1] - routes->first[expert] + TOKEN_BLOCK - 1) / TOKEN_BLOCK;
}

int64_t FN(expert_linear_items)(const pyml_op *op, const pyml_run *run, int stage) {
    (void)run;
    const pyml_routes *routes = op->in2->routes;
    int64_t blocks = 0;
    for (int64_t e = 0; e < routes->experts; e++) blocks += blocks_of(routes, e);
    return stage ? 0 : tiles_of_all(op) * blocks;
}

void FN(expert_linear)(const pyml_op *op, const pyml_run *run, pyml_thread *thread, int stage, int64_t begin, int64_t end) {
    (void)run, (void)stage;
    const pyml_routes *routes = op->in2->routes;
    int64_t tiles = tiles_of_all(op);
    for (int64_t item = begin; item < end; item++) {
        int64_t expert = 0, block = item / tiles;
        for (; block >= blocks_of(routes, expert); expert++) block -= blocks_of(routes, expert);
        int64_t row = routes->first[expert] + block * TOKEN_BLOCK;
        int64_t count = least(TOKEN_BLOCK, routes->first[expert + 1] - row);
        linear_tile(op, op->matrices + expert * op->n_matrices, item % tiles, tiles, row, count, thread);
    }
}

/* ---- rows of a packed matrix as float32: embedding look-up, and dequantisation. The order of operations is ggml's. */

static void unpack_row(const pyml_matrix *m, int64_t row, float *out) {
    int64_t lane = row % PANEL;
    const uint8_t *data = m->data + row / PANEL * m->panel_bytes;
    if (is_plain(m->type)) {
        for (int64_t i = 0; i < m->k; i++) {
            _Alignas(64) float lanes[PANEL];
            f_store(lanes, m->type == TYPE_F32   ? f_load((const float *)data + i * PANEL)
                           : m->type == TYPE_F16 ? f_load_f16((const uint16_t *)data + i * PANEL)
                                                 : f_load_bf16((const uint16_t *)data + i * PANEL));
            out[i] = lanes[lane];
        }
        return;
    }
    const quantized_type *q = &quantized_types[m->type];
    unpacked u;
    for (int64_t k0 = 0; k0 < m->k; k0 += CHUNK) {
        int k = (int)least(CHUNK, m->k - k0);
        u.low = low_nibbles(m, row / PANEL, k0);
        const uint8_t *codes = q->unpack(data, k, &u);
        data += pyml_chunk_bytes(m->type, k);
        for (int i = 0; i < k; i++) {
            float x = u.scales[i / q->block][lane] * (float)(codes[i / 4 * 64 + lane * 4 + i % 4] - q->zero);
            out[k0 + i] = q->mins ? x + u.mins[i / q->block][lane] : x;
        }
    }
}

void FN(unpack_rows)(const pyml_matrix *m, const int64_t *rows, int64_t count, float *out) {
    for (int64_t i = 0; i < count; i++) unpack_row(m, rows[i], out + i * m->k);
}
