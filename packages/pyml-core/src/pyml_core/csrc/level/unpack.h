/* unpack.h: unpacks chunks of packed weights of every block type: planes become bytes in column order, and a scale (and
 * a minimum) for each block. pack.c describes the layout.
 */
#ifndef PYML_LEVEL_UNPACK_H
#define PYML_LEVEL_UNPACK_H

#include "kernels.h"

enum { WORDS = BLOCK / 4 }; /* vectors of 4 elements x 16 rows in 32 elements */

typedef struct {
    _Alignas(64) uint8_t codes[CHUNK / 4 * 64];
    _Alignas(64) float scales[CHUNK / 16][PANEL];
    _Alignas(64) float mins[CHUNK / 16][PANEL];
    const uint8_t *low; /* split q8_0: the low nibbles of the chunk, set before unpacking */
} unpacked;

static const uint8_t iq4_nl_codes[16] = {1,   24,  45,  63,  79,  93,  106, 118, /* ggml's kvalues_iq4nl + 128 */
                                         129, 141, 153, 166, 181, 197, 217, 241};

static const uint8_t mxfp4_codes[16] = {16, 17, 18, 19, 20, 22, 24, 28, /* twice the numbers of e2m1, + 16 */
                                        16, 15, 14, 13, 12, 10, 8,  4};

INLINE int64_t padded(int64_t bytes) { return (bytes + 63) / 64 * 64; }
INLINE vf scaled(vf d, vi n) { return f_mul(d, f_from_i(n)); }
INLINE vf negated(vf x) { return f_mul(x, f_set1(-1.0f)); } /* also negates zero */

INLINE const uint8_t *halves_to_floats(const uint8_t *plane, int blocks, float (*out)[PANEL]) {
    for (int b = 0; b < blocks; b++) f_store(out[b], f_load_f16((const uint16_t *)plane + b * PANEL));
    return plane + padded(blocks * PANEL * 2);
}

/* The numbers of blocks of 32 * repeat, once for each block of 32. */
INLINE const uint8_t *repeat_floats(const uint8_t *plane, int blocks, int repeat, float (*out)[PANEL]) {
    for (int b = 0; b < blocks; b++) f_store(out[b], f_load((const float *)plane + b / repeat * PANEL));
    return plane + blocks / repeat * PANEL * 4;
}

/* 2^(n - 128) for n of 0..255; the first two are subnormal. */
INLINE vf power_of_two(vi n) {
    vf small = f_from_bits(i_shl(i_add(n, i_set1(1)), 21)), normal = f_from_bits(i_shl(i_add(n, i_set1(-1)), 23));
    return f_greater(f_set1(2.0f), f_from_i(n), small, normal);
}

/* The parameters of a block type, from block_types.def; constants if the type is one. */
typedef struct {
    int block, bytes, share, bits, zero;
    bool minimum;
} type_params;

INLINE type_params params_of(const int type) {
    switch (type) {
#define BLOCK_TYPE(NAME, name, number, block, bytes, share, bits, zero, minimum, ...) \
    case TYPE_##NAME: return (type_params){block, bytes, share, bits, zero, minimum};
#include "../block_types.def"
    default: return (type_params){0};
    }
}

/* Whether blocks have 256 weights, with scales for sub-blocks (K-quants). */
INLINE bool is_super(const int type) { return params_of(type).block == CHUNK; }

/* Whether blocks have a scale and a minimum in float32. */
INLINE bool is_affine(const int type) { return type >= TYPE_Q4_A32 && type <= TYPE_Q8_A64; }

/* Unpack scales and minima of a chunk. Returns the start of its planes of codes. */
INLINE const uint8_t *unpack_scales(const int type, const uint8_t *chunk, int k, unpacked *u) {
    if (type == TYPE_MXFP4) {
        for (int b = 0; b < k / 32; b++) f_store(u->scales[b], power_of_two(i_load_u8(chunk + b * PANEL)));
        return chunk + padded(k / 32 * PANEL);
    }
    if (is_affine(type)) {
        const int repeat = params_of(type).block / BLOCK;
        return repeat_floats(repeat_floats(chunk, k / BLOCK, repeat, u->scales), k / BLOCK, repeat, u->mins);
    }
    if (!is_super(type)) {
        const uint8_t *plane = halves_to_floats(chunk, k / 32, u->scales);
        return params_of(type).minimum ? halves_to_floats(plane, k / 32, u->mins) : plane;
    }
    const uint8_t *s = chunk + 64;
    vf d = f_load_f16((const uint16_t *)chunk);
    vi four = i_set1(15);
    if (type == TYPE_Q6_K) {
        for (int j = 0; j < 16; j++) f_store(u->scales[j], scaled(d, i_load_s8(s + j * PANEL)));
        return s + 16 * PANEL;
    }
    if (type == TYPE_IQ4_XS) {
        UNROLL for (int j = 0; j < 8; j++) { /* two bits from bytes 0..1, four from 2..5, minus 32 */
            vi low = i_load_u8(s + (2 + j / 2) * PANEL), high = i_load_u8(s + j / 4 * PANEL);
            low = j % 2 ? i_shr(low, 4) : i_and(low, four);
            high = i_and(i_shr(high, 2 * (j % 4)), i_set1(3));
            f_store(u->scales[j], scaled(d, i_add(i_or(low, i_shl(high, 4)), i_set1(-32))));
        }
        return s + padded(6 * PANEL);
    }
    if (type == TYPE_Q3_K) {
        UNROLL for (int j = 0; j < 16; j++) { /* four bits from bytes 0..7, two from 8..11, minus 32 */
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
    vi six = i_set1(63); /* q4_K and q5_K: 6-bit scales and minima, 12 bytes for eight blocks of 32 */
    for (int j = 0; j < 4; j++) {
        vi a = i_load_u8(s + j * PANEL), b = i_load_u8(s + (j + 4) * PANEL), c = i_load_u8(s + (j + 8) * PANEL);
        f_store(u->scales[j], scaled(d, i_and(a, six)));
        f_store(u->mins[j], negated(scaled(d_min, i_and(b, six))));
        f_store(u->scales[j + 4], scaled(d, i_or(i_and(c, four), i_shl(i_shr(a, 6), 4))));
        f_store(u->mins[j + 4], negated(scaled(d_min, i_or(i_shr(c, 4), i_shl(i_shr(b, 6), 4)))));
    }
    return s + 12 * PANEL;
}

/* Shift v so that bit `from` becomes bit `to`; bits move across bytes. */
#define MOVE_BITS(v, from, to) \
    ((from) > (to) ? b_shr((v), (from) - (to)) : (to) > (from) ? b_shl((v), (to) - (from)) : (v))

/* Whether packed codes are the unpacked ones. */
INLINE bool has_bytes(const int type) { return type == TYPE_Q8_0 || type == TYPE_Q8_A32 || type == TYPE_Q8_A64; }

/* Word j (elements 4j..4j+3) of block b of a chunk, as bytes; the chunk has `blocks` blocks of 32. */
INLINE vb load_codes(const int type, const uint8_t *planes, const uint8_t *low_plane, int blocks, const int b,
                     const int j) {
    const vb nibble = b_set1(15);
    if (has_bytes(type)) return b_load(planes + (b * WORDS + j) * 64);
    if (type == TYPE_Q8_0_SPLIT) {
        vb high = b_load(planes + (b * 4 + j % 4) * 64), low = b_load(low_plane + (b * 4 + j % 4) * 64);
        return j < 4 ? b_or(b_and(b_shl(high, 4), b_set1(0xf0)), b_and(low, nibble))
                     : b_or(b_and(high, b_set1(0xf0)), b_and(b_shr(low, 4), nibble));
    }
    if (type == TYPE_Q4_K || type == TYPE_Q5_K) { /* words 8c..: blocks 2c (low nibbles) and 2c + 1 (high) */
        const uint8_t *low = planes + (type == TYPE_Q5_K ? WORDS * 64 : 0);
        vb v = b_load(low + (b / 2 * WORDS + j) * 64);
        v = b_and(b % 2 ? b_shr(v, 4) : v, nibble);
        if (type == TYPE_Q4_K) return v;
        vb h = b_load(planes + j * 64); /* one bit for each block */
        return b_or(v, b_and(MOVE_BITS(h, b, 4), b_set1(16)));
    }
    if (type == TYPE_Q6_K) { /* 128 elements: two words of low nibbles for four, one of high pairs */
        const int n = b / 4, q = b % 4;
        vb v = b_load(planes + (16 + 16 * n + 8 * (q % 2) + j) * 64), h = b_load(planes + (8 * n + j) * 64);
        v = b_and(q / 2 ? b_shr(v, 4) : v, nibble);
        return b_or(v, b_and(MOVE_BITS(h, 2 * q, 4), b_set1(0x30)));
    }
    if (type == TYPE_Q2_K || type == TYPE_Q3_K) { /* word 8n + j: elements 128n + 32q + 4j.. at bits 2q */
        const int n = b / 4, q = b % 4;
        const uint8_t *low = planes + (type == TYPE_Q3_K ? WORDS * 64 : 0);
        vb v = b_load(low + (8 * n + j) * 64);
        v = b_and(q ? b_shr(v, 2 * q) : v, b_set1(3));
        if (type == TYPE_Q2_K) return v;
        vb h = b_load(planes + j * 64);
        return b_or(v, b_and(MOVE_BITS(h, b, 2), b_set1(4)));
    }
    /* Other types of 4 and 5 bits: nibbles of words 0..3 are elements 0..15 (low) and 16..31 (high). */
    const bool fifth = type == TYPE_Q5_0 || type == TYPE_Q5_1;
    const uint8_t *low = planes + (fifth ? blocks * 64 : 0);
    vb v = b_load(low + (b * 4 + j % 4) * 64);
    v = b_and(j < 4 ? v : b_shr(v, 4), nibble);
    if (fifth) v = b_or(v, b_and(MOVE_BITS(b_load(planes + b * 64), j, 4), b_set1(16)));
    if (type == TYPE_MXFP4) return b_lookup(mxfp4_codes, v);
    return type == TYPE_IQ4_NL || type == TYPE_IQ4_XS ? b_lookup(iq4_nl_codes, v) : v;
}

typedef const uint8_t *(*unpack_fn)(const uint8_t *chunk, int k, unpacked *u); /* returns the unpacked bytes */

INLINE const uint8_t *unpack_chunk(const int type, const uint8_t *chunk, int k, unpacked *u) {
    const uint8_t *planes = unpack_scales(type, chunk, k, u);
    if (has_bytes(type)) return planes;
    const int blocks = k / BLOCK;
#define UNPACK_BLOCK(b)                    \
    UNROLL for (int j = 0; j < WORDS; j++) \
        b_store(u->codes + ((b) * WORDS + j) * 64, load_codes(type, planes, u->low, blocks, (b), j))
    if (is_super(type)) {
        UNROLL for (int b = 0; b < CHUNK / BLOCK; b++) UNPACK_BLOCK(b);
    } else {
        for (int b = 0; b < blocks; b++) UNPACK_BLOCK(b);
    }
#undef UNPACK_BLOCK
    return u->codes;
}

#define BLOCK_TYPE(NAME, ...)                                                   \
    static const uint8_t *unpack_##NAME(const uint8_t *c, int k, unpacked *u) { \
        return unpack_chunk(TYPE_##NAME, c, k, u);                              \
    }
#include "../block_types.def"

/* The dot product minus this bias times the sum of the activations' codes is that of the centred codes. */
#define BIAS_OF(bits, zero) ((bits) == 8 ? WIDE_BIAS : (zero))

#endif
