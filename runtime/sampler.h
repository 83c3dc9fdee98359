/* SPDX-License-Identifier: MIT
 * Choosing a token from a row of logits. What is chosen depends on the logits, the request's own
 * settings, its seed and how many tokens it has, on nothing else. */
#ifndef LORICA_RUNTIME_SAMPLER_H
#define LORICA_RUNTIME_SAMPLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/vec.h"
#include "proto/err.h"
#include "runtime/engine.h"

/** The most alternatives that a request may ask for. */
#define LORICA_MAX_TOP_LOGPROBS 20

/** One thread's working memory, for any vocabulary up to `vocab`. */
struct lorica_sampler_scratch {
    struct lorica_candidate {
        float weight; /**< exp((logit - max) / temperature) */
        int32_t id;
    } * candidates;
    float *logits;
    uint32_t vocab;
};

int lorica_sampler_scratch_init(struct lorica_sampler_scratch *scratch,
                                uint32_t vocab) LORICA_MUSTCHECK;
/** A zeroed struct is accepted. */
void lorica_sampler_scratch_finish(struct lorica_sampler_scratch *scratch);

/** What one request's choices depend on besides its settings: the tokens it has generated. */
struct lorica_sampler {
    const struct lorica_sampling *sampling; /**< borrowed */
    struct lorica_token_use {
        int32_t id;
        uint32_t count;
    } * used; /**< owned; distinct tokens generated so far; kept only with penalties */
    uint32_t used_count;
    uint32_t position; /**< tokens chosen so far: the counter of the random numbers */
};

/** Prepares for at most sampling->max_tokens choices. `sampling` is borrowed. */
int lorica_sampler_init(struct lorica_sampler *sampler,
                        const struct lorica_sampling *sampling) LORICA_MUSTCHECK;
/** A zeroed struct is accepted. */
void lorica_sampler_finish(struct lorica_sampler *sampler);

/** A choice. */
struct lorica_choice {
    int32_t id;
    float logprob; /**< raw distribution; 0 unless logprobs are asked for */
    uint32_t top_count;
    struct lorica_token_logprob top[LORICA_MAX_TOP_LOGPROBS]; /**< likeliest first */
};

/** Chooses. Order: penalties and bias, temperature, top_k, min_p (against the likeliest), top_p;
 * ties go to the lower id. LORICA_EFORMAT, choosing nothing, when a logit is not finite. */
int lorica_sampler_choose(struct lorica_sampler *sampler, const struct lorica_vec_kernels *vec,
                          struct lorica_sampler_scratch *scratch, const float *logits,
                          uint32_t vocab, struct lorica_choice *ret) LORICA_MUSTCHECK;

/** Number `counter` of the random sequence `seed`, in [0, 1). */
double lorica_sampler_random(uint64_t seed, uint64_t counter);

#endif
