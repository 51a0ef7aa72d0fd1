/* elementary.h: exponential and logarithm in float64 with the same bits at every level, and as NumPy in
 * pyml_core/sampling/elementary.py: the same steps, without fused multiply-adds. See there for the sources. The
 * compiler knows + - * / and comparisons of the vectors `doubles` and `longs` at every level.
 */
#ifndef PYML_LEVEL_ELEMENTARY_H
#define PYML_LEVEL_ELEMENTARY_H

#include "../sample.h"
#include "simd.h"

#define ROUNDER 6755399441055744.0 /* 1.5 * 2^52: its sum with a number is that number rounded, in the last bits */
#define LOG2_E 1.4426950408889634
#define LN2_HIGH 0x1.62e42feep-1 /* 21 zero bits at the end, so that products with exponents are exact */
#define LN2_LOW 0x1.a39ef35793c76p-33

INLINE int64_t bits_of(double x) {
    int64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

INLINE double double_of(int64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* As many float64 and int64 as a vector of this level has, and vectors that are worked on at a time. */
#if defined(__AVX512F__)
enum { WIDE = 8, AT_ONCE = 8 };
#elif defined(__AVX2__)
enum { WIDE = 4, AT_ONCE = 8 };
#else
enum { WIDE = 2, AT_ONCE = 8 };
#endif
typedef double doubles __attribute__((vector_size(8 * WIDE)));
typedef int64_t longs __attribute__((vector_size(8 * WIDE)));
typedef float narrow_floats __attribute__((vector_size(4 * WIDE)));
typedef int32_t narrow_ints __attribute__((vector_size(4 * WIDE)));

INLINE doubles d_all(double x) { return x - (doubles){0}; }
INLINE longs l_all(int64_t x) { return x - (longs){0}; }
#if defined(__AVX512F__)
INLINE doubles d_from_floats(const float *x) { return (doubles)_mm512_cvtps_pd(_mm256_loadu_ps(x)); }
INLINE doubles d_larger(doubles a, doubles b) { return (doubles)_mm512_max_pd((__m512d)a, (__m512d)b); }
#elif defined(__AVX2__)
INLINE doubles d_from_floats(const float *x) { return (doubles)_mm256_cvtps_pd(_mm_loadu_ps(x)); }
INLINE doubles d_larger(doubles a, doubles b) { return (doubles)_mm256_max_pd((__m256d)a, (__m256d)b); }
#else
INLINE doubles d_from_floats(const float *x) { return (doubles){x[0], x[1]}; }
INLINE doubles d_larger(doubles a, doubles b) { /* b if one is NaN */
    longs greater = a > b;
    return (doubles)(((longs)a & greater) | ((longs)b & ~greater));
}
#endif
INLINE longs l_from_ints(const int32_t *x) {
    narrow_ints v;
    memcpy(&v, x, sizeof v);
    return __builtin_convertvector(v, longs);
}
INLINE doubles d_absolute(doubles a) { return (doubles)((longs)a & l_all(INT64_MAX)); }
INLINE int64_t l_sum(longs a) {
    int64_t sum = 0;
    for (int i = 0; i < WIDE; i++) sum += a[i];
    return sum;
}

/* Compilers would compute one vector after the other, each waiting for itself. */
#if defined(__x86_64__)
#define IN_ORDER(vector) __asm__ volatile("" : "+x"(vector))
#elif defined(__aarch64__)
#define IN_ORDER(vector) __asm__ volatile("" : "+w"(vector))
#else
#define IN_ORDER(vector) ((void)0)
#endif

/* e^x 2^exponent of n vectors, -708 <= x <= 0. Each step is done for all of them, so that none waits for the result of
 * its own last step. */
INLINE void d_exp_many(const int n, doubles *x, int64_t exponent) {
    static const double factors[] = {
        0x1.0000000000001p-1,  0x1.5555555555556p-3,  0x1.5555555553d64p-5,  0x1.11111111109b4p-7,
        0x1.6c16c1788b646p-10, 0x1.a01a01a7c3d59p-13, 0x1.a019b90eefe8ep-16, 0x1.71de0daf7a6ccp-19,
        0x1.2891834686c7ep-22, 0x1.af38a71a18cb9p-26,
    };
    doubles shifted[AT_ONCE], whole[AT_ONCE], p[AT_ONCE];
    UNROLL for (int i = 0; i < n; i++) shifted[i] = x[i] * LOG2_E + ROUNDER;
    UNROLL for (int i = 0; i < n; i++) whole[i] = shifted[i] - ROUNDER;
    UNROLL for (int i = 0; i < n; i++) x[i] = (x[i] - whole[i] * LN2_HIGH) - whole[i] * LN2_LOW;
    UNROLL for (int i = 0; i < n; i++) p[i] = d_all(factors[9]);
    UNROLL for (int k = 8; k >= 0; k--) {
        UNROLL for (int i = 0; i < n; i++) p[i] = p[i] * x[i] + factors[k];
        UNROLL for (int i = 0; i < n; i++) IN_ORDER(p[i]);
    }
    UNROLL for (int i = 0; i < n; i++) p[i] = 1.0 + (x[i] + (x[i] * x[i]) * p[i]);
    UNROLL for (int i = 0; i < n; i++) x[i] =
        p[i] * (doubles)(((longs)shifted[i] - (INT64_C(0x4338000000000000) - 1023 - exponent)) << 52);
}

/* e^x for x <= 0; 0 below -708. */
INLINE double exp64(double x) {
    doubles one = d_all(x < -708.0 ? 0.0 : x);
    d_exp_many(1, &one, 0);
    return x < -708.0 ? 0.0 : one[0];
}

/* log(x) for x positive, finite and not subnormal. */
INLINE double log64(double x) {
    const int64_t bits = bits_of(x), exponent = (bits - INT64_C(0x3fe6a09e667f3bcd)) >> 52; /* of sqrt(1/2) */
    double f = double_of(bits - (int64_t)((uint64_t)exponent << 52)) - 1.0, k = (double)exponent;
    double s = f / (2.0 + f), z = s * s, w = z * z;
    double even = w * (0x1.999999997fa04p-2 + w * (0x1.c71c51d8e78afp-3 + w * 0x1.39a09d078c69fp-3));
    double odd =
        z * (0x1.5555555555593p-1 + w * (0x1.2492494229359p-2 + w * (0x1.7466496cb03dep-3 + w * 0x1.2f112df3e5244p-3)));
    double half = (0.5 * f) * f;
    return k * LN2_HIGH - ((half - (s * (half + (even + odd)) + k * LN2_LOW)) - f);
}

#define GOLDEN UINT64_C(0x9E3779B97F4A7C15)

/* SplitMix64's output function (Steele, Lea and Flood 2014). */
INLINE uint64_t mix64(uint64_t z) {
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

/* The key of the noise of all tokens at a position of a text, with GOLDEN added. */
INLINE uint64_t noise_key(const pyml_sampler *s, int64_t position) {
    const uint64_t parts[3] = {s->seed, s->sequence, (uint64_t)position};
    uint64_t state = 0;
    for (int i = 0; i < 3; i++) state = mix64((state ^ parts[i]) + GOLDEN);
    return state + GOLDEN;
}

/* 32 bits of noise for a token, from a key to which GOLDEN has been added. */
INLINE uint32_t noise_bits(uint64_t key, int32_t token) {
    return (uint32_t)(mix64((uint64_t)(uint32_t)token * GOLDEN + key) >> 32);
}

/* Gumbel noise from 32 bits. */
INLINE double gumbel(uint32_t bits) { return -log64(-log64(((double)bits + 0.5) * 0x1p-32)); }

#endif
