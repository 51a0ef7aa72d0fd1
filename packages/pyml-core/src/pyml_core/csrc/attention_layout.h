/* attention_layout.h: where the scratch of a thread holds what during attention. pyml_scratch_for, which says how much
 * scratch there must be, and level/attention.c, which uses it, both take the layout from here.
 */
#ifndef PYML_ATTENTION_LAYOUT_H
#define PYML_ATTENTION_LAYOUT_H

#include "types.h"

/* Offsets in floats from the start of the scratch, for R rows and D head_dim. Queries and weights are held in the form
 * that the type of the cache asks for; the offsets of the other form are equal to the next region's. */
typedef struct {
    int64_t scores;        /* [R][KEYS] float */
    int64_t block, result; /* partial results, see pyml_partial_floats */
    int64_t queries;       /* [R][D] float, where keys are float */
    int64_t query_scales;  /* [R][D / B] float, where keys are int8 and B elements share a scale */
    int64_t query_starts;  /* [R][D / B] int32, likewise */
    int64_t query_codes;   /* [R][D] int8, likewise */
    int64_t rescale_old;   /* [R] float, R rounded up to whole panels */
    int64_t rescale_new;   /* [R] float, likewise */
    int64_t weights;       /* [R][KEYS] uint8, where values are int8 */
    int64_t end;
} pyml_attention_layout;

static inline int64_t pyml_whole_panels(int64_t n) { return (n + PANEL - 1) / PANEL * PANEL; }

/* A partial result: weighted values [R][width], sums [R][16], maxima [R]. The width is D, rounded up to whole panels;
 * so are the R maxima. */
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
    at.rescale_old = at.query_codes + (kv->int8 ? rows * d / 4 : 0); /* D is a multiple of 32 there */
    at.rescale_new = at.rescale_old + pyml_whole_panels(rows);
    at.weights = at.rescale_new + pyml_whole_panels(rows);
    at.end = at.weights + (kv->int8 ? rows * KEYS / 4 : 0);
    return at;
}

#endif
