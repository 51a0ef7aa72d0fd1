/* pyml.h: what the compiled half of pyml shares: buffers, matrices, operations, a run, and the table of kernels.
 *
 * Letters: T tokens of a run, P wanted positions, K input width, N output width, D head_dim, H key/value heads.
 * Everything here is plain C11 without vector types, so that it means the same in every CPU level's objects.
 */
#ifndef PYML_H
#define PYML_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

enum {
    PANEL = 16,    /* rows of a weight, or keys, side by side */
    CHUNK = 256,   /* k of a quantised panel that are unpacked at a time */
    BLOCK = 32,    /* activations that share a scale */
    PAGE = 64,     /* positions in a KV page */
    KEY_PAGES = 2, /* pages of a key block of attention, at most: block b has pages 2 b and 2 b + 1 */
    KEYS = KEY_PAGES * PAGE,
    KEY_BLOCK_MAX = 128,         /* most elements of an int8 key that share a scale */
    KEY_SCALES = PAGE * 4,       /* bytes before the codes of a block of a page's int8 keys */
    VALUE_SCALES = 2 * PAGE * 4, /* bytes before the codes of a page's int8 values: the scales' logarithms, inverses */
    LINEAR_SCRATCH = 70 << 10,   /* bytes that a tile of a linear layer needs of each thread */
    FEW_TOKENS = 16,             /* of a run that streams weights for them */
    TOKEN_BLOCK = 256,           /* tokens that a thread takes through a tile of a linear layer at a time */
    MAX_EXPERTS = 1024,
    MAX_PHASES = 4, /* parts of a fused operation that are timed apart */
    MAX_THREADS = 256,
    SCREEN_STATES = 16,   /* states at most that one run screens the head for */
    SCREEN_MAX_TOP = 256, /* logits at most that are wanted of each */
    SCREEN_FACTS = 4      /* numbers about a row of a screened head */
};

#define UNIFORM_ERROR 21.25 /* (16 * 16 - 1) / 12: variance of a nibble, all values alike */

enum { /* TYPE_Q4_K, ... */
#define PLAIN_TYPE(NAME, name, number, ...) TYPE_##NAME = number,
#define BLOCK_TYPE(NAME, name, number, ...) TYPE_##NAME = number,
#include "block_types.def"
};

/* Where the tokens of a run go: to K experts each. Dispatched rows lie expert by expert, in the order of tokens. */
typedef struct {
    int64_t experts, chosen; /* E, K */
    int32_t *row;            /* [T][K] dispatched row of each choice */
    int32_t *token;          /* [T * K] token of each dispatched row */
    int32_t *first;          /* [E + 1] first dispatched row of each expert */
} pyml_routes;

/* An activation: rows of width float32, and an int8 copy where a quantised matrix reads it. */
typedef struct {
    float *f; /* [rows][width] */
    int64_t width;
    int64_t stride8;          /* bytes between rows of codes */
    int64_t blocks;           /* width / 32 */
    int8_t *codes;            /* [rows][stride8], or NULL: no int8 copy */
    float *scales;            /* [rows][blocks] */
    int32_t *sums;            /* [rows][blocks]       sum of a block's codes */
    int32_t *half_sums;       /* [rows][2 * blocks]   the same for its halves of 16 */
    bool codes_only;          /* nobody reads the floats of rows but for a trace */
    bool outputs;             /* a row a wanted position instead of a row a token */
    int64_t copies;           /* rows a token: 1, or the experts that it is dispatched to */
    pyml_routes *routes;      /* of a buffer that holds routes: [T][experts | weights] */
    const pyml_routes *order; /* of one that holds dispatched rows: how they lie */
} pyml_buffer;

/* A weight (N, K) in panels of 16 rows; see pack.c for what a panel holds. */
typedef struct {
    int32_t type;
    int64_t n, k;
    const uint8_t *data;
    int64_t panel_bytes;
    const uint8_t *low; /* of a split q8_0: the low nibbles of all panels, which follow on all the rest; else NULL */
    int64_t low_bytes;  /* a panel's */
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

/* What a trace wants of attention in one run: for each slice in order [n_heads][its tokens][keys], keys being the
 * positions of its pages. Arrays are filled beforehand with what a key outside every token's sight has: -INFINITY and
 * 0. */
typedef struct {
    float *scores;        /* scaled and capped, -INFINITY where masked; or NULL */
    float *probabilities; /* or NULL */
    float *maxima;        /* a number for every PAGE of probabilities: the largest score there */
} pyml_capture;

/* What screening and rescoring a head share: see level/screen.c. N rows in so many panels. */
typedef struct {
    const uint16_t *facts;     /* [panels][SCREEN_FACTS][16] float16 */
    int64_t k;                 /* logits wanted of each state in this run */
    float *lower, *upper;      /* [SCREEN_STATES][panels] bounds on a panel's best logit */
    float *threshold;          /* [SCREEN_STATES] */
    float *heap;               /* [SCREEN_STATES][SCREEN_MAX_TOP] */
    int32_t *ids;              /* [SCREEN_STATES][N] the candidates */
    float *logits;             /* [SCREEN_STATES][N] */
    int64_t *count, *rescored; /* [SCREEN_STATES] candidates, and rows that were rescored for them */
} pyml_screen;

typedef struct pyml_op {
    int32_t kind;
    pyml_buffer *in, *in2, *out;
    const pyml_matrix *matrices;   /* linear: outputs side by side; embed: the table; expert_linear: each expert's */
    int32_t n_matrices;            /* expert_linear: of one expert */
    const float *weight, *weight2; /* norms: weight and bias; prepare_qkv: q_norm and k_norm; linear: bias; tables */
    float eps, scale, cap;
    int32_t layer, n_heads, window, activation;
    bool accumulate, normalize;
    bool skip;                        /* not in this run */
    const pyml_screen *screen;        /* screen, rescore */
    const struct pyml_op *fused_next; /* linear: the activation that it does with each tile's results, or NULL */
    const struct pyml_op *fused_into; /* activate, gated: the linear layer that does it, or NULL */
    float *copy;                      /* where a trace wants the output's rows of this run, or NULL */
    const pyml_capture *capture;      /* attention: what a trace wants of this run, or NULL */
} pyml_op;

/* One sequence's part of a run. */
typedef struct {
    uint8_t *const *pages; /* KV pages */
    int64_t start;         /* position of its first token */
    int64_t count;         /* its tokens */
    int64_t row;           /* row of its first token in the token buffers */
    int64_t rope_set;      /* which set of RoPE frequencies */
} pyml_slice;

/* Some consecutive tokens of one slice: the unit that attention hands out (times H heads). */
typedef struct {
    int32_t slice, first, count;
} pyml_tile;

typedef struct {
    int64_t n_layers, n_kv_heads, head_dim;
    int64_t key_bytes, value_bytes, layer_bytes; /* of a head's keys, a head's values, and all of a layer: see
                                                    kv_layout.py */
    bool f16, int8;
} pyml_kv;

/* Elements of an int8 key that share a scale. */
static inline int64_t pyml_key_block(int64_t head_dim) {
    int64_t power = head_dim & -head_dim;
    return power < KEY_BLOCK_MAX ? power : KEY_BLOCK_MAX;
}

/* Everything that an operation needs to know of the run it is in. */
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
    int64_t tile_tokens; /* most tokens in a tile */
    pyml_kv kv;
    float *partials; /* attention's per-block results when key blocks are split over threads */
    int64_t partials_floats;
    int32_t threads;
} pyml_run;

/* Whether a linear layer does the activation after it too, with each tile's results while they are in the cache. With
 * few rows reading weights is all that takes time: it goes best from front to end of one matrix. A trace that wants the
 * results has them all written first. */
static inline bool pyml_fuses_activation(const pyml_op *linear, const pyml_run *run) {
    return linear->fused_next && !linear->copy && run->tokens > FEW_TOKENS;
}

/* What one thread has of its own. */
typedef struct {
    int32_t index;
    uint8_t *scratch; /* SCRATCH_BYTES, aligned */
    int64_t last;     /* the item behind its range of this pass, and what it reads after that */
    const uint8_t *then;
    bool timed;
    uint64_t phase[MAX_PHASES]; /* ticks in the parts of the current operation */
} pyml_thread;

/* An operation's work is cut into items; threads take them in order from a shared counter.
 * `stage` numbers the passes of an operation that needs a barrier in its middle. */
typedef int64_t (*pyml_items_fn)(const pyml_op *, const pyml_run *, int stage);
typedef void (*pyml_work_fn)(const pyml_op *, const pyml_run *, pyml_thread *, int stage, int64_t begin, int64_t end);

/* The bytes that the item and those after it read one behind the other, and where: to be asked for ahead. 0: it is not
 * worth it. */
typedef int64_t (*pyml_weights_fn)(const pyml_op *, const pyml_run *, int64_t item, const uint8_t **from);

/* What the machine reaches at most: `amount` steps of a loop, or a read of that many bytes; returns operations or
 * bytes. */
enum { LIMIT_READ, LIMIT_INT8, LIMIT_F32, LIMITS };
typedef int64_t (*pyml_limit_fn)(const uint8_t *data, int64_t amount, uint8_t *sink);

typedef struct {
    const char *name;
    pyml_items_fn items[OP_KINDS];
    pyml_work_fn work[OP_KINDS];
    pyml_weights_fn weights[OP_KINDS]; /* or NULL */
    void (*unpack_rows)(const pyml_matrix *, const int64_t *rows, int64_t count, float *out);
    void (*screen_facts)(const pyml_matrix *, int64_t begin, int64_t end, uint16_t *facts);
    pyml_limit_fn limits[LIMITS];
    void (*enter)(void); /* floating-point state: round to nearest, no flush to zero */
} pyml_kernels;

/* dispatch.c */
const char *pyml_operation_name(int kind);
int pyml_level_count(void);
const char *pyml_level_name(int level);
int pyml_level_compiled(int level);
int pyml_level_supported(int level); /* by this CPU and its operating system */
const pyml_kernels *pyml_level_kernels(int level);

/* pack.c */
int64_t pyml_panel_bytes(int type, int64_t k); /* -1: unknown type or k no multiple of its block */
int64_t pyml_stored_row_bytes(int type, int64_t k);
int64_t pyml_low_bytes(int type, int64_t k); /* what a panel has besides, elsewhere: low nibbles, or 0 */
void pyml_pack_panels(int type, int64_t n, int64_t k, const uint8_t *stored, uint8_t *packed, uint8_t *low,
                      int64_t begin, int64_t end);
int pyml_chunk_bytes(int type, int64_t k); /* of one chunk of k <= 256 (quantised types) */

/* lock.c */

/* A flag that any thread sets and others look at while they work. It orders no other memory. */
typedef atomic_bool pyml_flag;

static inline void pyml_flag_set(pyml_flag *flag, bool value) {
    atomic_store_explicit(flag, value, memory_order_relaxed);
}

static inline bool pyml_flag_is_set(const pyml_flag *flag) { return atomic_load_explicit(flag, memory_order_relaxed); }

/* Asks runs to stop. It outlives them: what is set before a run begins counts too. */
typedef struct {
    pyml_flag cancelled;
    int64_t deadline_ns; /* of CLOCK_MONOTONIC; 0: none */
} pyml_stop;

/* Who may tell a call of native code to stop: a run, a job or a wait. Its own thread looks; cancel is set from any. */
typedef struct {
    pyml_flag cancel;      /* and set for the other threads once this one has been told */
    const pyml_stop *stop; /* or NULL */
    int (*poll)(void *);   /* asked every 50 ms; true: stop; or NULL */
    void *poll_argument;
    int64_t polled; /* when it was last asked */
    unsigned forks; /* of the process when the call began */
} pyml_watch;

void pyml_watch_begin(pyml_watch *); /* stop, poll and poll_argument are the caller's */
bool pyml_told_to_stop(pyml_watch *);

/* Whether a thread of a job is to stop: number 0, whose watch it is, looks; the others see that it was told. */
static inline bool pyml_stopped(pyml_watch *watch, int thread) {
    return thread == 0 ? pyml_told_to_stop(watch) : pyml_flag_is_set(&watch->cancel);
}

typedef struct pyml_lock pyml_lock;
typedef enum { LOCK_TAKEN, LOCK_STOPPED, LOCK_OWN } pyml_lock_outcome; /* LOCK_OWN: the caller has it already */

pyml_lock *pyml_lock_new(void); /* NULL: out of memory */
void pyml_lock_free(pyml_lock *);
bool pyml_lock_try(pyml_lock *); /* false: somebody has it */
pyml_lock_outcome pyml_lock_take(pyml_lock *, pyml_watch *);
void pyml_lock_give(pyml_lock *);    /* to whoever has waited longest */
int pyml_lock_waiting(pyml_lock *);  /* callers */
void pyml_lock_dismiss(pyml_lock *); /* all that wait are told to stop */

/* program.c */
typedef struct {
    uint64_t busy, phase[MAX_PHASES]; /* ticks of one thread in one operation */
    uint64_t began, arrived; /* ticks when it came to the operation (0: there was no work), and had no work left */
} pyml_thread_span;

typedef struct {
    int64_t n_ops;
    pyml_op *ops;
    const pyml_kernels *kernels;
    int32_t threads;
    int64_t scratch_bytes; /* each thread's */
    pyml_watch watch;      /* looked at with every item of work */
    pyml_run run;
    uint8_t *scratch; /* [threads][scratch_bytes] */
    void *counters;
    /* filled by a timed run: */
    pyml_thread_span *spans;  /* [threads][n_ops] */
    uint64_t *copied;         /* [n_ops] ticks when the output had been copied, 0 if it was not */
    int64_t start_ns, end_ns; /* of the whole run, by CLOCK_MONOTONIC; in between ticks are read, which is cheaper */
    uint64_t start, end;      /* ticks at these moments */
} pyml_program;

int64_t pyml_scratch_for(const pyml_op *, const pyml_kv *, int64_t tile_tokens);
bool pyml_program_allocate(pyml_program *); /* scratch, counters, spans; false: out of memory */
void pyml_program_free(pyml_program *);
bool pyml_program_run(pyml_program *, bool timed); /* false: cancelled, or its threads could not be started */
/* These two return false if they were told to stop. */
bool pyml_pack_threaded(int threads, int type, int64_t n, int64_t k, const uint8_t *stored, uint8_t *packed,
                        uint8_t *low, pyml_watch *);
bool pyml_screen_facts(const pyml_kernels *, int threads, const pyml_matrix *, uint16_t *facts, pyml_watch *);

/* read.c */
typedef struct {
    int fd;
    int stored, type;      /* in the file, and of the panels: the same, or floats and q8_0 */
    int64_t n, k;          /* rows of the part, and their width */
    int64_t offset;        /* in the file, of row 0 */
    const int64_t *rows;   /* which row each is; NULL: in order */
    uint8_t *packed, *low; /* of the part's first panel */
    atomic_ullong hash;    /* pyml_hash_rows of what was read, which is added to it */
} pyml_part;

typedef struct {
    int64_t index;               /* of the part or range */
    int error;                   /* errno; 0: the file ended; -1: a block with this scale has no q8_0; -2: not finite */
    int64_t offset, wanted, got; /* bytes of the read that failed */
    float scale;
} pyml_read_fault;

/* False after a fault, or if it was told to stop. */
bool pyml_read_parts(int threads, pyml_part *, int64_t n_parts, pyml_read_fault *, pyml_watch *);
bool pyml_read_ranges(const int64_t *fds, const int64_t *offsets, const int64_t *sizes, int64_t n, uint8_t *target,
                      pyml_read_fault *);

/* pack.c: where the float16 scales and minima of a quantised type are in its blocks, one beside the other. */
typedef struct {
    int block_bytes, offset, count;
} pyml_block_scales;
pyml_block_scales pyml_scales_of(int type);

/* finite.c: whether stored numbers, or the scales of whole blocks, are finite. */
bool pyml_all_finite(int type, const uint8_t *stored, int64_t nbytes);

/* quantize.c: so many floats of a stored type, a multiple of 32, to blocks of q8_0; false, and the scale, where a block
 * has none. */
bool pyml_to_q8_0(int stored, const uint8_t *floats, int64_t n, uint8_t *blocks, float *scale);

/* hash.c: of n bytes; and the sum of the hashes of rows, each with its number: first, first + 1, ... or as given. */
uint64_t pyml_hash(const uint8_t *bytes, int64_t n, uint64_t seed);
uint64_t pyml_hash_rows(const uint8_t *rows, int64_t n, int64_t row_bytes, int64_t first, const int64_t *numbers);

/* timings.c: times of timed runs */
typedef struct {
    const pyml_thread_span *spans; /* [threads][n_ops] of a timed run */
    const uint64_t *copied;        /* [n_ops] */
    int64_t n_ops;
    int threads;
    int64_t start_ns, end_ns, start, end; /* of the run, in ns and in ticks */
} pyml_timings;

/* When each operation began and ended, and the spans as [n_ops][threads] with `began` and `arrived` in ns; returns ns a
 * tick. */
double pyml_read_timings(const pyml_timings *, int64_t *begin_ns, int64_t *end_ns, pyml_thread_span *spans);

/* greedy.c */
typedef struct {
    int64_t token;
    float logit;
    int64_t ns;       /* of the run that gave it */
    int64_t rescored; /* rows of the head that were computed, if it was screened */
} pyml_greedy_token;

/* Runs of one slice of one token, which wants logits; it has pages for `count` positions. */
typedef struct {
    int64_t count;            /* runs at most, at least 1 */
    int32_t *ids, *positions; /* of the program's run */
    pyml_slice *slice;
    const float *logits; /* where a run leaves them */
    int64_t n_logits;
    const pyml_screen *screen; /* or, if they are not all computed, the candidates */
    const int64_t *ends;       /* tokens that nothing is run after */
    int64_t n_ends;
    int32_t *history; /* the tokens before, with room for `count` more */
    int64_t n_history;
    int64_t repeat;           /* nothing is run once the last so many tokens stand in it before; 0: whatever they are */
    pyml_greedy_token *found; /* [count] */
    pyml_thread_span *spans;  /* [count][threads][n_ops] of every run; NULL: runs are not timed */
    int64_t *clock;           /* [count][4] its start and end in ns, then in ticks */
} pyml_greedy;

int64_t pyml_program_run_greedy(pyml_program *, pyml_greedy *); /* tokens found; -1: as false of a run */

/* limits.c */
int64_t pyml_measure_limit(const pyml_kernels *, int threads, int what, const uint8_t *data, int64_t amount,
                           int64_t *done, pyml_watch *);

/* pool.c */
typedef struct pyml_pool pyml_pool;
pyml_pool *pyml_pool_get(int threads);          /* NULL: out of memory or threads not to be had */
bool pyml_pool_lock(pyml_pool *, pyml_watch *); /* one job at a time; false: told to stop before its turn came */
void pyml_pool_unlock(pyml_pool *);
void pyml_pool_run(pyml_pool *, void (*job)(void *, int), void *argument); /* on every thread, the caller being number 0
                                                                            */
void pyml_pool_barrier(pyml_pool *);
/* A barrier at which the last thread to come does something before any goes on, and the others meanwhile, again and
 * again until it returns false; with an argument of each thread's own. */
void pyml_pool_meet(pyml_pool *, void (*last)(void *), bool (*idle)(void *), void *argument);

/* A clock that all cores share; its rate is for those to find out who read it. */
static inline uint64_t pyml_ticks(void) {
#if defined(__x86_64__)
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return ((uint64_t)high << 32) | low;
#elif defined(__aarch64__)
    uint64_t ticks;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
    return ticks;
#else
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
#endif
}

#endif
