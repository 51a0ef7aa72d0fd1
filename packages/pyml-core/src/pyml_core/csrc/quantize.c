/* quantize.c: converts floats to blocks of q8_0 while they are loaded, bit-identical to block_types.py. */
#include "formats.h"

#include <math.h>
#include <string.h>

static float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

/* Exact: subnormals are multiples of 2^-24; for other numbers, the exponent is adjusted. */
static float from_half(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff;
    if (rest < 0x400) return from_bits(sign | bits_of((float)rest * 0x1p-24f));
    return from_bits(sign | ((rest << 13) + (rest < 0x7c00 ? 112u << 23 : 224u << 23)));
}

/* Round a number that is not negative to nearest even; infinite from 65520 on. */
static uint16_t to_half(float x) {
    if (x < 0x1p-14f) return (uint16_t)lrintf(x * 0x1p24f);
    if (!(x < 65520.0f)) return 0x7c00;
    uint32_t bits = bits_of(x) - (112u << 23);
    return (uint16_t)((bits + 0xfff + (bits >> 13 & 1)) >> 13);
}

static void widen(int stored, const uint8_t *floats, float *x) {
    uint16_t bits[BLOCK];
    if (stored == TYPE_F32) {
        memcpy(x, floats, BLOCK * sizeof *x);
        return;
    }
    memcpy(bits, floats, sizeof bits);
    for (int i = 0; i < BLOCK; i++)
        x[i] = stored == TYPE_BF16 ? from_bits((uint32_t)bits[i] << 16) : from_half(bits[i]);
}

bool pyml_to_q8_0(int stored, const uint8_t *floats, int64_t n, uint8_t *blocks, float *scale) {
    int64_t bytes = stored == TYPE_F32 ? 4 : 2;
    for (int64_t i = 0; i < n; i += BLOCK, blocks += 2 + BLOCK) {
        float x[BLOCK], most = 0;
        int odd = 0;
        widen(stored, floats + i * bytes, x);
        for (int j = 0; j < BLOCK; j++) {
            most = fabsf(x[j]) > most ? fabsf(x[j]) : most;
            odd |= x[j] != x[j];
        }
        *scale = odd ? NAN : most / 127.0f;
        if (!(*scale < 65520.0f)) return false;
        uint16_t half = to_half(*scale);
        float inverse = 1.0f / *scale;
        if (isinf(inverse)) inverse = 0;
        int8_t codes[BLOCK];
        for (int j = 0; j < BLOCK; j++) {
            float scaled = x[j] * inverse, size = fabsf(scaled);
            int whole = (int)size;
            whole += 2 * (size - (float)whole) >= 1.0f;
            codes[j] = (int8_t)(scaled < 0 ? -whole : whole);
        }
        memcpy(blocks, &half, 2), memcpy(blocks + 2, codes, BLOCK);
    }
    return true;
}
