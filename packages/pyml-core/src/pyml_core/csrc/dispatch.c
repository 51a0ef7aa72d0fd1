/* dispatch.c: the CPU levels that were compiled, and those that this machine supports. */
#include "program.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#ifndef PYML_HAVE_SCALAR
#define PYML_HAVE_SCALAR 1
#endif
#ifndef PYML_HAVE_AVX2
#define PYML_HAVE_AVX2 0
#endif
#ifndef PYML_HAVE_AVX_VNNI
#define PYML_HAVE_AVX_VNNI 0
#endif
#ifndef PYML_HAVE_AVX512
#define PYML_HAVE_AVX512 0
#endif
#ifndef PYML_HAVE_AVX512_VNNI
#define PYML_HAVE_AVX512_VNNI 0
#endif

extern const pyml_kernels pyml_kernels_scalar;
#if PYML_HAVE_AVX2
extern const pyml_kernels pyml_kernels_avx2;
#endif
#if PYML_HAVE_AVX_VNNI
extern const pyml_kernels pyml_kernels_avx_vnni;
#endif
#if PYML_HAVE_AVX512
extern const pyml_kernels pyml_kernels_avx512;
#endif
#if PYML_HAVE_AVX512_VNNI
extern const pyml_kernels pyml_kernels_avx512_vnni;
#endif

enum { SCALAR, AVX2, AVX_VNNI, AVX512, AVX512_VNNI, LEVELS };

static const char *const names[LEVELS] = {"scalar", "avx2", "avx_vnni", "avx512", "avx512_vnni"};

const char *pyml_operation_name(int kind) {
    static const char *const names_of_operations[OP_KINDS] = {
#define OPERATION(KIND, name, ...) [OP_##KIND] = #name,
#include "operations.def"
    };
    return names_of_operations[kind];
}

int pyml_level_count(void) { return LEVELS; }

const char *pyml_level_name(int level) { return names[level]; }

const pyml_kernels *pyml_level_kernels(int level) {
    switch (level) {
    case SCALAR: return &pyml_kernels_scalar;
#if PYML_HAVE_AVX2
    case AVX2: return &pyml_kernels_avx2;
#endif
#if PYML_HAVE_AVX_VNNI
    case AVX_VNNI: return &pyml_kernels_avx_vnni;
#endif
#if PYML_HAVE_AVX512
    case AVX512: return &pyml_kernels_avx512;
#endif
#if PYML_HAVE_AVX512_VNNI
    case AVX512_VNNI: return &pyml_kernels_avx512_vnni;
#endif
    default: return NULL;
    }
}

int pyml_level_compiled(int level) { return pyml_level_kernels(level) != NULL; }

#if defined(__x86_64__)
static uint64_t enabled_state(void) { /* XCR0: the registers that the operating system saves */
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return ((uint64_t)high << 32) | low;
}

int pyml_level_supported(int level) {
    if (level == SCALAR) return 1;
    uint32_t a, b, c, d, b7, c7, d7, a71, unused;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    bool osxsave = c >> 27 & 1, avx = c >> 28 & 1, fma = c >> 12 & 1, f16c = c >> 29 & 1;
    if (!osxsave || !avx || !fma || !f16c || (enabled_state() & 6) != 6) return 0;
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7)) return 0;
    if (!(b7 >> 5 & 1)) return 0; /* AVX2 */
    if (level == AVX2) return 1;
    if (level == AVX_VNNI) return __get_cpuid_count(7, 1, &a71, &unused, &unused, &unused) && (a71 >> 4 & 1);
    bool f = b7 >> 16 & 1, dq = b7 >> 17 & 1, bw = b7 >> 30 & 1, vl = b7 >> 31 & 1;
    if (!f || !dq || !bw || !vl || (enabled_state() & 0xe6) != 0xe6) return 0;
    if (level == AVX512) return 1;
    return c7 >> 11 & 1; /* AVX512_VNNI */
}
#else
int pyml_level_supported(int level) { return level == SCALAR; }
#endif
