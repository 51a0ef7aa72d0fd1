/* sample.h: how the next token of a text is chosen: its rules, the tokens that it has, and the result.
 *
 * pyml_core/sampling is the definition; level/sample.c gives the same tokens, bit for bit. Letters: V vocabulary size,
 * S different tokens of a text.
 */
#ifndef PYML_SAMPLE_H
#define PYML_SAMPLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SAMPLE_MAX_LOGITS = (1 << 19) - 1 }; /* of a row: sums of as many weights fit in 63 bits */

enum { /* in the order of sampling/rules.py */
       RULE_LOGIT_BIAS,
       RULE_REPETITION_PENALTY,
       RULE_FREQUENCY_PENALTY,
       RULE_PRESENCE_PENALTY,
       RULE_TEMPERATURE,
       RULE_TOP_K,
       RULE_TOP_P,
       RULE_MIN_P,
       RULE_TYPICAL_P,
       SAMPLE_RULES,
       RULE_MASK = SAMPLE_RULES /* of a grammar; applied first */
};

/* The rules of one text, and its tokens. */
typedef struct {
    bool greedy, penalised; /* penalised: there is a penalty among the rules, so that tokens are counted */
    int32_t n_rules;
    uint8_t rules[SAMPLE_RULES]; /* those in use, in their order */
    double temperature, top_p, min_p, typical_p, repetition_penalty, frequency_penalty, presence_penalty;
    int64_t top_k;
    uint64_t seed, sequence;   /* of the noise */
    const int32_t *bias_token; /* [n_bias] ascending */
    const double *bias;        /* [n_bias] */
    int64_t n_bias;
    int32_t *seen;   /* [S] the different tokens of prompt and text, in the order in which they came */
    int64_t *counts; /* [S] how often each of them was generated */
    int64_t n_seen, room;
    int32_t *slots;       /* [n_slots] hash table: 1 + index into seen, 0: empty */
    int64_t n_slots;      /* a power of two, at least twice `room` */
    const uint32_t *mask; /* a bit a token: whether it is allowed; NULL: all are */
    int32_t logprobs;     /* how many of the most probable tokens to report; -1: no log probabilities */
} pyml_sampler;

typedef enum {
    SAMPLE_OK,
    SAMPLE_NOT_FINITE, /* the largest logit is NaN or infinite: it is `logit`, of `token` */
    SAMPLE_NO_TOKEN    /* no token is left after the rule `rule` */
} pyml_sample_status;

typedef struct {
    int64_t token;
    float logit; /* the model's */
    int32_t status, rule;
    int32_t n_top;       /* most probable tokens that were reported */
    double logprob;      /* of the token, if logprobs are wanted */
    int32_t *top_id;     /* [logprobs] the caller's; most probable first, ties: lower id first */
    double *top_logprob; /* [logprobs] */
} pyml_sampled;

/* Choose the token at `position` from the logits of n tokens: ids ascending, or NULL for 0, 1, 2, ... With ids, no log
 * probabilities. `scratch` has pyml_sample_scratch(n) bytes, aligned to 64. The sampler is not changed. */
typedef void (*pyml_sample_fn)(const pyml_sampler *, int64_t position, const float *logits, const int32_t *ids,
                               int64_t n, void *scratch, pyml_sampled *);

/* The log probability of a token (out->token), and the `count` most probable tokens. */
typedef void (*pyml_logprobs_fn)(const float *logits, int64_t n, int32_t count, void *scratch, pyml_sampled *out);

int64_t pyml_sample_scratch(int64_t n);

/* sample.c */
bool pyml_sampler_reserve(pyml_sampler *, int64_t more); /* room for so many more different tokens; false: no memory */
void pyml_sampler_see(pyml_sampler *, int32_t token);    /* a token of the prompt; there is room for it */
void pyml_sampler_add(pyml_sampler *, int32_t token);    /* count a generated token; there is room for it */
void pyml_sampler_free(pyml_sampler *);

#endif
