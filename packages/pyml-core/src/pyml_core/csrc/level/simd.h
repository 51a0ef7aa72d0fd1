/* simd.h: vectors of sixteen lanes for every CPU level.
 *
 * Kernels are written once, for vectors of 16 float32 (vf), 16 int32 (vi) and 64 bytes (vb), which each CPU level
 * defines. Functions have the same results at every level, except that f_fma rounds twice at the scalar level.
 *
 *   vf  f_load f_store f_load_n f_store_n f_set1 f_add f_sub f_mul f_div f_fma f_max f_min f_sqrt f_abs f_from_i
 *       f_load_f16 f_load_bf16 f_store_f16 f_greater f_scale2 f_swap f_quarter f_sum f_top f_from_bits f_first
 *   vi  i_set1 i_load i_store i_load4 i_load_u8 i_load_s8 i_round i_store_s8 i_sum i_add i_mul i_and i_or i_shr i_shl
 *       i_dot i_dot_wide i_from_b i_pairs i_add_pairs i_sum_pairs i_stay i_max i_abs_bits i_any_above i_quarters i_swap
 *   vd  d_zero d_set1 d_dot_signed d_dot_wide f_from_d: accumulators of byte products in loops (gcc does not keep
 *       arrays of vi in registers there)
 *   vb  b_load b_store b_and b_or b_set1 b_shr b_shl b_lookup b_narrow b_narrow_unsigned
 */
#ifndef PYML_SIMD_H
#define PYML_SIMD_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define PYML_JOIN_(a, b) a##_##b
#define PYML_JOIN(a, b) PYML_JOIN_(a, b)
#define FN(name) PYML_JOIN(name, PYML_LEVEL) /* name_<level> */
#define PYML_STRING_(a) #a
#define PYML_STRING(a) PYML_STRING_(a)
#define LEVEL_NAME PYML_STRING(PYML_LEVEL)

#if defined(__AVX2__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline /* sixteen lanes of plain C are a lot of code: let the compiler decide */
#endif
#define PREFETCH(address) __builtin_prefetch((address), 0, 2)
#define PREFETCH_NEAR(address) __builtin_prefetch((address), 0, 3) /* into the L1 cache */
#define PREFETCH_WRITE(address) __builtin_prefetch((address), 1, 3)

#if defined(__AVX512F__)
#include "simd_avx512.h"
#elif defined(__AVX2__)
#include "simd_avx2.h"
#else
#include "simd_scalar.h"
#endif

#if defined(UNROLL)
#elif defined(__clang__)
#define UNROLL \
    _Pragma("clang loop unroll(full)") /* with "unroll" alone, some nested loops remain, and their arrays in memory */
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* f_scale2 (a * 2^n) is exact for |n| <= 126 and a near 1. The callers below clamp their arguments. */

/* e^x. Cody-Waite reduction and a polynomial of degree 6 (coefficients of Cephes' expf): about 1 ulp from -87 to 88, 0
 * below, e^88 above. */
INLINE vf f_exp(vf x) {
    vf low = f_set1(-87.0f);
    vf clamped = f_min(f_set1(88.0f), f_max(low, x)); /* this order preserves NaN */
    vi n = i_round(f_mul(clamped, f_set1(1.44269504f)));
    vf whole = f_from_i(n);
    vf r = f_fma(whole, f_set1(-0.693359375f), clamped);
    r = f_fma(whole, f_set1(2.12194440e-4f), r);
    vf p = f_set1(1.9875691500e-4f);
    p = f_fma(p, r, f_set1(1.3981999507e-3f));
    p = f_fma(p, r, f_set1(8.3334519073e-3f));
    p = f_fma(p, r, f_set1(4.1665795894e-2f));
    p = f_fma(p, r, f_set1(1.6666665459e-1f));
    p = f_fma(p, r, f_set1(5.0000001201e-1f));
    vf result = f_add(f_fma(f_mul(r, r), p, r), f_set1(1.0f));
    return f_greater(low, x, f_set1(0.0f), f_scale2(result, n));
}

/* The largest lane, in every lane. */
INLINE vf f_top_everywhere(vf v) {
    v = f_max(v, f_swap(8, v)), v = f_max(v, f_swap(4, v)), v = f_max(v, f_swap(2, v));
    return f_max(v, f_swap(1, v));
}

/* 2^x (coefficients of Cephes' exp2f): about 1 ulp from -126 to 126, not negative below, exactly 0 from -127 on. */
INLINE vf f_exp2(vf x) {
    x = f_min(f_set1(126.0f), f_max(f_set1(-127.0f), x)); /* this order preserves NaN */
    vi n = i_round(x);
    vf r = f_sub(x, f_from_i(n));
    vf p = f_set1(1.535336188319500e-4f);
    p = f_fma(p, r, f_set1(1.339887440266574e-3f));
    p = f_fma(p, r, f_set1(9.618437357674640e-3f));
    p = f_fma(p, r, f_set1(5.550332471162809e-2f));
    p = f_fma(p, r, f_set1(2.402264791363012e-1f));
    p = f_fma(p, r, f_set1(6.931472028550421e-1f));
    p = f_fma(p, r, f_set1(1.0f));
    return f_scale2(p, n);
}

/* 2^x of n vectors, precise enough for rounding to 8 bits: error up to 3e-6 from -126 to 127, exactly 1 at 0; below and
 * for NaN like f_exp2. Each step is done for all vectors, to hide its latency. */
INLINE void f_exp2_short(const int n, vf *x) {
    vi whole[4];
    vf r[4];
    UNROLL for (int i = 0; i < n; i++) x[i] = f_max(f_set1(-127.0f), x[i]);
    UNROLL for (int i = 0; i < n; i++) whole[i] = i_round(x[i]);
    UNROLL for (int i = 0; i < n; i++) r[i] = f_sub(x[i], f_from_i(whole[i]));
    UNROLL for (int i = 0; i < n; i++) x[i] = f_fma(f_set1(9.582852823e-03f), r[i], f_set1(5.590642784e-02f));
    UNROLL for (int i = 0; i < n; i++) x[i] = f_fma(x[i], r[i], f_set1(2.402409864e-01f));
    UNROLL for (int i = 0; i < n; i++) x[i] = f_fma(x[i], r[i], f_set1(6.931241930e-01f));
    UNROLL for (int i = 0; i < n; i++) x[i] = f_fma(x[i], r[i], f_set1(1.0f));
    UNROLL for (int i = 0; i < n; i++) x[i] = f_scale2(x[i], whole[i]);
}

INLINE vf f_sigmoid(vf x) { return f_div(f_set1(1.0f), f_add(f_set1(1.0f), f_exp(f_sub(f_set1(0.0f), x)))); }

/* tanh x = sign(x) (1 - e) / (1 + e), e = exp(-2|x|); near 0, where 1 - e cancels, Cephes' odd polynomial (tanhf). */
INLINE vf f_tanh(vf x) {
    vf a = f_abs(x);
    vf e = f_exp(f_mul(a, f_set1(-2.0f)));
    vf far = f_div(f_sub(f_set1(1.0f), e), f_add(f_set1(1.0f), e));
    far = f_greater(f_set1(0.0f), x, f_sub(f_set1(0.0f), far), far);
    vf z = f_mul(x, x);
    vf p = f_set1(-5.70498872745e-3f);
    p = f_fma(p, z, f_set1(2.06390887954e-2f));
    p = f_fma(p, z, f_set1(-5.37397155531e-2f));
    p = f_fma(p, z, f_set1(1.33314422036e-1f));
    p = f_fma(p, z, f_set1(-3.33332819422e-1f));
    vf near = f_fma(f_mul(p, z), x, x);
    return f_greater(f_set1(0.625f), a, near, far);
}

/* erf x: Abramowitz and Stegun 7.1.26, absolute error under 1.5e-7. */
INLINE vf f_erf(vf x) {
    vf a = f_abs(x);
    vf t = f_div(f_set1(1.0f), f_fma(a, f_set1(0.3275911f), f_set1(1.0f)));
    vf p = f_set1(1.061405429f);
    p = f_fma(p, t, f_set1(-1.453152027f));
    p = f_fma(p, t, f_set1(1.421413741f));
    p = f_fma(p, t, f_set1(-0.284496736f));
    p = f_fma(p, t, f_set1(0.254829592f));
    vf e = f_exp(f_sub(f_set1(0.0f), f_mul(x, x)));
    vf positive = f_sub(f_set1(1.0f), f_mul(f_mul(p, t), e));
    return f_greater(f_set1(0.0f), x, f_sub(f_set1(0.0f), positive), positive);
}

#endif
