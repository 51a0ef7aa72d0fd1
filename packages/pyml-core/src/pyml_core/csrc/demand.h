/* demand.h: which rows of a screened head a text's rules need. */
#ifndef PYML_DEMAND_H
#define PYML_DEMAND_H

#include "sample.h"
#include "types.h"

typedef struct {
    bool screened; /* screened rows can decide; false: the rules need all logits */
    bool adjusted; /* there are a bias or penalties */
    bool drawn;    /* the token that wins the draw is wanted, and what tells whether top_p and min_p keep it; false: a
                      set of the largest logits is, from which the rules choose */
    int64_t k;     /* of the set: the k largest logits */
    double least;  /* of the set: all tokens that are at least so many times as probable as the most probable one; 0 */
    double temperature;
    int64_t top_k; /* of a draw: 0: not in use */
    double top_p;  /* 1: not in use */
    double min_p;  /* 0: not in use */
} pyml_demand;

enum { LEAST_DRAWN = 8 }; /* a set of fewer rows costs no more than a draw */

/* Whether the rules from the i-th on leave the first of a draw: temperature, top_p, min_p, in this order. */
static inline bool pyml_draw_goes_on(const pyml_sampler *s, int32_t i) {
    bool nucleus = false;
    for (; i < s->n_rules; i++) {
        if (s->rules[i] == RULE_MIN_P) return i + 1 == s->n_rules;
        if (s->rules[i] != RULE_TOP_P && (nucleus || s->rules[i] != RULE_TEMPERATURE)) return false;
        nucleus |= s->rules[i] == RULE_TOP_P;
    }
    return true;
}

/* Rules that are not in one of these orders need all logits: bias and penalties, temperature, top_k, top_p, min_p (a
 * draw); bias and penalties, temperature, top_k or min_p, any others (a set). */
static inline pyml_demand pyml_demand_of(const pyml_sampler *s) {
    pyml_demand d = {!s->mask && s->logprobs < 0, false, !s->greedy, 1, 0, 1, 0, 1, 0};
    bool tempered = false, nucleus = false;
    for (int32_t i = 0; i < s->n_rules; i++) {
        const bool last = i + 1 == s->n_rules;
        switch (s->rules[i]) {
        case RULE_TEMPERATURE:
            d.temperature = s->temperature, tempered = true;
            if (nucleus || d.temperature < 1e-3 || d.temperature > 1e3) d.screened = false;
            break;
        case RULE_TOP_K:
            if (nucleus || s->top_k > SCREEN_MAX_TOP) d.screened = false;
            if (d.drawn && s->top_k >= LEAST_DRAWN && pyml_draw_goes_on(s, i + 1)) {
                d.top_k = s->top_k;
                break;
            }
            d.k = s->top_k, d.drawn = false;
            return d;
        case RULE_MIN_P:
            if (!nucleus && !last) {
                d.least = s->min_p, d.drawn = false;
                return d;
            }
            d.min_p = s->min_p;
            if (!last) d.screened = false;
            break;
        case RULE_TOP_P: d.top_p = s->top_p, nucleus = true; break;
        case RULE_TYPICAL_P: d.screened = false; break;
        default:
            d.adjusted = true;
            if (tempered || nucleus) d.screened = false;
        }
    }
    return d;
}

#endif
