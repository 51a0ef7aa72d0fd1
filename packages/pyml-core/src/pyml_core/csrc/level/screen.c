/* screen.c: which logits of a large vocabulary can be among the k largest, from half of the head's bytes.
 *
 * A split q8_0 head (pack.c) has its codes in two planes of nibbles: code = 16 h + l - 128. For every row the screen
 * reads the scales and the high nibbles, and sums over the blocks, with scales s and the state's codes a:
 *
 *     A = sum s_w s_a sum_k h a      B = sum s_w s_a sum_k a      V = sum s_w^2 s_a^2 sum_k a^2
 *
 * The low nibbles of a row are approximated by l = alpha h + beta, its least-squares fit; `rms_error` is the root mean
 * square of the difference, in codes. So the logit is, with z_score standard deviations to either side,
 *
 *     coarse = (16 + alpha) A + (beta - 128) B
 *     lower = coarse - z_score rms_error sqrt(V)
 *     upper = coarse + z_score rms_error sqrt(V) + bias_bound
 *
 * where bias_bound = coarse |w - coarse w|^2 / |coarse w|^2 (if above 0) is how far a state that points along the row
 * leans towards its error. When all rows are screened, the k panels with the best lower bounds are computed, by
 * linear.c itself, so that their logits are the full head's, bit for bit. The k-th largest of them is the threshold: no
 * smaller one can be among the k largest of all. Then every panel whose upper bound reaches it is computed in the same
 * way.
 *
 * Rows with numbers that are not finite have no bounds and are always computed. A result depends on its state only, not
 * on threads or the other states of a run.
 */
#include "../demand.h"
#include "draw_bounds.h"
#include "screen.h"

/* ---- the screen */

/* Factors of the blocks of the states: s_a sum a, and s_a^2 sum a^2. */
typedef struct {
    float *sums, *squares;
} factors;

static factors factors_of(const pyml_buffer *x, int64_t states, uint8_t *scratch) {
    factors f = {(float *)scratch, (float *)scratch + states * x->blocks};
    for (int64_t s = 0; s < states; s++) {
        for (int64_t b = 0; b < x->blocks; b++) {
            const int8_t *codes = x->codes + s * x->stride8 + b * BLOCK;
            int32_t square = 0;
            for (int i = 0; i < BLOCK; i++) square += codes[i] * codes[i];
            float scale = x->scales[s * x->blocks + b];
            f.sums[s * x->blocks + b] = scale * (float)x->sums[s * x->blocks + b];
            f.squares[s * x->blocks + b] = scale * scale * (float)square;
        }
    }
    return f;
}

/* Bounds on the best logit of a panel's rows, infinite if something is not finite, and those for a draw. */
INLINE void bound_panel(const pyml_op *op, int64_t panel, int64_t state, vf a, vf b, vf v, const draw_state *d) {
    const pyml_screen *screen = op->screen;
    const uint16_t *stats = screen->row_stats + panel * ROW_STATS * PANEL;
    const int64_t rows = min_i64(PANEL, op->matrices->n - panel * PANEL), at = state * panels_of(op->matrices) + panel;
    float *best_lower = screen->lower + at, *best_upper = screen->upper + at;
    vf slope = f_add(f_load_f16(stats), f_set1(16.0f)), offset = f_add(f_load_f16(stats + PANEL), f_set1(-128.0f));
    vf coarse = f_fma(slope, a, f_mul(offset, b)), error = f_load_f16(stats + 2 * PANEL), root = f_sqrt(v);
    vf spread = f_mul(f_mul(error, f_set1(op->scale)), root);
    vf bias_bound = f_mul(f_load_f16(stats + 3 * PANEL), f_max(coarse, f_set1(0.0f)));
    vf lower = f_sub(coarse, spread), upper = f_add(f_add(coarse, spread), bias_bound);
    vf nothing = f_mul(f_sub(upper, lower), f_set1(0.0f)); /* 0, or NaN */
    if (f_sum(nothing) != 0.0f) {
        *best_lower = -INFINITY, *best_upper = INFINITY;
        if (d->drawn) bound_nothing(screen, at);
        return;
    }
    if (rows == PANEL) {
        *best_lower = f_top(lower), *best_upper = f_top(upper);
    } else {
        _Alignas(64) float lowers[PANEL], uppers[PANEL];
        f_store(lowers, lower), f_store(uppers, upper);
        *best_lower = lowers[0], *best_upper = uppers[0];
        for (int64_t i = 1; i < rows; i++) {
            if (lowers[i] > *best_lower) *best_lower = lowers[i];
            if (uppers[i] > *best_upper) *best_upper = uppers[i];
        }
    }
    if (d->drawn) bound_draw(screen, d, panel, at, f_add(coarse, bias_bound), f_mul(error, root), upper, rows);
}

INLINE void screen_panel(const int ns, const pyml_op *op, int64_t panel, int64_t state, const factors *f,
                         const draw_state *draws) {
    const pyml_matrix *m = op->matrices;
    const pyml_buffer *x = op->in;
    const uint8_t *chunk = m->data + panel * m->panel_bytes;
    const uint16_t *stats = op->screen->row_stats + panel * ROW_STATS * PANEL;
    vf a[STATES_AT_ONCE], b[STATES_AT_ONCE], v[STATES_AT_ONCE];
    UNROLL for (int s = 0; s < ns; s++) a[s] = b[s] = v[s] = f_set1(0.0f);
    PREFETCH(stats + ROW_STATS * PANEL), PREFETCH(stats + (ROW_STATS + 2) * PANEL);
    for (int64_t k0 = 0; k0 < m->k; k0 += CHUNK) {
        int64_t blocks = min_i64(CHUNK, m->k - k0) / BLOCK;
        const uint8_t *high = chunk + scale_bytes(blocks);
        for (int64_t i = 0; i < blocks; i++) {
            const int64_t at = k0 / BLOCK + i;
            UNROLL for (int j = 0; j < 4; j++) PREFETCH(high + (i * 4 + j) * 64 + m->panel_bytes);
            if (i % 2 == 0) PREFETCH(chunk + i * PANEL * 2 + m->panel_bytes);
            vi dot[STATES_AT_ONCE];
            UNROLL for (int s = 0; s < ns; s++) dot[s] = i_set1(0);
            UNROLL for (int j = 0; j < 4; j++) {
                vb word = b_load(high + (i * 4 + j) * 64), first = high_of_first(word), second = high_of_second(word);
                UNROLL for (int s = 0; s < ns; s++) {
                    const int8_t *codes = x->codes + (state + s) * x->stride8 + at * BLOCK + j * 4;
                    dot[s] = i_dot(i_dot(dot[s], first, i_load4(codes)), second, i_load4(codes + 16));
                }
            }
            vf scale = f_load_f16((const uint16_t *)chunk + i * PANEL), square = f_mul(scale, scale);
            UNROLL for (int s = 0; s < ns; s++) {
                const int64_t block = (state + s) * x->blocks + at;
                a[s] = f_fma(f_from_i(dot[s]), f_mul(scale, f_set1(x->scales[block])), a[s]);
                b[s] = f_fma(scale, f_set1(f->sums[block]), b[s]);
                v[s] = f_fma(square, f_set1(f->squares[block]), v[s]);
            }
        }
        chunk = high + blocks * 4 * 64;
    }
    for (int s = 0; s < ns; s++) bound_panel(op, panel, state + s, a[s], b[s], v[s], draws + state + s);
}

static draw_state draw_of(const pyml_screen *screen, int64_t state) {
    if (!screen->requests) return (draw_state){.drawn = false};
    const pyml_request *r = &screen->requests[state];
    const pyml_demand demand = pyml_demand_of(r->sampler);
    return (draw_state){demand.screened && demand.drawn, (float)demand.temperature, (float)(1 / demand.temperature),
                        noise_key(r->sampler, r->position)};
}

static void screen_panels(const pyml_op *op, int64_t states, pyml_thread *thread, int64_t begin, int64_t end) {
    factors f = factors_of(op->in, states, thread->scratch);
    draw_state draws[SCREEN_STATES];
    for (int64_t s = 0; s < states; s++) draws[s] = draw_of(op->screen, s);
    for (int64_t panel = begin; panel < end; panel++) {
        for (int64_t s = 0; s < states; s += STATES_AT_ONCE) { /* the panel stays in the cache */
            if (states - s == 1) screen_panel(1, op, panel, s, &f, draws);
            else if (states - s == 2) screen_panel(2, op, panel, s, &f, draws);
            else if (states - s == 3) screen_panel(3, op, panel, s, &f, draws);
            else screen_panel(STATES_AT_ONCE, op, panel, s, &f, draws);
        }
    }
}

/* ---- the threshold, and the panels that reach it */

/* The k-th largest logit of the k panels with the best lower bounds. They survive whatever their upper bounds. */
static float threshold_of(const pyml_op *op, int64_t state, pyml_thread *thread) {
    const pyml_screen *screen = op->screen;
    const int64_t width = op->out->width, panels = panels_of(op->matrices), k = screen->k;
    const float *lower = screen->lower + state * panels, *logits = op->out->f + state * width;
    float *upper = screen->upper + state * panels, *heap = screen->heap + state * SCREEN_MAX_TOP;
    heap_clear(heap, k);
    for (int64_t panel = 0; panel < panels; panel++) heap_add(heap, k, lower[panel]);
    const float enough = heap[0];
    heap_clear(heap, k);
    for (int64_t panel = 0, found = 0; panel < panels && found < k; panel++) {
        if (lower[panel] < enough) continue;
        compute_panel(op, panel, state, 1, thread);
        for (int64_t i = panel * PANEL; i < min_i64(width, (panel + 1) * PANEL); i++) heap_add(heap, k, logits[i]);
        upper[panel] = INFINITY;
        found++;
    }
    return heap[0];
}

/* Stage 0: bounds of the panels. Stage 1: the threshold of each state. */
int64_t FN(screen_items)(const pyml_op *op, const pyml_run *run, int stage) {
    return stage ? run->outputs : run->outputs ? (panels_of(op->matrices) + PANELS_AN_ITEM - 1) / PANELS_AN_ITEM : 0;
}

int64_t FN(screen_weights)(const pyml_op *op, const pyml_run *run, int64_t item, const uint8_t **from) {
    (void)run;
    const pyml_matrix *m = op->matrices;
    *from = m->data + item * PANELS_AN_ITEM * m->panel_bytes;
    return (panels_of(m) - item * PANELS_AN_ITEM) * m->panel_bytes;
}

void FN(screen)(const pyml_op *op, const pyml_run *run, pyml_thread *thread, int stage, int64_t begin, int64_t end) {
    if (stage == 0)
        screen_panels(op, run->outputs, thread, begin * PANELS_AN_ITEM,
                      min_i64(panels_of(op->matrices), end * PANELS_AN_ITEM));
    else
        for (int64_t s = begin; s < end; s++) {
            if (op->screen->requests) FN(plan_panels)(op, s, thread);
            else op->screen->threshold[s] = threshold_of(op, s, thread);
        }
}

/* ---- rescoring */

INLINE bool survives(const pyml_screen *screen, int64_t panels, int64_t state, int64_t panel) {
    return !(screen->upper[state * panels + panel] < screen->threshold[state]);
}

/* Whether a panel is to be computed in this round. */
INLINE bool is_wanted(const pyml_screen *screen, int64_t panels, int64_t state, int64_t panel, int round) {
    if (screen->requests) return screen->round[state * panels + panel] == round;
    return survives(screen, panels, state, panel);
}

/* The candidates of one state, ascending: all that was computed for it and is not below the k-th largest. */
static void collect(const pyml_op *op, int64_t state) {
    const pyml_screen *screen = op->screen;
    const int64_t width = op->out->width, panels = panels_of(op->matrices), k = screen->k;
    const float *row = op->out->f + state * width;
    float *heap = screen->heap + state * SCREEN_MAX_TOP, *logits = screen->logits + state * width;
    int32_t *ids = screen->ids + state * width;
    int64_t count = 0, kept = 0;
    heap_clear(heap, k);
    for (int64_t panel = 0; panel < panels; panel++) {
        if (!survives(screen, panels, state, panel)) continue;
        for (int64_t i = panel * PANEL; i < min_i64(width, (panel + 1) * PANEL); i++) {
            heap_add(heap, k, row[i]);
            ids[count] = (int32_t)i;
            logits[count++] = row[i];
        }
    }
    for (int64_t i = 0; i < count; i++) {
        if (logits[i] < heap[0]) continue; /* NaN stays: it is for the caller to see */
        ids[kept] = ids[i];
        logits[kept++] = logits[i];
    }
    screen->count[state] = kept, screen->rescored[state] = count;
}

/* Rounds: 1, and if a state's token is not settled after it 2 and 3. A head that is screened for the largest logits has
 * one round. */
static int round_of(const pyml_op *op) { return op->layer + 1; }

static bool is_pending(const pyml_screen *screen, int64_t state, int round) {
    return round == 1 || screen->requests[state].pending == round;
}

/* Stage 0: logits of the panels that are wanted. Stage 1: the candidates of each state, or its token. */
int64_t FN(rescore_items)(const pyml_op *op, const pyml_run *run, int stage) {
    bool any = false;
    for (int64_t s = 0; s < run->outputs; s++) any |= is_pending(op->screen, s, round_of(op));
    return any ? FN(screen_items)(op, run, stage) : 0;
}

void FN(rescore)(const pyml_op *op, const pyml_run *run, pyml_thread *thread, int stage, int64_t begin, int64_t end) {
    const pyml_screen *screen = op->screen;
    const int64_t panels = panels_of(op->matrices);
    const int round = round_of(op);
    if (stage) {
        for (int64_t s = begin; s < end; s++) {
            if (!screen->requests) collect(op, s);
            else if (is_pending(screen, s, round)) FN(settle)(op, s, round);
        }
        return;
    }
    for (int64_t panel = begin * PANELS_AN_ITEM; panel < min_i64(panels, end * PANELS_AN_ITEM); panel++) {
        for (int64_t s = 0, n; s < run->outputs; s += n ? n : 1) { /* neighbours that want it share one pass */
            n = 0;
            while (n < STATES_AT_ONCE && s + n < run->outputs && is_wanted(screen, panels, s + n, panel, round)) n++;
            if (n) compute_panel(op, panel, s, n, thread);
        }
    }
}
