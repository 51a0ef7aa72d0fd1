/* hash.c: a fast 64-bit hash for weights and saved caches. It is not cryptographic.
 *
 * As in wyhash (Wang Yi, https://github.com/wangyi-fudan/wyhash, public domain), words are multiplied in pairs and the
 * two halves of each product are folded together; four independent chains run in parallel. The hash depends on every
 * byte and its position. Big-endian machines compute other hashes.
 */
#include "formats.h"

#include <string.h>

enum { CHAINS = 4, BLOCK_BYTES = 16 * CHAINS };

/* Arbitrary numbers without a pattern: digits of pi, as 64-bit words. */
static const uint64_t SALT[2 * CHAINS] = {
    0x243f6a8885a308d3, 0x13198a2e03707345, 0xa4093822299f31d1, 0x082efa98ec4e6c89,
    0x452821e638d01377, 0xbe5466cf34e90c6d, 0xc0ac29b7c97c50dd, 0x3f84d5b5b5470917,
};

static uint64_t fold(uint64_t a, uint64_t b) {
    __extension__ typedef unsigned __int128 wide;
    wide product = (wide)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static void take_block(uint64_t chains[CHAINS], const uint8_t *bytes) {
    for (int i = 0; i < CHAINS; i++) {
        uint64_t words[2];
        memcpy(words, bytes + 16 * i, sizeof words);
        chains[i] = fold(words[0] ^ SALT[2 * i], words[1] ^ chains[i]);
    }
}

uint64_t pyml_hash(const uint8_t *bytes, int64_t n, uint64_t seed) {
    uint64_t chains[CHAINS], all = fold((uint64_t)n ^ SALT[1], seed ^ SALT[0]);
    for (int i = 0; i < CHAINS; i++) chains[i] = all ^ SALT[2 * i + 1];
    for (int64_t done = 0; done + BLOCK_BYTES < n; done += BLOCK_BYTES) take_block(chains, bytes + done);
    if (n >= BLOCK_BYTES) {
        take_block(chains, bytes + n - BLOCK_BYTES); /* overlaps the block before if n is not a multiple */
    } else if (n) {
        uint8_t few[BLOCK_BYTES] = {0};
        memcpy(few, bytes, (size_t)n);
        take_block(chains, few);
    }
    for (int i = 0; i < CHAINS; i++) all = fold(all ^ SALT[i], chains[i] ^ SALT[CHAINS + i]);
    return all;
}

uint64_t pyml_hash_rows(const uint8_t *rows, int64_t n, int64_t row_bytes, int64_t first, const int64_t *numbers) {
    uint64_t sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += pyml_hash(rows + i * row_bytes, row_bytes, (uint64_t)(numbers ? numbers[i] : first + i));
    }
    return sum;
}
