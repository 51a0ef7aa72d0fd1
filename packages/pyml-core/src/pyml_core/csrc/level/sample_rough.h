/* sample_rough.h: sums of weights in float32, which mostly decide whether a token is in a set.
 *
 * Errors: differences of up to 46 are rounded twice (6e-6 in all), f_exp2_short has 3e-6, and sums of 256 numbers a
 * lane 1.5e-5. All sums are within ROUGH of the exact ones.
 */
#ifndef PYML_LEVEL_SAMPLE_ROUGH_H
#define PYML_LEVEL_SAMPLE_ROUGH_H

#include "sample_rules.h"

#define ROUGH 1e-4

/* In units of the largest weight; NaN if the numbers are too large for float32. */
typedef struct {
    double total, moment; /* sums of the weights, and of weight times -d */
} sums;

INLINE bool is_moderate(const row *r) { return fabsf(r->top) < 1e30f && r->temperature < 1e30; }

/* d = (x - top) / temperature / log(2) of a group's candidates, at least -120, and 2^d. */
INLINE void rough_group(const float *x, float top, float scale, vf d[4], vf weights[4]) {
    UNROLL for (int i = 0; i < 4; i++) d[i] =
        f_max(f_mul(f_sub(f_load(x + 16 * i), f_set1(top)), f_set1(scale)), f_set1(-120.0f));
    UNROLL for (int i = 0; i < 4; i++) weights[i] = d[i];
    f_exp2_short(4, weights);
}

static sums rough_sums(const row *r) {
    const float scale = (float)(LOG2_E / r->temperature);
    sums all = {0, 0};
    float padded[GROUP];
    if (!is_moderate(r)) return (sums){NAN, NAN};
    for (int64_t first = 0; first < groups_of(r); first += GROUP) {
        vf total = f_set1(0.0f), moment = total;
        for (int64_t g = first; g < first + GROUP && g < groups_of(r); g++) {
            if (!has_weight(r, g)) continue;
            vf d[4], weights[4];
            rough_group(group_at(r, g, padded), r->top, scale, d, weights);
            UNROLL for (int i = 0; i < 4; i++) total = f_add(total, weights[i]);
            UNROLL for (int i = 0; i < 4; i++) moment = f_fma(weights[i], d[i], moment);
        }
        all.total += (double)f_sum(total), all.moment -= (double)f_sum(moment) / LOG2_E;
    }
    return all;
}

/* Whether a token is surely among the most typical ones with a share p. The mean, and with it distances, are within
 * `error`; so the weight of the nearer ones is at most that of those within the distance and twice as much. */
static bool surely_typical(const row *r, float chosen, double p) {
    const float scale = (float)(LOG2_E / r->temperature);
    const sums all = rough_sums(r);
    const double mean = all.moment / all.total, error = 2 * ROUGH * mean + 1e-4;
    const double distance = fabs(difference(chosen, r->top, 1.0 / r->temperature) + mean) + 2 * error;
    const vf low = f_set1((float)((-mean - distance) * LOG2_E)), high = f_set1((float)((-mean + distance) * LOG2_E));
    const vf none = f_set1(0.0f);
    double within = 0;
    float padded[GROUP];
    if (!(all.total > 0)) return false;
    for (int64_t first = 0; first < groups_of(r); first += GROUP) {
        vf total = none;
        for (int64_t g = first; g < first + GROUP && g < groups_of(r); g++) {
            if (!has_weight(r, g)) continue;
            vf d[4], weights[4];
            rough_group(group_at(r, g, padded), r->top, scale, d, weights);
            UNROLL for (int i = 0; i < 4; i++) total =
                f_add(total, f_greater(d[i], low, f_greater(high, d[i], weights[i], none), none));
        }
        within += (double)f_sum(total);
    }
    return within * (1 + ROUGH) < p * all.total * (1 - ROUGH);
}

#endif
