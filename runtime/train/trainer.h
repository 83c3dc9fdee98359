/* SPDX-License-Identifier: MIT
 * The training loop: batches of examples, AdamW on A and B, loss on the answers only. */
#ifndef LORICA_RUNTIME_TRAIN_TRAINER_H
#define LORICA_RUNTIME_TRAIN_TRAINER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/err.h"
#include "runtime/adapter.h"
#include "runtime/base.h"
#include "runtime/pool.h"
#include "runtime/train/checkpoint.h"
#include "runtime/train/clock.h"
#include "runtime/train/data.h"
#include "runtime/train/model.h"
#include "runtime/train/optim.h"

/** How to train. */
struct lorica_trainer_options {
    double lr, max_grad_norm;
    double warmup; /**< share of all updates, 0 to 1 */
    double epochs; /**< passes over the data; ignored when `steps` is not 0 */
    uint64_t steps;
    uint32_t batch;      /**< rows of one pass through the model (plan.h) */
    uint32_t pack;       /**< tokens of a row that whole examples share; 0: one example a row */
    uint32_t accumulate; /**< passes of one update */
    enum lorica_schedule schedule;
    struct lorica_adamw_options adamw;
    float dropout;
    uint64_t seed;
    enum lorica_train_compute compute;
    bool recompute;             /**< activations are computed again rather than kept: a third of the
                                     memory for a fifth more work */
    struct lorica_clock *clock; /**< NULL; else adds up where time goes (clock.h), borrowed */
    struct lorica_full *full;   /**< trained whole, with this model's base and no adapter: borrowed;
                                   or   NULL. Norms are not decayed */
    const struct lorica_train_data *held_apart; /**< borrowed; NULL: nothing is held apart */
    uint64_t eval_every; /**< updates between two measurements on them; 0: an epoch's */
    uint32_t patience;   /**< measurements without a new lowest loss that end the run; 0: none do */
    const char *moments_dir; /**< where the optimizer's paged state lies; NULL: in memory */
    const struct lorica_checkpointing *checkpointing; /**< NULL: none; borrowed */
};

/** QLoRA's recipe, scaled to small data: see `lorica train --help`. */
void lorica_trainer_default_options(struct lorica_trainer_options *options);

/** After each update; and with examples held apart before the first, as step 0 without a loss. */
struct lorica_trainer_progress {
    uint64_t step, steps; /**< updates done, and in all */
    double eval_loss;     /**< on the examples held apart, where it was measured now; else NaN */
    double loss;          /**< mean over this update's labels */
    double grad_norm;     /**< before clipping */
    double lr;
    uint64_t tokens; /**< computed so far, forward and backward */
    double seconds;  /**< since the first */
};
typedef void (*lorica_trainer_progress_fn)(void *arg, const struct lorica_trainer_progress *p);

/** What came of it. */
struct lorica_trainer_result {
    uint64_t steps, tokens;
    double seconds;
    double loss;             /**< mean over the last epoch's labels */
    double eval_loss_before; /**< on the examples held apart: without the adapter */
    double eval_loss;        /**< and with it, as it is now */
    uint64_t best_step;      /**< the update after which it was so; 0: nothing was held apart */
    bool stopped;            /**< before the last update, for want of a lower loss */
};

/** Trains `adapter` (exact form) in place. Results depend on data, options, seed and the number of
 * threads only, however often the run was stopped and taken up again (LORICA_ECANCELED, behind a
 * checkpoint). With examples held apart their loss is measured before, at every `eval_every`th
 * update and after the last one, and the adapter ends as it was when that loss was lowest. An
 * update's gradient is the sum over its labels divided by their number, over all its passes.
 * LORICA_EINVAL when the loss or the gradients stop being finite, or the loss rises far above where
 * it began: the adapter is then as after the last good update. */
int lorica_trainer_run(const struct lorica_base *base, struct lorica_pool *pool,
                       const struct lorica_train_data *data,
                       const struct lorica_trainer_options *options, struct lorica_adapter *adapter,
                       lorica_trainer_progress_fn progress, void *progress_arg,
                       struct lorica_trainer_result *ret,
                       struct lorica_error *err) LORICA_MUSTCHECK;

/** Given batches, in order, one update each: ids and labels [steps][batch][time]. */
struct lorica_replay {
    const int32_t *ids, *labels;
    uint32_t steps, batch, time;
};

/** Replays them with a constant learning rate: losses[steps] (mean over the labels) and
 * grad_norms[steps] (before clipping). */
int lorica_trainer_replay(const struct lorica_base *base, struct lorica_pool *pool,
                          const struct lorica_replay *replay,
                          const struct lorica_trainer_options *options,
                          struct lorica_adapter *adapter, float *losses, float *grad_norms,
                          struct lorica_error *err) LORICA_MUSTCHECK;

#endif
