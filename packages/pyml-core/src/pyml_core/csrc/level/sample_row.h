/* sample_row.h: a row of logits, in groups whose largest logits are known, so that most groups are passed over.
 *
 * Letters: C candidates of a row, G groups.
 */
#ifndef PYML_LEVEL_SAMPLE_ROW_H
#define PYML_LEVEL_SAMPLE_ROW_H

#include "../sample.h"
#include "elementary.h"

enum { GROUP = 64 };

/* Memory of a choice: each [C], but tops [G]. */
typedef struct {
    float *changed; /* all logits after a bias or a penalty */
    float *kept;    /* those that a rule has not excluded, and their tokens */
    int32_t *ids, *members;
    int64_t *weights;
    uint64_t *keys;
    float *tops, *kept_tops;
} workspace;

/* The candidates that are left, by ascending token. */
typedef struct {
    const float *x;     /* [C] logits: the caller's, `changed` or `kept` */
    const int32_t *ids; /* [C] their tokens; NULL: 0, 1, 2, ... */
    int64_t n;
    float *tops;        /* [G] the largest of each group */
    float top;          /* the largest of all; NaN if one is */
    double temperature; /* 1 until it is that rule's turn */
} row;

INLINE workspace workspace_of(uint8_t *scratch, int64_t n) {
    int64_t room = (n + GROUP - 1) / GROUP * GROUP;
    workspace w = {.weights = (int64_t *)scratch, .keys = (uint64_t *)scratch + room};
    w.changed = (float *)(w.keys + room), w.kept = w.changed + room;
    w.ids = (int32_t *)(w.kept + room), w.members = w.ids + room;
    w.tops = (float *)(w.members + room), w.kept_tops = w.tops + room / GROUP;
    return w;
}

INLINE int64_t groups_of(const row *r) { return (r->n + GROUP - 1) / GROUP; }
INLINE int64_t size_of(const row *r, int64_t group) {
    return r->n - group * GROUP < GROUP ? r->n - group * GROUP : GROUP;
}
INLINE int32_t token_at(const row *r, int64_t i) { return r->ids ? r->ids[i] : (int32_t)i; }

/* The logits of a group, with -INFINITY after the last one. */
INLINE const float *group_at(const row *r, int64_t group, float padded[GROUP]) {
    const int64_t n = size_of(r, group);
    if (n == GROUP) return r->x + group * GROUP;
    for (int64_t i = 0; i < GROUP; i++) padded[i] = i < n ? r->x[group * GROUP + i] : -INFINITY;
    return padded;
}

/* The largest of a few numbers, or NaN if there is one. */
INLINE float largest_of(const float *x, int64_t n) {
    float best = -INFINITY;
    for (int64_t i = 0; i < n; i++) {
        if (x[i] != x[i]) return NAN;
        best = x[i] > best ? x[i] : best;
    }
    return best;
}

/* Find the largest logit of each group and of all, and copy the logits (NULL: not). */
static void scan(row *r, float *copy) {
    const int64_t whole = r->n / GROUP;
    vi bits = i_set1(0);
    float best = -INFINITY;
    for (int64_t g = 0; g < whole; g++) {
        const float *x = r->x + g * GROUP;
        vf a = f_load(x), b = f_load(x + 16), c = f_load(x + 32), d = f_load(x + 48);
        if (copy) {
            f_store(copy + g * GROUP, a), f_store(copy + g * GROUP + 16, b);
            f_store(copy + g * GROUP + 32, c), f_store(copy + g * GROUP + 48, d);
        }
        bits = i_max(bits, i_max(i_max(i_abs_bits(a), i_abs_bits(b)), i_max(i_abs_bits(c), i_abs_bits(d))));
        r->tops[g] = f_top(f_max(f_max(a, b), f_max(c, d)));
        best = r->tops[g] > best ? r->tops[g] : best;
    }
    if (whole < groups_of(r)) {
        const int64_t from = whole * GROUP;
        if (copy) memcpy(copy + from, r->x + from, (size_t)(r->n - from) * sizeof *copy);
        r->tops[whole] = largest_of(r->x + from, r->n - from);
        best = r->tops[whole] > best || r->tops[whole] != r->tops[whole] ? r->tops[whole] : best;
    }
    if (copy) r->x = copy;
    r->top = i_any_above(bits, 0x7f800000) ? NAN : best; /* above the bits of infinity there is NaN alone */
}

/* Index of the first logit that is the largest, or of the first NaN. */
static int64_t first_largest(const row *r) {
    int64_t i = 0;
    if (r->top != r->top) {
        while (r->x[i] == r->x[i]) i++;
        return i;
    }
    while (r->tops[i] != r->top) i++;
    i *= GROUP;
    while (r->x[i] != r->top) i++;
    return i;
}

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

/* ---- keeping some of the candidates */

/* The candidates that were kept are the row now. */
static void take_kept(row *r, const workspace *w, int64_t n) {
    r->x = w->kept, r->ids = w->ids, r->n = n, r->tops = w->kept_tops;
    scan(r, NULL);
}

/* Keep the candidates from a logit on. */
static void keep_from(row *r, const workspace *w, float least) {
    int64_t kept = 0;
    for (int64_t g = 0; g < groups_of(r); g++) {
        if (r->tops[g] < least) continue;
        for (int64_t i = g * GROUP; i < g * GROUP + size_of(r, g); i++) {
            float x = r->x[i];
            int32_t id = token_at(r, i);
            w->kept[kept] = x; /* kept <= i: where it is this row, what comes is not overwritten */
            w->ids[kept] = id;
            kept += x >= least;
        }
    }
    take_kept(r, w, kept);
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

/* The k-th largest of n numbers, k <= n. */
static float kth_largest(const float *x, int64_t n, int64_t k, const workspace *w) {
    for (int64_t i = 0; i < n; i++) w->keys[i] = descending(x[i]);
    return x[prefix_end(w->keys, NULL, n, k, w->members).index];
}

static void keep_top_k(row *r, const workspace *w, int64_t k) {
    if (k >= r->n) return;
    if (k <= groups_of(r) && r->n > 4 * GROUP) /* as many groups have one that large */
        keep_from(r, w, kth_largest(r->tops, groups_of(r), k, w));
    keep_from(r, w, kth_largest(r->x, r->n, k, w));
}

#endif
