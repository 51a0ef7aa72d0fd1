/* attention_i8.h: attention with int8 keys and values. Both products are integer dot products: the scales of values are
 * folded into the weights, which are rounded to 8 bits.
 */
#ifndef PYML_LEVEL_ATTENTION_I8_H
#define PYML_LEVEL_ATTENTION_I8_H

#include "heads.h"
#include "softmax.h"

/* Number of key panels of the smaller tile at the end of a page. */
enum { HALF_PANELS = (FLOAT_PANELS + 1) / 2 };

/* Load the queries of a tile: multiply by `scale`, transform, and round to int8 like keys. */
static void load_queries_i8(tile_state *s, float scale) {
    const pyml_op *op = s->op;
    int64_t d = s->run->kv.head_dim, size = pyml_key_block(d), blocks = d / size;
    vf factor = f_mul(f_set1(scale), f_set1(1.0f / (float)size)); /* two Hadamard transforms: H H = size */
    for (int64_t r = 0; r < s->rows; r++) {
        const float *q = op->in->f + (s->row + r / s->group) * op->in->width + (s->head * s->group + r % s->group) * d;
        for (int64_t b = r * blocks; b < (r + 1) * blocks; b++, q += size) {
            quant_params params = quantize_head(q, size, factor, s->q8.codes + b * size);
            s->q8.scales[b] = params.scale;
            s->q8.starts[b] = -WIDE_BIAS * params.sum;
        }
    }
}

/* ---- prefetching: each tile prefetches its share of the memory that is read next */

/* With many rows, prefetch one line at each step, else several. */
INLINE prefetch_plan prefetch_of(const tile_state *s, const uint8_t *next) {
    const int64_t lines = s->rows > TILE_TOKENS ? 1 : FLOAT_PANELS + FLOAT_PANELS / 4;
    return (prefetch_plan){next, next ? lines : 0};
}

/* With few rows, memory is the bottleneck: prefetch into the nearest cache. With many, that would evict their data. */
INLINE void prefetch_step(const int nt, prefetch_plan plan, int64_t step) {
    for (int64_t line = step * plan.lines; line < (step + 1) * plan.lines; line++)
        if (nt < TILE_TOKENS) PREFETCH_NEAR(plan.from + line * 64);
        else PREFETCH(plan.from + line * 64);
}

INLINE prefetch_plan prefetch_share(prefetch_plan *plan, int64_t steps) {
    prefetch_plan share = *plan;
    plan->from += plan->lines * steps * 64;
    return share;
}

/* ---- queries times keys */

/* Add the scores of one block of elements to the scores `before`, whose rows are `before_stride` apart. `keys` points
 * to the block's scales, followed by its codes, from a panel on: out = fma(float(sum_d code_q code_k) * scale_k,
 * scale_q, before). */
INLINE void key_tile(const int nt, const int np, quantized_queries q, int64_t d, int64_t size, const uint8_t *keys,
                     const float *before, int64_t before_stride, float *out, prefetch_plan prefetch) {
    int64_t blocks = d / size;
    vd dot[TILE_TOKENS][FLOAT_PANELS];
    UNROLL for (int t = 0; t < nt; t++) {
        vd start = d_set1(q.starts[t * blocks]);
        UNROLL for (int p = 0; p < np; p++) dot[t][p] = start;
    }
    for (int64_t word = 0; word < size / 4; word++) {
        prefetch_step(nt, prefetch, word);
        vb w[FLOAT_PANELS];
        UNROLL for (int p = 0; p < np; p++) w[p] = b_load(keys + KEY_SCALES + (word * PAGE + p * PANEL) * 4);
        UNROLL for (int t = 0; t < nt; t++) {
            vi x = i_load4(q.codes + t * d + word * 4);
            UNROLL for (int p = 0; p < np; p++) dot[t][p] = d_dot_wide(dot[t][p], w[p], x);
        }
    }
    vf scale[FLOAT_PANELS];
    UNROLL for (int p = 0; p < np; p++) scale[p] = f_load((const float *)(keys + p * PANEL * 4));
    UNROLL for (int t = 0; t < nt; t++, q.scales += blocks, before += before_stride) {
        MOVED(q.scales);
        MOVED(before);
        vf scale_q = f_set1(*q.scales);
        UNROLL for (int p = 0; p < np; p++)
            f_store(out + t * KEYS + p * PANEL,
                    f_fma(f_mul(f_from_d(dot[t][p]), scale[p]), scale_q, f_load(before + p * PANEL)));
    }
}

/* Compute the scores of key panels from..to-1 of a page. `added` is added to the scores of each key. */
static void dot_page(const tile_state *s, const uint8_t *keys, int64_t page, int64_t from, int64_t to,
                     const float *added, prefetch_plan prefetch) {
    int64_t d = s->run->kv.head_dim, size = pyml_key_block(d), blocks = d / size;
    for (int64_t b = 0; b < blocks; b++, keys += KEY_SCALES + PAGE * size) {
        for (int64_t p = from; p < to;) {
            bool full = p + FLOAT_PANELS <= to;
            for (int64_t r = 0; r < s->rows; r += TILE_TOKENS) {
                quantized_queries q = {s->q8.codes + r * d + b * size, s->q8.scales + r * blocks + b,
                                       s->q8.starts + r * blocks + b};
                float *out = s->p + r * KEYS + page * PAGE + p * PANEL;
                const float *before = b ? out : added + p * PANEL;
                const uint8_t *panel = keys + p * PANEL * 4;
                int64_t stride = b ? KEYS : 0, rows = min_i64(TILE_TOKENS, s->rows - r);
                prefetch_plan share = prefetch_share(&prefetch, size / 4);
                if (full)
                    WITH_CONST(rows, TILE_TOKENS,
                               key_tile(N, FLOAT_PANELS, q, d, size, panel, before, stride, out, share));
                else
                    WITH_CONST(rows, TILE_TOKENS,
                               key_tile(N, HALF_PANELS, q, d, size, panel, before, stride, out, share));
            }
            p += full ? FLOAT_PANELS : HALF_PANELS;
        }
    }
}

/* ---- weights times values */

/* Multiply weights by the values of a block, four keys at a time; merge into the result, or store if the merge is
 * deferred. The sums are integers that float32 represents exactly, so that both ways give the same bits. */
INLINE void value_tile(const int nt, const int np, bool deferred, const uint8_t *weights, const key_range *in,
                       const uint8_t *const *values, int64_t panel, const float *rescale_old, const float *rescale_new,
                       float *out, int64_t ld_out, const prefetch_plan *prefetch, int64_t step) {
    vd dot[TILE_TOKENS][FLOAT_PANELS];
    UNROLL for (int t = 0; t < nt; t++) UNROLL for (int p = 0; p < np; p++) dot[t][p] = d_zero();
    for (int64_t page = in->from; page < in->to; page++) {
        const uint8_t *v_page = values[page] + panel * PANEL * PAGE, *w_page = weights + page * PAGE;
        int64_t last = (key_in_page(in->last, page) + 3) / 4;
        for (int64_t word = key_in_page(in->first, page) / 4; word < last; word++) {
            prefetch_step(nt, prefetch[page], step + word);
            vb v[FLOAT_PANELS];
            UNROLL for (int p = 0; p < np; p++) v[p] = b_load(v_page + (p * PAGE / 4 + word) * 64);
            UNROLL for (int t = 0; t < nt; t++) {
                vi w = i_load4(w_page + t * KEYS + word * 4);
                UNROLL for (int p = 0; p < np; p++) dot[t][p] = d_dot_signed(dot[t][p], v[p], w);
            }
        }
    }
    UNROLL for (int t = 0; t < nt; t++, out += ld_out) {
        MOVED(out);
        vf old = f_set1(deferred ? 0.0f : rescale_old[t]), new = f_set1(deferred ? 0.0f : rescale_new[t]);
        UNROLL for (int p = 0; p < np; p++) {
            vf block = f_from_d(dot[t][p]);
            f_store(out + p * PANEL, deferred ? block : f_fma(block, new, f_mul(f_load(out + p * PANEL), old)));
        }
    }
}

/* Compute the weighted values of a block for all rows. */
static void weigh_values(const tile_state *s, const key_range *in, const uint8_t *const *values, bool deferred,
                         const prefetch_plan *prefetch) {
    int64_t panels = s->run->kv.head_dim / PANEL, step = 0;
    float *results = deferred ? s->block.o : s->result.o;
    for (int64_t p = 0; p < panels;) {
        bool full = p + FLOAT_PANELS <= panels;
        for (int64_t r = 0; r < s->rows; r += TILE_TOKENS, step += PAGE / 4) {
            const uint8_t *weights = s->weights + r * KEYS;
            const float *old = s->rescale_old + r, *new = s->rescale_new + r;
            float *out = results + r * s->width + p * PANEL;
            int64_t rows = min_i64(TILE_TOKENS, s->rows - r), ld = s->width;
            if (full)
                WITH_CONST(
                    rows, TILE_TOKENS,
                    value_tile(N, FLOAT_PANELS, deferred, weights, in, values, p, old, new, out, ld, prefetch, step));
            else
                WITH_CONST(rows, TILE_TOKENS,
                           value_tile(N, 1, deferred, weights, in, values, p, old, new, out, ld, prefetch, step));
        }
        p += full ? FLOAT_PANELS : 1;
    }
}

/* Like attend_block_f, for int8 keys and values. */
static void attend_block_i8(const tile_state *s, int64_t b, bool deferred) {
    static const float zeros[PAGE] = {0};
    const pyml_kv *kv = &s->run->kv;
    const int64_t group = HALF_PANELS * PANEL;
    key_range in = key_range_of(s, b);
    const uint8_t *values[KEY_PAGES];
    prefetch_plan next_keys[KEY_PAGES];

    uint64_t time = phase_start(s->thread);
    for (int64_t page = in.from; page < in.to; page++) {
        const uint8_t *keys = keys_of(s, b * KEY_PAGES + page), *scales = keys + kv->key_bytes;
        int64_t from = key_in_page(in.first, page) / group * group / PANEL;
        int64_t to = (key_in_page(in.last, page) + group - 1) / group * group / PANEL;
        in.scales[page] = (const float *)scales;
        values[page] = scales + VALUE_SCALES;
        dot_page(s, keys, page, from, to, s->op->cap > 0 ? zeros : in.scales[page], prefetch_of(s, scales));
    }
    time = charge_phase(s->thread, PHASE_SCORES, time);
    softmax(true, s, b, &in);
    time = charge_phase(s->thread, PHASE_SOFTMAX, time);
    if (!deferred) merge_sums(s);
    for (int64_t page = in.from; page < in.to; page++) {
        int64_t after = (b + 1) * KEY_PAGES + page;
        next_keys[page] = prefetch_of(s, after * PAGE < s->end ? keys_of(s, after) : NULL);
    }
    weigh_values(s, &in, values, deferred, next_keys);
    charge_phase(s->thread, PHASE_VALUES, time);
}

#endif
