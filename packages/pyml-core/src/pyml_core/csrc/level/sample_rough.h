/* sample_rough.h: sums of weights in float32, which mostly decide whether a token is in a set.
 *
 * Errors: differences of up to 46 are rounded twice (6e-6 in all), f_exp2_short has 3e-6, and sums of 256 numbers a
 * lane 1.5e-5. All sums are within ROUGH of the exact ones.
 */
#ifndef PYML_LEVEL_SAMPLE_ROUGH_H
#define PYML_LEVEL_SAMPLE_ROUGH_H

#include "sample_rules.h"

#define ROUGH 1e-4

/* In units of the largest weight; 0 if they are not known yet, NaN if the numbers are too large for float32. */
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

typedef enum { UNSURE, INSIDE, OUTSIDE } verdict;

/* Whether a token is among the most typical ones with a share p. The mean of `all`, and with it distances, are within
 * `error`; so the weight of the nearer ones is between those of two ranges that are so much narrower and wider. */
static verdict rough_typical(const row *r, const sums *all, float chosen, double p) {
    const float scale = (float)(LOG2_E / r->temperature);
    const double mean = all->moment / all->total, error = 4 * ROUGH * mean + 2e-4;
    const double distance = fabs(difference(chosen, r->top, 1.0 / r->temperature) + mean);
    const vf low = f_set1((float)((-mean - distance - error) * LOG2_E)), none = f_set1(0.0f);
    const vf high = f_set1((float)((-mean + distance + error) * LOG2_E));
    const vf low_inside = f_set1((float)((-mean - distance + error) * LOG2_E));
    const vf high_inside = f_set1((float)((-mean + distance - error) * LOG2_E));
    double least = 0, most = 0;
    float padded[GROUP];
    if (!(all->total > 0)) return UNSURE;
    for (int64_t first = 0; first < groups_of(r); first += GROUP) {
        vf wide = none, narrow = none;
        for (int64_t g = first; g < first + GROUP && g < groups_of(r); g++) {
            if (!has_weight(r, g)) continue;
            vf d[4], weights[4];
            rough_group(group_at(r, g, padded), r->top, scale, d, weights);
            UNROLL for (int i = 0; i < 4; i++) {
                wide = f_add(wide, f_greater(d[i], low, f_greater(high, d[i], weights[i], none), none));
                narrow =
                    f_add(narrow, f_greater(d[i], low_inside, f_greater(high_inside, d[i], weights[i], none), none));
            }
        }
        most += (double)f_sum(wide), least += (double)f_sum(narrow);
    }
    if (most * (1 + ROUGH) < p * all->total * (1 - ROUGH)) return INSIDE;
    return least * (1 - ROUGH) > p * all->total * (1 + ROUGH) ? OUTSIDE : UNSURE;
}

#endif
