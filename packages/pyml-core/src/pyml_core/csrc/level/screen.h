/* screen.h: shared by the files that screen a split head: row_stats.c, screen.c, settle.c. */
#ifndef PYML_LEVEL_SCREEN_H
#define PYML_LEVEL_SCREEN_H

#include "kernels.h"

enum { PANELS_AN_ITEM = 16, STATES_AT_ONCE = 4 };

INLINE int64_t panels_of(const pyml_matrix *m) { return (m->n + PANEL - 1) / PANEL; }
INLINE int64_t scale_bytes(int64_t blocks) { return (blocks * PANEL * 2 + 63) / 64 * 64; }
INLINE vb high_of_first(vb word) { return b_and(word, b_set1(15)); }
INLINE vb high_of_second(vb word) { return b_and(b_shr(word, 4), b_set1(15)); }

/* The k largest of some numbers, as a heap with the smallest of them on top: -INFINITY as long as there are fewer. */
INLINE void heap_clear(float *heap, int64_t k) {
    for (int64_t i = 0; i < k; i++) heap[i] = -INFINITY;
}

INLINE void heap_add(float *heap, int64_t k, float value) {
    if (!(value > heap[0])) return; /* NaN does not count */
    int64_t at = 0;
    for (int64_t child; (child = 2 * at + 1) < k; at = child) {
        if (child + 1 < k && heap[child + 1] < heap[child]) child++;
        if (value <= heap[child]) break;
        heap[at] = heap[child];
    }
    heap[at] = value;
}

/* The full head's logits of one panel for some states, into their rows of the output. */
INLINE void compute_panel(const pyml_op *op, int64_t panel, int64_t state, int64_t states, pyml_thread *thread) {
    const int64_t width = op->out->width, rows = min_i64(PANEL, width - panel * PANEL);
    _Alignas(64) float sums[STATES_AT_ONCE * PANEL];
    FN(panel_product)(op->matrices, panel, op->in, state, states, thread->scratch, sums);
    for (int64_t s = 0; s < states; s++)
        f_store_n(op->out->f + (state + s) * width + panel * PANEL, f_load(sums + s * PANEL), rows);
}

/* settle.c */
void FN(plan_panels)(const pyml_op *, int64_t state, pyml_thread *);
void FN(settle)(const pyml_op *, int64_t state, int round);

#endif
