/* SPDX-License-Identifier: MIT
 * AdamW as torch.optim.AdamW computes it, clipping as torch.nn.utils.clip_grad_norm_, and the
 * schedules of the learning rate.
 *
 * The moments are PAGED: they lie in a mapped file, which the system writes out when memory is
 * short and reads again when an update comes to them, a piece at a time. Kept as float32 they take
 * 8 bytes a parameter; with `eight_bit`, 2: the mean as codes of the signed dynamic map, the square
 * as codes of the unsigned one, each times the largest of its block of 256, as bitsandbytes' 8-bit
 * optimizers have it (blocks begin anew with every array of parameters; a square that is not 0
 * never becomes 0, which would make a step of any size). */
#ifndef LORICA_RUNTIME_TRAIN_OPTIM_H
#define LORICA_RUNTIME_TRAIN_OPTIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/err.h"
#include "runtime/pool.h"

struct lorica_adamw_options {
    double beta1, beta2, eps, weight_decay;
    bool eight_bit;
};

/** PyTorch's: 0.9, 0.999, 1e-8; weight decay 0, as QLoRA and the Hugging Face trainer have it;
 * moments in float32. */
void lorica_adamw_default_options(struct lorica_adamw_options *options);

/** One array that is trained, and its gradient. */
struct lorica_adamw_array {
    float *params;
    const float *grads;
    size_t count;
    bool no_decay; /**< no weight decay: norms */
};

struct lorica_adamw {
    struct lorica_adamw_options options;
    struct lorica_adamw_array *arrays; /**< owned list of borrowed arrays */
    size_t array_count;
    uint64_t step; /**< updates so far */
    void *state;   /**< private: the mapping, which checkpoints copy as it is */
    size_t nbytes; /**< of the state */
    size_t values; /**< private: parameters, padded to whole blocks */
    float *maps;   /**< private: the two dynamic maps and the thresholds between their entries */
};

/** Moments of 0 for these arrays (the list is copied). They lie in a nameless file in `dir`, whose
 * blocks are reserved, so that a full disk is an error here and no crash later; NULL: in memory of
 * the process. LORICA_ENOMEM, LORICA_ENOSPC, LORICA_EIO. finish it. */
int lorica_adamw_init(struct lorica_adamw *adamw, const struct lorica_adamw_options *options,
                      const struct lorica_adamw_array *arrays, size_t count, const char *dir,
                      struct lorica_error *err) LORICA_MUSTCHECK;
/** Frees. A zeroed struct is accepted. */
void lorica_adamw_finish(struct lorica_adamw *adamw);

/** One update of all arrays by the team, with the gradients times `factor`. */
void lorica_adamw_update(struct lorica_adamw *adamw, struct lorica_pool *pool, double lr,
                         double factor);

/** Euclidean norm of the gradients, the same whatever the number of threads. */
double lorica_adamw_grad_norm(const struct lorica_adamw *adamw, struct lorica_pool *pool);

/** What to multiply gradients of this norm by: max_norm / (norm + 1e-6), at most 1; 1 when max_norm
 * is 0. */
double lorica_clip_factor(double norm, double max_norm);

enum lorica_schedule { LORICA_SCHEDULE_CONSTANT, LORICA_SCHEDULE_LINEAR, LORICA_SCHEDULE_COSINE };

/** Factor of the learning rate at update `step` of `total` (from 0): rises from 0 over the first
 * `warmup` updates, then stays, falls to 0 in a line, or along half a cosine. The Hugging Face
 * schedulers' values. */
double lorica_schedule_factor(enum lorica_schedule schedule, uint64_t step, uint64_t total,
                              uint64_t warmup);

#endif
