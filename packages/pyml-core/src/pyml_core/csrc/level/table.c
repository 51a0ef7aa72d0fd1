/* table.c: one CPU level's kernels, for dispatch.c. */
#include "kernels.h"

static void enter(void) { ENTER_FLOATING_POINT(); }

const pyml_kernels FN(pyml_kernels) = {
    .name = LEVEL_NAME,
    .items =
        {
            [OP_EMBED] = FN(row_items),
            [OP_ADD_POSITIONS] = FN(row_items),
            [OP_RMS_NORM] = FN(row_items),
            [OP_LAYER_NORM] = FN(row_items),
            [OP_LINEAR] = FN(linear_items),
            [OP_ACTIVATE] = FN(row_items),
            [OP_GATED] = FN(row_items),
            [OP_SOFT_CAP] = FN(row_items),
            [OP_SELECT] = FN(row_items),
            [OP_ROPE_ANGLES] = FN(row_items),
            [OP_PREPARE_QKV] = FN(prepare_qkv_items),
            [OP_ATTENTION] = FN(attention_items),
            [OP_ROUTE] = FN(route_items),
            [OP_DISPATCH] = FN(row_items),
            [OP_EXPERT_LINEAR] = FN(expert_linear_items),
            [OP_COMBINE] = FN(row_items),
            [OP_QUANTIZE] = FN(row_items),
            [OP_SCREEN] = FN(screen_items),
            [OP_RESCORE] = FN(rescore_items),
        },
    .work =
        {
            [OP_EMBED] = FN(embed),
            [OP_ADD_POSITIONS] = FN(add_positions),
            [OP_RMS_NORM] = FN(rms_norm),
            [OP_LAYER_NORM] = FN(layer_norm),
            [OP_LINEAR] = FN(linear),
            [OP_ACTIVATE] = FN(activate),
            [OP_GATED] = FN(gated),
            [OP_SOFT_CAP] = FN(soft_cap),
            [OP_SELECT] = FN(select),
            [OP_ROPE_ANGLES] = FN(rope_angles),
            [OP_PREPARE_QKV] = FN(prepare_qkv),
            [OP_ATTENTION] = FN(attention),
            [OP_ROUTE] = FN(route),
            [OP_DISPATCH] = FN(dispatch),
            [OP_EXPERT_LINEAR] = FN(expert_linear),
            [OP_COMBINE] = FN(combine),
            [OP_QUANTIZE] = FN(quantize),
            [OP_SCREEN] = FN(screen),
            [OP_RESCORE] = FN(rescore),
        },
    .weights = {[OP_LINEAR] = FN(linear_weights), [OP_SCREEN] = FN(screen_weights)},
    .unpack_rows = FN(unpack_rows),
    .screen_facts = FN(screen_facts),
    .limits = {[LIMIT_READ] = FN(limit_read), [LIMIT_INT8] = FN(limit_int8), [LIMIT_F32] = FN(limit_f32)},
    .enter = enter,
};
