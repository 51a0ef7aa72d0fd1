/* clock.h: ticks, the cheapest clock of the CPU. */
#ifndef PYML_CLOCK_H
#define PYML_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Read a clock that all cores share. Its rate is unknown; timings.c calibrates it with another clock. */
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
