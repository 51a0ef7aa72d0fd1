/* formats.h: the stored formats of weights: packing into panels, conversion, checks, hashes. */
#ifndef PYML_FORMATS_H
#define PYML_FORMATS_H

#include "types.h"

int64_t pyml_panel_bytes(int type, int64_t k); /* -1: unknown type, or k is not a multiple of its block size */
int64_t pyml_stored_row_bytes(int type, int64_t k);
int64_t pyml_low_bytes(int type, int64_t k); /* bytes of a panel's low nibbles in a split matrix; else 0 */
void pyml_pack_panels(int type, int64_t n, int64_t k, const uint8_t *stored, uint8_t *packed, uint8_t *low,
                      int64_t begin, int64_t end);
int pyml_chunk_bytes(int type, int64_t k); /* bytes of a chunk of k <= 256 columns; quantised types only */

/* pack.c: the scales and minima of a block of a quantised type, float16 or (if `bytes` is 4) float32: `count`
 * consecutive ones from `offset` on. */
typedef struct {
    int block_bytes, offset, count, bytes;
} pyml_block_scales;
pyml_block_scales pyml_scales_of(int type);

/* finite.c: whether all stored numbers, or all scales and minima of whole blocks, are finite. */
bool pyml_all_finite(int type, const uint8_t *stored, int64_t nbytes);

/* quantize.c: convert n floats of type `stored`, n a multiple of 32, to blocks of q8_0. Returns false, and the scale of
 * the block, if that scale is not finite in float16. */
bool pyml_to_q8_0(int stored, const uint8_t *floats, int64_t n, uint8_t *blocks, float *scale);

/* hash.c: the hash of n bytes, and the sum of the hashes of rows, each seeded with its index: first, first + 1, ..., or
 * numbers[i]. */
uint64_t pyml_hash(const uint8_t *bytes, int64_t n, uint64_t seed);
uint64_t pyml_hash_rows(const uint8_t *rows, int64_t n, int64_t row_bytes, int64_t first, const int64_t *numbers);

#endif
