/* SPDX-License-Identifier: MIT
 * Full fine-tuning: a model whose every weight is trained, in float32, to be compared with
 * adapters. Four times the model's size in float32 is needed: weights, gradients, AdamW's two
 * moments. */
#ifndef LORICA_RUNTIME_TRAIN_FULL_H
#define LORICA_RUNTIME_TRAIN_FULL_H

#include <stddef.h>

#include "proto/err.h"
#include "runtime/base.h"

struct lorica_full {
    const struct lorica_base *source; /**< borrowed */
    struct lorica_base base;          /**< what passes read: its matrices lie in `values` */
    float *values, *grads;            /**< [count]; owned */
    size_t count;
    size_t matrices; /**< values before here are of matrices, the others of norms */
};

/** A copy of all weights of `source` as float32, and zeroed gradients. On success the caller owns
 * *ret; the source must outlive it. */
int lorica_full_create(const struct lorica_base *source, struct lorica_full **ret,
                       struct lorica_error *err) LORICA_MUSTCHECK;
/** NULL is accepted. */
void lorica_full_destroy(struct lorica_full *full);

/** The gradient of a weight of full->base, given where its value lies. */
float *lorica_full_grad(const struct lorica_full *full, const void *value);

/** Writes a Hugging Face directory in float32, with the source's tokenizer files; see
 * lorica_base_export. */
int lorica_full_export(const struct lorica_full *full, const char *dir,
                       struct lorica_error *err) LORICA_MUSTCHECK;

#endif
