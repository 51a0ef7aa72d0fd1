/* route.c: chooses the experts of every token and their weights.
 *
 * Stage 0 chooses, token by token. Stage 1, a single item, sorts the choices by expert, then by token, so that the rows
 * of an expert are consecutive and a linear layer processes them like any other rows. A row's result does not depend on
 * its place, and therefore not on other tokens.
 */
#include "kernels.h"

/* Choose the K largest logits of a token, equal ones by index. Weights are exp(l) divided by the sum over all experts,
 * or over the chosen ones. */
static void choose(const pyml_op *op, int64_t row) {
    int64_t experts = op->in->width, chosen = op->out->routes->chosen;
    const float *logits = op->in->f + row * experts;
    float *ids = op->out->f + row * op->out->width, *weights = ids + chosen;
    bool taken[MAX_EXPERTS] = {false};
    float powers[MAX_EXPERTS], top = -INFINITY, sum = 0.0f;
    for (int64_t e = 0; e < experts; e++) top = logits[e] > top ? logits[e] : top;
    for (int64_t e = 0; e < experts; e += PANEL) {
        int64_t n = min_i64(PANEL, experts - e);
        f_store_n(powers + e, f_exp(f_sub(f_load_n(logits + e, n), f_set1(top))), n);
    }
    for (int64_t c = 0; c < chosen; c++) {
        int64_t best = -1;
        for (int64_t e = 0; e < experts; e++)
            if (!taken[e] && (best < 0 || logits[e] > logits[best])) best = e;
        taken[best] = true;
        ids[c] = (float)best;
        weights[c] = powers[best];
        if (op->normalize) sum += powers[best];
    }
    if (!op->normalize)
        for (int64_t e = 0; e < experts; e++) sum += powers[e];
    for (int64_t c = 0; c < chosen; c++) weights[c] /= sum;
}

static void sort(const pyml_op *op, int64_t tokens) {
    const pyml_routes *routes = op->out->routes;
    int32_t next[MAX_EXPERTS + 1] = {0};
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t c = 0; c < routes->chosen; c++) next[(int64_t)op->out->f[t * op->out->width + c] + 1]++;
    for (int64_t e = 0; e < routes->experts; e++) next[e + 1] += next[e];
    memcpy(routes->first, next, (size_t)(routes->experts + 1) * sizeof next[0]);
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t c = 0; c < routes->chosen; c++) {
            int32_t row = next[(int64_t)op->out->f[t * op->out->width + c]]++;
            routes->row[t * routes->chosen + c] = row;
            routes->token[row] = (int32_t)t;
        }
}

int64_t FN(route_items)(const pyml_op *op, const pyml_run *run, int stage) {
    (void)op;
    return stage == 0 ? run->tokens : 1;
}

void FN(route)(const pyml_op *op, const pyml_run *run, pyml_thread *thread, int stage, int64_t begin, int64_t end) {
    (void)thread;
    if (stage == 1) sort(op, run->tokens);
    else
        for (int64_t row = begin; row < end; row++) choose(op, row);
}
