/* linear.c: from the formula to the quantised product of level/linear.c in steps. The first two are plain C; the last
 * two use the sixteen lanes of level/simd.h.
 *
 * out [T][N] = x [T][K] W^T for a weight W (N, K) of type q8_0: each row is blocks of 32 elements, a block being a
 * float16 scale d and 32 int8 codes; an element is d * code. README.md has the speed of each step.
 */
#include "ladder.h"

enum { STORED = 2 + BLOCK, TILE = 4 };

static float scale_of(const uint8_t *block) {
    uint16_t half;
    memcpy(&half, block, 2);
    return half_to_float(half);
}

/* v0: the formula. Every weight is converted to float32 before it is multiplied. */
void linear_v0(const uint8_t *w, const float *x, int64_t t_count, int64_t n, int64_t k, float *out) {
    for (int64_t t = 0; t < t_count; t++)
        for (int64_t row = 0; row < n; row++) {
            float sum = 0;
            for (int64_t i = 0; i < k; i++) {
                const uint8_t *block = w + (row * k + i) / BLOCK * STORED;
                sum += x[t * k + i] * (scale_of(block) * (float)(int8_t)block[2 + i % BLOCK]);
            }
            out[t * n + row] = sum;
        }
}

/* Rows of x, rounded in blocks of 32. */
typedef struct {
    int8_t *codes; /* [T][K] */
    float *scales; /* [T][K / 32] */
    int32_t *sums; /* [T][K / 32]: sums of the codes of a block */
} rounded;

static rounded round_rows(const float *x, int64_t elements) {
    const int64_t blocks = elements / BLOCK;
    rounded a = {
        .codes = malloc((size_t)elements),
        .scales = malloc((size_t)blocks * sizeof(float)),
        .sums = malloc((size_t)blocks * sizeof(int32_t)),
    };
    for (int64_t b = 0; b < blocks; b++) a.scales[b] = quantize(x + b * BLOCK, BLOCK, a.codes + b * BLOCK, &a.sums[b]);
    return a;
}

static void free_rows(rounded a) { free(a.codes), free(a.scales), free(a.sums); }

/* v1: x is rounded to int8 too. Adds: integer products and sums, which are exact in any order, and only two
 * multiplications by scales for 32 elements. */
void linear_v1(const uint8_t *w, const float *x, int64_t t_count, int64_t n, int64_t k, float *out) {
    rounded a = round_rows(x, t_count * k);
    for (int64_t t = 0; t < t_count; t++)
        for (int64_t row = 0; row < n; row++) {
            float sum = 0;
            for (int64_t b = 0; b < k / BLOCK; b++) {
                const uint8_t *block = w + (row * k / BLOCK + b) * STORED;
                int32_t dot = 0;
                for (int64_t i = 0; i < BLOCK; i++) dot += (int8_t)block[2 + i] * a.codes[t * k + b * BLOCK + i];
                sum += (float)dot * scale_of(block) * a.scales[t * k / BLOCK + b];
            }
            out[t * n + row] = sum;
        }
    free_rows(a);
}

/* A packed panel is a sequence of chunks of up to 256 columns: scales [blocks][16] float16, padded to 64 bytes, then
 * codes + 128 [columns / 4][16][4]. */
static int64_t scale_bytes(int64_t columns) { return (columns / BLOCK * PANEL * 2 + 63) / 64 * 64; }

static int64_t panel_bytes(int64_t k) {
    int64_t bytes = k * PANEL;
    for (int64_t k0 = 0; k0 < k; k0 += CHUNK) bytes += scale_bytes(k - k0 < CHUNK ? k - k0 : CHUNK);
    return bytes;
}

/* Multiply rows t..t+rows-1 of x by one panel, into the columns of the output from `column` on. `rows` is a constant of
 * the caller, so that loops are unrolled and sums stay in registers. Codes are stored + 128; the initial values of the
 * sums cancel that bias. */
static inline void panel_product(const uint8_t *panel, const rounded *a, int64_t t, const int rows, int64_t k,
                                 float *out, int64_t n, int64_t column) {
    vf sum[TILE];
    UNROLL for (int r = 0; r < rows; r++) sum[r] = f_set1(0);
    for (int64_t k0 = 0; k0 < k; k0 += CHUNK) {
        int64_t columns = k - k0 < CHUNK ? k - k0 : CHUNK;
        const uint16_t *scales = (const uint16_t *)panel;
        const uint8_t *codes = panel + scale_bytes(columns);
        for (int64_t b = 0; b < columns / BLOCK; b++, codes += BLOCK * PANEL) {
            const int64_t at = (t * k + k0) / BLOCK + b, stride = k / BLOCK;
            vi dot[TILE];
            UNROLL for (int r = 0; r < rows; r++) dot[r] = i_set1(-WIDE_BIAS * a->sums[at + r * stride]);
            UNROLL for (int word = 0; word < BLOCK / 4; word++) {
                vb w = b_load(codes + word * PANEL * 4);
                UNROLL for (int r = 0; r < rows; r++) dot[r] =
                    i_dot_wide(dot[r], w, i_load4(a->codes + (at + r * stride) * BLOCK + word * 4));
            }
            vf scale = f_load_f16(scales + b * PANEL);
            UNROLL for (int r = 0; r < rows; r++) sum[r] =
                f_fma(f_mul(f_from_i(dot[r]), scale), f_set1(a->scales[at + r * stride]), sum[r]);
        }
        panel = codes;
    }
    UNROLL for (int r = 0; r < rows; r++) {
        float lanes[PANEL];
        f_store(lanes, sum[r]);
        for (int64_t lane = 0; lane < PANEL && column + lane < n; lane++)
            out[(t + r) * n + column + lane] = lanes[lane];
    }
}

/* v2: rows of W in panels of 16. Adds: a vector has the weights of 16 outputs, so that there are no sums across lanes,
 * and one instruction multiplies 64 codes. */
void linear_v2(const uint8_t *w, const float *x, int64_t t_count, int64_t n, int64_t k, float *out) {
    rounded a = round_rows(x, t_count * k);
    for (int64_t t = 0; t < t_count; t++)
        for (int64_t column = 0; column < n; column += PANEL)
            panel_product(w + column / PANEL * panel_bytes(k), &a, t, 1, k, out, n, column);
    free_rows(a);
}

/* v3: tiles of four rows of x. Adds: each weight is loaded once for four rows, and four independent sums hide the
 * latency of additions. */
void linear_v3(const uint8_t *w, const float *x, int64_t t_count, int64_t n, int64_t k, float *out) {
    rounded a = round_rows(x, t_count * k);
    for (int64_t column = 0; column < n; column += PANEL) {
        const uint8_t *panel = w + column / PANEL * panel_bytes(k);
        int64_t t = 0;
        for (; t + TILE <= t_count; t += TILE) panel_product(panel, &a, t, TILE, k, out, n, column);
        for (; t < t_count; t++) panel_product(panel, &a, t, 1, k, out, n, column);
    }
    free_rows(a);
}
