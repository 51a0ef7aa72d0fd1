/* sample_draw.h: a draw from the softmax, among all candidates or those before another one.
 *
 * The draw adds Gumbel noise to each logit / temperature and takes the largest sum, which is a draw from the softmax.
 * The noise is a hash of (seed, sequence, position, token). Most tokens would lose even with more noise than their
 * hash stands for, so that few logarithms are taken.
 */
#ifndef PYML_LEVEL_SAMPLE_DRAW_H
#define PYML_LEVEL_SAMPLE_DRAW_H

#include "sample_rules.h"

#define LARGEST_GUMBEL 22.9 /* above the noise of the largest hash */

/* Orders of candidates in which those before one can be asked for. */
typedef enum { ALL, BY_LOGIT, BY_DISTANCE } order;

typedef struct {
    order order;
    double value; /* of the one: its logit with the sign turned, or its distance */
    int64_t token;
    double top, scale, mean; /* of distances: of |(x - top) scale + mean| */
} limit;

INLINE bool is_before(const limit *before, float x, int64_t token) {
    if (before->order == ALL) return true;
    double value = -(double)x;
    if (before->order == BY_DISTANCE) value = fabs(difference(x, before->top, before->scale) + before->mean);
    return value < before->value || (value == before->value && token < before->token);
}

typedef struct {
    double score;
    int64_t index;
} winner;

INLINE void compete(winner *best, const row *r, const limit *before, int64_t i, uint64_t key) {
    if (!is_before(before, r->x[i], token_at(r, i))) return;
    double score = (double)r->x[i] / r->temperature + gumbel(noise_bits(key, token_at(r, i)));
    if (score > best->score || (score == best->score && i < best->index)) *best = (winner){score, i};
}

/* (1 - u) 2^32 - 1/2 of a token, u being the number of its hash; `times` is the token times GOLDEN. */
INLINE uint32_t missing_of(uint64_t key, uint64_t times) { return ~(uint32_t)(mix64(times + key) >> 32); }

/* Steps of a group: multiples of GOLDEN. */
static void multiples(uint64_t steps[GROUP]) {
    for (int i = 0; i < GROUP; i++) steps[i] = (uint64_t)i * GOLDEN;
}

/* Let the candidates of a group compete whose noise may be enough: whose `missing` is `bound` at most. */
static void compete_group(winner *best, const row *r, const limit *before, int64_t g, uint32_t bound, uint64_t key,
                          const uint64_t steps[GROUP]) {
    const int64_t from = g * GROUP, n = size_of(r, g);
    uint32_t missing[GROUP], any = 0;
    if (r->ids || n < GROUP) {
        for (int64_t i = 0; i < n; i++) {
            missing[i] = missing_of(key, (uint64_t)token_at(r, from + i) * GOLDEN);
            any |= missing[i] <= bound;
        }
    } else {
        for (int64_t i = 0; i < GROUP; i++) {
            missing[i] = missing_of(key + (uint64_t)from * GOLDEN, steps[i]);
            any |= missing[i] <= bound;
        }
    }
    for (int64_t i = 0; any && i < n; i++)
        if (missing[i] <= bound) compete(best, r, before, from + i, key);
}

/* Index of the winner among the candidates before `before`; r->n if there is none.
 *
 * With w = exp(x / temperature - reached), a score of `reached` needs -log(u) <= w for the number u of the hash, and
 * therefore 1 - u <= w. */
static int64_t draw(const row *r, const limit *before, uint64_t key) {
    winner best = {-INFINITY, r->n};
    const double near = (double)r->top - 3.0 * r->temperature;
    const int64_t groups = groups_of(r);
    uint64_t steps[GROUP];
    int found = 0;
    multiples(steps);
    for (int64_t g = 0; g < groups && found < 2 * GROUP; g++) {
        if (!(r->tops[g] >= near)) continue;
        for (int64_t i = g * GROUP; i < g * GROUP + size_of(r, g); i++)
            if (r->x[i] >= near) compete(&best, r, before, i, key), found++;
    }
    for (int64_t first = 0; first < groups; first += GROUP) {
        const double reached = best.score - 1e-14 * fabs(best.score); /* scores are rounded */
        const int64_t some = groups - first < GROUP ? groups - first : GROUP;
        double bounds[GROUP];
        for (int64_t i = 0; i < some; i++) {
            const double ahead = (double)r->tops[first + i] / r->temperature - reached;
            const double w = ahead < 0 ? exp64(ahead) * 1.001 : 1; /* 1.001: rounding */
            bounds[i] = ahead < -LARGEST_GUMBEL ? -1.0 : w < 1 ? w * 0x1p32 : 0x1.fffffffep31;
        }
        for (int64_t i = 0; i < some; i++)
            if (bounds[i] >= 0) compete_group(&best, r, before, first + i, (uint32_t)bounds[i], key, steps);
    }
    return best.index;
}

#endif
