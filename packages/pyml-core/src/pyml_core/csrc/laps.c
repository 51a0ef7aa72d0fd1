/* laps.c: times from the laps of a timed run, and text with these, for what is printed at every step. timing.py says what they mean,
 * and has the same in NumPy for everything else.
 */
#include "pyml.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { NUMBER_BYTES = 32 };

static int64_t later(int64_t a, int64_t b) { return a > b ? a : b; }

/* When each operation began and when the last thread had no work left. A thread goes on where it was: processors read ticks a
 * little early or late. */
static void edges(const pyml_laps *l, int64_t *begin_ns, int64_t *end_ns) {
    double ns_a_tick = l->end > l->start ? (double)(l->end_ns - l->start_ns) / (double)(l->end - l->start) : 1.0;
    int64_t own[MAX_THREADS], edge = l->start;
    for (int t = 0; t < l->threads; t++) own[t] = l->start;
    begin_ns[0] = l->start_ns;
    for (int64_t i = 0; i < l->n_ops; i++) {
        for (int t = 0; t < l->threads; t++) {
            const pyml_lap *lap = &l->laps[t * l->n_ops + i];
            if (lap->began) own[t] = later(own[t], later((int64_t)lap->began, (int64_t)lap->arrived));
            edge = later(edge, own[t]);
        }
        end_ns[i] = l->start_ns + (int64_t)rint((double)(edge - l->start) * ns_a_tick);
        edge = later(edge, (int64_t)l->copied[i]);
        begin_ns[i + 1] = l->start_ns + (int64_t)rint((double)(edge - l->start) * ns_a_tick);
    }
}

void pyml_lap_times(const pyml_laps *l, const pyml_lap_place *places, int64_t n_places, int64_t *moments, double *ms) {
    int64_t *begin_ns = moments, *end_ns = moments + l->n_ops + 1;
    edges(l, begin_ns, end_ns);
    for (int64_t i = 0; i < n_places; i++) {
        const pyml_lap_place *place = &places[i];
        double wall = (double)(end_ns[place->last] - begin_ns[place->first]) * 1e-6;
        if (place->phase >= 0) {
            uint64_t ticks = 0, all = 0;
            for (int t = 0; t < l->threads; t++) {
                const pyml_lap *lap = &l->laps[t * l->n_ops + place->first];
                ticks += lap->phase[place->phase];
                for (int phase = 0; phase < MAX_PHASES; phase++) all += lap->phase[phase];
            }
            wall = wall * (double)ticks / (double)(all ? all : 1);
        }
        ms[place->number] += wall;
    }
}

int64_t pyml_lap_text_room(const pyml_lap_text *t) { return t->ends[t->n_numbers] + t->n_numbers * NUMBER_BYTES; }

void pyml_lap_text_add(pyml_lap_text *t, const pyml_program *p) {
    pyml_laps laps = {
        .laps = p->laps, .copied = p->copied, .n_ops = p->n_ops, .threads = p->threads,
        .start_ns = p->start_ns, .end_ns = p->end_ns, .start = (int64_t)p->start, .end = (int64_t)p->end,
    };
    pyml_lap_times(&laps, t->places, t->n_places, t->moments, t->ms);
}

/* As "%.3f" has it. The library's exact conversion takes twenty times as long, and is needed where half a unit decides. */
static int64_t write_ms(char *target, double ms) {
    double us = ms * 1000, whole = floor(us), rest = us - whole;
    if (!(us >= 0 && us < 1e12) || fabs(rest - 0.5) < 1e-3) return snprintf(target, NUMBER_BYTES, "%.3f", fmin(fmax(ms, -1e15), 1e15));
    uint64_t number = (uint64_t)whole + (rest > 0.5);
    char digits[NUMBER_BYTES];
    int64_t count = 0, length = 0;
    for (; number || count < 5; number /= 10) {
        digits[count++] = (char)('0' + number % 10);
        if (count == 3) digits[count++] = '.';
    }
    while (count) target[length++] = digits[--count];
    return length;
}

void pyml_lap_text_write(pyml_lap_text *t) {
    int64_t begin = 0;
    for (int64_t i = 0; i <= t->n_numbers; i++) {
        int64_t bytes = t->ends[i] - begin;
        memcpy(t->text + t->length, t->pieces + begin, (size_t)bytes);
        t->length += bytes, begin = t->ends[i];
        if (i < t->n_numbers) t->length += write_ms(t->text + t->length, t->ms[i]), t->ms[i] = 0;
    }
}
