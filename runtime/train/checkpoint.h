/* SPDX-License-Identifier: MIT
 * All that a run needs to go on as if it had not stopped, as the bytes of one file: safetensors
 * with the weights, those that were best so far, the moments, the order of the epoch and the
 * numbers of where it stands; and in the metadata the facts that must still hold, and a SHA-256
 * over all of that. */
#ifndef LORICA_RUNTIME_TRAIN_CHECKPOINT_H
#define LORICA_RUNTIME_TRAIN_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "proto/buf.h"
#include "proto/digest.h"
#include "proto/err.h"

/** One thing that a run depends on, for people and for comparison: {"--lr", "0.001"}. */
struct lorica_checkpoint_fact {
    const char *name; /**< a word; borrowed */
    char value[80];
};

/** Where a run stands after an update. Fields of 8 bytes, which the file has in this order. */
struct lorica_checkpoint_state {
    uint64_t step;         /**< updates done */
    uint64_t pass;         /**< of this epoch, the next */
    uint64_t random;       /**< of the order and of dropout */
    uint64_t tokens;       /**< computed so far */
    uint64_t epoch_labels; /**< of this epoch so far */
    uint64_t best_step;    /**< when the loss on examples held apart was lowest */
    uint64_t evals_since_best;
    double epoch_loss; /**< summed over the epoch's labels */
    double seconds;    /**< at work so far */
    double first_loss, smooth_loss;
    double eval_loss_before, eval_loss;
};

/** A checkpoint to write, or the places to read one into. Nothing is owned. */
struct lorica_checkpoint {
    const struct lorica_checkpoint_fact *facts;
    size_t fact_count;
    struct lorica_checkpoint_state *state;
    const struct iovec *weights; /**< arrays of float32 */
    size_t weights_count;
    float *best; /**< weights when the loss held apart was lowest; best_count 0: not kept */
    size_t best_count;
    void *moments;
    size_t moments_nbytes;
    size_t *order; /**< examples of the epoch, below order_count */
    size_t order_count;
    size_t *ends; /**< of its passes in `order`, ascending; the last is order_count */
    size_t ends_count;
    size_t max_rows;    /**< examples of a pass, at most */
    struct iovec notes; /**< the caller's: see lorica_checkpointing */
};

/** Appends the front of the file to `front` and makes the list of parts that follow it: *ret of
 * *ret_count, first the front, for free(); they point into checkpoint and front, which must outlive
 * them. */
int lorica_checkpoint_encode(const struct lorica_checkpoint *checkpoint,
                             const struct lorica_hasher *hasher, struct lorica_buf *front,
                             struct iovec **ret, size_t *ret_count,
                             struct lorica_error *err) LORICA_MUSTCHECK;

/** Reads a file's bytes into the places of `checkpoint`, whose facts say what must hold.
 * LORICA_EFORMAT when it is damaged or no checkpoint; LORICA_ECONFLICT naming the first fact that
 * differs, with both values, or a size that does. On failure nothing has been written to them. */
int lorica_checkpoint_decode(const void *bytes, size_t len, const struct lorica_hasher *hasher,
                             const struct lorica_checkpoint *checkpoint,
                             struct lorica_error *err) LORICA_MUSTCHECK;

/** How a run keeps checkpoints. All functions run on the thread that trains, between updates. */
struct lorica_checkpointing {
    void *arg;
    uint64_t every; /**< updates; 0: only when stopped */
    /** Makes the checkpoint durable. */
    int (*save)(void *arg, const struct lorica_checkpoint *checkpoint,
                struct lorica_error *err) LORICA_MUSTCHECK;
    /** Fills the checkpoint's places, or leaves them as they are when there is none: *ret_found. */
    int (*load)(void *arg, const struct lorica_checkpoint *checkpoint, bool *ret_found,
                struct lorica_error *err) LORICA_MUSTCHECK;
    /** True when the run shall end after the present update, with a checkpoint. NULL: never. */
    bool (*stopped)(void *arg);
    const struct lorica_checkpoint_fact *facts; /**< of the caller; borrowed */
    size_t fact_count;
    /** Bytes of the caller's that a checkpoint keeps as they are then, and that going on brings
     * back; borrowed. What a file brings need not be what a run wrote. */
    struct iovec notes;
};

#endif
