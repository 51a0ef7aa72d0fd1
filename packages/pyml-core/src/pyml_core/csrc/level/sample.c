/* sample.c: the next token of a text: the rules one after the other, and the draw.
 *
 * The draw adds Gumbel noise to each logit / temperature and takes the largest sum, which is a draw from the softmax.
 * The noise is a hash of (seed, sequence, position, token). Most tokens would lose even with more noise than their
 * hash stands for, so that few logarithms are taken.
 */
#include "kernels.h"
#include "sample_rules.h"

#include <stdlib.h>

enum { GROUP = 64 }; /* candidates that are screened at a time */

#define LARGEST_GUMBEL 22.9 /* above the noise of the largest hash */

typedef struct {
    double score;
    int64_t index;
} winner;

INLINE void compete(winner *best, const row *r, int64_t i, uint64_t key) {
    double score = (double)r->x[i] / r->temperature + gumbel(noise_bits(key, token_at(r, i)));
    if (score > best->score || (score == best->score && i < best->index)) *best = (winner){score, i};
}

/* The candidates of a group whose noise may be enough for a score that is reached already.
 *
 * With w = exp(x / temperature - reached), a score of `reached` needs -log(u) <= w for the hash's number u, and
 * therefore 1 - u <= w. */
static void compete_group(winner *best, const row *r, int64_t from, int64_t n, uint64_t key) {
    const float top = largest(r->x + from, n);
    const double reached = best->score - 1e-14 * fabs(best->score), ahead = (double)top / r->temperature - reached;
    if (ahead < -LARGEST_GUMBEL) return;
    const double w = ahead < 0 ? exp64(ahead) * (1.001 * 0x1p32) : 0x1p32; /* 1.001: rounding */
    const uint32_t limit = w < 0x1p32 ? (uint32_t)w : UINT32_MAX;
    uint32_t missing[GROUP], any = 0; /* (1 - u) 2^32 - 1/2 */
    for (int64_t i = 0; i < n; i++) {
        missing[i] = ~noise_bits(key, token_at(r, from + i));
        any |= missing[i] <= limit;
    }
    for (int64_t i = 0; any && i < n; i++)
        if (missing[i] <= limit) compete(best, r, from + i, key);
}

static uint64_t noise_key(const pyml_sampler *s, int64_t position) {
    const uint64_t parts[3] = {s->seed, s->sequence, (uint64_t)position};
    uint64_t state = 0;
    for (int i = 0; i < 3; i++) state = mix64((state ^ parts[i]) + GOLDEN);
    return state + GOLDEN;
}

static int64_t draw(const row *r, uint64_t key) {
    winner best = {-INFINITY, r->n};
    const double near = (double)r->top - 3.0 * r->temperature;
    for (int64_t i = 0, found = 0; i < r->n && found < GROUP; i++) {
        if (!(r->x[i] >= near)) continue;
        compete(&best, r, i, key);
        found++;
    }
    for (int64_t i = 0; i < r->n; i += GROUP) compete_group(&best, r, i, r->n - i < GROUP ? r->n - i : GROUP, key);
    return best.index;
}

static void apply(row *r, const workspace *w, const pyml_sampler *s, int rule) {
    switch (rule) {
    case RULE_TEMPERATURE: r->temperature = s->temperature; break;
    case RULE_TOP_K: keep_top_k(r, w, s->top_k); break;
    case RULE_TOP_P: keep_top_p(r, w, s->top_p); break;
    case RULE_MIN_P: keep_min_p(r, w, s->min_p); break;
    case RULE_TYPICAL_P: keep_typical(r, w, s->typical_p); break;
    default: change(r, w, s, rule);
    }
}

void FN(sample)(const pyml_sampler *s, int64_t position, const float *logits, const int32_t *ids, int64_t n,
                void *scratch, pyml_sampled *out) {
    const workspace w = workspace_of(scratch, n);
    row r = {logits, ids, n, largest(logits, n), 1.0};
    out->n_top = 0, out->status = SAMPLE_OK;
    if (!isfinite(r.top)) {
        int64_t first = first_of(logits, n, r.top);
        out->token = token_at(&r, first), out->logit = logits[first], out->status = SAMPLE_NOT_FINITE;
        return;
    }
    for (int i = s->mask ? -1 : 0; i < s->n_rules; i++) {
        int rule = i < 0 ? RULE_MASK : s->rules[i];
        if (rule == RULE_MASK) mask_out(&r, &w, s->mask);
        else apply(&r, &w, s, rule);
        if (!isfinite(r.top)) {
            out->status = SAMPLE_NO_TOKEN, out->rule = rule;
            return;
        }
    }
    int64_t index = s->greedy ? first_of(r.x, r.n, r.top) : draw(&r, noise_key(s, position));
    out->token = token_at(&r, index);
    out->logit = logits[index_of(&(row){.ids = ids, .n = n}, (int32_t)out->token)];
    if (s->logprobs >= 0) FN(logprobs)(logits, n, s->logprobs, scratch, out);
}

static int by_key(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

void FN(logprobs)(const float *logits, int64_t n, int32_t count, void *scratch, pyml_sampled *out) {
    const workspace w = workspace_of(scratch, n);
    const row r = {logits, NULL, n, largest(logits, n), 1.0};
    const double norm = (double)r.top + log64((double)weigh(&r, w.weights) * (1 / WEIGHT_ONE));
    out->logprob = (double)logits[out->token] - norm;
    out->n_top = 0;
    if (!count) return;
    for (int64_t i = 0; i < n; i++) w.keys[i] = descending(logits[i]);
    const edge end = prefix_end(w.keys, NULL, n, count < n ? count : n, w.members);
    for (int64_t i = 0; i < n; i++)
        if (w.keys[i] < end.key || (w.keys[i] == end.key && i <= end.index))
            w.keys[out->n_top++] = w.keys[i] | (uint64_t)i; /* n_top <= i */
    qsort(w.keys, (size_t)out->n_top, sizeof *w.keys, by_key);
    for (int32_t i = 0; i < out->n_top; i++) {
        out->top_id[i] = (int32_t)(uint32_t)w.keys[i];
        out->top_logprob[i] = (double)logits[out->top_id[i]] - norm;
    }
}

void FN(elementary)(bool logarithm, const double *x, int64_t n, double *result) {
    if (logarithm)
        for (int64_t i = 0; i < n; i++) result[i] = log64(x[i]);
    else
        for (int64_t i = 0; i < n; i++) result[i] = exp64(x[i]);
}
