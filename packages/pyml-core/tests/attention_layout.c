/* attention_layout.c: checks that the regions of a thread's scratch for attention are consecutive and large enough, for
 * all numbers of rows, widths of a head and types of the cache. Compiled and run by
 * test_attention_layout.py.
 */
#include "attention_layout.h"
#include "program.h"

#include <stdio.h>

static int check(const pyml_kv *kv, int64_t rows) {
    const int64_t d = kv->head_dim, blocks = d / pyml_key_block(d), width = (d + 15) / 16 * 16;
    const int64_t padded_rows = (rows + 15) / 16 * 16, partial = rows * width + rows * 16 + padded_rows;
    const pyml_attention_layout at = pyml_attention_layout_of(kv, rows);
    const struct {
        const char *name;
        int64_t from, to, bytes;
    } regions[] = {
        {"scores", at.scores, at.block, rows * 128 * 4},
        {"block", at.block, at.result, partial * 4},
        {"result", at.result, at.queries, partial * 4},
        {"queries", at.queries, at.query_scales, kv->int8 ? 0 : rows * d * 4},
        {"query scales", at.query_scales, at.query_starts, kv->int8 ? rows * blocks * 4 : 0},
        {"query starts", at.query_starts, at.query_codes, kv->int8 ? rows * blocks * 4 : 0},
        {"query codes", at.query_codes, at.rescale_old, kv->int8 ? rows * d : 0},
        {"old factors", at.rescale_old, at.rescale_new, padded_rows * 4},
        {"new factors", at.rescale_new, at.weights, padded_rows * 4},
        {"weights", at.weights, at.end, kv->int8 ? rows * 128 : 0},
    };
    int failures = at.scores != 0;
    for (unsigned i = 0; i < sizeof regions / sizeof *regions; i++)
        if ((regions[i].to - regions[i].from) * 4 < regions[i].bytes) {
            printf("%s: %ld rows, head_dim %ld\n", regions[i].name, (long)rows, (long)d);
            failures++;
        }
    pyml_buffer out = {.f = NULL};
    const pyml_op op = {.kind = OP_ATTENTION, .n_heads = 1, .out = &out};
    if (pyml_scratch_for(&op, kv, rows) < at.end * 4) {
        printf("scratch: %ld rows, head_dim %ld\n", (long)rows, (long)d);
        failures++;
    }
    return failures;
}

int main(void) {
    int failures = 0;
    for (int64_t rows = 1; rows <= 100; rows++)
        for (int64_t d = 1; d <= 288; d++) {
            pyml_kv kv = {.n_layers = 1, .n_kv_heads = 1, .head_dim = d};
            failures += check(&kv, rows);
            kv.int8 = true;
            if (d % 32 == 0) failures += check(&kv, rows);
        }
    return failures > 0;
}
