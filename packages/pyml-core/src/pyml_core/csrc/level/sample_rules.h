/* sample_rules.h: a row of logits, and the rules that change or exclude some of them, for sample.c.
 *
 * pyml_core/sampling (weights.py, penalties.py, truncation.py) defines them. Letters: C candidates of a row.
 */
#ifndef PYML_LEVEL_SAMPLE_RULES_H
#define PYML_LEVEL_SAMPLE_RULES_H

#include "../sample.h"
#include "elementary.h"

#include <float.h>

/* Memory of a choice: each [C]. */
typedef struct {
    float *x;
    int32_t *ids, *members;
    int64_t *weights;
    uint64_t *keys;
} workspace;

/* The candidates that are left, by ascending token. */
typedef struct {
    const float *x;     /* [C] logits; the caller's, or the workspace's */
    const int32_t *ids; /* [C] their tokens; NULL: 0, 1, 2, ... */
    int64_t n;
    float top;          /* the largest of x; NaN if one is */
    double temperature; /* 1 until it is that rule's turn */
} row;

INLINE workspace workspace_of(uint8_t *scratch, int64_t n) {
    int64_t room = (n + 15) / 16 * 16;
    workspace w = {.weights = (int64_t *)scratch, .keys = (uint64_t *)scratch + room};
    w.x = (float *)(w.keys + room);
    w.ids = (int32_t *)(w.x + room), w.members = w.ids + room;
    return w;
}

INLINE int32_t token_at(const row *r, int64_t i) { return r->ids ? r->ids[i] : (int32_t)i; }

/* The largest number, or NaN if there is one. */
static float largest(const float *x, int64_t n) {
    enum { WIDE = 16 };
    float best[WIDE];
    int32_t odd[WIDE] = {0}, any = 0;
    for (int lane = 0; lane < WIDE; lane++) best[lane] = -INFINITY;
    int64_t i = 0;
    for (; i + WIDE <= n; i += WIDE)
        for (int lane = 0; lane < WIDE; lane++) {
            best[lane] = x[i + lane] > best[lane] ? x[i + lane] : best[lane];
            odd[lane] |= x[i + lane] != x[i + lane];
        }
    for (int lane = 0; i + lane < n; lane++) {
        best[lane] = x[i + lane] > best[lane] ? x[i + lane] : best[lane];
        odd[lane] |= x[i + lane] != x[i + lane];
    }
    for (int lane = 0; lane < WIDE; lane++) {
        best[0] = best[lane] > best[0] ? best[lane] : best[0];
        any |= odd[lane];
    }
    return any ? NAN : best[0];
}

/* Index of the first number that is `value`, which is there; of the first NaN if that is one. */
static int64_t first_of(const float *x, int64_t n, float value) {
    enum { WIDE = 64 };
    int64_t i = 0;
    for (; i + WIDE <= n; i += WIDE) {
        int32_t there = 0;
        for (int lane = 0; lane < WIDE; lane++)
            there |= value == value ? x[i + lane] == value : x[i + lane] != x[i + lane];
        if (there) break;
    }
    while (value == value ? x[i] != value : x[i] == x[i]) i++;
    return i;
}

/* ---- rules that change logits */

/* Where a token stands among the candidates; -1: nowhere. */
static int64_t index_of(const row *r, int32_t token) {
    if (!r->ids) return token < r->n ? token : -1;
    int64_t low = 0, high = r->n;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (r->ids[middle] < token) low = middle + 1;
        else high = middle;
    }
    return low < r->n && r->ids[low] == token ? low : -1;
}

/* Make the logits the workspace's own, to be changed. */
static void own(row *r, const workspace *w) {
    if (r->x != w->x) memcpy(w->x, r->x, (size_t)r->n * sizeof *w->x);
    r->x = w->x;
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
        int64_t at = index_of(r, tokens[i]);
        if (at < 0) continue;
        float *x = w->x + at;
        if (bias) *x = lowered(*x, -s->bias[i] * r->temperature);
        else if (rule == RULE_REPETITION_PENALTY) *x = penalised(*x, s->repetition_penalty);
        else if (rule == RULE_FREQUENCY_PENALTY)
            *x = lowered(*x, (double)s->counts[i] * s->frequency_penalty * r->temperature);
        else *x = lowered(*x, (s->counts[i] ? 1.0 : 0.0) * s->presence_penalty * r->temperature);
    }
    r->top = largest(r->x, r->n);
}

static void mask_out(row *r, const workspace *w, const uint32_t *mask) {
    own(r, w);
    for (int64_t i = 0; i < r->n; i++) {
        int32_t token = token_at(r, i);
        if (!(mask[token >> 5] >> (token & 31) & 1)) w->x[i] = -INFINITY;
    }
    r->top = largest(r->x, r->n);
}

/* ---- weights: probabilities as integers */

#define WEIGHT_ONE 0x1p44 /* of the most probable token */

INLINE double difference(float x, double top, double scale) {
    double d = ((double)x - top) * scale;
    return d > -40.0 ? d : -40.0; /* there is no weight from -31.2 on */
}

INLINE int64_t weight(double d) { return rounded(exp64_in_range(d) * WEIGHT_ONE); }

/* The weight of each candidate; returns their sum. */
static int64_t weigh(const row *r, int64_t *weights) {
    const double top = r->top, scale = 1.0 / r->temperature;
    int64_t total = 0;
    for (int64_t i = 0; i < r->n; i++) {
        weights[i] = weight(difference(r->x[i], top, scale));
        total += weights[i];
    }
    return total;
}

/* The least weight that is p of the total. */
static int64_t share(double p, int64_t total) {
    double wanted = ceil(p * (double)total);
    return wanted < 1 ? 1 : (int64_t)wanted < total ? (int64_t)wanted : total;
}

/* ---- selection without sorting */

typedef struct {
    uint64_t key;
    int64_t index;
} edge;

/* The last candidate of the shortest prefix, in the order of keys and indices, whose weights (NULL: 1 each) sum to
 * `need`. Digit by digit: the digit in which the sum reaches it is found with a histogram. */
static edge prefix_end(const uint64_t *keys, const int64_t *weights, int64_t n, int64_t need, int32_t *members) {
    enum { DIGIT = 11, DIGITS = 1 << DIGIT };
    int64_t sums[DIGITS];
    for (int64_t i = 0; i < n; i++) members[i] = (int32_t)i;
    for (int shift = 64 - DIGIT; n > 1; shift = shift > DIGIT ? shift - DIGIT : 0) {
        memset(sums, 0, sizeof sums);
        for (int64_t i = 0; i < n; i++)
            sums[keys[members[i]] >> shift & (DIGITS - 1)] += weights ? weights[members[i]] : 1;
        uint64_t digit = 0;
        for (; sums[digit] < need; digit++) need -= sums[digit];
        int64_t kept = 0;
        for (int64_t i = 0; i < n; i++) {
            members[kept] = members[i];
            kept += (keys[members[i]] >> shift & (DIGITS - 1)) == digit;
        }
        n = kept;
        if (!shift) break;
    }
    int64_t last = 0; /* of equal keys */
    for (; last < n - 1; last++) {
        need -= weights ? weights[members[last]] : 1;
        if (need <= 0) break;
    }
    return (edge){keys[members[last]], members[last]};
}

/* Ascending where numbers descend; 0 and -0 are equal. */
INLINE uint64_t descending(float x) {
    uint32_t bits;
    x += 0.0f;
    memcpy(&bits, &x, sizeof bits);
    return (uint64_t)(bits ^ (bits >> 31 ? 0 : UINT32_C(0x7fffffff))) << 32;
}

/* ---- rules that exclude tokens */

/* Keep the candidates for which `condition` of their index i holds. */
#define KEEP(r, w, condition)                  \
    do {                                       \
        int64_t kept_ = 0;                     \
        for (int64_t i = 0; i < (r)->n; i++) { \
            float x_ = (r)->x[i];              \
            int32_t id_ = token_at(r, i);      \
            bool stays_ = (condition);         \
            (w)->x[kept_] = x_;                \
            (w)->ids[kept_] = id_;             \
            kept_ += stays_;                   \
        }                                      \
        (r)->x = (w)->x, (r)->ids = (w)->ids;  \
        (r)->n = kept_;                        \
    } while (0)

static void keep_top_k(row *r, const workspace *w, int64_t k) {
    if (k >= r->n) return;
    for (int64_t i = 0; i < r->n; i++) w->keys[i] = descending(r->x[i]);
    const edge end = prefix_end(w->keys, NULL, r->n, k, w->members);
    KEEP(r, w, w->keys[i] <= end.key);
}

static void keep_prefix(row *r, const workspace *w, int64_t need) {
    const edge end = prefix_end(w->keys, w->weights, r->n, need, w->members);
    KEEP(r, w, w->keys[i] < end.key || (w->keys[i] == end.key && i <= end.index));
}

static void keep_top_p(row *r, const workspace *w, double p) {
    int64_t total = weigh(r, w->weights);
    for (int64_t i = 0; i < r->n; i++) w->keys[i] = descending(r->x[i]);
    keep_prefix(r, w, share(p, total));
}

static void keep_min_p(row *r, const workspace *w, double p) {
    const double top = r->top, scale = 1.0 / r->temperature, least = p * (1 - 1e-12);
    KEEP(r, w, exp64(((double)x_ - top) * scale) >= least);
}

static void keep_typical(row *r, const workspace *w, double p) {
    const double top = r->top, scale = 1.0 / r->temperature;
    int64_t total = weigh(r, w->weights), moment = 0;
    for (int64_t i = 0; i < r->n; i++) moment += rounded((double)w->weights[i] * -difference(r->x[i], top, scale));
    const double mean = (double)moment / (double)total;
    for (int64_t i = 0; i < r->n; i++) w->keys[i] = (uint64_t)bits_of(fabs(difference(r->x[i], top, scale) + mean));
    keep_prefix(r, w, share(p, total));
    r->top = largest(r->x, r->n); /* the most probable token need not be typical */
}

#endif
