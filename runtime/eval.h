/* SPDX-License-Identifier: MIT
 * What a model makes of a text: perplexity, and how far serving's arithmetic is from exact. */
#ifndef LORICA_RUNTIME_EVAL_H
#define LORICA_RUNTIME_EVAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/attn.h"
#include "proto/err.h"
#include "runtime/adapter.h"
#include "runtime/base.h"

/** Which arithmetic. */
enum lorica_compute { LORICA_COMPUTE_EXACT, LORICA_COMPUTE_FAST };

/** What is evaluated. Adapters come in the form that their arithmetic needs, or NULL for none. */
struct lorica_eval {
    const struct lorica_base *base;      /**< borrowed */
    struct lorica_adapter *exact, *fast; /**< borrowed; the same adapter in both forms */
    unsigned threads;                    /**< 0: one per core */
    enum lorica_kv_format kv_format;     /**< of FAST */
};

/** Logits[batch][time][vocab] of ids[batch][time]; each row is a sequence of its own. */
int lorica_eval_logits(const struct lorica_eval *eval, enum lorica_compute compute,
                       const int32_t *ids, uint32_t batch, uint32_t time, float *logits,
                       struct lorica_error *err) LORICA_MUSTCHECK;

/** Figures over the predicted tokens of a text. */
struct lorica_eval_result {
    uint64_t tokens;   /**< predicted: all but the first of each window */
    double nll;        /**< mean negative log-likelihood, nats */
    double perplexity; /**< exp(nll) */
    /* With kl: of `exact` against `fast`. */
    double fast_nll, fast_perplexity;
    double mean_kl, p99_kl; /**< KL(exact || fast) per position, nats */
    double top1_agreement;  /**< share of positions with the same most likely token */
};

/** Called after each window. */
typedef void (*lorica_eval_progress_fn)(void *arg, uint64_t done, uint64_t total);

/** Cuts ids into windows of `window` tokens (the last may be shorter) and sums over them. With `kl`
 * both arithmetics run and `compute` is ignored: nll is exact's. LORICA_EINVAL for fewer than two
 * ids or a window outside [2, the model's positions]. */
int lorica_eval_perplexity(const struct lorica_eval *eval, enum lorica_compute compute, bool kl,
                           const int32_t *ids, size_t count, uint32_t window,
                           lorica_eval_progress_fn progress, void *progress_arg,
                           struct lorica_eval_result *ret,
                           struct lorica_error *err) LORICA_MUSTCHECK;

#endif
