/* attention.c: from the formula to the kernel of level/attention.c in steps. The first two are plain C; the last two
 * use the sixteen lanes of level/simd.h, which are plain C too on machines without such vectors.
 *
 * One query head attends to n keys: out = softmax(scale * q k^T) v. D is head_dim. The kernel does this for many tokens
 * and heads. Rows are independent, so one row is enough to show the method. README.md has the speed of each step.
 */
#include "ladder.h"

/* v0: the formula, literally. Needs memory for all n scores. */
void attention_v0(const float *q, const float *k, const float *v, int64_t n, int64_t d, float scale, float *out) {
    float *p = malloc((size_t)n * sizeof *p), top = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        float dot = 0;
        for (int64_t j = 0; j < d; j++) dot += q[j] * k[i * d + j];
        p[i] = scale * dot;
        top = fmaxf(top, p[i]);
    }
    for (int64_t i = 0; i < n; i++) {
        p[i] = expf(p[i] - top);
        sum += p[i];
    }
    for (int64_t j = 0; j < d; j++) out[j] = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < d; j++) out[j] += p[i] / sum * v[i * d + j];
    free(p);
}

/* The result over some keys: weighted values, the sum of the exponentials, and the largest score (an exponent of 2). */
typedef struct {
    float o[HEAD_DIM_MAX], l, m;
} partial;

static const partial nothing = {.m = -INFINITY};

/* Online softmax: both results are rescaled to the larger maximum, then added. */
static void merge(partial *all, const partial *block, int64_t d) {
    float m = fmaxf(all->m, block->m), rescale_old = exp2f(all->m - m), rescale_new = exp2f(block->m - m);
    for (int64_t j = 0; j < d; j++) all->o[j] = all->o[j] * rescale_old + block->o[j] * rescale_new;
    all->l = all->l * rescale_old + block->l * rescale_new;
    all->m = m;
}

static float maximum(const float *p, int64_t n) {
    float top = p[0];
    for (int64_t i = 1; i < n; i++) top = fmaxf(top, p[i]);
    return top;
}

/* v1: blocks of keys, merged in ascending order. Adds: constant memory, and blocks that threads can share. */
void attention_v1(const float *q, const float *k, const float *v, int64_t n, int64_t d, float scale, float *out) {
    partial all = nothing;
    for (int64_t first = 0; first < n; first += KEYS) {
        int64_t count = n - first < KEYS ? n - first : KEYS;
        float p[KEYS];
        for (int64_t i = 0; i < count; i++) {
            p[i] = 0;
            for (int64_t j = 0; j < d; j++) p[i] += scale * log2_e * q[j] * k[(first + i) * d + j];
        }
        partial block = {.m = maximum(p, count)};
        for (int64_t i = 0; i < count; i++) {
            float e = exp2f(p[i] - block.m);
            block.l += e;
            for (int64_t j = 0; j < d; j++) block.o[j] += e * v[(first + i) * d + j];
        }
        merge(&all, &block, d);
    }
    for (int64_t j = 0; j < d; j++) out[j] = all.o[j] / all.l;
}

/* Exponentials of a block's scores, in place, sixteen at a time, without keys from n on. Returns maximum and sum. */
static partial exponentials(float *p, int64_t n) {
    vf top = f_set1(-INFINITY), sum = f_set1(0);
    for (int64_t i = n; i < KEYS; i++) p[i] = -INFINITY;
    for (int64_t i = 0; i < KEYS; i += PANEL) top = f_max(top, f_load(p + i));
    top = f_top_everywhere(top);
    for (int64_t i = 0; i < KEYS; i += PANEL) {
        vf e = f_exp2(f_sub(f_load(p + i), top));
        f_store(p + i, e);
        sum = f_add(sum, e);
    }
    return (partial){.m = f_first(top), .l = f_sum(sum)};
}

/* v2: pages and panels. Adds: a vector has one element of each of 16 keys, so that 16 dot products are computed in
 * parallel, without sums across lanes. A page of the cache is keys [P/16][D][16], then values [P][D]. */
void attention_v2(const float *q, const uint8_t *const *pages, int64_t n, int64_t d, float scale, float *out) {
    partial all = nothing;
    for (int64_t first = 0; first < n; first += KEYS) {
        int64_t count = n - first < KEYS ? n - first : KEYS;
        float p[KEYS];
        for (int64_t i = 0; i < count; i += PANEL) {
            const float *keys = (const float *)pages[(first + i) / PAGE] + i % PAGE * d;
            vf dot = f_set1(0);
            for (int64_t j = 0; j < d; j++) dot = f_fma(f_set1(q[j]), f_load(keys + j * PANEL), dot);
            f_store(p + i, f_mul(dot, f_set1(scale * log2_e)));
        }
        partial block = exponentials(p, count);
        for (int64_t j = 0; j < d; j += PANEL) {
            vf o = f_set1(0);
            for (int64_t i = 0; i < count; i++) {
                const float *values = (const float *)pages[(first + i) / PAGE] + (PAGE + i % PAGE) * d;
                o = f_fma(f_set1(p[i]), f_load(values + j), o);
            }
            f_store(block.o + j, o);
        }
        merge(&all, &block, d);
    }
    for (int64_t j = 0; j < d; j++) out[j] = all.o[j] / all.l;
}

/* Elements of a key that share a scale: the largest power of two up to 128 that divides D. */
static int64_t key_block(int64_t d) { return (d & -d) < 128 ? d & -d : 128; }

/* The Hadamard transform H of `size` numbers, H H = size. Transforming both queries and keys preserves their dot
 * products and spreads a large element over its block, which makes codes more precise. */
static void hadamard(float *x, int64_t size) {
    for (int64_t half = size / 2; half; half /= 2)
        for (int64_t i = 0; i < size; i++)
            if (!(i & half)) {
                float a = x[i], b = x[i + half];
                x[i] = a + b;
                x[i + half] = a - b;
            }
}

/* A query in int8: scaled, transformed and rounded like keys. */
typedef struct {
    int8_t codes[HEAD_DIM_MAX];
    float scales[HEAD_DIM_MAX]; /* of each block */
    int32_t sums[HEAD_DIM_MAX]; /* of each block's codes */
} int8_query;

static int8_query round_query(const float *q, int64_t d, float scale) {
    const int64_t size = key_block(d);
    int8_query rounded;
    float x[HEAD_DIM_MAX];
    for (int64_t j = 0; j < d; j++) x[j] = q[j] * (scale * log2_e * (1.0f / (float)size));
    for (int64_t b = 0; b < d / size; b++) {
        hadamard(x + b * size, size);
        rounded.scales[b] = quantize(x + b * size, size, rounded.codes + b * size, &rounded.sums[b]);
    }
    return rounded;
}

/* The scores of 16 keys from key i of a page on. Codes are stored + 128; the initial value of the sum cancels that
 * bias. The score starts with log2 of the scale of the key's value, which folds that scale into the weight. */
static vf int8_scores(const int8_query *q, const uint8_t *page, int64_t i, int64_t d) {
    const int64_t size = key_block(d), block_bytes = PAGE * 4 + PAGE * size;
    vf score = f_load((const float *)(page + d / size * block_bytes) + i);
    for (int64_t b = 0; b < d / size; b++, page += block_bytes) {
        vi dot = i_set1(-WIDE_BIAS * q->sums[b]);
        for (int64_t word = 0; word < size / 4; word++) {
            vb keys = b_load(page + PAGE * 4 + (word * PAGE + i) * 4);
            dot = i_dot_wide(dot, keys, i_load4(q->codes + b * size + word * 4));
        }
        score = f_fma(f_mul(f_from_i(dot), f_load((const float *)page + i)), f_set1(q->scales[b]), score);
    }
    return score;
}

/* v3: keys and values in int8. Adds: a quarter of the bytes, and four products in one operation. Weights are rounded to
 * 8 bits, the largest to 255. A page is, for every block of B elements of the keys, scales [P] and codes [B/4][P][4];
 * then the values: log2 of the scales [P], their inverses [P], codes [D/16][P/4][16][4]. */
void attention_v3(const float *q, const uint8_t *const *pages, int64_t n, int64_t d, float scale, float *out) {
    const int64_t key_bytes = d / key_block(d) * PAGE * 4 + PAGE * d;
    const int8_query rounded = round_query(q, d, scale);
    partial all = nothing;
    for (int64_t first = 0; first < n; first += KEYS) {
        int64_t count = n - first < KEYS ? n - first : KEYS;
        float p[KEYS];
        uint8_t weights[KEYS];
        for (int64_t i = 0; i < count; i += PANEL)
            f_store(p + i, int8_scores(&rounded, pages[(first + i) / PAGE], i % PAGE, d));
        partial block = exponentials(p, count);
        block.l = 0;
        for (int64_t i = 0; i < count; i++)
            block.l += p[i] * ((const float *)(pages[(first + i) / PAGE] + key_bytes))[PAGE + i % PAGE];
        for (int64_t i = 0; i < KEYS; i++) weights[i] = (uint8_t)rintf(255 * p[i]);
        for (int64_t j = 0; j < d; j += PANEL) {
            vd sum = d_zero();
            for (int64_t i = 0; i < count; i += 4) {
                const uint8_t *codes = pages[(first + i) / PAGE] + key_bytes + 2 * PAGE * 4 + j * PAGE;
                sum = d_dot_signed(sum, b_load(codes + i % PAGE * PANEL), i_load4(weights + i));
            }
            f_store(block.o + j, f_from_d(sum));
        }
        merge(&all, &block, d);
    }
    for (int64_t j = 0; j < d; j++) out[j] = all.o[j] / (255 * all.l);
}
