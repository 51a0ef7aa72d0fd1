/* The current limits of the machine: sequential reads from memory, int8 dot products, f32 multiply-adds.
 *
 *     limits THREADS  ->  {"read_gb_per_s": .., "int8_gop_per_s": .., "f32_gflop_per_s": ..}
 *
 * Compiled by machine.py with -O3 -march=native -pthread. Each figure is the best of PASSES short passes, with the
 * fastest instructions that the CPU and the compiler have. One int8 multiply-add counts as two operations.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define MAX_THREADS 256
#define BYTES ((size_t)384 << 20)
#define LOOPS 1000000L /* some milliseconds */
#define PASSES 20

typedef uint64_t vector __attribute__((vector_size(64)));

static char *memory;
static int threads;
static volatile uint64_t sink;

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void *read_memory(void *argument) {
    size_t share = BYTES / threads / 256 * 256;
    const char *start = memory + share * (intptr_t)argument;
    vector a = {0}, b = {0}, c = {0}, d = {0};
    for (size_t i = 0; i < share; i += 256) {
        const vector *p = (const vector *)(start + i);
        for (int line = 0; line < 256; line += 64) __builtin_prefetch(start + i + 4096 + line);
        a += p[0], b += p[1], c += p[2], d += p[3];
    }
    a += b + c + d;
    sink += a[0];
    return NULL;
}

/* Twelve independent chains hide the instruction's latency. */
#define CHAINS 12
#define UNROLL _Pragma("GCC unroll 16") /* sums stay in registers */

#if defined(__AVX512VNNI__)
#define DOT_OPS 128
static void *dot_int8(void *argument) {
    __m512i sum[CHAINS], x = _mm512_set1_epi8(3);
    for (int i = 0; i < CHAINS; i++) sum[i] = _mm512_setzero_si512();
    for (long n = 0; n < LOOPS; n++)
        for (int i = 0; i < CHAINS; i++) sum[i] = _mm512_dpbusd_epi32(sum[i], x, x);
    for (int i = 1; i < CHAINS; i++) sum[0] = _mm512_add_epi32(sum[0], sum[i]);
    sink += _mm512_reduce_add_epi32(sum[0]);
    return argument;
}
#elif defined(__AVXVNNI__)
#define DOT_OPS 64
static void *dot_int8(void *argument) {
    __m256i sum[CHAINS], x = _mm256_set1_epi8(3);
    for (int i = 0; i < CHAINS; i++) sum[i] = _mm256_setzero_si256();
    for (long n = 0; n < LOOPS; n++)
        for (int i = 0; i < CHAINS; i++) sum[i] = _mm256_dpbusd_avx_epi32(sum[i], x, x);
    for (int i = 1; i < CHAINS; i++) sum[0] = _mm256_add_epi32(sum[0], sum[i]);
    sink += _mm256_extract_epi32(sum[0], 0);
    return argument;
}
#elif defined(__AVX2__) /* sums of two products in 16 bits, as many as fit, then in 32 bits */
#if defined(__AVX512BW__)
#define DOT_OPS 128
typedef __m512i bytes;
#define ZERO _mm512_setzero_si512()
#define PAIRS(sum, x) _mm512_add_epi16(sum, _mm512_maddubs_epi16(x, x))
#define WIDER(sum, pairs) _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
#else
#define DOT_OPS 64
typedef __m256i bytes;
#define ZERO _mm256_setzero_si256()
#define PAIRS(sum, x) _mm256_add_epi16(sum, _mm256_maddubs_epi16(x, x))
#define WIDER(sum, pairs) _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
#endif
#define WORDS 8 /* 2 * 8 * 15 * 127 fits in 16 bits: codes of four bits; half the chains fit in the registers */
static void *dot_int8(void *argument) {
    bytes sum = ZERO, x;
    memset(&x, 3, sizeof x);
    for (long n = 0; n < 2 * LOOPS / WORDS; n++) {
        bytes pairs[CHAINS / 2];
        UNROLL for (int i = 0; i < CHAINS / 2; i++) pairs[i] = ZERO;
        for (int word = 0; word < WORDS; word++) UNROLL for (int i = 0; i < CHAINS / 2; i++) {
                __asm__("" : "+v"(x)); /* another product */
                pairs[i] = PAIRS(pairs[i], x);
            }
        UNROLL for (int i = 0; i < CHAINS / 2; i++) sum = WIDER(sum, pairs[i]);
    }
    uint64_t first;
    memcpy(&first, &sum, sizeof first);
    sink += first;
    return argument;
}
#else
#define DOT_OPS 32
static void *dot_int8(void *argument) {
    int8_t a[16 * CHAINS], b[16 * CHAINS];
    memset(a, 3, sizeof a), memset(b, 5, sizeof b);
    for (long n = 0; n < LOOPS; n++) {
        int32_t sum = 0;
        __asm__ volatile("" : : "r"(a), "r"(b) : "memory");
        for (size_t i = 0; i < sizeof a; i++) sum += a[i] * b[i];
        sink += (uint64_t)sum;
    }
    return argument;
}
#endif

#if defined(__AVX512F__)
#define FMA_OPS 32
static void *fma_f32(void *argument) {
    __m512 sum[CHAINS], x = _mm512_set1_ps(0.5f);
    for (int i = 0; i < CHAINS; i++) sum[i] = x;
    for (long n = 0; n < LOOPS; n++)
        for (int i = 0; i < CHAINS; i++) sum[i] = _mm512_fmadd_ps(sum[i], x, x);
    for (int i = 1; i < CHAINS; i++) sum[0] = _mm512_add_ps(sum[0], sum[i]);
    sink += (uint64_t)_mm512_reduce_add_ps(sum[0]);
    return argument;
}
#elif defined(__FMA__)
#define FMA_OPS 16
static void *fma_f32(void *argument) {
    __m256 sum[CHAINS], x = _mm256_set1_ps(0.5f);
    for (int i = 0; i < CHAINS; i++) sum[i] = x;
    for (long n = 0; n < LOOPS; n++)
        for (int i = 0; i < CHAINS; i++) sum[i] = _mm256_fmadd_ps(sum[i], x, x);
    for (int i = 1; i < CHAINS; i++) sum[0] = _mm256_add_ps(sum[0], sum[i]);
    sink += (uint64_t)_mm256_cvtss_f32(sum[0]);
    return argument;
}
#else
#define FMA_OPS 8
static void *fma_f32(void *argument) {
    float sum[4 * CHAINS], x = 0.5f;
    for (int i = 0; i < 4 * CHAINS; i++) sum[i] = x;
    for (long n = 0; n < LOOPS; n++) {
        __asm__ volatile("" : "+m"(x));
        for (int i = 0; i < 4 * CHAINS; i++) sum[i] = sum[i] * x + x;
    }
    for (int i = 1; i < 4 * CHAINS; i++) sum[0] += sum[i];
    sink += (uint64_t)sum[0];
    return argument;
}
#endif

/* The shortest of some passes of a function on all threads. */
static double shortest(void *(*work)(void *)) {
    double best = 1e9;
    for (int pass = 0; pass < PASSES; pass++) {
        pthread_t id[MAX_THREADS];
        double start = seconds();
        for (intptr_t i = 0; i < threads; i++)
            if (pthread_create(id + i, NULL, work, (void *)i)) exit(1);
        for (int i = 0; i < threads; i++) pthread_join(id[i], NULL);
        double taken = seconds() - start;
        if (taken < best) best = taken;
    }
    return best;
}

int main(int count, char **arguments) {
    threads = count > 1 ? atoi(arguments[1]) : 1;
    if (threads < 1 || threads > MAX_THREADS || !(memory = aligned_alloc(4096, BYTES + 8192))) return 1;
    memset(memory, 1, BYTES + 8192);
    double read = BYTES / shortest(read_memory) / 1e9;
    double steps = (double)threads * LOOPS * CHAINS / 1e9;
    double dot = steps * DOT_OPS / shortest(dot_int8);
    double fma = steps * FMA_OPS / shortest(fma_f32);
    printf("{\"read_gb_per_s\": %.2f, \"int8_gop_per_s\": %.0f, \"f32_gflop_per_s\": %.0f}\n", read, dot, fma);
    return 0;
}
