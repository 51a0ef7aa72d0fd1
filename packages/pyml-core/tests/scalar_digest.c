/* scalar_digest.c: runs every operation of a dense model at the scalar level on generated numbers and prints a hash of
 * the bits of each output.
 *
 * The scalar level is plain C with explicit fused multiply-adds and no contraction, so that every processor and
 * compiler must print the same lines: scripts/arm64.sh compares x86-64 with ARM64. (rope_angles has cosf and sinf of
 * the C library, the same in both.)
 */
#include "../src/pyml_core/csrc/pyml.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { T = 70, K = 512, N = 40, HEADS = 4, KV_HEADS = 2, TILE = 12, THREADS = 2 };

extern const pyml_kernels pyml_kernels_scalar;

static uint32_t state = 2463534242u;

static uint32_t next(void) { /* xorshift */
    state ^= state << 13, state ^= state >> 17, state ^= state << 5;
    return state;
}

static void *room(int64_t bytes) {
    void *found = aligned_alloc(64, (size_t)((bytes + 127) / 64 * 64));
    if (!found) exit(1);
    memset(found, 0, (size_t)((bytes + 127) / 64 * 64));
    return found;
}

static float *floats(int64_t count) { /* in -4..4 */
    float *found = room(count * 4);
    for (int64_t i = 0; i < count; i++) found[i] = (float)((int32_t)next() >> 8) * 0x1p-21f;
    return found;
}

static void digest(const char *name, const void *data, int64_t bytes) {
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    for (int64_t i = 0; i < bytes; i++) hash = (hash ^ ((const uint8_t *)data)[i]) * 1099511628211u;
    printf("%-14s %016llx\n", name, (unsigned long long)hash);
}

static pyml_buffer buffer(int64_t width, bool quantized) {
    pyml_buffer b = {.f = floats(T * width), .width = width};
    if (quantized) {
        b.blocks = width / BLOCK, b.stride8 = width + 64;
        int64_t rows = T + TILE; /* spare rows that tiles may read */
        b.codes = room(rows * b.stride8), b.scales = room(rows * b.blocks * 4);
        b.sums = room(rows * b.blocks * 4), b.half_sums = room(rows * b.blocks * 8);
    }
    return b;
}

static pyml_run make_run(int64_t head_dim, bool int8) {
    static int32_t ids[T], positions[T], token_slice[T];
    static uint8_t *pages[2];
    static pyml_slice slice;
    static pyml_tile tiles[T / TILE + 1];
    pyml_run run = {.tokens = T,
                    .outputs = T,
                    .ids = ids,
                    .positions = positions,
                    .token_slice = token_slice,
                    .output_rows = positions,
                    .slices = &slice,
                    .n_slices = 1,
                    .tiles = tiles,
                    .tile_tokens = TILE,
                    .threads = THREADS};
    run.kv = (pyml_kv){.n_layers = 1, .n_kv_heads = KV_HEADS, .head_dim = head_dim, .f16 = !int8, .int8 = int8};
    run.kv.value_bytes = int8 ? VALUE_SCALES + PAGE * head_dim : PAGE * head_dim * 2;
    run.kv.key_bytes = int8 ? head_dim / pyml_key_block(head_dim) * KEY_SCALES + PAGE * head_dim : run.kv.value_bytes;
    run.kv.layer_bytes = KV_HEADS * (run.kv.key_bytes + run.kv.value_bytes);
    for (int i = 0; i < T; i++) ids[i] = (int32_t)(next() % N), positions[i] = i;
    for (int i = 0; i < 2; i++) pages[i] = room(run.kv.layer_bytes);
    slice = (pyml_slice){.pages = pages, .count = T};
    for (int i = 0; i < T; i += TILE)
        tiles[run.n_tiles++] = (pyml_tile){.first = i, .count = T - i < TILE ? T - i : TILE};
    run.partials_floats = 1 << 20, run.partials = room(run.partials_floats * 4);
    return run;
}

static void go(const char *name, pyml_op op, const pyml_run *run) {
    pyml_program program = {.n_ops = 1, .ops = &op, .kernels = &pyml_kernels_scalar, .threads = THREADS, .run = *run};
    program.scratch_bytes = pyml_scratch_for(&op, &run->kv, run->tile_tokens);
    if (!pyml_program_allocate(&program) || !pyml_program_run(&program, false)) exit(1);
    if (op.kind == OP_PREPARE_QKV) digest("pages", run->slices->pages[0], run->kv.layer_bytes);
    if (op.kind == OP_QUANTIZE)
        digest("codes", op.out->codes, T * op.out->stride8), digest("scales", op.out->scales, T * op.out->blocks * 4);
    digest(name, op.out->f, T * op.out->width * 4);
    pyml_program_free(&program);
}

static void attend(int64_t d, bool int8, const float *q_norm, const float *k_norm) {
    pyml_run run = make_run(d, int8);
    pyml_buffer qkv = buffer((HEADS + 2 * KV_HEADS) * d, false), angles = buffer(d, false),
                out = buffer(HEADS * d, false);
    go("prepare_qkv",
       (pyml_op){.kind = OP_PREPARE_QKV,
                 .in = &qkv,
                 .in2 = &angles,
                 .out = &qkv,
                 .weight = q_norm,
                 .weight2 = k_norm,
                 .eps = 1e-6f,
                 .n_heads = HEADS},
       &run);
    for (int window = 0; window <= 33; window += 33)
        go("attention",
           (pyml_op){.kind = OP_ATTENTION, .in = &qkv, .out = &out, .n_heads = HEADS, .scale = 0.25f, .window = window},
           &run);
}

int main(void) {
    static const struct {
        int type;
        const char *name;
    } types[] = {
        {TYPE_F32, "f32"},         {TYPE_F16, "f16"},
        {TYPE_BF16, "bf16"},       {TYPE_Q8_0, "q8_0"},
        {TYPE_Q4_0, "q4_0"},       {TYPE_Q4_1, "q4_1"},
        {TYPE_Q5_0, "q5_0"},       {TYPE_Q5_1, "q5_1"},
        {TYPE_Q2_K, "q2_K"},       {TYPE_Q3_K, "q3_K"},
        {TYPE_Q4_K, "q4_K"},       {TYPE_Q5_K, "q5_K"},
        {TYPE_Q6_K, "q6_K"},       {TYPE_IQ4_NL, "iq4_nl"},
        {TYPE_IQ4_XS, "iq4_xs"},   {TYPE_MXFP4, "mxfp4"},
        {TYPE_Q4_A32, "q4_a32"},   {TYPE_Q4_A64, "q4_a64"},
        {TYPE_Q4_A128, "q4_a128"}, {TYPE_Q8_A32, "q8_a32"},
        {TYPE_Q8_A64, "q8_a64"},   {TYPE_Q8_0_SPLIT, "q8_0 split"},
    };
    pyml_run run = make_run(32, false);
    pyml_buffer x = buffer(K, true), y = buffer(N, false), z = buffer(K, false), half = buffer(K / 2, false);
    go("quantize", (pyml_op){.kind = OP_QUANTIZE, .out = &x}, &run);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        int64_t row_bytes = pyml_stored_row_bytes(types[i].type, K), panel = pyml_panel_bytes(types[i].type, K);
        int64_t panels = (N + PANEL - 1) / PANEL, rows[N];
        int64_t low_bytes = pyml_low_bytes(types[i].type, K), bytes = panels * (panel + low_bytes);
        uint8_t *stored = room(N * row_bytes), *packed = room(bytes), *low = low_bytes ? packed + panels * panel : NULL;
        /* With bit 6 cleared, no 16- or 32-bit float in it is larger than 2, in any type. */
        for (int64_t b = 0; b < N * row_bytes; b++) stored[b] = (uint8_t)(next() >> 24) & 0xbf;
        pyml_pack_panels(types[i].type, N, K, stored, packed, low, 0, panels);
        digest("packed", packed, bytes);
        pyml_matrix m = {.type = types[i].type,
                         .n = N,
                         .k = K,
                         .data = packed,
                         .panel_bytes = panel,
                         .low = low,
                         .low_bytes = low_bytes};
        go(types[i].name,
           (pyml_op){.kind = OP_LINEAR, .in = &x, .out = &y, .matrices = &m, .n_matrices = 1, .scale = 1}, &run);
        go("embed", (pyml_op){.kind = OP_EMBED, .out = &z, .matrices = &m, .n_matrices = 1, .scale = 1.5f}, &run);
        float *unpacked = room(N * K * 4);
        for (int64_t r = 0; r < N; r++) rows[r] = N - 1 - r;
        pyml_kernels_scalar.unpack_rows(&m, rows, N, unpacked);
        digest("unpacked", unpacked, N * K * 4);
    }
    const float *weight = floats(T * K), *bias = floats(K);
    go("add_positions", (pyml_op){.kind = OP_ADD_POSITIONS, .in = &z, .out = &z, .weight = weight}, &run);
    go("rms_norm", (pyml_op){.kind = OP_RMS_NORM, .in = &x, .out = &z, .weight = weight, .eps = 1e-6f, .scale = 1},
       &run);
    go("layer_norm",
       (pyml_op){
           .kind = OP_LAYER_NORM, .in = &x, .out = &z, .weight = weight, .weight2 = bias, .eps = 1e-5f, .scale = 1},
       &run);
    for (int a = ACT_GELU_TANH; a <= ACT_SILU; a++) {
        go("activate", (pyml_op){.kind = OP_ACTIVATE, .in = &x, .out = &z, .activation = a}, &run);
        go("gated", (pyml_op){.kind = OP_GATED, .in = &x, .out = &half, .activation = a}, &run);
    }
    go("soft_cap", (pyml_op){.kind = OP_SOFT_CAP, .in = &x, .out = &x, .cap = 3}, &run);
    go("select", (pyml_op){.kind = OP_SELECT, .in = &x, .out = &z}, &run);
    go("rope_angles", (pyml_op){.kind = OP_ROPE_ANGLES, .out = &half, .weight = bias, .scale = 1}, &run);
    attend(20, false, weight, bias);
    attend(32, true, weight, bias);
    return 0;
}
