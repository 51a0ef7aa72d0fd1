/* continue.h: runs that go on by themselves, with the tokens chosen after the run before. */
#ifndef PYML_CONTINUE_H
#define PYML_CONTINUE_H

#include "program.h"
#include "sample.h"

/* A text whose tokens are chosen. Its slice of the first run may have several wanted positions, one behind the other:
 * the tokens after the first are drafted, and each counts only if it is the one that is chosen there. */
typedef struct {
    pyml_sampler *sampler;
    int64_t row, wanted;    /* its first row of logits, and their number */
    int64_t first;          /* index of its first wanted token in its slice */
    const int32_t *drafted; /* [wanted - 1] the tokens of the slice after that one */
    int64_t position;       /* of the next token that is chosen, for the noise */
    const uint32_t *stops;  /* a bit for each token: nothing is run after those that are set; NULL: none is */
    int32_t *history;       /* its tokens so far, with room for those that are found; NULL: see repeat */
    int64_t n_history;
    int64_t repeat;                     /* nothing is run once its last `repeat` tokens occur before; 0: never */
    bool follows;                       /* whether the caller follows its tokens */
    bool ended;                         /* nothing more is run */
    pyml_sampled *found;                /* [wanted + count - 1] */
    int64_t n_found, n_first, new_ones; /* all tokens so far, those of the first run, those of the last one */
} pyml_text;

typedef struct {
    int64_t ns, choosing_ns;         /* of the run, and of the choice after it */
    int64_t rescored[SETTLE_ROUNDS]; /* rows of a screened head that were computed in each round */
} pyml_continued_run;

typedef struct {
    int64_t n_texts;
    pyml_text *texts;
    int64_t count; /* runs at most; above 1 every slice is of a text, with pages for them */
    int32_t *ids, *positions, *token_slice, *output_rows; /* of the program's run */
    pyml_slice *slices;
    pyml_tile *tiles;
    const float *logits; /* of each run, [outputs][n_logits] */
    int64_t n_logits;
    pyml_request *requests; /* or, for each output, that of a screened head, which chooses the token; NULL: all logits
                             */
    const int64_t *ends;    /* tokens that nothing is run after */
    int64_t n_ends;
    const pyml_flag *pause;                                      /* nothing more is run once it is set; or NULL */
    bool (*follow)(void *argument, int64_t text, int64_t token); /* nothing more is run if it returns false */
    void *argument;
    uint8_t *scratch; /* [threads][scratch_bytes] of the choices */
    int64_t scratch_bytes;
    pyml_continued_run *runs; /* [count] */
    pyml_thread_span *spans;  /* [count][threads][n_ops] of every run; NULL: runs are not timed */
    int64_t *clock;           /* [count][4] its start and end in ns, then in ticks */
} pyml_continuation;

/* The number of runs. -1: as false of a run; no token has been chosen unless it was cancelled. */
int64_t pyml_program_continue(pyml_program *, pyml_continuation *);

#endif
