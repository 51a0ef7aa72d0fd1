/* sample_rules.h: rules that change logits or exclude tokens, and the weights of tokens.
 *
 * pyml_core/sampling (weights.py, penalties.py, truncation.py) defines them.
 */
#ifndef PYML_LEVEL_SAMPLE_RULES_H
#define PYML_LEVEL_SAMPLE_RULES_H

#include "sample_row.h"

#include <float.h>

/* ---- rules that change logits */

/* Make the logits the workspace's own, to be changed. */
static void own(row *r, const workspace *w) {
    if (r->x == w->changed || r->x == w->kept) return;
    memcpy(w->changed, r->x, (size_t)r->n * sizeof *r->x);
    r->x = w->changed;
}

static float penalised(float x, double penalty) {
    float factor = (float)(penalty < FLT_MIN ? FLT_MIN : penalty > FLT_MAX ? FLT_MAX : penalty);
    float changed = x > 0 ? x / factor : x * factor;
    return changed > FLT_MAX ? FLT_MAX : changed;
}

static float lowered(float x, double amount) {
    double changed = (double)x - (amount < -DBL_MAX ? -DBL_MAX : amount); /* no infinity: -INFINITY may be there */
    return changed > FLT_MAX ? FLT_MAX : (float)changed;
}

static void change(row *r, const workspace *w, const pyml_sampler *s, int rule) {
    const bool bias = rule == RULE_LOGIT_BIAS;
    const int32_t *tokens = bias ? s->bias_token : s->seen;
    own(r, w);
    for (int64_t i = 0; i < (bias ? s->n_bias : s->n_seen); i++) {
        const int64_t at = index_of(r, tokens[i]);
        if (at < 0) continue;
        float *x = (float *)r->x + at, *top = r->tops + at / GROUP; /* its own: see above */
        const float before = *x;
        if (bias) *x = lowered(before, -s->bias[i] * r->temperature);
        else if (rule == RULE_REPETITION_PENALTY) *x = penalised(before, s->repetition_penalty);
        else if (rule == RULE_FREQUENCY_PENALTY)
            *x = lowered(before, (double)s->counts[i] * s->frequency_penalty * r->temperature);
        else *x = lowered(before, (s->counts[i] ? 1.0 : 0.0) * s->presence_penalty * r->temperature);
        if (*x >= *top) *top = *x;
        else if (before == *top) *top = largest_of(r->x + at / GROUP * GROUP, size_of(r, at / GROUP));
    }
    r->top = largest_of(r->tops, groups_of(r));
}

static void mask_out(row *r, const workspace *w, const uint32_t *mask) {
    for (int64_t g = 0; g < groups_of(r); g++) {
        float *changed = w->changed + g * GROUP;
        const int64_t n = size_of(r, g), from = g * GROUP;
        if (r->ids || n < GROUP) {
            for (int64_t i = 0; i < n; i++) {
                const int32_t token = token_at(r, from + i);
                changed[i] = mask[token >> 5] >> (token & 31) & 1 ? r->x[from + i] : -INFINITY;
            }
        } else if (mask[2 * g] | mask[2 * g + 1]) {
            for (int half = 0; half < 2; half++)
                for (int i = 0; i < 32; i++) {
                    const uint32_t allowed = -(mask[2 * g + half] >> i & 1), infinity = UINT32_C(0xff800000);
                    uint32_t bits;
                    memcpy(&bits, r->x + from + 32 * half + i, sizeof bits);
                    bits = (bits & allowed) | (infinity & ~allowed);
                    memcpy(changed + 32 * half + i, &bits, sizeof bits);
                }
        } else {
            for (int i = 0; i < GROUP; i++) changed[i] = -INFINITY;
        }
    }
    r->x = w->changed;
    scan(r, NULL);
}

/* ---- weights: probabilities as integers */

#define WEIGHT_BITS 44
#define WEIGHT_ONE 0x1p44   /* of the most probable token */
#define NO_WEIGHT (-40.0)   /* differences are cut here */
#define LAST_WEIGHT (-31.5) /* there is no weight below: log(1/2) - 44 log(2) = -31.19 */

enum { SPAN = WIDE * AT_ONCE }; /* candidates that are weighed at a time */

/* (x - top) scale of SPAN logits. */
INLINE void differences(const float *x, double top, double scale, doubles *d) {
    UNROLL for (int i = 0; i < AT_ONCE; i++) d[i] =
        d_larger((d_from_floats(x + i * WIDE) - top) * scale, d_all(NO_WEIGHT));
}

INLINE double difference(float x, double top, double scale) {
    double d = ((double)x - top) * scale;
    return d > NO_WEIGHT ? d : NO_WEIGHT;
}

/* The weights of AT_ONCE vectors of differences, as numbers with ROUNDER added. */
INLINE void weigh_many(const doubles *d, doubles *weights) {
    UNROLL for (int i = 0; i < AT_ONCE; i++) weights[i] = d[i];
    d_exp_many(AT_ONCE, weights, WEIGHT_BITS);
    UNROLL for (int i = 0; i < AT_ONCE; i++) weights[i] = weights[i] + ROUNDER;
}

INLINE longs whole(doubles rounded) { return (longs)rounded - INT64_C(0x4338000000000000); }

INLINE bool has_weight(const row *r, int64_t group) {
    return difference(r->tops[group], r->top, 1.0 / r->temperature) > LAST_WEIGHT;
}

/* The weight of each candidate. */
static void weigh(const row *r, int64_t *weights) {
    const double top = r->top, scale = 1.0 / r->temperature;
    float padded[GROUP];
    for (int64_t g = 0; g < groups_of(r); g++) {
        const float *x = group_at(r, g, padded);
        for (int i = 0; i < GROUP; i += SPAN) {
            doubles d[AT_ONCE], some[AT_ONCE];
            differences(x + i, top, scale, d);
            weigh_many(d, some);
            UNROLL for (int j = 0; j < AT_ONCE; j++) some[j] = (doubles)whole(some[j]);
            memcpy(weights + g * GROUP + i, some, sizeof some);
        }
    }
}

/* The sum of all weights. */
static int64_t total_weight(const row *r) {
    const double top = r->top, scale = 1.0 / r->temperature;
    float padded[GROUP];
    longs total = {0};
    for (int64_t g = 0; g < groups_of(r); g++) {
        if (!has_weight(r, g)) continue;
        const float *x = group_at(r, g, padded);
        for (int i = 0; i < GROUP; i += SPAN) {
            doubles d[AT_ONCE], some[AT_ONCE];
            differences(x + i, top, scale, d);
            weigh_many(d, some);
            UNROLL for (int j = 0; j < AT_ONCE; j++) total += whole(some[j]);
        }
    }
    return l_sum(total);
}

/* The mean of -d over the weights, and the sum of all weights. */
static double mean_of(const row *r, int64_t *total) {
    const double top = r->top, scale = 1.0 / r->temperature;
    float padded[GROUP];
    longs sum = {0}, moments = {0};
    for (int64_t g = 0; g < groups_of(r); g++) {
        if (!has_weight(r, g)) continue;
        const float *x = group_at(r, g, padded);
        for (int i = 0; i < GROUP; i += SPAN) {
            doubles d[AT_ONCE], some[AT_ONCE];
            differences(x + i, top, scale, d);
            weigh_many(d, some);
            UNROLL for (int j = 0; j < AT_ONCE; j++) {
                sum += whole(some[j]);
                moments += whole((some[j] - ROUNDER) * -d[j] + ROUNDER);
            }
        }
    }
    *total = l_sum(sum);
    return (double)l_sum(moments) / (double)*total;
}

/* The least weight that is p of the total. */
static int64_t share(double p, int64_t total) {
    double wanted = ceil(p * (double)total);
    return wanted < 1 ? 1 : (int64_t)wanted < total ? (int64_t)wanted : total;
}

/* ---- rules that exclude tokens */

/* Keep the shortest prefix, in the order of the keys, whose weights sum to `need`. */
static void keep_prefix(row *r, const workspace *w, int64_t need) {
    const edge end = prefix_end(w->keys, w->weights, r->n, need, w->members);
    int64_t kept = 0;
    for (int64_t i = 0; i < r->n; i++) {
        w->kept[kept] = r->x[i];
        w->ids[kept] = token_at(r, i);
        kept += w->keys[i] < end.key || (w->keys[i] == end.key && i <= end.index);
    }
    take_kept(r, w, kept);
}

static void keep_top_p(row *r, const workspace *w, double p) {
    weigh(r, w->weights);
    for (int64_t i = 0; i < r->n; i++) w->keys[i] = descending(r->x[i]);
    keep_prefix(r, w, share(p, total_weight(r)));
}

static void keep_typical(row *r, const workspace *w, double p) {
    const double top = r->top, scale = 1.0 / r->temperature;
    int64_t total;
    const double mean = mean_of(r, &total);
    weigh(r, w->weights);
    for (int64_t i = 0; i < r->n; i++) w->keys[i] = (uint64_t)bits_of(fabs(difference(r->x[i], top, scale) + mean));
    keep_prefix(r, w, share(p, total));
}

static void keep_min_p(row *r, const workspace *w, double p) {
    const double top = r->top, scale = 1.0 / r->temperature, least = p * (1 - 1e-12);
    const double lowest = top + (p > 1e-300 ? log64(p) - 1e-6 : -709.0) * r->temperature;
    if (lowest > -FLT_MAX) keep_from(r, w, nextafterf((float)lowest, -INFINITY)); /* all that come into question */
    int64_t kept = 0;
    for (int64_t i = 0; i < r->n; i++) {
        w->kept[kept] = r->x[i];
        w->ids[kept] = token_at(r, i);
        kept += exp64(((double)r->x[i] - top) * scale) >= least;
    }
    take_kept(r, w, kept);
}

#endif
