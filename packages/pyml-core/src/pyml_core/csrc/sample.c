/* sample.c: the different tokens of a text and how often each was generated, in a table with open addressing. */
#include "sample.h"

#include <stdlib.h>
#include <string.h>

int64_t pyml_sample_scratch(int64_t n) {
    enum { GROUP = 64 };
    int64_t groups = (n + GROUP - 1) / GROUP;
    return groups * (int64_t)(GROUP * (2 * sizeof(int64_t) + 4 * sizeof(int32_t)) + 2 * sizeof(float));
}

static int64_t slot_of(const pyml_sampler *s, int32_t token) {
    int64_t slot = (int64_t)((uint32_t)token * UINT32_C(2654435769)) & (s->n_slots - 1); /* 2^32 / golden ratio */
    while (s->slots[slot] && s->seen[s->slots[slot] - 1] != token) slot = (slot + 1) & (s->n_slots - 1);
    return slot;
}

bool pyml_sampler_reserve(pyml_sampler *s, int64_t more) {
    if (!s->penalised || s->n_seen + more <= s->room) return true;
    int64_t room = 2 * (s->n_seen + more), n_slots = 64;
    while (n_slots < 2 * room) n_slots *= 2;
    int32_t *seen = realloc(s->seen, (size_t)room * sizeof *seen);
    if (seen) s->seen = seen;
    int64_t *counts = realloc(s->counts, (size_t)room * sizeof *counts);
    if (counts) s->counts = counts;
    int32_t *slots = calloc((size_t)n_slots, sizeof *slots);
    if (!seen || !counts || !slots) {
        free(slots);
        return false;
    }
    free(s->slots);
    s->slots = slots, s->n_slots = n_slots, s->room = room;
    for (int64_t i = 0; i < s->n_seen; i++) slots[slot_of(s, s->seen[i])] = (int32_t)i + 1;
    return true;
}

static int64_t index_of(pyml_sampler *s, int32_t token) {
    int64_t slot = slot_of(s, token);
    if (!s->slots[slot]) {
        s->seen[s->n_seen] = token;
        s->counts[s->n_seen] = 0;
        s->slots[slot] = (int32_t)++s->n_seen;
    }
    return s->slots[slot] - 1;
}

void pyml_sampler_see(pyml_sampler *s, int32_t token) {
    if (s->penalised) index_of(s, token);
}

void pyml_sampler_add(pyml_sampler *s, int32_t token) {
    if (s->penalised) s->counts[index_of(s, token)]++;
}

void pyml_sampler_free(pyml_sampler *s) {
    free(s->seen);
    free(s->counts);
    free(s->slots);
    memset(s, 0, sizeof *s);
}
