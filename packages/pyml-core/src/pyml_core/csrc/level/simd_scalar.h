/* simd_scalar.h: the sixteen lanes of simd.h in plain C, for any machine. Compilers may vectorise the loops. */
#define PYML_TILE_TOKENS 2
enum { TILE_TOKENS = PYML_TILE_TOKENS, TILE_PANELS = 1 };
enum { STREAM_ROWS = 2, FEW_ROWS = 2 };
enum { FLOAT_PANELS = 1 };
#define UNROLL /* the lanes are loops already */

#define LANES for (int i = 0; i < 16; i++)

typedef struct {
    float v[16];
} vf;
typedef struct {
    int32_t v[16];
} vi;
typedef struct {
    uint8_t v[64];
} vb;
typedef vi vd;

#if defined(__x86_64__)
#include <xmmintrin.h>
#define ENTER_FLOATING_POINT() _mm_setcsr(0x1f80)
#else
#include <fenv.h>
#define ENTER_FLOATING_POINT() fesetenv(FE_DFL_ENV)
#endif

#define PYML_EACH(expression)    \
    vf r;                        \
    LANES r.v[i] = (expression); \
    return r

INLINE vf f_load(const float *p) {
    vf r;
    memcpy(r.v, p, sizeof r);
    return r;
}
INLINE void f_store(float *p, vf a) { memcpy(p, a.v, sizeof a); }
INLINE vf f_load_n(const float *p, int64_t n) { PYML_EACH(i < n ? p[i] : 0.0f); }
INLINE void f_store_n(float *p, vf a, int64_t n) { memcpy(p, a.v, (size_t)n * 4); }
INLINE vf f_set1(float x) { PYML_EACH(x); }
INLINE vf f_add(vf a, vf b) { PYML_EACH(a.v[i] + b.v[i]); }
INLINE vf f_sub(vf a, vf b) { PYML_EACH(a.v[i] - b.v[i]); }
INLINE vf f_mul(vf a, vf b) { PYML_EACH(a.v[i] * b.v[i]); }
INLINE vf f_div(vf a, vf b) { PYML_EACH(a.v[i] / b.v[i]); }
INLINE vf f_fma(vf a, vf b, vf c) { PYML_EACH(a.v[i] * b.v[i] + c.v[i]); } /* two roundings: fmaf is a slow call here */
INLINE vf f_max(vf a, vf b) { PYML_EACH(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
INLINE vf f_min(vf a, vf b) { PYML_EACH(a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
INLINE vf f_sqrt(vf a) { PYML_EACH(sqrtf(a.v[i])); }
INLINE vf f_abs(vf a) { PYML_EACH(fabsf(a.v[i])); }
INLINE vf f_from_i(vi a) { PYML_EACH((float)a.v[i]); }
INLINE float widen_f16(uint16_t h) { /* move the digits into a float32 and scale it: exact, including subnormals */
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = (uint32_t)(h & 0x7fff) << 13, bits;
    float x;
    if (rest >= 0x7c00u << 13) {
        bits = sign | 0x7f800000u | (rest & 0x7fffff);
        memcpy(&x, &bits, 4);
        return x;
    }
    memcpy(&x, &rest, 4);
    x *= 0x1p112f;
    memcpy(&bits, &x, 4);
    bits |= sign;
    memcpy(&x, &bits, 4);
    return x;
}
INLINE vf f_load_f16(const uint16_t *p) { PYML_EACH(widen_f16(p[i])); }
INLINE vf f_load_bf16(const uint16_t *p) {
    vf r;
    LANES {
        uint32_t bits = (uint32_t)p[i] << 16;
        memcpy(&r.v[i], &bits, 4);
    }
    return r;
}
INLINE uint16_t narrow_f16(float x) { /* round to nearest even, for |x| <= 65504 and NaN */
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return sign | 0x7e00;
    if (bits < 0x38800000) { /* subnormal: let a float32 addition do the rounding */
        float magic = 0.5f, y;
        memcpy(&y, &bits, 4);
        y += magic;
        memcpy(&bits, &y, 4);
        return (uint16_t)(sign | (bits - 0x3f000000));
    }
    bits += 0xfff + (bits >> 13 & 1);
    return (uint16_t)(sign | ((bits - 0x38000000) >> 13));
}
INLINE void f_store_f16(uint16_t *p, vf a) { LANES p[i] = narrow_f16(a.v[i]); }
INLINE vf f_greater(vf a, vf b, vf then, vf otherwise) { PYML_EACH(a.v[i] > b.v[i] ? then.v[i] : otherwise.v[i]); }
INLINE vf f_scale2(vf a, vi n) {
    vf r;
    LANES {
        uint32_t bits;
        memcpy(&bits, &a.v[i], 4);
        bits += (uint32_t)n.v[i] << 23;
        memcpy(&r.v[i], &bits, 4);
    }
    return r;
}
INLINE vf f_swap(int distance, vf a) { PYML_EACH(a.v[i ^ distance]); }
INLINE vf f_quarter(int q, vf a) { PYML_EACH(a.v[4 * q + i % 4]); }
INLINE float f_sum(vf a) {
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) a.v[i] += a.v[i + half];
    return a.v[0];
}
INLINE float f_first(vf a) { return a.v[0]; }
INLINE float f_top(vf a) {
    float top = a.v[0];
    LANES top = a.v[i] > top ? a.v[i] : top;
    return top;
}

INLINE vi i_set1(int32_t x) {
    vi r;
    LANES r.v[i] = x;
    return r;
}
INLINE vi i_load(const int32_t *p) {
    vi r;
    memcpy(r.v, p, sizeof r);
    return r;
}
INLINE void i_store(int32_t *p, vi a) { memcpy(p, a.v, sizeof a); }
/* Integer overflow wraps around, as in vector instructions. */
INLINE vi i_add(vi a, vi b) {
    LANES a.v[i] = (int32_t)((uint32_t)a.v[i] + (uint32_t)b.v[i]);
    return a;
}
INLINE vi i_mul(vi a, vi b) {
    LANES a.v[i] = (int32_t)((uint32_t)a.v[i] * (uint32_t)b.v[i]);
    return a;
}
INLINE vi i_and(vi a, vi b) {
    LANES a.v[i] &= b.v[i];
    return a;
}
INLINE vi i_or(vi a, vi b) {
    LANES a.v[i] |= b.v[i];
    return a;
}
INLINE vi i_shr(vi a, int n) {
    LANES a.v[i] = (int32_t)((uint32_t)a.v[i] >> n);
    return a;
}
INLINE vi i_shl(vi a, int n) {
    LANES a.v[i] = (int32_t)((uint32_t)a.v[i] << n);
    return a;
}
INLINE vi i_load_u8(const uint8_t *p) {
    vi r;
    LANES r.v[i] = p[i];
    return r;
}
INLINE vi i_load_s8(const uint8_t *p) {
    vi r;
    LANES r.v[i] = (int8_t)p[i];
    return r;
}
INLINE vi i_load4(const void *p) {
    int32_t word;
    memcpy(&word, p, 4);
    return i_set1(word);
}
INLINE vi i_round(vf a) { /* to nearest even, by the rounding of a float addition; |a| < 2^22 */
    vi r;
    LANES {
        float shifted = a.v[i] + 12582912.0f;
        int32_t bits;
        memcpy(&bits, &shifted, 4);
        r.v[i] = bits - 0x4b400000;
    }
    return r;
}
INLINE void i_store_s8(int8_t *p, vi a) { LANES p[i] = (int8_t)a.v[i]; }
INLINE vb b_narrow(vi a, vi b, vi c, vi d) {
    vb r;
    LANES r.v[i] = (uint8_t)a.v[i], r.v[16 + i] = (uint8_t)b.v[i], r.v[32 + i] = (uint8_t)c.v[i],
          r.v[48 + i] = (uint8_t)d.v[i];
    return r;
}
INLINE vb b_narrow_unsigned(vi a, vi b, vi c, vi d) { return b_narrow(a, b, c, d); }
INLINE vi i_max(vi a, vi b) {
    LANES a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
    return a;
}
INLINE vi i_abs_bits(vf a) {
    vi r;
    memcpy(r.v, a.v, sizeof r);
    LANES r.v[i] &= 0x7fffffff;
    return r;
}
INLINE vf f_from_bits(vi a) {
    vf r;
    memcpy(r.v, a.v, sizeof r);
    return r;
}
INLINE bool i_any_above(vi a, int32_t n) {
    bool any = false;
    LANES any |= a.v[i] > n;
    return any;
}
INLINE vi i_quarters(int odd, vi a, vi b) {
    vi r;
    LANES r.v[i] = (i < 8 ? a : b).v[i / 4 % 2 * 8 + odd * 4 + i % 4];
    return r;
}
INLINE vi i_swap(int distance, vi a) {
    vi r;
    LANES r.v[i] = a.v[i ^ distance];
    return r;
}
INLINE vi i_from_b(vb v) {
    vi r;
    memcpy(r.v, v.v, sizeof r);
    return r;
}
INLINE int32_t i_sum(vi a) {
    int32_t sum = 0;
    LANES sum += a.v[i];
    return sum;
}

INLINE vb b_load(const uint8_t *p) {
    vb r;
    memcpy(r.v, p, sizeof r);
    return r;
}
INLINE void b_store(uint8_t *p, vb a) { memcpy(p, a.v, sizeof a); }
INLINE vb b_set1(uint8_t x) {
    vb r;
    memset(r.v, x, sizeof r);
    return r;
}
INLINE vb b_and(vb a, vb b) {
    for (int i = 0; i < 64; i++) a.v[i] &= b.v[i];
    return a;
}
INLINE vb b_or(vb a, vb b) {
    for (int i = 0; i < 64; i++) a.v[i] |= b.v[i];
    return a;
}
INLINE vb b_shr(vb a, int n) {
    for (int i = 0; i < 64; i++) a.v[i] = (uint8_t)(a.v[i] >> n);
    return a;
}
INLINE vb b_shl(vb a, int n) {
    for (int i = 0; i < 64; i++) a.v[i] = (uint8_t)(a.v[i] << n);
    return a;
}
INLINE vb b_lookup(const uint8_t table[16], vb index) {
    for (int i = 0; i < 64; i++) index.v[i] = table[index.v[i]];
    return index;
}

/* See simd_avx512.h. */
INLINE void i_stay(vi *v) { (void)v; }
enum { SUMS_PAIRS = 0 };
INLINE vi i_pairs(vb w, vi a) {
    (void)w;
    return a;
}
INLINE vi i_add_pairs(vi a, vi b) {
    (void)b;
    return a;
}
INLINE vi i_sum_pairs(vi a) { return a; }
enum { WIDE_BIAS = 128 };
INLINE vi i_dot(vi acc, vb w, vi a) {
    int8_t bytes[64];
    memcpy(bytes, a.v, 64);
    LANES for (int j = 0; j < 4; j++) acc.v[i] += w.v[4 * i + j] * bytes[4 * i + j];
    return acc;
}
INLINE vi i_dot_wide(vi acc, vb w, vi a) { return i_dot(acc, w, a); }
INLINE vd d_zero(void) { return i_set1(0); }
INLINE vd d_set1(int32_t x) { return i_set1(x); }
INLINE vd d_dot_wide(vd acc, vb w, vi a) { return i_dot(acc, w, a); }
INLINE vf f_from_d(vd a) { return f_from_i(a); }
INLINE vd d_dot_signed(vd acc, vb w, vi a) {
    uint8_t bytes[64];
    memcpy(bytes, a.v, 64);
    LANES for (int j = 0; j < 4; j++) acc.v[i] += (int8_t)w.v[4 * i + j] * bytes[4 * i + j];
    return acc;
}
