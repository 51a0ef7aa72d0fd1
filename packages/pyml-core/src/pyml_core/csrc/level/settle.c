/* settle.c: the next token of a text from a screened head, without the logits of most rows.
 *
 * Two kinds of rules (demand.h). A set: the token is chosen among the largest logits, and all that may be among them
 * are computed. A draw: the token has the largest score, logit + temperature * noise, of those that the rules keep. The
 * noise is known beforehand, so that few rows can win: those whose bound on the score reaches that of a row that is
 * computed.
 *
 * A draw with top_p also has to know whether the nucleus, the most probable tokens whose weights sum to p of the total
 * T, has the winner. T is S, the weight of the rows that are computed, and at most R for the rest. With B the weight of
 * the computed rows above a token, it is
 *
 *     surely in    if B + R < p (S + R)    (what lies above it is in the total as well)
 *     surely out   if B >= p (S + R)
 *
 * If the winner is out, so are all below it, and the token with the largest score above it is the next to be looked at.
 * What is not sure goes to a second round, which computes the panels that may hold a better token than the first one
 * that is surely in, and more of the mass; and at last to a third one, which computes all rows.
 *
 * A draw with top_k keeps the winner if fewer than k tokens have a larger logit: the panels that may hold one are
 * computed in the first round. The total of top_p is that of the k largest then. As long as these are not known for
 * certain, the weight of the k largest that are computed is a bound on it; the second round computes them.
 */
#include "../demand.h"
#include "draw_bounds.h"
#include "screen.h"

#pragma GCC diagnostic ignored "-Wunused-function" /* rules that sample.c alone applies */
#include "sample_draw.h"

enum {
    COMPUTED = 255,     /* a panel's round: computed while rounds are planned */
    ADJUSTED_FIRST = 8, /* panels that are computed first if a bias or penalty may lower the best */
    DRAWN_FIRST = 4,    /* panels with the best scores that are computed first */
    LAST_ROUND = SETTLE_ROUNDS,
    MOST_OF_ROUND_2 = 4 /* a part of all panels; if more are wanted, all rows are computed */
};

#define MASS_PART (1.0 / 4096)        /* a panel is computed if it may have that part of all weight */
#define MASS_PART_TOP (1.0 / 1024)    /* where top_k alone wants to know it */
#define MASS_PART_AGAIN (1.0 / 65536) /* in the second round */
#define SUM_DEVIATIONS 6.0            /* of the sum of weights that are not computed */
#define ROUNDING 1.0001               /* of sums of float32 */
#define MOST_BEHIND 40.0              /* nats that the largest logit may be below the reference, or weights underflow */

/* A state, its rules, and its part of the tables. */
typedef struct {
    const pyml_op *op;
    pyml_request *request;
    pyml_demand demand;
    int64_t state, panels, width;
    const float *lower, *upper, *noisy, *center, *logits;
    float *mass, *variance;
    uint8_t *round;
    uint64_t key;
} view;

static view view_of(const pyml_op *op, int64_t state) {
    const pyml_screen *s = op->screen;
    const int64_t panels = panels_of(op->matrices), at = state * panels;
    pyml_request *request = &s->requests[state];
    return (view){
        .op = op,
        .request = request,
        .demand = pyml_demand_of(request->sampler),
        .state = state,
        .panels = panels,
        .width = op->out->width,
        .lower = s->lower + at,
        .upper = s->upper + at,
        .noisy = s->noisy + at,
        .center = s->center + at,
        .logits = op->out->f + state * op->out->width,
        .mass = s->mass + at,
        .variance = s->variance + at,
        .round = s->round + at,
        .key = noise_key(request->sampler, request->position),
    };
}

/* ---- rows that are computed, and their logits after bias and penalties */

/* The first panel from one on that is computed, or is to be; the number of panels if there is none. */
static int64_t next_computed(const view *v, int64_t panel) {
    for (; panel < v->panels; panel++) {
        if (panel % 8 == 0 && panel + 8 <= v->panels && !memcmp(v->round + panel, "\0\0\0\0\0\0\0", 8)) panel += 7;
        else if (v->round[panel]) break;
    }
    return panel;
}

/* Their tokens and the model's logits, into the tables of candidates; memory for the choice. */
static row gather(const view *v, workspace *w) {
    const pyml_screen *s = v->op->screen;
    int32_t *ids = s->ids + v->state * v->width;
    float *logits = s->logits + v->state * v->width;
    int64_t n = 0;
    for (int64_t panel = next_computed(v, 0); panel < v->panels; panel = next_computed(v, panel + 1)) {
        for (int64_t i = panel * PANEL; i < min_i64(v->width, (panel + 1) * PANEL); i++) {
            ids[n] = (int32_t)i;
            logits[n++] = v->logits[i];
        }
    }
    row r = {.x = logits, .ids = ids, .n = n, .temperature = 1.0};
    *w = workspace_of(s->scratch + v->state * s->scratch_bytes, n);
    r.tops = w->tops;
    scan(&r, NULL);
    return r;
}

static void adjust(row *r, const workspace *w, const pyml_sampler *s) {
    for (int i = 0; i < s->n_rules && s->rules[i] <= RULE_PRESENCE_PENALTY; i++) change(r, w, s, s->rules[i]);
}

/* ---- planning the first round */

static void compute_best(const view *v, const float *values, int64_t count, pyml_thread *thread) {
    float *heap = v->op->screen->heap + v->state * SCREEN_MAX_TOP;
    heap_clear(heap, count);
    for (int64_t panel = 0; panel < v->panels; panel++) heap_add(heap, count, values[panel]);
    for (int64_t panel = 0, found = 0; panel < v->panels && found < count; panel++) {
        if (values[panel] < heap[0]) continue;
        found++;
        if (v->round[panel]) continue;
        compute_panel(v->op, panel, v->state, 1, thread);
        v->round[panel] = COMPUTED;
    }
}

static void want_token(const view *v, int32_t token) {
    if (token < v->width && !v->round[token / PANEL]) v->round[token / PANEL] = 1;
}

/* Bounds say nothing about tokens that a bias or a penalty makes more likely. */
static void want_risen(const view *v) {
    const pyml_sampler *s = v->request->sampler;
    bool seen = false;
    for (int i = 0; i < s->n_rules; i++) {
        seen |= s->rules[i] == RULE_REPETITION_PENALTY && s->repetition_penalty < 1;
        seen |= s->rules[i] == RULE_FREQUENCY_PENALTY && s->frequency_penalty < 0;
        seen |= s->rules[i] == RULE_PRESENCE_PENALTY && s->presence_penalty < 0;
        for (int64_t j = 0; s->rules[i] == RULE_LOGIT_BIAS && j < s->n_bias; j++)
            if (s->bias[j] > 0) want_token(v, s->bias_token[j]);
    }
    for (int64_t i = 0; seen && i < s->n_seen; i++) want_token(v, s->seen[i]);
}

static void want_all(const view *v, int round) {
    for (int64_t panel = 0; panel < v->panels; panel++)
        if (!v->round[panel]) v->round[panel] = (uint8_t)round;
}

/* A number below all that are `x` or more when they are computed in float32. */
static float below(double x) { return (float)(x - 1e-6 * fabs(x) - 1e-30); }

static double score(const view *v, const row *r, int64_t i) {
    return (double)r->x[i] / v->demand.temperature + gumbel(noise_bits(v->key, r->ids[i]));
}

/* Below the bounds of all panels that can reach a score. */
static float noisy_bound(const view *v, double reached) {
    const double t = v->demand.temperature;
    return (float)(reached * t - 1e-6 * (fabs(reached) + 32) * t);
}

/* The least logit that min_p keeps if the largest is `top`, or less. */
static double floor_of(const view *v, double top) {
    if (v->demand.min_p == 0) return -INFINITY;
    return top + v->demand.temperature * (log(v->demand.min_p) - 1e-6) - 1e-6 * fabs(top);
}

static void plan_set(const view *v, const row *r) {
    float *heap = v->op->screen->heap + v->state * SCREEN_MAX_TOP;
    double least = v->demand.least;
    heap_clear(heap, v->demand.k);
    for (int64_t i = 0; i < r->n; i++) heap_add(heap, v->demand.k, r->x[i]);
    const float threshold = least > 0 ? below(heap[0] + v->demand.temperature * (log(least) - 1e-6)) : heap[0];
    for (int64_t panel = 0; panel < v->panels; panel++)
        v->round[panel] |= !v->round[panel] && !(v->upper[panel] < threshold);
}

/* Bounds on the weights of the panels, where a token at the reference has the weight 1, and on their sum. */
static void find_masses(const view *v) {
    const float inverse = (float)(1 / v->demand.temperature);
    float reference = -INFINITY;
    for (int64_t panel = 0; panel < v->panels; panel++)
        reference = v->center[panel] > reference ? v->center[panel] : reference;
    double total = 0;
    for (int64_t panel = 0, n; panel < v->panels; panel += n) {
        n = min_i64(PANEL, v->panels - panel);
        const vf center = f_min(f_sub(f_load_n(v->center + panel, n), f_set1(reference)), f_set1(0.0f));
        const vf weight = f_exp(f_mul(center, f_set1(inverse)));
        const vf mass = f_mul(f_load_n(v->mass + panel, n), weight);
        f_store_n(v->mass + panel, mass, n);
        f_store_n(v->variance + panel, f_mul(f_load_n(v->variance + panel, n), f_mul(weight, weight)), n);
        total += f_sum(mass);
    }
    v->request->reference = reference, v->request->mass = total;
}

/* The k-th largest of some numbers. */
static float heap_kth(const view *v, const float *values, int64_t count, int64_t k) {
    float *heap = v->op->screen->heap + v->state * SCREEN_MAX_TOP;
    heap_clear(heap, k);
    for (int64_t i = 0; i < count; i++) heap_add(heap, k, values[i]);
    return heap[0];
}

/* Bound on the weight of the rows that are not computed, where `top` weighs WEIGHT_ONE. */
static double rest_of(const view *v, float top) {
    double mass = 0, variance = 0;
    for (int64_t first = 0; first < v->panels; first += PANEL) {
        const int64_t n = min_i64(PANEL, v->panels - first);
        _Alignas(64) float masses[PANEL], variances[PANEL];
        for (int64_t i = 0; i < n; i++) {
            masses[i] = v->round[first + i] ? 0 : v->mass[first + i];
            variances[i] = v->round[first + i] ? 0 : v->variance[first + i];
        }
        mass += f_sum(f_load_n(masses, n)), variance += f_sum(f_load_n(variances, n));
    }
    const double one = exp(((double)v->request->reference - top) / v->demand.temperature) * WEIGHT_ONE;
    const double bound = (mass + SUM_DEVIATIONS * sqrt(variance)) * ROUNDING * one;
    return bound > 0 ? bound + (double)v->width : 0; /* weights are rounded */
}

/* Compute all panels that may hold a token better than one with the logit x, unless weights will probably tell that
 * top_k keeps that one. */
static void want_better(const view *v, float x) {
    int64_t rank = 0;
    for (int64_t panel = 0; panel < v->panels; panel++) rank += v->center[panel] >= x;
    if ((double)rank + rest_of(v, x) / WEIGHT_ONE < (double)v->demand.top_k) return;
    for (int64_t panel = 0; panel < v->panels; panel++) v->round[panel] |= !v->round[panel] && v->upper[panel] >= x;
}

static void plan_draw(const view *v, const row *r) {
    const bool sums = v->demand.top_p < 1 || v->demand.top_k, truncated = v->demand.min_p > 0 || sums;
    double floor = floor_of(v, r->top), reached = -INFINITY;
    if (v->demand.top_k && !v->demand.adjusted) /* each panel has a token above its lower bound */
        floor = fmax(floor, heap_kth(v, v->lower, v->panels, v->demand.top_k));
    float winner = INFINITY;
    for (int64_t i = 0; i < r->n; i++) {
        const double found = r->x[i] >= floor ? score(v, r, i) : -INFINITY;
        if (found > reached) reached = found, winner = r->x[i];
    }
    if (sums) find_masses(v);
    const float noisy = noisy_bound(v, reached), least = below(floor), top = truncated ? r->top : INFINITY;
    const float mass = sums ? (float)(v->request->mass * (v->demand.top_p < 1 ? MASS_PART : MASS_PART_TOP)) : INFINITY;
    for (int64_t panel = 0; panel < v->panels; panel++) {
        bool wanted = (v->noisy[panel] >= noisy && v->upper[panel] >= least) || v->upper[panel] >= top;
        wanted |= sums && v->mass[panel] >= mass;
        v->round[panel] |= wanted && !v->round[panel];
    }
    if (v->demand.top_k) want_better(v, winner);
}

void FN(plan_panels)(const pyml_op *op, int64_t state, pyml_thread *thread) {
    const view v = view_of(op, state);
    v.request->pending = 0;
    memset(v.request->rows, 0, sizeof v.request->rows);
    memset(v.round, 0, (size_t)v.panels);
    if (!v.demand.screened) {
        want_all(&v, 1);
        return;
    }
    const int64_t first = v.demand.adjusted && v.demand.k < ADJUSTED_FIRST ? ADJUSTED_FIRST : v.demand.k;
    compute_best(&v, v.lower, first, thread);
    if (v.demand.drawn) compute_best(&v, v.noisy, DRAWN_FIRST, thread);
    workspace w;
    row r = gather(&v, &w);
    adjust(&r, &w, v.request->sampler);
    want_risen(&v);
    if (!isfinite(r.top)) want_all(&v, 1);
    else if (v.demand.drawn) plan_draw(&v, &r);
    else plan_set(&v, &r);
}

/* ---- the token */

typedef enum { OUT, UNSURE, IN } verdict;

/* What is known of the tokens that top_p chooses from. */
typedef struct {
    int64_t total; /* weight of those that are computed; with top_k: of the k largest and those tied with the last */
    int64_t least; /* the same without the ties: the k largest of all weigh as much at least */
    double rest;   /* those that are not computed weigh at most that */
    float kth;     /* the k-th largest logit that is computed */
    bool closed;   /* there is no other token that top_k keeps */
} known;

/* Tokens that are not computed and may have a logit of at least `x`, at most. */
static int64_t open_rows(const view *v, float x) {
    int64_t count = 0;
    for (int64_t panel = 0; panel < v->panels; panel++) count += !v->round[panel] && v->upper[panel] >= x;
    return count * PANEL;
}

static known know(const view *v, const row *r, const int64_t *weights) {
    const int64_t k = v->demand.top_k;
    known found = {.kth = -INFINITY, .closed = true};
    if (k) {
        found.kth = heap_kth(v, r->x, r->n, k);
        found.closed = !open_rows(v, found.kth);
    }
    int64_t kept = 0, last = 0; /* kept: with all that are tied with the k-th */
    for (int64_t i = 0; i < r->n; i++) {
        const bool one = r->x[i] >= found.kth;
        found.total += one ? weights[i] : 0, kept += one;
        last = r->x[i] == found.kth ? weights[i] : last;
    }
    found.least = k && kept > k ? found.total - (kept - k) * last : found.total;
    found.rest = (k ? !found.closed : v->demand.top_p < 1) ? rest_of(v, r->top) : 0;
    return found;
}

/* Whether top_k and top_p keep a token while some of the k largest may not be computed: those are among the rest. */
static verdict judge_open(const view *v, const row *r, const int64_t *weights, int64_t i, const known *all) {
    const limit above = {.order = BY_LOGIT, .value = -(double)r->x[i], .token = r->ids[i]};
    const double rest = open_rows(v, r->x[i]) ? all->rest : 0;
    int64_t before = 0, count = 0;
    for (int64_t j = 0; j < r->n; j++) {
        const bool better = is_before(&above, r->x[j], r->ids[j]);
        before += better ? weights[j] : 0, count += better;
    }
    if (rest > 0 && !((double)count + rest / (double)(weights[i] ? weights[i] : 1) < (double)v->demand.top_k))
        return UNSURE; /* each that is better weighs as much at least */
    const double p = v->demand.top_p;
    if (p == 1 || (double)before + rest < p * (double)all->least * (1 - 1e-9)) return IN;
    return (double)before >= p * ((double)all->total + all->rest) * (1 + 1e-9) ? OUT : UNSURE;
}

static verdict judge(const view *v, const row *r, const int64_t *weights, int64_t i, const known *all) {
    const double scale = 1.0 / r->temperature, p = v->demand.top_p, rest = all->rest;
    const limit above = {.order = BY_LOGIT, .value = -(double)r->x[i], .token = r->ids[i]};
    if (r->x[i] < all->kth || exp64(((double)r->x[i] - r->top) * scale) < v->demand.min_p * (1 - 1e-12)) return OUT;
    if (!all->closed) return judge_open(v, r, weights, i, all);
    if (p == 1) return IN;
    int64_t before = 0;
    for (int64_t j = 0; j < r->n; j++) before += is_before(&above, r->x[j], r->ids[j]) ? weights[j] : 0;
    if (rest == 0) return before < share(p, all->total) ? IN : OUT;
    const double least = p * (double)all->total, slack = 1e-9 * ((double)all->total + rest);
    if ((double)before + (1 - p) * rest + slack < least) return IN;
    return (double)before >= least + p * rest + slack ? OUT : UNSURE;
}

/* Whether panels that are not computed may hold a token above the floor with a better score. */
static bool is_open(const view *v, float floor, double best) {
    const float noisy = noisy_bound(v, best);
    bool open = false;
    for (int64_t panel = 0; panel < v->panels; panel++)
        open |= !v->round[panel] && v->noisy[panel] >= noisy && v->upper[panel] >= floor;
    return open;
}

/* These panels, and those with more of the mass; or those that may hold one of the k largest. */
static void plan_second(const view *v, float floor, double best, float kth) {
    const float noisy = noisy_bound(v, best);
    const float mass = v->demand.top_p < 1 ? (float)(v->request->mass * MASS_PART_AGAIN) : INFINITY;
    int64_t count = 0;
    for (int64_t panel = 0; panel < v->panels; panel++) {
        bool wanted = (v->noisy[panel] >= noisy && v->upper[panel] >= floor) || v->mass[panel] >= mass;
        if (v->demand.top_k) wanted = v->upper[panel] >= kth;
        if (v->round[panel] || !wanted) continue;
        v->round[panel] = 2;
        count++;
    }
    if (count * MOST_OF_ROUND_2 < v->panels) {
        v->request->pending = 2;
        return;
    }
    for (int64_t panel = 0; panel < v->panels; panel++)
        if (v->round[panel] == 2) v->round[panel] = LAST_ROUND;
}

/* Choose the token, or say which panels that takes. */
static void settle_draw(const view *v, const row *computed, const workspace *w, int round) {
    pyml_request *request = v->request;
    row r = *computed;
    adjust(&r, w, request->sampler);
    r.temperature = v->demand.temperature;
    const bool sums = v->demand.top_p < 1 || v->demand.top_k;
    request->pending = LAST_ROUND;
    if (!isfinite(r.top)) return;
    if (sums && (request->reference - (double)r.top) / r.temperature > MOST_BEHIND) return;
    int64_t token = -1;
    weigh(&r, w->weights);
    const known all = know(v, &r, w->weights);
    float floor = below(floor_of(v, r.top));
    floor = all.kth > floor ? all.kth : floor;
    limit above = {.order = ALL};
    bool unsure = false;
    while (token < 0) {
        const int64_t i = draw(&r, &above, v->key);
        if (i == r.n) break;
        const verdict found = judge(v, &r, w->weights, i, &all);
        if (found == IN) token = i;
        else if (found == OUT) floor = r.x[i] > floor ? r.x[i] : floor;
        else unsure = true;
        above = (limit){.order = BY_LOGIT, .value = -(double)r.x[i], .token = r.ids[i]};
    }
    const double best = token < 0 ? -INFINITY : score(v, &r, token);
    if (token >= 0 && !unsure && !is_open(v, floor, best)) {
        request->pending = 0;
        request->chosen.token = r.ids[token], request->chosen.logit = computed->x[token];
        request->chosen.status = SAMPLE_OK, request->chosen.n_top = 0;
    } else if (round == 1) {
        plan_second(v, floor, best, all.kth);
    }
}

void FN(settle)(const pyml_op *op, int64_t state, int round) {
    const view v = view_of(op, state);
    const pyml_screen *screen = op->screen;
    pyml_request *request = v.request;
    const pyml_sampler *sampler = request->sampler;
    workspace w;
    row r = {.x = v.logits, .n = v.width}; /* of all rows */
    if (v.demand.screened && round < LAST_ROUND) r = gather(&v, &w);
    else w = workspace_of(screen->scratch + state * screen->scratch_bytes, v.width);
    const bool all = r.n == v.width;
    request->rows[round - 1] = r.n - (round > 1 ? screen->rescored[state] : 0), request->pending = 0;
    screen->count[state] = 0, screen->rescored[state] = r.n;
    if (v.demand.drawn && (v.demand.top_k || v.demand.min_p > 0 || v.demand.top_p < 1) && !all) {
        settle_draw(&v, &r, &w, round);
    } else {
        FN(sample)(sampler, request->position, r.x, all ? NULL : r.ids, r.n, w.weights, &request->chosen);
        if (request->chosen.status != SAMPLE_OK && !all) request->pending = LAST_ROUND;
    }
    if (request->pending == LAST_ROUND) want_all(&v, LAST_ROUND);
}
