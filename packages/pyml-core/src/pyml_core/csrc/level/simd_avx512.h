/* simd_avx512.h: the sixteen lanes of simd.h on AVX-512 F/BW/VL/DQ, with or without VNNI. */
#include <immintrin.h>

typedef __m512 vf;
typedef __m512i vi;
typedef __m512i vb;
typedef int32_t vd __attribute__((vector_size(64)));

#define ENTER_FLOATING_POINT() _mm_setcsr(0x1f80)

#define PYML_TILE_TOKENS 6
enum { TILE_TOKENS = PYML_TILE_TOKENS, TILE_PANELS = 2 }; /* 12 int32 and 12 float32 sums in the 32 registers */
enum { STREAM_ROWS = 8, FEW_ROWS = 16 }; /* rows that weights are streamed for at a time, and in total */
enum { FLOAT_PANELS = 4 };               /* panels of a tile of plain floats: 24 accumulators */

INLINE __mmask16 first_lanes(int64_t n) { return (__mmask16)((1u << n) - 1); }

INLINE vf f_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void f_store(float *p, vf v) { _mm512_storeu_ps(p, v); }
INLINE vf f_load_n(const float *p, int64_t n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
INLINE void f_store_n(float *p, vf v, int64_t n) { /* masked stores are slow on some CPUs */
    if (n == 16) f_store(p, v);
    else _mm512_mask_storeu_ps(p, first_lanes(n), v);
}
INLINE vf f_set1(float x) { return _mm512_set1_ps(x); }
INLINE vf f_add(vf a, vf b) { return _mm512_add_ps(a, b); }
INLINE vf f_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
INLINE vf f_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
INLINE vf f_div(vf a, vf b) { return _mm512_div_ps(a, b); }
INLINE vf f_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vf f_max(vf a, vf b) { return _mm512_max_ps(a, b); }
INLINE vf f_min(vf a, vf b) { return _mm512_min_ps(a, b); }
INLINE vf f_sqrt(vf a) { return _mm512_sqrt_ps(a); }
INLINE vf f_abs(vf a) { return _mm512_abs_ps(a); }
INLINE vf f_from_i(vi a) { return _mm512_cvtepi32_ps(a); }
INLINE vf f_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p)); }
INLINE vf f_load_bf16(const uint16_t *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p)), 16));
}
INLINE void f_store_f16(uint16_t *p, vf v) {
    _mm256_storeu_si256((void *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
INLINE vf f_greater(vf a, vf b, vf then, vf otherwise) { /* a > b ? then : otherwise */
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), otherwise, then);
}
INLINE vf f_scale2(vf a, vi n) { /* a * 2^n by adding to the exponent */
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), _mm512_slli_epi32(n, 23)));
}
INLINE vf f_swap(const int distance, vf v) { /* lanes i and i xor distance (8, 4, 2, 1) */
    return distance == 8   ? _mm512_shuffle_f32x4(v, v, 0x4e)
           : distance == 4 ? _mm512_shuffle_f32x4(v, v, 0xb1)
           : distance == 2 ? _mm512_permute_ps(v, 0x4e)
                           : _mm512_permute_ps(v, 0xb1);
}
INLINE vf f_quarter(const int q, vf v) { /* lanes 4q..4q+3, four times */
    return q == 0   ? _mm512_shuffle_f32x4(v, v, 0x00)
           : q == 1 ? _mm512_shuffle_f32x4(v, v, 0x55)
           : q == 2 ? _mm512_shuffle_f32x4(v, v, 0xaa)
                    : _mm512_shuffle_f32x4(v, v, 0xff);
}
INLINE float f_sum(vf v) { /* lanes 0+8, then +4, +2, +1: one fixed tree */
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
INLINE float f_top(vf v) { return _mm512_reduce_max_ps(v); }
INLINE float f_first(vf v) { return _mm512_cvtss_f32(v); }

INLINE vi i_set1(int32_t x) { return _mm512_set1_epi32(x); }
INLINE vi i_load(const int32_t *p) { return _mm512_loadu_si512((const void *)p); }
INLINE void i_store(int32_t *p, vi v) { _mm512_storeu_si512((void *)p, v); }
INLINE vi i_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
INLINE vi i_mul(vi a, vi b) { return _mm512_mullo_epi32(a, b); }
INLINE vi i_and(vi a, vi b) { return _mm512_and_si512(a, b); }
INLINE vi i_or(vi a, vi b) { return _mm512_or_si512(a, b); }
#define i_shr(v, n) _mm512_srli_epi32((v), (n))
#define i_shl(v, n) _mm512_slli_epi32((v), (n))
INLINE vi i_load_u8(const uint8_t *p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p)); }
INLINE vi i_load_s8(const uint8_t *p) { return _mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p)); }
INLINE vi i_load4(const void *p) { /* broadcast four bytes to every lane */
    int32_t word;
    memcpy(&word, p, 4);
    return _mm512_set1_epi32(word);
}
INLINE vi i_round(vf a) { return _mm512_cvtps_epi32(a); }
INLINE void i_store_s8(int8_t *p, vi v) { _mm_storeu_si128((void *)p, _mm512_cvtepi32_epi8(v)); }
INLINE vi four_by_four(vi words) { /* transpose: each quarter has words of a, b, c, d; group them by a, b, c, d */
    return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), words);
}
INLINE vb b_narrow(vi a, vi b, vi c, vi d) { /* 64 numbers of -128..127 as bytes */
    return four_by_four(_mm512_packs_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d)));
}
INLINE vb b_narrow_unsigned(vi a, vi b, vi c, vi d) { /* 64 numbers of 0..255; rounded NaN is 0 */
    return four_by_four(_mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d)));
}
INLINE vi i_from_b(vb v) { return v; } /* reinterpret the bytes */
INLINE vi i_max(vi a, vi b) { return _mm512_max_epi32(a, b); }
/* The bits of |v|, which as integers are ordered like |v|. */
INLINE vi i_abs_bits(vf v) { return _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fffffff)); }
INLINE vf f_from_bits(vi a) { return _mm512_castsi512_ps(a); }
INLINE bool i_any_above(vi a, int32_t n) { return _mm512_cmpgt_epi32_mask(a, _mm512_set1_epi32(n)) != 0; }
INLINE vi i_quarters(const int odd, vi a, vi b) { /* the even or odd quarters of a, then those of b */
    return odd ? _mm512_shuffle_i32x4(a, b, 0xdd) : _mm512_shuffle_i32x4(a, b, 0x88);
}
INLINE vi i_swap(const int distance, vi v) {
    return distance == 2 ? _mm512_shuffle_epi32(v, 0x4e) : _mm512_shuffle_epi32(v, 0xb1);
}
INLINE int32_t i_sum(vi v) { return _mm512_reduce_add_epi32(v); }

INLINE vb b_load(const uint8_t *p) { return _mm512_loadu_si512((const void *)p); }
INLINE void b_store(uint8_t *p, vb v) { _mm512_storeu_si512((void *)p, v); }
INLINE vb b_set1(uint8_t x) { return _mm512_set1_epi8((char)x); }
INLINE vb b_and(vb a, vb b) { return _mm512_and_si512(a, b); }
INLINE vb b_or(vb a, vb b) { return _mm512_or_si512(a, b); }
#define b_shr(v, n) _mm512_srli_epi16((v), (n)) /* bits move across bytes: mask afterwards */
#define b_shl(v, n) _mm512_slli_epi16((v), (n))
INLINE vb b_lookup(const uint8_t table[16], vb index) {
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const void *)table)), index);
}

/* 16-bit sums of two products each, for levels without an instruction for four (SUMS_PAIRS). `i_stay` forces a sum into
 * a register: compilers would otherwise compute all products of a block first and run out of registers. */
INLINE void i_stay(vi *v) { __asm__("" : "+v"(*v)); }
INLINE vi i_pairs(vb w, vi a) { return _mm512_maddubs_epi16(w, a); }
INLINE vi i_add_pairs(vi a, vi b) { return _mm512_add_epi16(a, b); }
INLINE vi i_sum_pairs(vi a) { return _mm512_madd_epi16(a, _mm512_set1_epi16(1)); }

/* In every lane: acc + the sum over 4 bytes of unsigned w times signed a. `i_dot` is for w < 64, `i_dot_wide` and
 * `d_dot_wide` for all w. `d_dot_signed`: signed w times unsigned a. */
INLINE vd d_zero(void) { return (vd){0}; }
INLINE vd d_set1(int32_t x) { return (vd)_mm512_set1_epi32(x); }
INLINE vf f_from_d(vd a) { return _mm512_cvtepi32_ps((__m512i)a); }
#if defined(__AVX512VNNI__)
enum { SUMS_PAIRS = 0 };
enum { WIDE_BIAS = 128 }; /* i_dot_wide does not remove the bias of code + 128: the caller subtracts 128 * sum(a) */
INLINE vi i_dot(vi acc, vb w, vi a) { return _mm512_dpbusd_epi32(acc, w, a); }
INLINE vi i_dot_wide(vi acc, vb w, vi a) { return _mm512_dpbusd_epi32(acc, w, a); }
INLINE vd d_dot_signed(vd acc, vb w, vi a) { return (vd)_mm512_dpbusd_epi32((__m512i)acc, a, w); }
#else
enum { SUMS_PAIRS = 1 };
enum {
    WIDE_BIAS = 0
}; /* i_dot_wide removes the bias itself: 255 * 127 * 2 would saturate 16 bits, 128 * 127 * 2 does not */
INLINE vi i_dot(vi acc, vb w, vi a) {
    return _mm512_add_epi32(acc, _mm512_madd_epi16(_mm512_maddubs_epi16(w, a), _mm512_set1_epi16(1)));
}
INLINE vi i_dot_wide(vi acc, vb w, vi a) {
    __m512i code = _mm512_xor_si512(w, _mm512_set1_epi8((char)0x80));
    __m512i signed_a = _mm512_mask_sub_epi8(a, _mm512_movepi8_mask(code), _mm512_setzero_si512(), a);
    return i_dot(acc, _mm512_abs_epi8(code), signed_a);
}
INLINE vd d_dot_signed(vd acc, vb w, vi a) { /* on 16-bit elements: 127 * 255 * 2 would saturate sums of bytes */
    __m512i even =
        _mm512_madd_epi16(_mm512_srai_epi16(_mm512_slli_epi16(w, 8), 8), _mm512_and_si512(a, _mm512_set1_epi16(255)));
    __m512i odd = _mm512_madd_epi16(_mm512_srai_epi16(w, 8), _mm512_srli_epi16(a, 8));
    return acc + (vd)_mm512_add_epi32(even, odd);
}
#endif
INLINE vd d_dot_wide(vd acc, vb w, vi a) { return (vd)i_dot_wide((vi)acc, w, a); }
