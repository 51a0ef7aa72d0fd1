/* sample.c: the next token of a text: the rules one after the other, and the draw.
 *
 * Of top-p and typical as the last truncation the set is never made: a draw from all tokens that falls into the set is
 * the set's draw, because the winner of all wins among some too. If it falls outside, the winner of those before it, in
 * the order of the rule, is next. Whether a token is in the set follows from two sums.
 */
#include "kernels.h"
#include "sample_draw.h"
#include "sample_rough.h"
#include "sample_rules.h"

#include <stdlib.h>

enum { FEW_CANDIDATES = 512 }; /* so few are weighed exactly at once */

/* The truncation that is decided at the draw: top-p or typical over `all`. */
typedef struct {
    int rule; /* SAMPLE_RULES: none */
    row all;
    double p;
    sums rough; /* of its weights */
} pending;

/* Whether nothing comes after the i-th rule that depends on the set that it leaves. What keeps tokens by their logits
 * commutes with top-p, but it would overwrite a row that is in `kept` already. */
static bool can_wait(const pyml_sampler *s, int i, const row *r, const workspace *w) {
    const int rule = s->rules[i];
    if (rule != RULE_TOP_P && rule != RULE_TYPICAL_P) return false;
    while (++i < s->n_rules) {
        const bool by_logit = s->rules[i] == RULE_TOP_K || s->rules[i] == RULE_MIN_P;
        if (s->rules[i] != RULE_TEMPERATURE && !(by_logit && rule == RULE_TOP_P && r->x != w->kept)) return false;
    }
    return true;
}

static void apply(row *r, const workspace *w, const pyml_sampler *s, int rule) {
    switch (rule) {
    case RULE_TEMPERATURE: r->temperature = s->temperature; break;
    case RULE_TOP_K: keep_top_k(r, w, s->top_k); break;
    case RULE_TOP_P: keep_top_p(r, w, s->top_p); break;
    case RULE_MIN_P: keep_min_p(r, w, s->min_p); break;
    case RULE_TYPICAL_P: keep_typical(r, w, s->typical_p); break;
    case RULE_MASK: mask_out(r, w, s->mask); break;
    default: change(r, w, s, rule);
    }
}

/* ---- membership in the set of a pending truncation */

/* The weight of the candidates before a token, in the order of the rule. */
static int64_t weight_before(const row *r, const limit *before) {
    const double top = r->top, scale = 1.0 / r->temperature;
    float padded[GROUP];
    int32_t tokens[GROUP];
    longs sum = {0};
    for (int64_t g = 0; g < groups_of(r); g++) {
        if (before->order == BY_LOGIT ? -(double)r->tops[g] > before->value : !has_weight(r, g)) continue;
        const float *x = group_at(r, g, padded);
        for (int64_t i = 0; i < GROUP; i++) tokens[i] = i < size_of(r, g) ? token_at(r, g * GROUP + i) : 0;
        for (int i = 0; i < GROUP; i += SPAN) {
            doubles d[AT_ONCE], some[AT_ONCE];
            differences(x + i, top, scale, d);
            weigh_many(d, some);
            UNROLL for (int j = 0; j < AT_ONCE; j++) {
                const doubles logit = d_from_floats(x + i + j * WIDE);
                const doubles value = before->order == BY_LOGIT ? -logit : d_absolute(d[j] + before->mean);
                const longs lower = l_from_ints(tokens + i + j * WIDE) < before->token;
                sum += whole(some[j]) & ((value < before->value) | ((value == before->value) & lower));
            }
        }
    }
    return l_sum(sum);
}

/* Whether a token is in the set of top-p: if the weight of those before it is less than the share that the set has. */
static bool is_probable(pending *cut, const limit *before, int64_t *total) {
    const row *r = &cut->all;
    const int64_t mass = weight_before(r, before);
    if (!mass) return true;
    if (!*total && r->n > FEW_CANDIDATES) {
        if (!cut->rough.total) cut->rough = rough_sums(r);
        const double wanted = cut->p * cut->rough.total * WEIGHT_ONE;
        if ((double)mass < wanted * (1 - ROUGH)) return true;
        if ((double)mass > wanted * (1 + ROUGH)) return false;
    }
    if (!*total) *total = total_weight(r);
    return mass < share(cut->p, *total);
}

/* The same of typical. If it is not, `before` has the exact distance of the token. */
static bool is_typical(pending *cut, limit *before, float x, int64_t *total) {
    const row *r = &cut->all;
    if (!cut->rough.total) cut->rough = rough_sums(r);
    const verdict rough = rough_typical(r, &cut->rough, x, cut->p);
    if (rough == INSIDE) return true;
    if (!*total) before->mean = mean_of(r, total);
    before->value = fabs(difference(x, before->top, before->scale) + before->mean);
    return rough == UNSURE && weight_before(r, before) < share(cut->p, *total);
}

static int64_t draw_from_set(const row *r, pending *cut, uint64_t key) {
    limit before = {.order = ALL, .top = cut->all.top, .scale = 1.0 / cut->all.temperature};
    int64_t index = draw(r, &before, key), total = 0;
    while (cut->rule != SAMPLE_RULES) {
        before.order = cut->rule == RULE_TYPICAL_P ? BY_DISTANCE : BY_LOGIT;
        before.token = token_at(r, index), before.value = -(double)r->x[index];
        if (before.order == BY_DISTANCE ? is_typical(cut, &before, r->x[index], &total)
                                        : is_probable(cut, &before, &total))
            break;
        index = draw(r, &before, key);
    }
    return index;
}

static int by_key(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Report the `count` most probable tokens; returns what is subtracted from a logit for its log probability. */
static double report_top(const row *all, const workspace *w, int32_t count, pyml_sampled *out) {
    const double norm = (double)all->top + log64((double)total_weight(all) * (1 / WEIGHT_ONE));
    row r = *all;
    out->n_top = 0;
    if (!count) return norm;
    keep_top_k(&r, w, count);
    for (int64_t i = 0; i < r.n; i++) w->keys[i] = descending(r.x[i]);
    const edge end = prefix_end(w->keys, NULL, r.n, count < r.n ? count : r.n, w->members);
    for (int64_t i = 0; i < r.n; i++)
        if (w->keys[i] < end.key || (w->keys[i] == end.key && i <= end.index))
            w->keys[out->n_top++] = w->keys[i] | (uint64_t)i; /* n_top <= i */
    qsort(w->keys, (size_t)out->n_top, sizeof *w->keys, by_key);
    for (int32_t i = 0; i < out->n_top; i++) {
        const int64_t index = (int64_t)(w->keys[i] & UINT32_MAX);
        out->top_id[i] = token_at(&r, index);
        out->top_logprob[i] = (double)r.x[index] - norm;
    }
    return norm;
}

void FN(sample)(const pyml_sampler *s, int64_t position, const float *logits, const int32_t *ids, int64_t n,
                void *scratch, pyml_sampled *out) {
    const workspace w = workspace_of(scratch, n);
    row r = {logits, ids, n, w.tops, 0, 1.0};
    pending cut = {.rule = SAMPLE_RULES};
    double norm = 0;
    const bool changes = s->n_rules && s->rules[0] < RULE_TEMPERATURE && !s->mask && s->logprobs < 0;
    scan(&r, changes ? w.changed : NULL);
    out->n_top = 0, out->status = SAMPLE_OK;
    if (!isfinite(r.top)) {
        int64_t first = first_largest(&r);
        out->token = token_at(&r, first), out->logit = logits[first], out->status = SAMPLE_NOT_FINITE;
        return;
    }
    if (s->logprobs >= 0) norm = report_top(&r, &w, s->logprobs, out);
    for (int i = s->mask ? -1 : 0; i < s->n_rules; i++) {
        const int rule = i < 0 ? RULE_MASK : s->rules[i];
        if (i >= 0 && !s->greedy && can_wait(s, i, &r, &w))
            cut = (pending){rule, r, rule == RULE_TOP_P ? s->top_p : s->typical_p, {0, 0}};
        else apply(&r, &w, s, rule);
        if (!isfinite(r.top)) {
            out->status = SAMPLE_NO_TOKEN, out->rule = rule;
            return;
        }
    }
    const int64_t index = s->greedy ? first_largest(&r) : draw_from_set(&r, &cut, noise_key(s, position));
    out->token = token_at(&r, index);
    out->logit = logits[index_of(&(row){.ids = ids, .n = n}, (int32_t)out->token)];
    out->logprob = (double)out->logit - norm;
}

void FN(logprobs)(const float *logits, int64_t n, int32_t count, void *scratch, pyml_sampled *out) {
    const workspace w = workspace_of(scratch, n);
    row r = {logits, NULL, n, w.tops, 0, 1.0};
    scan(&r, NULL);
    out->logprob = (double)logits[out->token] - report_top(&r, &w, count, out);
}

void FN(elementary)(bool logarithm, const double *x, int64_t n, double *result) {
    if (logarithm)
        for (int64_t i = 0; i < n; i++) result[i] = log64(x[i]);
    else
        for (int64_t i = 0; i < n; i++) result[i] = exp64(x[i]);
}
