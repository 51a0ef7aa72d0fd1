/* elementary.h: exponential and logarithm in float64 with the same bits at every level, and as NumPy in
 * pyml_core/sampling/elementary.py: the same steps, without fused multiply-adds. See there for the sources. Loops over
 * exp64 are vectorised by the compiler.
 */
#ifndef PYML_LEVEL_ELEMENTARY_H
#define PYML_LEVEL_ELEMENTARY_H

#include "simd.h"

#define ROUNDER 6755399441055744.0 /* 1.5 * 2^52: its sum with a number is that number rounded, in the last bits */
#define LN2_HIGH 0x1.62e42feep-1   /* 21 zero bits at the end, so that products with exponents are exact */
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

/* A number between -2^51 and 2^51 as an integer, rounded half to even. */
INLINE int64_t rounded(double x) { return bits_of(x + ROUNDER) - INT64_C(0x4338000000000000); }

/* e^x for -708 <= x <= 0. */
INLINE double exp64_in_range(double x) {
    double shifted = x * 1.4426950408889634 + ROUNDER;
    double n = shifted - ROUNDER;
    double r = (x - n * LN2_HIGH) - n * LN2_LOW;
    double r2 = r * r, r4 = r2 * r2;
    double low =
        (0x1.0000000000001p-1 + 0x1.5555555555556p-3 * r) + (0x1.5555555553d64p-5 + 0x1.11111111109b4p-7 * r) * r2;
    double high =
        ((0x1.6c16c1788b646p-10 + 0x1.a01a01a7c3d59p-13 * r) + (0x1.a019b90eefe8ep-16 + 0x1.71de0daf7a6ccp-19 * r) * r2)
        + (0x1.2891834686c7ep-22 + 0x1.af38a71a18cb9p-26 * r) * r4;
    int64_t power = (int64_t)((uint64_t)(bits_of(shifted) - (INT64_C(0x4338000000000000) - 1023)) << 52);
    return (1.0 + (r + r2 * (low + high * r4))) * double_of(power);
}

/* e^x for x <= 0; 0 below -708. */
INLINE double exp64(double x) { return x < -708.0 ? 0.0 : exp64_in_range(x); }

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

/* 32 bits of noise for a token from a key that has GOLDEN added. */
INLINE uint32_t noise_bits(uint64_t key, int32_t token) {
    return (uint32_t)(mix64((uint64_t)(uint32_t)token * GOLDEN + key) >> 32);
}

/* Gumbel noise from 32 bits. */
INLINE double gumbel(uint32_t bits) { return -log64(-log64(((double)bits + 0.5) * 0x1p-32)); }

#endif
