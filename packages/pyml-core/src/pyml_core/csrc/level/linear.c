/* linear.c: out = x W^T for weights in panels (pack.c), of every block type.
 *
 * Two inner loops do all the work. Plain weights (f32, f16, bf16) go through fma_tile. Quantised ones are unpacked, a chunk of
 * up to 256 k of one or two panels at a time, to unsigned bytes and float32 scales in the first-level cache; dot_tile then takes
 * every token through the chunk. One token and five hundred run the same code, and each output is summed in one order:
 *
 *     sum = fma(float(sum_k code_w code_a), scale_w * scale_a, sum)      for each block (of 32, or 16) in ascending order
 *     sum = fma(min_w, scale_a * sum_k code_a, sum)                      and then, where the type has minima
 *
 * The integer sum is exact, so that results do not depend on how a level multiplies bytes.
 */
#include "kernels.h"

/* ---- unpacking: from a chunk's planes to bytes in the order of k, and a scale (and a minimum) for each block */

typedef struct {
    _Alignas(64) uint8_t codes[CHUNK / 4 * 64];
    _Alignas(64) float scales[CHUNK / 16][PANEL];
    _Alignas(64) float mins[CHUNK / 16][PANEL];
} unpacked;

typedef const uint8_t *(*unpack_fn)(const uint8_t *chunk, int k, unpacked *u); /* returns where the bytes are */

static const uint8_t iq4_nl_codes[16] = {1,   24,  45,  63,  79,  93,  106, 118, /* ggml's kvalues_iq4nl + 128 */
                                         129, 141, 153, 166, 181, 197, 217, 241};

INLINE int64_t padded(int64_t bytes) { return (bytes + 63) / 64 * 64; }

INLINE const uint8_t *halves_to_floats(const uint8_t *plane, int blocks, float (*out)[PANEL]) {
    for (int b = 0; b < blocks; b++) f_store(out[b], f_load_f16((const uint16_t *)plane + b * PANEL));
    return plane + padded(blocks * PANEL * 2);
}

static const uint8_t *unpack_q8_0(const uint8_t *chunk, int k, unpacked *u) {
    return halves_to_floats(chunk, k / 32, u->scales);
}

/* The 32-blocks of four and five bits: nibbles of words 0..3 are elements 0..15 (low) and 16..31 (high). */
INLINE const uint8_t *unpack_nibbles(const uint8_t *chunk, int k, unpacked *u, const bool mins, const bool fifth, const bool table) {
    int blocks = k / 32;
    const uint8_t *plane = halves_to_floats(chunk, blocks, u->scales);
    if (mins) plane = halves_to_floats(plane, blocks, u->mins);
    const uint8_t *high = plane;
    if (fifth) plane += blocks * 64;
    vb nibble = b_set1(15), bit = b_set1(16);
    for (int b = 0; b < blocks; b++) {
        uint8_t *out = u->codes + b * 8 * 64;
        vb h = fifth ? b_load(high + b * 64) : nibble;
        UNROLL for (int j = 0; j < 4; j++) {
            vb v = b_load(plane + (b * 4 + j) * 64);
            vb low = b_and(v, nibble), top = b_and(b_shr(v, 4), nibble);
            if (fifth) {
                low = b_or(low, b_and(b_shl(h, 4 - j), bit));
                top = b_or(top, b_and(j ? b_shr(h, j) : h, bit));
            }
            b_store(out + j * 64, table ? b_lookup(iq4_nl_codes, low) : low);
            b_store(out + (j + 4) * 64, table ? b_lookup(iq4_nl_codes, top) : top);
        }
    }
    return u->codes;
}

static const uint8_t *unpack_q4_0(const uint8_t *c, int k, unpacked *u) { return unpack_nibbles(c, k, u, false, false, false); }
static const uint8_t *unpack_q4_1(const uint8_t *c, int k, unpacked *u) { return unpack_nibbles(c, k, u, true, false, false); }
static const uint8_t *unpack_q5_0(const uint8_t *c, int k, unpacked *u) { return unpack_nibbles(c, k, u, false, true, false); }
static const uint8_t *unpack_q5_1(const uint8_t *c, int k, unpacked *u) { return unpack_nibbles(c, k, u, true, true, false); }
static const uint8_t *unpack_iq4_nl(const uint8_t *c, int k, unpacked *u) { return unpack_nibbles(c, k, u, false, false, true); }

INLINE vf scaled(vf d, vi n) { return f_mul(d, f_from_i(n)); }
INLINE vf negated(vf x) { return f_mul(x, f_set1(-1.0f)); } /* keeps the sign of zero */

/* Scales and minima of 6 bits of q4_K and q5_K, twelve bytes for eight blocks of 32. */
static const uint8_t *unpack_k_scales(const uint8_t *chunk, unpacked *u) {
    const uint8_t *s = chunk + 64;
    vf d = f_load_f16((const uint16_t *)chunk), d_min = f_load_f16((const uint16_t *)chunk + PANEL);
    vi six = i_set1(63), four = i_set1(15);
    for (int j = 0; j < 4; j++) {
        vi a = i_load_u8(s + j * PANEL), b = i_load_u8(s + (j + 4) * PANEL), c = i_load_u8(s + (j + 8) * PANEL);
        f_store(u->scales[j], scaled(d, i_and(a, six)));
        f_store(u->mins[j], negated(scaled(d_min, i_and(b, six))));
        f_store(u->scales[j + 4], scaled(d, i_or(i_and(c, four), i_shl(i_shr(a, 6), 4))));
        f_store(u->mins[j + 4], negated(scaled(d_min, i_or(i_shr(c, 4), i_shl(i_shr(b, 6), 4)))));
    }
    return s + 192;
}

INLINE const uint8_t *unpack_q45_k(const uint8_t *chunk, unpacked *u, const bool fifth) {
    const uint8_t *plane = unpack_k_scales(chunk, u), *high = plane;
    if (fifth) plane += 8 * 64;
    vb nibble = b_set1(15), bit = b_set1(16);
    UNROLL for (int c = 0; c < 4; c++) /* 64 elements: low nibbles are the first 32 */
        for (int j = 0; j < 8; j++) {
            vb v = b_load(plane + (c * 8 + j) * 64);
            vb low = b_and(v, nibble), top = b_and(b_shr(v, 4), nibble);
            if (fifth) {
                vb h = b_load(high + j * 64);
                low = b_or(low, b_and(2 * c < 4 ? b_shl(h, 4 - 2 * c) : b_shr(h, 2 * c - 4), bit));
                top = b_or(top, b_and(2 * c + 1 < 4 ? b_shl(h, 3 - 2 * c) : b_shr(h, 2 * c - 3), bit));
            }
            b_store(u->codes + (16 * c + j) * 64, low);
            b_store(u->codes + (16 * c + 8 + j) * 64, top);
        }
    return u->codes;
}

static const uint8_t *unpack_q4_k(const uint8_t *c, int k, unpacked *u) { (void)k; return unpack_q45_k(c, u, false); }
static const uint8_t *unpack_q5_k(const uint8_t *c, int k, unpacked *u) { (void)k; return unpack_q45_k(c, u, true); }

static const uint8_t *unpack_q6_k(const uint8_t *chunk, int k, unpacked *u) {
    (void)k;
    vf d = f_load_f16((const uint16_t *)chunk);
    for (int j = 0; j < 16; j++) f_store(u->scales[j], scaled(d, i_load_s8(chunk + 64 + j * PANEL)));
    const uint8_t *high = chunk + 64 + 256, *low = high + 16 * 64;
    vb nibble = b_set1(15), two = b_set1(0x30);
    for (int n = 0; n < 2; n++)
        for (int j = 0; j < 8; j++) {
            vb h = b_load(high + (8 * n + j) * 64);
            vb a = b_load(low + (16 * n + j) * 64), b = b_load(low + (16 * n + 8 + j) * 64);
            uint8_t *out = u->codes + (32 * n + j) * 64;
            b_store(out, b_or(b_and(a, nibble), b_and(b_shl(h, 4), two)));
            b_store(out + 8 * 64, b_or(b_and(b, nibble), b_and(b_shl(h, 2), two)));
            b_store(out + 16 * 64, b_or(b_and(b_shr(a, 4), nibble), b_and(h, two)));
            b_store(out + 24 * 64, b_or(b_and(b_shr(b, 4), nibble), b_and(b_shr(h, 2), two)));
        }
    return u->codes;
}

/* Two bits (q2_K), with a third from hmask (q3_K): word 8n + j holds elements 128n + 32q + 4j.. at bits 2q. */
INLINE void unpack_two_bits(const uint8_t *plane, const uint8_t *mask, unpacked *u) {
    vb two = b_set1(3), bit = b_set1(4);
    UNROLL for (int n = 0; n < 2; n++)
        for (int j = 0; j < 8; j++) {
            vb v = b_load(plane + (8 * n + j) * 64);
            UNROLL for (int q = 0; q < 4; q++) {
                vb code = b_and(q ? b_shr(v, 2 * q) : v, two);
                if (mask) {
                    int m = 4 * n + q; /* the bit of hmask */
                    vb h = b_load(mask + j * 64);
                    code = b_or(code, b_and(m < 2 ? b_shl(h, 2 - m) : m > 2 ? b_shr(h, m - 2) : h, bit));
                }
                b_store(u->codes + (32 * n + 8 * q + j) * 64, code);
            }
        }
}

static const uint8_t *unpack_q2_k(const uint8_t *chunk, int k, unpacked *u) {
    (void)k;
    vf d = f_load_f16((const uint16_t *)chunk), d_min = f_load_f16((const uint16_t *)chunk + PANEL);
    for (int j = 0; j < 16; j++) {
        vi s = i_load_u8(chunk + 64 + j * PANEL);
        f_store(u->scales[j], scaled(d, i_and(s, i_set1(15))));
        f_store(u->mins[j], negated(scaled(d_min, i_shr(s, 4))));
    }
    unpack_two_bits(chunk + 64 + 256, NULL, u);
    return u->codes;
}

static const uint8_t *unpack_q3_k(const uint8_t *chunk, int k, unpacked *u) {
    (void)k;
    const uint8_t *s = chunk + 64, *mask = s + 192;
    vf d = f_load_f16((const uint16_t *)chunk);
    UNROLL for (int j = 0; j < 16; j++) { /* four bits from bytes 0..7, two from 8..11, less 32 */
        vi low = i_load_u8(s + j % 8 * PANEL), high = i_load_u8(s + (8 + j % 4) * PANEL);
        low = j < 8 ? i_and(low, i_set1(15)) : i_shr(low, 4);
        high = i_and(i_shr(high, 2 * (j / 4)), i_set1(3));
        f_store(u->scales[j], scaled(d, i_add(i_or(low, i_shl(high, 4)), i_set1(-32))));
    }
    unpack_two_bits(mask + 8 * 64, mask, u);
    return u->codes;
}

/* What dot_tile needs to know of a block type. */
typedef struct {
    unpack_fn unpack;
    int block;  /* elements that share a scale */
    int offset; /* code 0 is this unsigned byte */
    bool wide;  /* bytes may be 64 and more */
    bool mins;
} quantized_type;

static const quantized_type quantized_types[] = {
    [TYPE_Q8_0] = {unpack_q8_0, 32, 128, true, false},   [TYPE_IQ4_NL] = {unpack_iq4_nl, 32, 128, true, false},
    [TYPE_Q4_0] = {unpack_q4_0, 32, 8, false, false},    [TYPE_Q5_0] = {unpack_q5_0, 32, 16, false, false},
    [TYPE_Q4_1] = {unpack_q4_1, 32, 0, false, true},     [TYPE_Q5_1] = {unpack_q5_1, 32, 0, false, true},
    [TYPE_Q4_K] = {unpack_q4_k, 32, 0, false, true},     [TYPE_Q5_K] = {unpack_q5_k, 32, 0, false, true},
    [TYPE_Q2_K] = {unpack_q2_k, 16, 0, false, true},     [TYPE_Q3_K] = {unpack_q3_k, 16, 4, false, false},
    [TYPE_Q6_K] = {unpack_q6_k, 16, 32, false, false},
};

/* ---- the int8 inner loop */

/* Some rows of int8 activations from some k on. */
typedef struct {
    const int8_t *codes;
    const float *scales;
    const int32_t *sums; /* of blocks of the weight's size */
    int64_t stride8, blocks, sum_stride;
} quantized_rows;

/* The packed bytes that come next, to be asked for while this chunk is worked on. */
typedef struct {
    const uint8_t *from[TILE_PANELS];
    int lines; /* 64-byte lines of each panel for every block */
} ahead;

INLINE void dot_tile(const int nt, const int np, const int block, const bool wide, const bool mins, int offset,
                     const uint8_t *const *codes, const unpacked *u, int k, const quantized_rows *rows, const ahead *coming,
                     float *sums, bool first) {
    const quantized_rows a = *rows;
    const ahead next = *coming;
    const int ld_sums = TILE_PANELS * PANEL;
    vf sum[TILE_TOKENS][TILE_PANELS];
    UNROLL for (int t = 0; t < nt; t++)
        UNROLL for (int p = 0; p < np; p++) sum[t][p] = first ? f_set1(0.0f) : f_load(sums + t * ld_sums + p * PANEL);
    for (int b = 0; b < k / block; b++) {
        UNROLL for (int p = 0; p < np; p++)
            for (int i = 0; i < next.lines; i++) PREFETCH(next.from[p] + (b * next.lines + i) * 64);
        vi dot[TILE_TOKENS][TILE_PANELS];
        UNROLL for (int t = 0; t < nt; t++) {
            vi start = i_set1(mins ? 0 : -offset * a.sums[t * a.sum_stride + b]);
            UNROLL for (int p = 0; p < np; p++) dot[t][p] = start;
        }
        UNROLL for (int g = 0; g < block / 4; g++) {
            vb w[TILE_PANELS];
            UNROLL for (int p = 0; p < np; p++) w[p] = b_load(codes[p] + (b * (block / 4) + g) * 64);
            UNROLL for (int t = 0; t < nt; t++) {
                vi x = i_load4(a.codes + t * a.stride8 + b * block + g * 4);
                UNROLL for (int p = 0; p < np; p++)
                    dot[t][p] = wide ? i_dot_wide(dot[t][p], w[p], x) : i_dot(dot[t][p], w[p], x);
            }
        }
        UNROLL for (int t = 0; t < nt; t++) {
            float scale = a.scales[t * a.blocks + b * block / BLOCK];
            UNROLL for (int p = 0; p < np; p++)
                sum[t][p] = f_fma(f_from_i(dot[t][p]), f_mul(f_load(u[p].scales[b]), f_set1(scale)), sum[t][p]);
            if (mins) {
                vf weighted = f_set1(scale * (float)a.sums[t * a.sum_stride + b]);
                UNROLL for (int p = 0; p < np; p++) sum[t][p] = f_fma(f_load(u[p].mins[b]), weighted, sum[t][p]);
            }
        }
    }
    UNROLL for (int t = 0; t < nt; t++)
        UNROLL for (int p = 0; p < np; p++) f_store(sums + t * ld_sums + p * PANEL, sum[t][p]);
}

/* All of dot_tile's forms: tokens 1..6, panels 1..2, and the kinds of block. */
#define DOT_KIND(nt, np)                                                                                                         \
    if (q->block == 32 && q->wide) dot_tile(nt, np, 32, true, false, offset, codes, u, k, a, next, sums, first);                  \
    else if (q->block == 32 && q->mins) dot_tile(nt, np, 32, false, true, 0, codes, u, k, a, next, sums, first);                  \
    else if (q->block == 32) dot_tile(nt, np, 32, false, false, offset, codes, u, k, a, next, sums, first);                       \
    else if (q->mins) dot_tile(nt, np, 16, false, true, 0, codes, u, k, a, next, sums, first);                                    \
    else dot_tile(nt, np, 16, false, false, offset, codes, u, k, a, next, sums, first)

#define DOT_TOKENS(nt)                                                                                                            \
    static void dot_##nt(const quantized_type *q, int np, const uint8_t *const *codes, const unpacked *u, int k,                   \
                         const quantized_rows *a, const ahead *next, float *sums, bool first) {                                                  \
        int offset = q->wide ? (WIDE_BIAS ? q->offset : 0) : q->offset;                                                            \
        if (np == 1) { DOT_KIND(nt, 1); } else { DOT_KIND(nt, TILE_PANELS); }                                                      \
    }

DOT_TOKENS(1)
DOT_TOKENS(2)
#if PYML_TILE_TOKENS > 2
DOT_TOKENS(3)
DOT_TOKENS(4)
#endif
#if PYML_TILE_TOKENS > 4
DOT_TOKENS(5)
DOT_TOKENS(6)
#endif

typedef void (*dot_fn)(const quantized_type *, int, const uint8_t *const *, const unpacked *, int, const quantized_rows *, const ahead *,
                       float *, bool);
static const dot_fn dot_tokens[TILE_TOKENS + 1] = {
    NULL, dot_1, dot_2,
#if PYML_TILE_TOKENS > 2
    dot_3, dot_4,
#endif
#if PYML_TILE_TOKENS > 4
    dot_5, dot_6,
#endif
};

/* ---- drivers: a tile of one or two panels, for up to TOKEN_BLOCK rows; sums is [rows][TILE_PANELS * 16] */

/* Where a tile's results go: columns `column`.. of rows `row`.. of the output. */
typedef struct {
    const pyml_op *op;
    int64_t row, column, columns;
} target;

/* The output's lines for some rows, asked for before they are written: they are far apart. */
INLINE void expect(const target *to, int64_t t, int64_t rows) {
    const pyml_buffer *out = to->op->out;
    for (int64_t r = t; r < t + rows; r++)
        for (int64_t c = 0; c < to->columns; c += PANEL) PREFETCH_WRITE(out->f + (to->row + r) * out->width + to->column + c);
}

/* sums + bias (+ what is there) to rows t.. of the output. */
INLINE void finish(const target *to, int64_t t, int64_t rows, const float *sums) {
    const pyml_op *op = to->op;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < to->columns; c += PANEL) {
            int64_t n = least(PANEL, to->columns - c);
            float *out = op->out->f + (to->row + t + r) * op->out->width + to->column + c;
            vf v = f_load(sums + r * TILE_PANELS * PANEL + c);
            if (op->weight) v = f_add(v, f_load_n(op->weight + to->column + c, n));
            if (op->accumulate) v = f_add(f_load_n(out, n), v);
            f_store_n(out, v, n);
        }
}

static void quantized_tile(const pyml_matrix *m, int64_t panel, int np, const pyml_buffer *x, int64_t rows, const target *to,
                           uint8_t *scratch, float *sums) {
    const quantized_type *q = &quantized_types[m->type];
    unpacked *u = (unpacked *)scratch;
    const uint8_t *chunk[TILE_PANELS], *codes[TILE_PANELS];
    for (int p = 0; p < np; p++) chunk[p] = m->data + (panel + p) * m->panel_bytes;
    int full_chunk = m->k >= CHUNK ? pyml_chunk_bytes(m->type, CHUNK) : 0;
    for (int64_t k0 = 0; k0 < m->k; k0 += CHUNK) {
        int k = (int)least(CHUNK, m->k - k0);
        int bytes = k == CHUNK ? full_chunk : pyml_chunk_bytes(m->type, k);
        ahead next = {.lines = 0};
        if (rows <= TILE_TOKENS) next.lines = (bytes + 64 * (k / q->block) - 1) / (64 * (k / q->block));
        for (int p = 0; p < np; p++) {
            codes[p] = q->unpack(chunk[p], k, &u[p]);
            next.from[p] = chunk[p] + np * m->panel_bytes;
            chunk[p] += bytes;
        }
        bool last = k0 + CHUNK >= m->k;
        for (int64_t t = 0; t < rows; t += TILE_TOKENS) {
            int nt = (int)least(TILE_TOKENS, rows - t);
            int64_t row = to->row + t;
            if (last) expect(to, t, nt);
            int64_t halves = BLOCK / q->block; /* sums are kept for blocks of 32 and for halves */
            const int32_t *block_sums = halves == 1 ? x->sums : x->half_sums;
            quantized_rows a = {
                .codes = x->codes + row * x->stride8 + k0, .stride8 = x->stride8,
                .scales = x->scales + row * x->blocks + k0 / BLOCK, .blocks = x->blocks,
                .sums = block_sums + row * x->blocks * halves + k0 / q->block, .sum_stride = x->blocks * halves,
            };
            dot_tokens[nt](q, np, codes, u, k, &a, &next, sums + t * TILE_PANELS * PANEL, k0 == 0);
            if (last) finish(to, t, nt, sums + t * TILE_PANELS * PANEL);
        }
    }
}

static void plain_tile(const pyml_matrix *m, int64_t panel, int np, const pyml_buffer *x, int64_t rows, const target *to,
                       float *sums) {
    int64_t element = m->type == TYPE_F32 ? 4 : 2;
    for (int64_t k0 = 0; k0 < m->k; k0 += CHUNK) {
        int64_t k = least(CHUNK, m->k - k0);
        const float *a = x->f + to->row * x->width + k0;
        const void *b[TILE_PANELS];
        for (int p = 0; p < np; p++) b[p] = m->data + (panel + p) * m->panel_bytes + k0 * PANEL * element;
#define PLAIN(type)                                                                                                               \
    if (np == 1) fma_rows(1, type, a, x->width, b, PANEL, k, sums, TILE_PANELS * PANEL, rows, k0 == 0);                             \
    else fma_rows(TILE_PANELS, type, a, x->width, b, PANEL, k, sums, TILE_PANELS * PANEL, rows, k0 == 0)
        if (m->type == TYPE_F32) { PLAIN(TYPE_F32); }
        else if (m->type == TYPE_F16) { PLAIN(TYPE_F16); }
        else { PLAIN(TYPE_BF16); }
#undef PLAIN
    }
    finish(to, 0, rows, sums);
}

static bool is_plain(int type) { return type == TYPE_F32 || type == TYPE_F16 || type == TYPE_BF16; }

static int64_t tiles_of(const pyml_matrix *m) {
    int64_t panels = (m->n + PANEL - 1) / PANEL;
    return (panels + TILE_PANELS - 1) / TILE_PANELS;
}

static int64_t tiles_of_all(const pyml_op *op) {
    int64_t tiles = 0;
    for (int i = 0; i < op->n_matrices; i++) tiles += tiles_of(&op->matrices[i]);
    return tiles;
}

int64_t FN(linear_items)(const pyml_op *op, const pyml_run *run, int stage) {
    int64_t blocks = (rows_of(op->out, run) + TOKEN_BLOCK - 1) / TOKEN_BLOCK;
    return stage ? 0 : tiles_of_all(op) * blocks;
}

void FN(linear)(const pyml_op *op, const pyml_run *run, pyml_thread *thread, int stage, int64_t begin, int64_t end) {
    (void)stage;
    float *sums = (float *)thread->scratch;
    uint8_t *scratch = thread->scratch + TOKEN_BLOCK * TILE_PANELS * PANEL * sizeof(float);
    int64_t tiles = tiles_of_all(op), rows = rows_of(op->out, run);
    for (int64_t item = begin; item < end; item++) {
        int64_t row = item / tiles * TOKEN_BLOCK, tile = item % tiles, column = 0;
        int64_t count = least(TOKEN_BLOCK, rows - row);
        const pyml_matrix *m = op->matrices;
        for (; tile >= tiles_of(m); m++) {
            tile -= tiles_of(m);
            column += m->n;
        }
        int64_t panel = tile * TILE_PANELS, from = panel * PANEL;
        int np = (int)least(TILE_PANELS, (m->n + PANEL - 1) / PANEL - panel);
        target to = {op, row, column + from, least(np * PANEL, m->n - from)};
        if (is_plain(m->type)) plain_tile(m, panel, np, op->in, count, &to, sums);
        else quantized_tile(m, panel, np, op->in, count, &to, scratch, sums);
    }
}

/* ---- rows of a packed matrix as float32: embedding look-up, and dequantisation. The order of operations is ggml's. */

static void unpack_row(const pyml_matrix *m, int64_t row, float *out) {
    int64_t lane = row % PANEL;
    const uint8_t *data = m->data + row / PANEL * m->panel_bytes;
    if (is_plain(m->type)) {
        for (int64_t i = 0; i < m->k; i++) {
            _Alignas(64) float lanes[PANEL];
            f_store(lanes, m->type == TYPE_F32   ? f_load((const float *)data + i * PANEL)
                           : m->type == TYPE_F16 ? f_load_f16((const uint16_t *)data + i * PANEL)
                                                 : f_load_bf16((const uint16_t *)data + i * PANEL));
            out[i] = lanes[lane];
        }
        return;
    }
    const quantized_type *q = &quantized_types[m->type];
    unpacked u;
    for (int64_t k0 = 0; k0 < m->k; k0 += CHUNK) {
        int k = (int)least(CHUNK, m->k - k0);
        const uint8_t *codes = q->unpack(data, k, &u);
        data += pyml_chunk_bytes(m->type, k);
        for (int i = 0; i < k; i++) {
            float x = u.scales[i / q->block][lane] * (float)(codes[i / 4 * 64 + lane * 4 + i % 4] - q->offset);
            out[k0 + i] = q->mins ? x + u.mins[i / q->block][lane] : x;
        }
    }
}

void FN(unpack_rows)(const pyml_matrix *m, const int64_t *rows, int64_t count, float *out) {
    for (int64_t i = 0; i < count; i++) unpack_row(m, rows[i], out + i * m->k);
}
