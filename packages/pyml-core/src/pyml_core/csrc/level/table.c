/* table.c: the kernels of one CPU level, for dispatch.c. */
#include "kernels.h"

static void enter(void) { ENTER_FLOATING_POINT(); }

const pyml_kernels FN(pyml_kernels) = {
    .name = LEVEL_NAME,
    .items =
        {
#define OPERATION(KIND, name, items, product) [OP_##KIND] = FN(items),
#include "../operations.def"
        },
    .work =
        {
#define OPERATION(KIND, name, items, product) [OP_##KIND] = FN(name),
#include "../operations.def"
        },
    .weights = {[OP_LINEAR] = FN(linear_weights), [OP_SCREEN] = FN(screen_weights)},
    .unpack_rows = FN(unpack_rows),
    .row_stats = FN(row_stats),
    .limits = {[LIMIT_READ] = FN(limit_read), [LIMIT_INT8] = FN(limit_int8), [LIMIT_F32] = FN(limit_f32)},
    .sample = FN(sample),
    .logprobs = FN(logprobs),
    .elementary = FN(elementary),
    .enter = enter,
};
