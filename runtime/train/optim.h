/* SPDX-License-Identifier: MIT
 * AdamW as torch.optim.AdamW computes it, clipping as torch.nn.utils.clip_grad_norm_, and the
 * schedules of the learning rate. */
#ifndef LORICA_RUNTIME_TRAIN_OPTIM_H
#define LORICA_RUNTIME_TRAIN_OPTIM_H

#include <stddef.h>
#include <stdint.h>

#include "proto/err.h"

struct lorica_adamw_options {
    double beta1, beta2, eps, weight_decay;
};

/** PyTorch's: 0.9, 0.999, 1e-8; weight decay 0, as QLoRA and the Hugging Face trainer have it. */
void lorica_adamw_default_options(struct lorica_adamw_options *options);

/** Moments of `count` parameters. */
struct lorica_adamw {
    struct lorica_adamw_options options;
    float *mean, *square; /**< owned */
    size_t count;
    uint64_t step; /**< updates so far */
};

/** LORICA_ENOMEM or 0. finish it. */
int lorica_adamw_init(struct lorica_adamw *adamw, const struct lorica_adamw_options *options,
                      size_t count) LORICA_MUSTCHECK;
/** Frees. A zeroed struct is accepted. */
void lorica_adamw_finish(struct lorica_adamw *adamw);

/** Begins the next update; then apply for every stretch of parameters, once each. */
void lorica_adamw_begin(struct lorica_adamw *adamw);
/** Updates params[count], whose moments begin at `offset`. */
void lorica_adamw_apply(struct lorica_adamw *adamw, double lr, size_t offset, float *params,
                        const float *grads, size_t count);

/** Euclidean norm of the gradients. */
double lorica_grad_norm(const float *grads, size_t count);
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
