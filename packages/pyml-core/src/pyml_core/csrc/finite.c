/* finite.c: checks that stored weights are finite. In quantised types only the scales and minima of blocks are checked,
 * because codes and the scales of sub-blocks are integers.
 */
#include "formats.h"

#include <string.h>

/* Numbers whose exponent bits are all ones are infinite or NaN. No branches, so that compilers vectorise the loops. */
static bool words_finite(const uint8_t *words, int64_t n) {
    uint32_t odd = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t word;
        memcpy(&word, words + 4 * i, 4);
        odd |= (word & 0x7f800000u) == 0x7f800000u;
    }
    return !odd;
}

static bool halves_finite(const uint8_t *halves, int64_t n, uint16_t exponent) {
    uint16_t odd = 0;
    for (int64_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, halves + 2 * i, 2);
        odd = (uint16_t)(odd | ((half & exponent) == exponent));
    }
    return !odd;
}

/* Whether the float16 at `first` is finite in each of n blocks, which are `step` bytes apart. */
static bool scales_finite(const uint8_t *first, int64_t n, int64_t step) {
    unsigned odd = 0;
    for (int64_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, first + step * i, 2);
        odd |= (half & 0x7c00u) == 0x7c00u;
    }
    return !odd;
}

/* Whether all numbers of mxfp4 blocks are finite: 12 * 2^(e - 128), which is twice the largest number times its scale.
 */
static bool powers_finite(const uint8_t *blocks, int64_t n, int64_t step) {
    unsigned odd = 0;
    for (int64_t i = 0; i < n; i++) odd |= blocks[step * i] > 252;
    return !odd;
}

/* Whether the float32 numbers at `first` are below 2^113 in each of n blocks, so that all weights are finite. */
static bool floats_finite(const uint8_t *first, int64_t n, int64_t step) {
    unsigned odd = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t word;
        memcpy(&word, first + step * i, 4);
        odd |= (word & 0x7fffffffu) >= 0x78000000u;
    }
    return !odd;
}

bool pyml_all_finite(int type, const uint8_t *stored, int64_t nbytes) {
    if (type == TYPE_F32) return words_finite(stored, nbytes / 4);
    if (type == TYPE_F16) return halves_finite(stored, nbytes / 2, 0x7c00);
    if (type == TYPE_BF16) return halves_finite(stored, nbytes / 2, 0x7f80);
    pyml_block_scales scales = pyml_scales_of(type);
    int64_t blocks = nbytes / scales.block_bytes;
    if (type == TYPE_MXFP4) return powers_finite(stored, blocks, scales.block_bytes);
    bool (*check)(const uint8_t *, int64_t, int64_t) = scales.bytes == 4 ? floats_finite : scales_finite;
    bool finite = true;
    for (int i = 0; i < scales.count; i++)
        finite &= check(stored + scales.offset + i * scales.bytes, blocks, scales.block_bytes);
    return finite;
}
