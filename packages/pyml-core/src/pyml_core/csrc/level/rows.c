/* rows.c: operations on one row at a time: embedding, norms, activations, and int8 copies for quantised matrices.
 *
 * A kernel that writes a row of a buffer with an int8 copy also quantises it, while it is in the cache (end_row).
 */
#include "kernels.h"

int64_t FN(row_items)(const pyml_op *op, const pyml_run *run, int stage) {
    return stage || (op->fused_into && pyml_fuses_activation(op->fused_into, run)) ? 0 : rows_of(op->out, run);
}

#define FOR_LANES(width) for (int64_t i = 0, n = 0; n = min_i64(PANEL, (width) - i), i < (width); i += PANEL)

/* Lanes 0..n-1 of v, zero elsewhere, so that a tail does not add to a sum. */
INLINE vf mask_tail(vf v, int64_t n) {
    if (n == PANEL) return v;
    _Alignas(64) float lanes[PANEL] = {0};
    f_store_n(lanes, v, n);
    return f_load(lanes);
}

/* For each block of 32: scale = max|x| / 127, code = x * (127 / max|x|) rounded to nearest even, and the sums of the
 * codes. If a number is not finite, the scale is NaN or infinite, so that results are not finite either. */
static void quantize_row(pyml_buffer *b, const float *x, int64_t row) {
    int64_t at = row * b->blocks;
    block_run run = {x, b->codes + row * b->stride8, b->scales + at, b->sums + at, b->half_sums + 2 * at, BLOCK, BLOCK,
                     1};
    quantize_blocks(&run, b->blocks);
}

/* The destination of a row: the buffer, or scratch memory if only the int8 copy is read, which is faster. */
INLINE float *begin_row(const pyml_op *op, const pyml_thread *thread, int64_t row) {
    return op->out->codes_only && !op->copy ? (float *)thread->scratch : op->out->f + row * op->out->width;
}

INLINE void end_row(const pyml_op *op, const float *x, int64_t row) {
    if (op->out->codes) quantize_row(op->out, x, row);
}

void FN(quantize)(const pyml_op *op, const pyml_run *run, pyml_thread *thread, int stage, int64_t begin, int64_t end) {
    (void)run, (void)thread, (void)stage;
    for (int64_t row = begin; row < end; row++) quantize_row(op->out, op->out->f + row * op->out->width, row);
}

void FN(embed)(const pyml_op *op, const pyml_run *run, pyml_thread *thread, int stage, int64_t begin, int64_t end) {
    (void)thread, (void)stage;
    for (int64_t row = begin; row < end; row++) {
        float *out = op->out->f + row * op->out->width;
        int64_t id = run->ids[row];
        FN(unpack_rows)(op->matrices, &id, 1, out);
        FOR_LANES(op->out->width) f_store_n(out + i, f_mul(f_load_n(out + i, n), f_set1(op->scale)), n);
        end_row(op, out, row);
    }
}

void FN(add_positions)(const pyml_op *op, const pyml_run *run, pyml_thread *thread, int stage, int64_t begin,
                       int64_t end) {
    (void)thread, (void)stage;
    for (int64_t row = begin; row < end; row++) {
        float *out = op->out->f + row * op->out->width;
        const float *table = op->weight + run->positions[row] * op->out->width;
        FOR_LANES(op->out->width) f_store_n(out + i, f_add(f_load_n(out + i, n), f_load_n(table + i, n)), n);
        end_row(op, out, row);
    }
}

/* 1 / sqrt(mean(x^2) + eps) */
INLINE float inverse_rms(const float *x, int64_t width, float eps) {
    vf squares = f_set1(0.0f);
    FOR_LANES(width) {
        vf v = f_load_n(x + i, n);
        squares = f_fma(v, v, squares);
    }
    return 1.0f / sqrtf(f_sum(squares) / (float)width + eps);
}

void FN(normalize_head)(float *x, const float *weight, float eps, int64_t width) {
    vf scale = f_set1(inverse_rms(x, width, eps));
    FOR_LANES(width) f_store_n(x + i, f_mul(f_mul(f_load_n(x + i, n), scale), f_load_n(weight + i, n)), n);
}

void FN(rms_norm)(const pyml_op *op, const pyml_run *run, pyml_thread *thread, int stage, int64_t begin, int64_t end) {
    (void)run, (void)stage;
    int64_t width = op->in->width;
    for (int64_t row = begin; row < end; row++) {
        const float *x = op->in->f + row * width;
        float *out = begin_row(op, thread, row);
        vf scale = f_set1(inverse_rms(x, width, op->eps));
        FOR_LANES(width) {
            vf v = f_mul(f_mul(f_load_n(x + i, n), scale), f_load_n(op->weight + i, n));
            if (op->accumulate) v = f_add(f_load_n(out + i, n), v);
            f_store_n(out + i, v, n);
        }
        end_row(op, out, row);
    }
}

void FN(layer_norm)(const pyml_op *op, const pyml_run *run, pyml_thread *thread, int stage, int64_t begin,
                    int64_t end) {
    (void)run, (void)stage;
    int64_t width = op->in->width;
    for (int64_t row = begin; row < end; row++) {
        const float *x = op->in->f + row * width;
        float *out = begin_row(op, thread, row);
        vf sum = f_set1(0.0f), squares = sum;
        FOR_LANES(width) sum = f_add(sum, f_load_n(x + i, n));
        vf mean = f_set1(f_sum(sum) / (float)width);
        FOR_LANES(width) {
            vf v = mask_tail(f_sub(f_load_n(x + i, n), mean), n);
            squares = f_fma(v, v, squares);
        }
        vf scale = f_set1(1.0f / sqrtf(f_sum(squares) / (float)width + op->eps));
        FOR_LANES(width) {
            vf v = f_mul(f_sub(f_load_n(x + i, n), mean), scale);
            f_store_n(out + i, f_fma(v, f_load_n(op->weight + i, n), f_load_n(op->weight2 + i, n)), n);
        }
        end_row(op, out, row);
    }
}

INLINE vf activation(const int kind, vf x) {
    if (kind == ACT_SILU) return f_mul(x, f_sigmoid(x));
    if (kind == ACT_GELU_ERF)
        return f_mul(f_mul(x, f_set1(0.5f)), f_add(f_set1(1.0f), f_erf(f_mul(x, f_set1(0.70710678f)))));
    /* gelu_tanh: 0.5 x (1 + tanh u) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3) */
    vf cubic = f_fma(f_mul(f_mul(x, x), x), f_set1(0.044715f), x);
    return f_mul(x, f_sigmoid(f_mul(cubic, f_set1(1.5957691216f))));
}

INLINE void activate_rows(const int kind, const bool gated, const pyml_op *op, const pyml_thread *thread, int64_t begin,
                          int64_t end) {
    int64_t width = op->out->width;
    for (int64_t row = begin; row < end; row++) {
        const float *x = op->in->f + row * op->in->width;
        float *out = begin_row(op, thread, row);
        FOR_LANES(width) {
            vf v = activation(kind, f_load_n(x + i, n));
            if (gated) v = f_mul(v, f_load_n(x + width + i, n));
            f_store_n(out + i, v, n);
        }
        end_row(op, out, row);
    }
}

#define ACTIVATION_OP(name, gated)                                                                           \
    void FN(name)(const pyml_op *op, const pyml_run *run, pyml_thread *thread, int stage, int64_t begin,     \
                  int64_t end) {                                                                             \
        (void)run, (void)stage;                                                                              \
        if (op->activation == ACT_SILU) activate_rows(ACT_SILU, gated, op, thread, begin, end);              \
        else if (op->activation == ACT_GELU_ERF) activate_rows(ACT_GELU_ERF, gated, op, thread, begin, end); \
        else activate_rows(ACT_GELU_TANH, gated, op, thread, begin, end);                                    \
    }

ACTIVATION_OP(activate, false)
ACTIVATION_OP(gated, true)

/* Activate a block of 32 columns of `rows` rows: x is [rows][x] or [rows][gate | up], and is overwritten. */
INLINE void activate_block(const int kind, const bool gated, const pyml_op *op, float *x, int64_t column, int64_t row,
                           int64_t rows) {
    const int64_t width = gated ? 2 * BLOCK : BLOCK, block = row * op->out->blocks + column / BLOCK;
    for (int64_t r = 0; r < rows; r++) UNROLL for (int i = 0; i < BLOCK; i += PANEL) {
            vf v = activation(kind, f_load(x + r * width + i));
            if (gated) v = f_mul(v, f_load(x + r * width + BLOCK + i));
            f_store(x + r * width + i, v);
        }
    if (!op->out->codes_only || op->copy)
        for (int64_t r = 0; r < rows; r++)
            memcpy(op->out->f + (row + r) * op->out->width + column, x + r * width, BLOCK * sizeof(float));
    block_run run = {x,
                     op->out->codes + row * op->out->stride8 + column,
                     op->out->scales + block,
                     op->out->sums + block,
                     op->out->half_sums + 2 * block,
                     width,
                     op->out->stride8,
                     op->out->blocks};
    quantize_blocks(&run, rows);
}

void FN(activate_tile)(const pyml_op *op, float *x, int64_t column, int64_t row, int64_t rows) {
    const bool gated = op->kind == OP_GATED;
#define ACTIVATE_BLOCK(kind)                                         \
    if (gated) activate_block(kind, true, op, x, column, row, rows); \
    else activate_block(kind, false, op, x, column, row, rows)
    if (op->activation == ACT_SILU) {
        ACTIVATE_BLOCK(ACT_SILU);
    } else if (op->activation == ACT_GELU_ERF) {
        ACTIVATE_BLOCK(ACT_GELU_ERF);
    } else {
        ACTIVATE_BLOCK(ACT_GELU_TANH);
    }
#undef ACTIVATE_BLOCK
}

void FN(soft_cap)(const pyml_op *op, const pyml_run *run, pyml_thread *thread, int stage, int64_t begin, int64_t end) {
    (void)run, (void)thread, (void)stage;
    vf cap = f_set1(op->cap);
    for (int64_t row = begin; row < end; row++) {
        float *x = op->out->f + row * op->out->width;
        FOR_LANES(op->out->width) f_store_n(x + i, f_mul(cap, f_tanh(f_div(f_load_n(x + i, n), cap))), n);
        end_row(op, x, row);
    }
}

void FN(select)(const pyml_op *op, const pyml_run *run, pyml_thread *thread, int stage, int64_t begin, int64_t end) {
    (void)thread, (void)stage;
    int64_t width = op->out->width;
    for (int64_t row = begin; row < end; row++) {
        float *out = op->out->f + row * width;
        memcpy(out, op->in->f + run->output_rows[row] * width, (size_t)width * sizeof(float));
        end_row(op, out, row);
    }
}

/* ---- mixtures of experts: copying rows to the experts, and their weighted sum; see route.c */

void FN(dispatch)(const pyml_op *op, const pyml_run *run, pyml_thread *thread, int stage, int64_t begin, int64_t end) {
    (void)run, (void)thread, (void)stage;
    int64_t width = op->out->width;
    for (int64_t row = begin; row < end; row++) {
        float *out = op->out->f + row * width;
        memcpy(out, op->in->f + op->in2->routes->token[row] * width, (size_t)width * sizeof(float));
        end_row(op, out, row);
    }
}

void FN(combine)(const pyml_op *op, const pyml_run *run, pyml_thread *thread, int stage, int64_t begin, int64_t end) {
    (void)run, (void)thread, (void)stage;
    const pyml_routes *routes = op->in2->routes;
    int64_t width = op->out->width, chosen = routes->chosen;
    for (int64_t row = begin; row < end; row++) {
        const float *weights = op->in2->f + row * op->in2->width + chosen;
        const int32_t *rows = routes->row + row * chosen;
        float *out = op->out->f + row * width;
        FOR_LANES(width) {
            vf sum = f_set1(0.0f);
            for (int64_t c = 0; c < chosen; c++)
                sum = f_fma(f_set1(weights[c]), f_load_n(op->in->f + rows[c] * width + i, n), sum);
            if (op->accumulate) sum = f_add(f_load_n(out + i, n), sum);
            f_store_n(out + i, sum, n);
        }
        end_row(op, out, row);
    }
}

void FN(rope_angles)(const pyml_op *op, const pyml_run *run, pyml_thread *thread, int stage, int64_t begin,
                     int64_t end) {
    (void)thread, (void)stage;
    int64_t half = op->out->width / 2;
    for (int64_t row = begin; row < end; row++) {
        float *cosines = op->out->f + row * op->out->width, *sines = cosines + half;
        const float *inv_freq = op->weight + run->slices[run->token_slice[row]].rope_set * half;
        for (int64_t i = 0; i < half; i++) {
            float angle = (float)run->positions[row] * inv_freq[i];
            cosines[i] = cosf(angle) * op->scale;
            sines[i] = sinf(angle) * op->scale;
        }
    }
}
