/* SPDX-License-Identifier: MIT
 * Which examples go through the model together. A pass takes `batch` rows; a row is one example,
 * or, packed, as many whole ones as fit in it. Nothing is padded and no example sees another
 * (pass.h): packing only lets passes carry about the same number of tokens. */
#ifndef LORICA_RUNTIME_TRAIN_PLAN_H
#define LORICA_RUNTIME_TRAIN_PLAN_H

#include <stddef.h>
#include <stdint.h>

#include "proto/err.h"
#include "runtime/train/data.h"

/** One epoch: pass p takes the examples order[ends[p - 1]] to order[ends[p] - 1]. */
struct lorica_train_plan {
    size_t *order; /**< [count of examples]; owned */
    size_t *ends;  /**< [passes]; owned */
    size_t passes; /**< the same in every epoch */
    uint32_t batch, pack;
    uint32_t max_tokens; /**< that a pass computes, at most */
    size_t max_rows;     /**< examples of a pass, at most */
    void *work;          /**< private */
};

/** Prepares for data that stays as it is; `pack` is the length of a packed row in tokens, or 0. A
 * row is never shorter than the longest example. LORICA_ENOMEM or LORICA_ELIMIT. finish it. */
int lorica_train_plan_init(struct lorica_train_plan *plan, const struct lorica_train_data *data,
                           uint32_t batch, uint32_t pack,
                           struct lorica_error *err) LORICA_MUSTCHECK;
/** Frees. A zeroed struct is accepted. */
void lorica_train_plan_finish(struct lorica_train_plan *plan);

/** Makes the next epoch's order from *random, which moves on. Unpacked: shuffled, then sorted by
 * length within stretches of some batches, so that a batch holds examples of about one length.
 * Packed: rows filled by best fit, the longest example first. The order of rows is shuffled. */
void lorica_train_plan_shuffle(struct lorica_train_plan *plan, const struct lorica_train_data *data,
                               uint64_t *random);

/** Tokens that an example costs: those that decide its last label. */
uint32_t lorica_train_example_tokens(const struct lorica_train_example *e);

/** Moves a share of the examples (at least one, and not all) from `data` to *ret, chosen by the
 * seed. LORICA_EINVAL when there is only one. Both are to be finished. */
int lorica_train_data_split(struct lorica_train_data *data, double share, uint64_t seed,
                            struct lorica_train_data *ret,
                            struct lorica_error *err) LORICA_MUSTCHECK;

#endif
