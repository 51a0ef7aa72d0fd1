/* attention_layout.h: the layout of a thread's scratch memory during attention. pyml_scratch_for, which computes its
 * size, and level/attention.c, which uses it, share this definition.
 */
#ifndef PYML_ATTENTION_LAYOUT_H
#define PYML_ATTENTION_LAYOUT_H

#include "types.h"

/* Offsets in floats from the start of the scratch, for R rows and D head_dim. The type of the cache determines the form
 * of queries and weights; regions of the other form are empty. */
typedef struct {
    int64_t scores;        /* [R][KEYS] float */
    int64_t block, result; /* partial results, see pyml_partial_floats */
    int64_t queries;       /* float keys: [R][D] float */
    int64_t query_scales;  /* int8 keys: [R][D / B] float, B elements sharing a scale */
    int64_t query_starts;  /* int8 keys: [R][D / B] int32 */
    int64_t query_codes;   /* int8 keys: [R][D] int8 */
    int64_t rescale_old;   /* [R] float, R rounded up to whole panels */
    int64_t rescale_new;   /* [R] float, R rounded up to whole panels */
    int64_t weights;       /* int8 values: [R][KEYS] uint8 */
    int64_t end;
} pyml_attention_layout;

static inline int64_t pyml_whole_panels(int64_t n) { return (n + PANEL - 1) / PANEL * PANEL; }

/* Size of a partial result: weighted values [R][width], sums [R][16], maxima [R]. The width is D rounded up to whole
 * panels; the number of maxima is rounded up too. */
static inline int64_t pyml_partial_floats(int64_t rows, int64_t head_dim) {
    return rows * (pyml_whole_panels(head_dim) + PANEL) + pyml_whole_panels(rows);
}

static inline pyml_attention_layout pyml_attention_layout_of(const pyml_kv *kv, int64_t rows) {
    const int64_t d = kv->head_dim, blocks = d / pyml_key_block(d), partial = pyml_partial_floats(rows, d);
    pyml_attention_layout at = {.scores = 0};
    at.block = at.scores + rows * KEYS;
    at.result = at.block + partial;
    at.queries = at.result + partial;
    at.query_scales = at.queries + (kv->int8 ? 0 : rows * d);
    at.query_starts = at.query_scales + (kv->int8 ? rows * blocks : 0);
    at.query_codes = at.query_starts + (kv->int8 ? rows * blocks : 0);
    at.rescale_old = at.query_codes + (kv->int8 ? rows * d / 4 : 0); /* D is a multiple of 32 */
    at.rescale_new = at.rescale_old + pyml_whole_panels(rows);
    at.weights = at.rescale_new + pyml_whole_panels(rows);
    at.end = at.weights + (kv->int8 ? rows * KEYS / 4 : 0);
    return at;
}

#endif
