"""C declarations for the extension. Every struct has all fields of its header, in order; a test compares them."""

from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "pyml.h":
    enum:
        PANEL, BLOCK, MAX_PHASES, MAX_THREADS, MAX_EXPERTS
        TYPE_Q8_0_SPLIT
        OP_KINDS
        ACT_GELU_TANH, ACT_GELU_ERF, ACT_SILU
        LIMIT_READ, LIMIT_INT8, LIMIT_F32
        SCREEN_STATES, SCREEN_MAX_TOP, ROW_STATS, SETTLE_ROUNDS

    # ---- the choice of a token

    enum:
        SAMPLE_MAX_LOGITS, SAMPLE_RULES, RULE_MASK

    ctypedef struct pyml_sampler:
        bint greedy, penalised
        int32_t n_rules
        uint8_t *rules
        double temperature, top_p, min_p, typical_p, repetition_penalty, frequency_penalty, presence_penalty
        int64_t top_k
        uint64_t seed, sequence
        const int32_t *bias_token
        const double *bias
        int64_t n_bias
        int32_t *seen
        int64_t *counts
        int64_t n_seen, room
        int32_t *slots
        int64_t n_slots
        const uint32_t *mask
        int32_t logprobs

    ctypedef enum pyml_sample_status:
        SAMPLE_OK, SAMPLE_NOT_FINITE, SAMPLE_NO_TOKEN

    ctypedef struct pyml_sampled:
        int64_t token
        float logit
        int32_t status, rule
        int32_t n_top
        double logprob
        int32_t *top_id
        double *top_logprob

    int64_t pyml_sample_scratch(int64_t)
    bint pyml_sampler_reserve(pyml_sampler *, int64_t)
    void pyml_sampler_see(pyml_sampler *, int32_t)
    void pyml_sampler_add(pyml_sampler *, int32_t)
    void pyml_sampler_free(pyml_sampler *)

    # ---- programs

    ctypedef struct pyml_routes:
        int64_t experts, chosen
        int32_t *row
        int32_t *token
        int32_t *first

    ctypedef struct pyml_buffer:
        float *f
        int64_t width
        int64_t stride8
        int64_t blocks
        int8_t *codes
        float *scales
        int32_t *sums
        int32_t *half_sums
        bint codes_only
        bint outputs
        int64_t copies
        pyml_routes *routes
        const pyml_routes *order

    ctypedef struct pyml_matrix:
        int32_t type
        int64_t n, k
        const uint8_t *data
        int64_t panel_bytes
        const uint8_t *low
        int64_t low_bytes

    ctypedef struct pyml_capture:
        float *scores
        float *probabilities
        float *maxima

    ctypedef struct pyml_demand:
        bint screened, adjusted, drawn
        int64_t k
        double least
        double temperature
        int64_t top_k
        double top_p
        double min_p

    pyml_demand pyml_demand_of(const pyml_sampler *)

    ctypedef struct pyml_request:
        const pyml_sampler *sampler
        int64_t position
        pyml_sampled chosen
        int64_t rows[3]
        int32_t pending
        double mass
        float reference

    ctypedef struct pyml_screen:
        const uint16_t *row_stats
        int64_t k
        float *lower
        float *upper
        float *threshold
        float *heap
        int32_t *ids
        float *logits
        int64_t *count
        int64_t *rescored
        pyml_request *requests
        float *noisy
        float *center
        float *mass
        float *variance
        uint8_t *round
        uint8_t *scratch
        int64_t scratch_bytes

    ctypedef struct pyml_low_rank:
        int64_t adapter
        int64_t low, column

    ctypedef struct pyml_op:
        int32_t kind
        pyml_buffer *input "in"
        pyml_buffer *in2
        pyml_buffer *out
        const pyml_matrix *matrices
        int32_t n_matrices
        const float *weight
        const float *weight2
        float eps, scale, cap
        int32_t layer, n_heads, window, activation
        bint accumulate, normalize, bidirectional
        bint skip
        const pyml_low_rank *parts
        const pyml_screen *screen
        const pyml_op *fused_next
        const pyml_op *fused_into
        float *copy
        const pyml_capture *capture

    # ---- runs

    ctypedef struct pyml_slice:
        uint8_t **pages
        int64_t start
        int64_t count
        int64_t row
        int64_t rope_set
        int64_t adapter

    ctypedef struct pyml_tile:
        int32_t slice, first, count

    ctypedef struct pyml_kv:
        int64_t n_layers, n_kv_heads, head_dim
        int64_t key_bytes, value_bytes, layer_bytes
        bint f16, int8

    ctypedef struct pyml_run:
        int64_t tokens, outputs
        const int32_t *ids
        const int32_t *positions
        const int32_t *token_slice
        const int32_t *output_rows
        const pyml_slice *slices
        int64_t n_slices
        const pyml_tile *tiles
        int64_t n_tiles
        int64_t tile_tokens
        pyml_kv kv
        float *partials
        int64_t partials_floats
        int32_t threads

    ctypedef struct pyml_kernels:
        const char *name
        void **items
        void **work
        void **weights
        void (*unpack_rows)(const pyml_matrix *, const int64_t *, int64_t, float *) nogil
        void (*row_stats)(const pyml_matrix *, int64_t, int64_t, uint16_t *) nogil
        void **limits
        void (*sample)(const pyml_sampler *, int64_t, const float *, const int32_t *, int64_t, void *, pyml_sampled *) nogil
        void (*logprobs)(const float *, int64_t, int32_t, void *, pyml_sampled *) nogil
        void (*elementary)(bint, const double *, int64_t, double *) nogil
        void (*enter)() nogil

    const char *pyml_operation_name(int)
    int pyml_level_count()
    const char *pyml_level_name(int)
    int pyml_level_compiled(int)
    int pyml_level_supported(int)
    const pyml_kernels *pyml_level_kernels(int)

    # ---- stopping calls

    ctypedef bint pyml_flag
    void pyml_flag_set(pyml_flag *, bint) nogil
    bint pyml_flag_is_set(const pyml_flag *) nogil

    ctypedef struct pyml_stop:
        pyml_flag cancelled
        int64_t deadline_ns

    ctypedef struct pyml_watch:
        pyml_flag cancel
        const pyml_stop *stop
        int (*poll)(void *) noexcept nogil
        void *poll_argument
        int64_t polled
        unsigned forks

    void pyml_watch_begin(pyml_watch *)

    ctypedef struct pyml_lock:
        pass

    ctypedef enum pyml_lock_outcome:
        LOCK_TAKEN, LOCK_STOPPED, LOCK_OWN

    pyml_lock *pyml_lock_new()
    void pyml_lock_free(pyml_lock *)
    bint pyml_lock_try(pyml_lock *)
    pyml_lock_outcome pyml_lock_take(pyml_lock *, pyml_watch *) nogil
    void pyml_lock_give(pyml_lock *)
    int pyml_lock_waiting(pyml_lock *)
    void pyml_lock_dismiss(pyml_lock *)

    # ---- the run loop

    ctypedef struct pyml_thread_span:
        uint64_t busy
        uint64_t phase[4]
        uint64_t began, arrived

    ctypedef struct pyml_program:
        int64_t n_ops
        pyml_op *ops
        const pyml_kernels *kernels
        int32_t threads
        int64_t scratch_bytes
        pyml_watch watch
        pyml_run run
        uint8_t *scratch
        void *counters
        pyml_thread_span *spans
        uint64_t *copied
        int64_t start_ns, end_ns
        uint64_t start, end

    int64_t pyml_scratch_for(const pyml_op *, const pyml_kv *, int64_t)
    bint pyml_program_allocate(pyml_program *)
    void pyml_program_free(pyml_program *)
    bint pyml_program_run(pyml_program *, bint) nogil

    ctypedef struct pyml_timings:
        const pyml_thread_span *spans
        const uint64_t *copied
        int64_t n_ops
        int threads
        int64_t start_ns, end_ns, start, end

    double pyml_read_timings(const pyml_timings *, int64_t *, int64_t *, pyml_thread_span *)

    # ---- runs that go on by themselves

    ctypedef struct pyml_text:
        pyml_sampler *sampler
        int64_t row, wanted
        int64_t first
        const int32_t *drafted
        int64_t position
        const uint32_t *stops
        int32_t *history
        int64_t n_history
        int64_t repeat
        bint follows
        bint ended
        pyml_sampled *found
        int64_t n_found, n_first, new_ones

    ctypedef struct pyml_continued_run:
        int64_t ns, choosing_ns
        int64_t rescored[3]

    ctypedef struct pyml_continuation:
        int64_t n_texts
        pyml_text *texts
        int64_t count
        int32_t *ids
        int32_t *positions
        int32_t *token_slice
        int32_t *output_rows
        pyml_slice *slices
        pyml_tile *tiles
        const float *logits
        int64_t n_logits
        pyml_request *requests
        const int64_t *ends
        int64_t n_ends
        const pyml_flag *pause
        bint (*follow)(void *, int64_t, int64_t) noexcept nogil
        void *argument
        uint8_t *scratch
        int64_t scratch_bytes
        pyml_continued_run *runs
        pyml_thread_span *spans
        int64_t *clock

    int64_t pyml_program_continue(pyml_program *, pyml_continuation *) nogil

    # ---- weights

    ctypedef struct pyml_part:
        int fd
        int stored, type
        int64_t n, k
        int64_t offset
        const int64_t *rows
        uint8_t *packed
        uint8_t *low
        uint64_t hash

    ctypedef struct pyml_read_fault:
        int64_t index
        int error
        int64_t offset, wanted, got
        float scale

    int64_t pyml_panel_bytes(int, int64_t)
    int64_t pyml_low_bytes(int, int64_t)
    bint pyml_pack_threaded(int, int, int64_t, int64_t, const uint8_t *, uint8_t *, uint8_t *, pyml_watch *) nogil
    bint pyml_row_stats(const pyml_kernels *, int, const pyml_matrix *, uint16_t *, pyml_watch *) nogil
    bint pyml_read_parts(int, pyml_part *, int64_t, pyml_read_fault *, pyml_watch *) nogil
    bint pyml_read_ranges(const int64_t *, const int64_t *, const int64_t *, int64_t, uint8_t *, pyml_read_fault *) nogil
    bint pyml_all_finite(int, const uint8_t *, int64_t) nogil
    uint64_t pyml_hash_rows(const uint8_t *, int64_t, int64_t, int64_t, const int64_t *) nogil
    int64_t pyml_measure_limit(const pyml_kernels *, int, int, const uint8_t *, int64_t, int64_t *, pyml_watch *) nogil
