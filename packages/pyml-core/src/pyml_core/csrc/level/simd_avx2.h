/* simd_avx2.h: the sixteen lanes of simd.h as two halves on AVX2 + FMA + F16C, with or without AVX-VNNI. */
#include <immintrin.h>

typedef struct {
    __m256 a, b;
} vf;
typedef struct {
    __m256i a, b;
} vi;
typedef struct {
    __m256i a, b;
} vb;
typedef int32_t half_sums __attribute__((vector_size(32)));
typedef struct {
    half_sums a, b;
} vd;

#define ENTER_FLOATING_POINT() _mm_setcsr(0x1f80)

#define PYML_TILE_TOKENS 4
enum { TILE_TOKENS = PYML_TILE_TOKENS, TILE_PANELS = 1 };
enum { STREAM_ROWS = 4, FEW_ROWS = 4 };
enum { FLOAT_PANELS = 1 };
#define PYML_BOTH(type, operation) ((type){operation(x.a, y.a), operation(x.b, y.b)})

INLINE vf f_load(const float *p) { return (vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
INLINE void f_store(float *p, vf v) { _mm256_storeu_ps(p, v.a), _mm256_storeu_ps(p + 8, v.b); }
INLINE vi first_lanes(int64_t n) {
    __m256i count = _mm256_set1_epi32((int)n), lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return (vi){_mm256_cmpgt_epi32(count, lane),
                _mm256_cmpgt_epi32(count, _mm256_add_epi32(lane, _mm256_set1_epi32(8)))};
}
INLINE vf f_load_n(const float *p, int64_t n) {
    vi mask = first_lanes(n);
    return (vf){_mm256_maskload_ps(p, mask.a), _mm256_maskload_ps(p + 8, mask.b)};
}
INLINE void f_store_n(float *p, vf v, int64_t n) {
    vi mask = first_lanes(n);
    _mm256_maskstore_ps(p, mask.a, v.a), _mm256_maskstore_ps(p + 8, mask.b, v.b);
}
INLINE vf f_set1(float x) { return (vf){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
INLINE vf f_add(vf x, vf y) { return PYML_BOTH(vf, _mm256_add_ps); }
INLINE vf f_sub(vf x, vf y) { return PYML_BOTH(vf, _mm256_sub_ps); }
INLINE vf f_mul(vf x, vf y) { return PYML_BOTH(vf, _mm256_mul_ps); }
INLINE vf f_div(vf x, vf y) { return PYML_BOTH(vf, _mm256_div_ps); }
INLINE vf f_max(vf x, vf y) { return PYML_BOTH(vf, _mm256_max_ps); }
INLINE vf f_min(vf x, vf y) { return PYML_BOTH(vf, _mm256_min_ps); }
INLINE vf f_fma(vf x, vf y, vf z) { return (vf){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
INLINE vf f_sqrt(vf v) { return (vf){_mm256_sqrt_ps(v.a), _mm256_sqrt_ps(v.b)}; }
INLINE vf f_abs(vf v) {
    __m256 sign = _mm256_set1_ps(-0.0f);
    return (vf){_mm256_andnot_ps(sign, v.a), _mm256_andnot_ps(sign, v.b)};
}
INLINE vf f_from_i(vi v) { return (vf){_mm256_cvtepi32_ps(v.a), _mm256_cvtepi32_ps(v.b)}; }
INLINE vf f_load_f16(const uint16_t *p) {
    return (vf){_mm256_cvtph_ps(_mm_loadu_si128((const void *)p)),
                _mm256_cvtph_ps(_mm_loadu_si128((const void *)(p + 8)))};
}
INLINE __m256 widen_bf16(const uint16_t *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p)), 16));
}
INLINE vf f_load_bf16(const uint16_t *p) { return (vf){widen_bf16(p), widen_bf16(p + 8)}; }
INLINE void f_store_f16(uint16_t *p, vf v) {
    _mm_storeu_si128((void *)p, _mm256_cvtps_ph(v.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((void *)(p + 8), _mm256_cvtps_ph(v.b, _MM_FROUND_TO_NEAREST_INT));
}
INLINE vf f_greater(vf x, vf y, vf then, vf otherwise) {
    return (vf){_mm256_blendv_ps(otherwise.a, then.a, _mm256_cmp_ps(x.a, y.a, _CMP_GT_OQ)),
                _mm256_blendv_ps(otherwise.b, then.b, _mm256_cmp_ps(x.b, y.b, _CMP_GT_OQ))};
}
INLINE __m256 scale2_half(__m256 x, __m256i n) {
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), _mm256_slli_epi32(n, 23)));
}
INLINE vf f_scale2(vf x, vi n) { return (vf){scale2_half(x.a, n.a), scale2_half(x.b, n.b)}; }
INLINE __m256 swap_half(const int distance, __m256 x) {
    return distance == 4   ? _mm256_permute2f128_ps(x, x, 1)
           : distance == 2 ? _mm256_permute_ps(x, 0x4e)
                           : _mm256_permute_ps(x, 0xb1);
}
INLINE vf f_swap(const int distance, vf v) {
    return distance == 8 ? (vf){v.b, v.a} : (vf){swap_half(distance, v.a), swap_half(distance, v.b)};
}
INLINE vf f_quarter(const int q, vf v) {
    __m256 half = q < 2 ? v.a : v.b;
    __m256 four = q % 2 ? _mm256_permute2f128_ps(half, half, 0x11) : _mm256_permute2f128_ps(half, half, 0x00);
    return (vf){four, four};
}
INLINE float f_sum(vf v) {
    __m256 h = _mm256_add_ps(v.a, v.b);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
INLINE float f_top(vf v) {
    __m256 h = _mm256_max_ps(v.a, v.b);
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
INLINE float f_first(vf v) { return _mm256_cvtss_f32(v.a); }

INLINE vi i_set1(int32_t x) { return (vi){_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
INLINE vi i_load(const int32_t *p) {
    return (vi){_mm256_loadu_si256((const void *)p), _mm256_loadu_si256((const void *)(p + 8))};
}
INLINE void i_store(int32_t *p, vi v) {
    _mm256_storeu_si256((void *)p, v.a), _mm256_storeu_si256((void *)(p + 8), v.b);
}
INLINE vi i_add(vi x, vi y) { return PYML_BOTH(vi, _mm256_add_epi32); }
INLINE vi i_mul(vi x, vi y) { return PYML_BOTH(vi, _mm256_mullo_epi32); }
INLINE vi i_and(vi x, vi y) { return PYML_BOTH(vi, _mm256_and_si256); }
INLINE vi i_or(vi x, vi y) { return PYML_BOTH(vi, _mm256_or_si256); }
#define i_shr(v, n) ((vi){_mm256_srli_epi32((v).a, (n)), _mm256_srli_epi32((v).b, (n))})
#define i_shl(v, n) ((vi){_mm256_slli_epi32((v).a, (n)), _mm256_slli_epi32((v).b, (n))})
INLINE vi i_load_u8(const uint8_t *p) {
    return (vi){_mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p)),
                _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(p + 8)))};
}
INLINE vi i_load_s8(const uint8_t *p) {
    return (vi){_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p)),
                _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)(p + 8)))};
}
INLINE vi i_load4(const void *p) {
    int32_t word;
    memcpy(&word, p, 4);
    return i_set1(word);
}
INLINE vi i_round(vf v) { return (vi){_mm256_cvtps_epi32(v.a), _mm256_cvtps_epi32(v.b)}; }
INLINE void i_store_s8(int8_t *p, vi v) {
    __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(v.a, v.b), 0xd8);
    _mm_storeu_si128((void *)p, _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
INLINE __m256i narrow_half(const bool is_signed, __m256i a, __m256i b, __m256i c, __m256i d) {
    __m256i ab = _mm256_packs_epi32(a, b), cd = _mm256_packs_epi32(c, d);
    __m256i quarters = is_signed ? _mm256_packs_epi16(ab, cd) : _mm256_packus_epi16(ab, cd);
    return _mm256_permutevar8x32_epi32(quarters, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}
INLINE vb b_narrow(vi a, vi b, vi c, vi d) {
    return (vb){narrow_half(true, a.a, a.b, b.a, b.b), narrow_half(true, c.a, c.b, d.a, d.b)};
}
INLINE vb b_narrow_unsigned(vi a, vi b, vi c, vi d) {
    return (vb){narrow_half(false, a.a, a.b, b.a, b.b), narrow_half(false, c.a, c.b, d.a, d.b)};
}
INLINE vi i_max(vi x, vi y) { return PYML_BOTH(vi, _mm256_max_epi32); }
INLINE vi i_abs_bits(vf v) {
    __m256i rest = _mm256_set1_epi32(0x7fffffff);
    return (vi){_mm256_and_si256(_mm256_castps_si256(v.a), rest), _mm256_and_si256(_mm256_castps_si256(v.b), rest)};
}
INLINE vf f_from_bits(vi v) { return (vf){_mm256_castsi256_ps(v.a), _mm256_castsi256_ps(v.b)}; }
INLINE bool i_any_above(vi v, int32_t n) {
    __m256i limit = _mm256_set1_epi32(n),
            above = _mm256_or_si256(_mm256_cmpgt_epi32(v.a, limit), _mm256_cmpgt_epi32(v.b, limit));
    return !_mm256_testz_si256(above, above);
}
INLINE __m256i quarters_half(const int odd, vi v) {
    return odd ? _mm256_permute2x128_si256(v.a, v.b, 0x31) : _mm256_permute2x128_si256(v.a, v.b, 0x20);
}
INLINE vi i_quarters(const int odd, vi x, vi y) { return (vi){quarters_half(odd, x), quarters_half(odd, y)}; }
INLINE __m256i swap_ints(const int distance, __m256i x) {
    return distance == 2 ? _mm256_shuffle_epi32(x, 0x4e) : _mm256_shuffle_epi32(x, 0xb1);
}
INLINE vi i_swap(const int distance, vi v) { return (vi){swap_ints(distance, v.a), swap_ints(distance, v.b)}; }
INLINE vi i_from_b(vb v) { return (vi){v.a, v.b}; }
INLINE int32_t i_sum(vi v) {
    __m256i h = _mm256_add_epi32(v.a, v.b);
    __m128i q = _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
    q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(q, _mm_shuffle_epi32(q, 0xb1)));
}

INLINE vb b_load(const uint8_t *p) {
    return (vb){_mm256_loadu_si256((const void *)p), _mm256_loadu_si256((const void *)(p + 32))};
}
INLINE void b_store(uint8_t *p, vb v) {
    _mm256_storeu_si256((void *)p, v.a), _mm256_storeu_si256((void *)(p + 32), v.b);
}
INLINE vb b_set1(uint8_t x) { return (vb){_mm256_set1_epi8((char)x), _mm256_set1_epi8((char)x)}; }
INLINE vb b_and(vb x, vb y) { return PYML_BOTH(vb, _mm256_and_si256); }
INLINE vb b_or(vb x, vb y) { return PYML_BOTH(vb, _mm256_or_si256); }
#define b_shr(v, n) ((vb){_mm256_srli_epi16((v).a, (n)), _mm256_srli_epi16((v).b, (n))})
#define b_shl(v, n) ((vb){_mm256_slli_epi16((v).a, (n)), _mm256_slli_epi16((v).b, (n))})
INLINE vb b_lookup(const uint8_t table[16], vb index) {
    __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)table));
    return (vb){_mm256_shuffle_epi8(t, index.a), _mm256_shuffle_epi8(t, index.b)};
}

INLINE void i_stay(vi *v) { __asm__("" : "+x"(v->a), "+x"(v->b)); } /* see simd_avx512.h */
INLINE vi i_pairs(vb w, vi x) { return (vi){_mm256_maddubs_epi16(w.a, x.a), _mm256_maddubs_epi16(w.b, x.b)}; }
INLINE vi i_add_pairs(vi x, vi y) { return PYML_BOTH(vi, _mm256_add_epi16); }
INLINE vi i_sum_pairs(vi x) {
    __m256i one = _mm256_set1_epi16(1);
    return (vi){_mm256_madd_epi16(x.a, one), _mm256_madd_epi16(x.b, one)};
}

/* See simd_avx512.h. */
#if defined(__AVXVNNI__)
enum { SUMS_PAIRS = 0 };
enum { WIDE_BIAS = 128 };
INLINE vi i_dot(vi acc, vb w, vi x) {
    return (vi){_mm256_dpbusd_avx_epi32(acc.a, w.a, x.a), _mm256_dpbusd_avx_epi32(acc.b, w.b, x.b)};
}
INLINE vi i_dot_wide(vi acc, vb w, vi x) { return i_dot(acc, w, x); }
INLINE half_sums dot_signed_half(half_sums acc, __m256i w, __m256i x) {
    return (half_sums)_mm256_dpbusd_avx_epi32((__m256i)acc, x, w);
}
#else
enum { SUMS_PAIRS = 1 };
enum { WIDE_BIAS = 0 };
INLINE __m256i dot_half(__m256i acc, __m256i w, __m256i x) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1)));
}
INLINE __m256i dot_wide_half(__m256i acc, __m256i w, __m256i x) {
    __m256i code = _mm256_xor_si256(w, _mm256_set1_epi8((char)0x80));
    return dot_half(acc, _mm256_abs_epi8(code), _mm256_sign_epi8(x, code));
}
INLINE vi i_dot(vi acc, vb w, vi x) { return (vi){dot_half(acc.a, w.a, x.a), dot_half(acc.b, w.b, x.b)}; }
INLINE vi i_dot_wide(vi acc, vb w, vi x) {
    return (vi){dot_wide_half(acc.a, w.a, x.a), dot_wide_half(acc.b, w.b, x.b)};
}
INLINE half_sums dot_signed_half(half_sums acc, __m256i w, __m256i x) {
    __m256i even =
        _mm256_madd_epi16(_mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8), _mm256_and_si256(x, _mm256_set1_epi16(255)));
    __m256i odd = _mm256_madd_epi16(_mm256_srai_epi16(w, 8), _mm256_srli_epi16(x, 8));
    return acc + (half_sums)_mm256_add_epi32(even, odd);
}
#endif
INLINE vd d_zero(void) { return (vd){{0}, {0}}; }
INLINE vd d_set1(int32_t x) { return (vd){(half_sums)_mm256_set1_epi32(x), (half_sums)_mm256_set1_epi32(x)}; }
INLINE vd d_dot_wide(vd acc, vb w, vi x) {
    vi sums = i_dot_wide((vi){(__m256i)acc.a, (__m256i)acc.b}, w, x);
    return (vd){(half_sums)sums.a, (half_sums)sums.b};
}
INLINE vf f_from_d(vd v) { return (vf){_mm256_cvtepi32_ps((__m256i)v.a), _mm256_cvtepi32_ps((__m256i)v.b)}; }
INLINE vd d_dot_signed(vd acc, vb w, vi x) {
    return (vd){dot_signed_half(acc.a, w.a, x.a), dot_signed_half(acc.b, w.b, x.b)};
}
