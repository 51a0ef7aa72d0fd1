/* types.h: buffers, matrices, operations, a run, and the kernels of a level. Plain C11 without vector types, so that
 * layouts are equal in the objects of every CPU level.
 *
 * Letters: T tokens of a run, P wanted positions, K input width, N output width, D head_dim, H key/value heads.
 */
#ifndef PYML_TYPES_H
#define PYML_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sample.h"

enum {
    PANEL = 16,    /* interleaved rows of a weight, or keys */
    CHUNK = 256,   /* columns of a quantised panel that are unpacked at a time */
    BLOCK = 32,    /* activations that share a scale */
    PAGE = 64,     /* positions in a KV page */
    KEY_PAGES = 2, /* maximum pages of a key block of attention: block b has pages 2 b and 2 b + 1 */
    KEYS = KEY_PAGES * PAGE,
    KEY_BLOCK_MAX = 128,         /* maximum elements of an int8 key that share a scale */
    KEY_SCALES = PAGE * 4,       /* bytes before the codes of a block of a page's int8 keys */
    VALUE_SCALES = 2 * PAGE * 4, /* bytes before the codes of a page's int8 values: logarithms and inverses of scales */
    LINEAR_SCRATCH = 70 << 10,   /* bytes that a tile of a linear layer needs for each thread */
    FEW_TOKENS = 16,             /* maximum tokens of a run that streams weights */
    TOKEN_BLOCK = 256,           /* tokens that a thread takes through a tile of a linear layer at a time */
    MAX_EXPERTS = 1024,
    MAX_PHASES = 4, /* maximum parts of a fused operation that are timed separately */
    MAX_THREADS = 256,
    SCREEN_STATES = 16,   /* maximum states that one run screens the head for */
    SCREEN_MAX_TOP = 256, /* maximum logits wanted for each state */
    ROW_STATS = 4,        /* statistics of a row of a screened head */
    SETTLE_ROUNDS = 3     /* in which rows are computed until the choice of a token is settled */
};

#define UNIFORM_ERROR 21.25 /* (16 * 16 - 1) / 12: variance of a uniformly distributed nibble */

enum { /* TYPE_Q4_K, ... */
#define PLAIN_TYPE(NAME, name, number, ...) TYPE_##NAME = number,
#define BLOCK_TYPE(NAME, name, number, ...) TYPE_##NAME = number,
#include "block_types.def"
};

/* The K experts of every token of a run. Dispatched rows are sorted by expert, then by token. */
typedef struct {
    int64_t experts, chosen; /* E, K */
    int32_t *row;            /* [T][K] dispatched row of each choice */
    int32_t *token;          /* [T * K] token of each dispatched row */
    int32_t *first;          /* [E + 1] first dispatched row of each expert */
} pyml_routes;

/* An activation: rows of `width` float32, and an int8 copy if a quantised matrix reads it. */
typedef struct {
    float *f; /* [rows][width] */
    int64_t width;
    int64_t stride8;          /* bytes between rows of codes */
    int64_t blocks;           /* width / 32 */
    int8_t *codes;            /* [rows][stride8], or NULL: no int8 copy */
    float *scales;            /* [rows][blocks] */
    int32_t *sums;            /* [rows][blocks]       sum of the codes of a block */
    int32_t *half_sums;       /* [rows][2 * blocks]   sum of the codes of a half block of 16 */
    bool codes_only;          /* only traces read the floats */
    bool outputs;             /* one row for each wanted position instead of each token */
    int64_t copies;           /* rows for each token: 1, or the number of its experts */
    pyml_routes *routes;      /* if the buffer has routes: [T][experts | weights]; else NULL */
    const pyml_routes *order; /* if the buffer has dispatched rows: their routes; else NULL */
} pyml_buffer;

/* A weight (N, K) in panels of 16 rows; see pack.c. */
typedef struct {
    int32_t type;
    int64_t n, k;
    const uint8_t *data;
    int64_t panel_bytes;
    const uint8_t *low; /* split q8_0: the low nibbles of all panels, after everything else; else NULL */
    int64_t low_bytes;  /* bytes of low nibbles in a panel */
} pyml_matrix;

enum { /* OP_LINEAR, ... */
#define OPERATION(KIND, ...) OP_##KIND,
#include "operations.def"
       OP_KINDS
};

static inline bool pyml_is_product(int kind) {
    switch (kind) {
#define OPERATION(KIND, name, items, product) \
    case OP_##KIND: return product;
#include "operations.def"
    default: return false;
    }
}

enum { ACT_GELU_TANH, ACT_GELU_ERF, ACT_SILU };

/* The arrays that a trace captures from attention in one run: for each slice in order [n_heads][tokens][keys], where
 * keys are all positions of its pages. They are initialised with the values of masked keys: -INFINITY and 0. */
typedef struct {
    float *scores;        /* scaled and capped, -INFINITY where masked; or NULL */
    float *probabilities; /* or NULL */
    float *maxima;        /* the largest score of every PAGE keys, one for each PAGE of probabilities */
} pyml_capture;

/* A state of a screened head whose next token is chosen with it, see level/settle.c. */
typedef struct {
    const pyml_sampler *sampler; /* set before the run, like `position`: where the token will stand */
    int64_t position;
    pyml_sampled chosen;         /* the result */
    int64_t rows[SETTLE_ROUNDS]; /* of the head that were computed for it in each round; in the last one all the rest */
    int32_t pending;             /* the round that is to come, 0: the token is settled */
    double mass;                 /* bound on the weight of all tokens, where that of a token at `reference` is 1 */
    float reference;
} pyml_request;

/* Shared by the screen and the rescoring of a head, see level/screen.c. N is the number of rows of the head. */
typedef struct {
    const uint16_t *row_stats; /* [panels][ROW_STATS][16] float16 */
    int64_t k;                 /* logits wanted of each state in this run */
    float *lower, *upper;      /* [SCREEN_STATES][panels] bounds on a panel's best logit */
    float *threshold;          /* [SCREEN_STATES] */
    float *heap;               /* [SCREEN_STATES][SCREEN_MAX_TOP] */
    int32_t *ids;              /* [SCREEN_STATES][N] the candidates */
    float *logits;             /* [SCREEN_STATES][N] */
    int64_t *count, *rescored; /* [SCREEN_STATES] candidates, and rows that were rescored for them */
    pyml_request *requests;    /* [SCREEN_STATES] of a run whose tokens are chosen; NULL: the k largest are wanted */
    float *noisy, *center, *mass, *variance; /* [SCREEN_STATES][panels] see level/draw_bounds.h */
    uint8_t *round;                          /* [SCREEN_STATES][panels] in which the panel is computed; 0: in none */
    uint8_t *scratch;                        /* [SCREEN_STATES][scratch_bytes] for the choice */
    int64_t scratch_bytes;
} pyml_screen;

/* One matrix of a linear layer that an adapter changes: B (A x) is added to its outputs. */
typedef struct {
    int64_t adapter;     /* the slices with this adapter have the term */
    int64_t low, column; /* first column of A x in the scratch buffer, and of the outputs */
} pyml_low_rank;

typedef struct pyml_op {
    int32_t kind;
    pyml_buffer *in, *in2, *out;
    const pyml_matrix *matrices;   /* linear: with adjacent outputs; embed: the table; expert_linear: of all experts;
                                      low_rank: A and B of all parts */
    int32_t n_matrices;            /* expert_linear: of one expert */
    const float *weight, *weight2; /* norms: weight and bias; prepare_qkv: q_norm and k_norm; linear: bias; tables */
    float eps, scale, cap;
    int32_t layer, n_heads, window, activation;
    bool accumulate, normalize;
    bool bidirectional;               /* attention: tokens attend to all positions of their sequence */
    bool skip;                        /* not part of this run */
    const pyml_low_rank *parts;       /* low_rank: matrices 2 i and 2 i + 1 are A and B of part i */
    const pyml_screen *screen;        /* screen, rescore */
    const struct pyml_op *fused_next; /* linear: the activation that it applies to each tile's results, or NULL */
    const struct pyml_op *fused_into; /* activate, gated: the linear layer that applies it, or NULL */
    float *copy;                      /* destination of a copy of the output for a trace, or NULL */
    const pyml_capture *capture;      /* attention: arrays to capture in this run, or NULL */
} pyml_op;

/* One sequence's part of a run. */
typedef struct {
    uint8_t *const *pages; /* KV pages */
    int64_t start;         /* position of its first token */
    int64_t count;         /* number of its tokens */
    int64_t row;           /* row of its first token in the token buffers */
    int64_t rope_set;      /* index of its set of RoPE frequencies */
    int64_t adapter;       /* the adapter of its linear layers; 0: none */
} pyml_slice;

/* Some consecutive tokens of one slice. A unit of attention is a tile and one of the H heads. */
typedef struct {
    int32_t slice, first, count;
} pyml_tile;

typedef struct {
    int64_t n_layers, n_kv_heads, head_dim;
    int64_t key_bytes, value_bytes, layer_bytes; /* of a head's keys, a head's values, and a layer; see kv_layout.py */
    bool f16, int8;
} pyml_kv;

/* Elements of an int8 key that share a scale. */
static inline int64_t pyml_key_block(int64_t head_dim) {
    int64_t power = head_dim & -head_dim;
    return power < KEY_BLOCK_MAX ? power : KEY_BLOCK_MAX;
}

/* The run that an operation is part of. */
typedef struct {
    int64_t tokens, outputs;
    const int32_t *ids;         /* [T] */
    const int32_t *positions;   /* [T] */
    const int32_t *token_slice; /* [T] slice of each token */
    const int32_t *output_rows; /* [P] token row of each wanted position */
    const pyml_slice *slices;
    int64_t n_slices;
    const pyml_tile *tiles;
    int64_t n_tiles;
    int64_t tile_tokens; /* maximum tokens of a tile */
    pyml_kv kv;
    float *partials; /* results of attention for each key block, if key blocks are split over threads */
    int64_t partials_floats;
    int32_t threads;
} pyml_run;

/* Whether a linear layer also applies the activation after it, to the results of each tile while they are in the cache.
 * With few rows it does not: reading weights dominates, and is fastest through one matrix after the other. It does not
 * either if a trace copies its output, which must be written completely. */
static inline bool pyml_fuses_activation(const pyml_op *linear, const pyml_run *run) {
    return linear->fused_next && !linear->copy && run->tokens > FEW_TOKENS;
}

/* The state of one thread in a run. */
typedef struct {
    int32_t index;
    uint8_t *scratch;            /* scratch_bytes of the program, aligned */
    int64_t last;                /* end of the range of items that it works on in this pass */
    const uint8_t *next_weights; /* the first weights that it reads after this operation, or NULL */
    bool timed;
    uint64_t phase[MAX_PHASES]; /* ticks in the phases of the current operation */
} pyml_thread;

/* The work of an operation is divided into items, which threads take in order. `stage` is the pass of an operation that
 * needs a barrier in its middle. */
typedef int64_t (*pyml_items_fn)(const pyml_op *, const pyml_run *, int stage);
typedef void (*pyml_work_fn)(const pyml_op *, const pyml_run *, pyml_thread *, int stage, int64_t begin, int64_t end);

/* Returns the number of consecutive bytes of weights that an item and the following ones read, and their start in
 * `from`, to be prefetched. 0: not worth it. */
typedef int64_t (*pyml_weights_fn)(const pyml_op *, const pyml_run *, int64_t item, const uint8_t **from);

/* Limits of the machine: `amount` is steps of a loop, or bytes to read. Returns operations or bytes. */
enum { LIMIT_READ, LIMIT_INT8, LIMIT_F32, LIMITS };
typedef int64_t (*pyml_limit_fn)(const uint8_t *data, int64_t amount, uint8_t *sink);

typedef struct {
    const char *name;
    pyml_items_fn items[OP_KINDS];
    pyml_work_fn work[OP_KINDS];
    pyml_weights_fn weights[OP_KINDS]; /* or NULL */
    void (*unpack_rows)(const pyml_matrix *, const int64_t *rows, int64_t count, float *out);
    void (*row_stats)(const pyml_matrix *, int64_t begin, int64_t end, uint16_t *stats);
    pyml_limit_fn limits[LIMITS];
    pyml_sample_fn sample;
    pyml_logprobs_fn logprobs;
    void (*elementary)(bool logarithm, const double *x, int64_t n, double *result); /* of sample.c, for tests */
    void (*enter)(void); /* floating-point state: round to nearest, no flush to zero */
} pyml_kernels;

#endif
