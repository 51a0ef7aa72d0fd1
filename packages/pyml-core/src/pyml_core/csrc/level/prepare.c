/* prepare.c: the steps between the q, k, v product and attention: QK-norm and RoPE of q and k in place, and appending k
 * and v to the KV pages (see kv_layout.py).
 */
#include "heads.h"

enum { PHASE_NORM, PHASE_ROPE, PHASE_APPEND };

static void rotate(float *x, const float *cosines, int64_t half) {
    const float *sines = cosines + half;
    for (int64_t i = 0; i < half; i += PANEL) {
        int64_t n = min_i64(PANEL, half - i);
        vf a = f_load_n(x + i, n), b = f_load_n(x + half + i, n), c = f_load_n(cosines + i, n),
           s = f_load_n(sines + i, n);
        f_store_n(x + i, f_sub(f_mul(a, c), f_mul(b, s)), n);
        f_store_n(x + half + i, f_add(f_mul(b, c), f_mul(a, s)), n);
    }
}

/* Store x to out[0], out[step], ...: as f16, clamped to its range, or as f32. */
INLINE void append(const pyml_kv *kv, const float *x, uint8_t *out, const int64_t step) {
    vf top = f_set1(65504.0f), bottom = f_set1(-65504.0f);
    for (int64_t i = 0; i < kv->head_dim; i += PANEL) {
        int64_t n = min_i64(PANEL, kv->head_dim - i);
        if (kv->f16) {
            uint16_t lanes[PANEL];
            f_store_f16(lanes, f_min(top, f_max(bottom, f_load_n(x + i, n)))); /* this order preserves NaN */
            for (int64_t j = 0; j < n; j++) ((uint16_t *)out)[(i + j) * step] = lanes[j];
        } else {
            for (int64_t j = 0; j < n; j++) ((float *)out)[(i + j) * step] = x[i + j];
        }
    }
}

/* Transform x and store it as key `at` of a page: codes + 128, four to a word, in the operand order of dot products. */
static void append_int8_key(const pyml_kv *kv, const float *x, uint8_t *keys, int64_t at) {
    int64_t size = pyml_key_block(kv->head_dim);
    for (int64_t first = 0; first < kv->head_dim; first += size, keys += KEY_SCALES + PAGE * size) {
        int8_t codes[KEY_BLOCK_MAX];
        float scale = quantize_head(x + first, size, f_set1(1.0f), codes).scale;
        memcpy(keys + at * 4, &scale, 4);
        for (int64_t i = 0; i < size; i += 4) {
            uint32_t word;
            memcpy(&word, codes + i, 4);
            word ^= 0x80808080u;
            memcpy(keys + KEY_SCALES + i * PAGE + at * 4, &word, 4);
        }
    }
}

/* log2 x for normal x > 0, rounded once. Results of the C library's function differ between machines. With m from
 * sqrt(1/2) to sqrt(2) and z = (m - 1) / (m + 1), log m = 2 (z + z^3 / 3 + z^5 / 5 + ...). */
static float log2_of(float x) {
    int exponent;
    double m = frexpf(x, &exponent);
    if (m < 0.70710678118654752) m *= 2, exponent--;
    double z = (m - 1) / (m + 1), z2 = z * z;
    double sum = 1 + z2 * (1.0 / 3 + z2 * (1.0 / 5 + z2 * (1.0 / 7 + z2 * (1.0 / 9 + z2 * (1.0 / 11)))));
    return (float)(exponent + 2.8853900817779268 * z * sum);
}

/* Store x as value `at` of a page: int8 codes with one scale, a word having the codes of four keys. The logarithm and
 * the inverse of the scale are stored. The scale is at least 2^-24 / 127, so that smaller numbers become 0. If a number
 * is not finite, the logarithm is NaN. */
static void append_int8_value(const pyml_kv *kv, const float *x, uint8_t *values, int64_t at) {
    vf tops = f_set1(0x1p-24f), zeros = f_set1(0.0f);
    for (int64_t i = 0; i < kv->head_dim; i += PANEL) {
        vf v = f_load(x + i);
        tops = f_max(tops, f_abs(v));
        zeros = f_fma(v, f_set1(0.0f), zeros);
    }
    float top = f_top(tops), finite = f_sum(zeros); /* 0, or NaN */
    if (finite != 0.0f) top = 1.0f;
    float scales[2] = {log2_of(top / 127.0f) + finite, 127.0f / top};
    for (int i = 0; i < 2; i++) memcpy(values + (i * PAGE + at) * 4, scales + i, 4);
    uint8_t *codes = values + VALUE_SCALES + at / 4 * PANEL * 4 + at % 4;
    for (int64_t i = 0; i < kv->head_dim; i += PANEL, codes += PANEL * PAGE) {
        int8_t lanes[PANEL];
        i_store_s8(lanes, i_round(f_mul(f_load(x + i), f_set1(scales[1]))));
        for (int j = 0; j < PANEL; j++) codes[j * 4] = (uint8_t)lanes[j];
    }
}

int64_t FN(prepare_qkv_items)(const pyml_op *op, const pyml_run *run, int stage) {
    int64_t heads = run->tokens * (op->n_heads + run->kv.n_kv_heads);
    if (op->normalize) return stage ? heads : 2 * run->tokens; /* norms of all heads together come first */
    return stage ? 0 : heads;
}

/* The norms of all query heads of a row together, and of all key heads: items 2 row and 2 row + 1. */
static void normalize_rows(const pyml_op *op, const pyml_kv *kv, pyml_thread *thread, int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; item++) {
        bool keys = item % 2;
        const float *norm = keys ? op->weight2 : op->weight;
        float *x = op->in->f + item / 2 * op->in->width + (keys ? op->n_heads * kv->head_dim : 0);
        uint64_t time = phase_start(thread);
        if (norm) FN(normalize_head)(x, norm, op->eps, (keys ? kv->n_kv_heads : op->n_heads) * kv->head_dim);
        charge_phase(thread, PHASE_NORM, time);
    }
}

void FN(prepare_qkv)(const pyml_op *op, const pyml_run *run, pyml_thread *thread, int stage, int64_t begin,
                     int64_t end) {
    const pyml_kv *kv = &run->kv;
    if (op->normalize && !stage) {
        normalize_rows(op, kv, thread, begin, end);
        return;
    }
    int64_t units = op->n_heads + kv->n_kv_heads, d = kv->head_dim, element = kv->f16 ? 2 : 4;
    for (int64_t item = begin; item < end; item++) {
        int64_t row = item / units, unit = item % units;
        float *x = op->in->f + row * op->in->width + unit * d; /* q heads, then k heads */
        const float *norm = op->normalize ? NULL : unit < op->n_heads ? op->weight : op->weight2;
        uint64_t time = phase_start(thread);
        if (norm) {
            FN(normalize_head)(x, norm, op->eps, d);
            time = charge_phase(thread, PHASE_NORM, time);
        }
        if (op->in2) {
            rotate(x, op->in2->f + row * op->in2->width, op->in2->width / 2);
            time = charge_phase(thread, PHASE_ROPE, time);
        }
        if (unit >= op->n_heads) {
            int64_t head = unit - op->n_heads, position = run->positions[row], at = position % PAGE;
            uint8_t *page = run->slices[run->token_slice[row]].pages[position / PAGE] + op->layer * kv->layer_bytes;
            uint8_t *keys = page + head * (kv->key_bytes + kv->value_bytes), *values = keys + kv->key_bytes;
            const float *v = x + kv->n_kv_heads * d;
            if (kv->int8) {
                append_int8_key(kv, x, keys, at);
                append_int8_value(kv, v, values, at);
            } else {
                append(kv, x, keys + (at / PANEL * d * PANEL + at % PANEL) * element, PANEL);
                append(kv, v, values + at * d * element, 1);
            }
            charge_phase(thread, PHASE_APPEND, time);
        }
    }
}
