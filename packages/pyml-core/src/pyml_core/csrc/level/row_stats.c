/* row_stats.c: what a screen knows about every row of a split head, worked out once a matrix. screen.c says what the
 * numbers are: for every panel float16 [alpha, beta, rms_error, bias_bound][16 rows].
 */
#include "screen.h"

typedef struct {
    vf weight, h, l, hh, hl, ll; /* sums over the row of s_w^2 times 1, h, l, ... */
} moments;

static moments moments_of(const pyml_matrix *m, int64_t panel) {
    const uint8_t *chunk = m->data + panel * m->panel_bytes;
    const vi ones = i_set1(0x01010101);
    vf zero = f_set1(0.0f);
    moments sum = {zero, zero, zero, zero, zero, zero};
    for (int64_t k0 = 0; k0 < m->k; k0 += CHUNK) {
        int64_t blocks = min_i64(CHUNK, m->k - k0) / BLOCK;
        const uint8_t *high = chunk + scale_bytes(blocks), *low = m->low + panel * m->low_bytes + k0 / 2 * PANEL;
        for (int64_t b = 0; b < blocks; b++) {
            vi h = i_set1(0), l = h, hh = h, hl = h, ll = h;
            for (int64_t j = 0; j < 8; j++) {
                vb u = b_load(high + (b * 4 + j % 4) * 64), v = b_load(low + (b * 4 + j % 4) * 64);
                u = j < 4 ? high_of_first(u) : high_of_second(u);
                v = j < 4 ? high_of_first(v) : high_of_second(v);
                h = i_dot(h, u, ones);
                l = i_dot(l, v, ones);
                hh = i_dot(hh, u, i_from_b(u));
                hl = i_dot(hl, u, i_from_b(v));
                ll = i_dot(ll, v, i_from_b(v));
            }
            vf scale = f_load_f16((const uint16_t *)chunk + b * PANEL), square = f_mul(scale, scale);
            sum.weight = f_fma(square, f_set1(BLOCK), sum.weight);
            sum.h = f_fma(square, f_from_i(h), sum.h);
            sum.l = f_fma(square, f_from_i(l), sum.l);
            sum.hh = f_fma(square, f_from_i(hh), sum.hh);
            sum.hl = f_fma(square, f_from_i(hl), sum.hl);
            sum.ll = f_fma(square, f_from_i(ll), sum.ll);
        }
        chunk = high + blocks * 4 * 64;
    }
    return sum;
}

static float rounded_to_f16(float x) {
    _Alignas(64) uint16_t half[PANEL];
    _Alignas(64) float lanes[PANEL];
    f_store_f16(half, f_set1(x));
    f_store(lanes, f_load_f16(half));
    return lanes[0];
}

void FN(row_stats)(const pyml_matrix *m, int64_t begin, int64_t end, uint16_t *stats) {
    for (int64_t panel = begin; panel < end; panel++) {
        const moments sum = moments_of(m, panel);
        _Alignas(64) float s[6][PANEL], stat[ROW_STATS][PANEL];
        f_store(s[0], sum.weight), f_store(s[1], sum.h), f_store(s[2], sum.l);
        f_store(s[3], sum.hh), f_store(s[4], sum.hl), f_store(s[5], sum.ll);
        for (int lane = 0; lane < PANEL; lane++) {
            double weight = s[0][lane], alpha = 0, beta = 0, error = 0, energy = 0;
            if (weight > 0 && weight <= FLT_MAX) {
                double h = s[1][lane] / weight, l = s[2][lane] / weight;
                double hh = s[3][lane] / weight, hl = s[4][lane] / weight, ll = s[5][lane] / weight;
                double variance = hh - h * h;
                alpha = variance > 1e-3 ? (hl - h * l) / variance : 0;
                alpha = rounded_to_f16((float)alpha);
                beta = rounded_to_f16((float)(l - alpha * h));
                error = ll - 2 * alpha * hl - 2 * beta * l + alpha * alpha * hh + 2 * alpha * beta * h + beta * beta;
                energy = (16 + alpha) * (16 + alpha) * hh + 2 * (16 + alpha) * (beta - 128) * h
                         + (beta - 128) * (beta - 128);
            }
            error = error > UNIFORM_ERROR ? error : UNIFORM_ERROR;
            double bias_bound = energy > error / 8 ? error / energy : energy > 0 ? 8 : 0;
            stat[0][lane] = (float)alpha, stat[1][lane] = (float)beta;
            stat[2][lane] = (float)(1.001 * sqrt(error)); /* float16 may round down by 1/2048 */
            stat[3][lane] = (float)bias_bound;
        }
        for (int i = 0; i < ROW_STATS; i++) f_store_f16(stats + (panel * ROW_STATS + i) * PANEL, f_load(stat[i]));
    }
}
