/* draw_bounds.h: bounds for a state whose next token is drawn: on the score of a panel's best token, which is its logit
 * plus temperature * Gumbel noise, and on the weight of its tokens, exp(logit / temperature).
 *
 * The noise of a token with the number u is -log(-log u), and with q = 1 - u: -log u >= q + q^2 / 2 + q^3 / 3.
 *
 * A logit is coarse + error, and the error about normally distributed, with a deviation s. So a weight is on average
 * exp((coarse + s^2 / 2 t) / t), and its variance that squared times exp(s^2 / t^2) - 1. The errors of different rows
 * are not independent: what they share is bounded by one deviation, several times of what it was found to be. (Bounds
 * of each row by itself, six deviations away, would make the sum twenty times as large.)
 */
#ifndef PYML_LEVEL_DRAW_BOUNDS_H
#define PYML_LEVEL_DRAW_BOUNDS_H

#include "elementary.h"
#include "kernels.h"

#define MOST_SPREAD 16.0f /* s^2 / t^2 of a row above which it is bounded by itself */

typedef struct {
    bool drawn;
    float temperature, inverse;
    uint64_t key;
} draw_state;

/* log x within 2e-5, for x positive and not subnormal: a polynomial at Chebyshev nodes in the mantissa. */
INLINE vf f_log(vf x) {
    vi bits = i_abs_bits(x);
    vf exponent = f_from_i(i_add(i_shr(bits, 23), i_set1(-127)));
    vf m = f_sub(f_from_bits(i_or(i_and(bits, i_set1(0x7fffff)), i_set1(0x3f800000))), f_set1(1.0f));
    vf p = f_set1(0.0298087652f);
    p = f_fma(p, m, f_set1(-0.1299571976f));
    p = f_fma(p, m, f_set1(0.2838231831f));
    p = f_fma(p, m, f_set1(-0.4896990903f));
    p = f_fma(p, m, f_set1(0.9991664010f));
    p = f_fma(p, m, f_set1(1.14470976e-5f));
    return f_fma(exponent, f_set1(0.69314718f), p);
}

/* Upper bounds on the noise of sixteen tokens. */
INLINE vf noise_bounds(uint64_t key, int64_t token) {
    _Alignas(64) int32_t half[PANEL]; /* of 2^32 (1 - u) */
    for (int i = 0; i < PANEL; i++) half[i] = (int32_t)(~noise_bits(key, (int32_t)token + i) >> 1);
    vf q = f_mul(f_from_i(i_load(half)), f_set1(0x1.fffff8p-32f)); /* rounded down */
    q = f_max(q, f_set1(0x1p-33f));
    vf event = f_mul(q, f_fma(q, f_fma(q, f_set1(0.3333333f), f_set1(0.5f)), f_set1(1.0f)));
    return f_sub(f_set1(5e-5f), f_log(event));
}

/* `noisy`: the largest score that a token of the panel can have. `mass` exp(center / t): the weight of the panel.
 * `variance` exp(2 center / t): of that. All rows have finite bounds, and are as many as `rows`. */
INLINE void bound_draw(const pyml_screen *screen, const draw_state *d, int64_t panel, int64_t at, vf coarse,
                       vf deviation, vf upper, int64_t rows) {
    static const float absent[2 * PANEL] = {[PANEL] = -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY,
                                            -INFINITY,           -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY,
                                            -INFINITY,           -INFINITY, -INFINITY, -INFINITY};
    const vf none = f_load(absent + PANEL - rows);
    vf noise = noise_bounds(d->key, panel * PANEL);
    screen->noisy[at] = f_top(f_add(f_fma(noise, f_set1(d->temperature), upper), none));
    vf ratio = f_mul(deviation, f_set1(d->inverse)), square = f_mul(ratio, ratio), limit = f_set1(MOST_SPREAD);
    vf mean = f_add(coarse, f_fma(f_mul(deviation, ratio), f_set1(0.5f), deviation));
    mean = f_add(f_greater(square, limit, upper, mean), none);
    vf relative = f_add(f_exp(f_min(square, limit)), f_set1(1e-6f - 1.0f));
    relative = f_greater(square, limit, f_set1(0.0f), relative);
    const float center = f_top(mean);
    vf weight = f_exp(f_mul(f_sub(mean, f_set1(center)), f_set1(d->inverse)));
    screen->center[at] = center;
    screen->mass[at] = f_sum(weight);
    screen->variance[at] = f_sum(f_mul(f_mul(weight, weight), relative));
}

/* Of a panel with numbers that are not finite: it is always computed. */
INLINE void bound_nothing(const pyml_screen *screen, int64_t at) {
    screen->noisy[at] = INFINITY, screen->center[at] = -INFINITY;
    screen->mass[at] = screen->variance[at] = 0.0f;
}

#endif
