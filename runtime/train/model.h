/* SPDX-License-Identifier: MIT
 * The exact model: a whole-sequence forward pass in float32 on the base's exact values, and its
 * backward pass to the adapter. Oracle of `eval --compute exact`, engine of the trainer. */
#ifndef LORICA_RUNTIME_TRAIN_MODEL_H
#define LORICA_RUNTIME_TRAIN_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "proto/err.h"
#include "runtime/adapter.h"
#include "runtime/base.h"
#include "runtime/pool.h"

/** Forward only: logits[batch][time][vocab] of ids[batch][time], each row a sequence from position
 * 0, causal. `adapter` in exact form or NULL. Memory is bounded: no activation outlives its layer.
 */
int lorica_exact_logits(const struct lorica_base *base, const struct lorica_adapter *adapter,
                        struct lorica_pool *pool, const int32_t *ids, uint32_t batch, uint32_t time,
                        float *logits, struct lorica_error *err) LORICA_MUSTCHECK;

/** Workspace for training on at most max_tokens tokens a step (batch * time, padding included). */
struct lorica_train_model;

int lorica_train_model_create(const struct lorica_base *base, struct lorica_pool *pool,
                              uint32_t max_tokens, struct lorica_train_model **ret,
                              struct lorica_error *err) LORICA_MUSTCHECK;
void lorica_train_model_destroy(struct lorica_train_model *model);

/** Gradients of an adapter: the same arrangement as its pairs, dA and dB in place of a and b. */
struct lorica_adapter_grads {
    float **da, **db; /**< [layers * LORICA_MODULE_COUNT]; NULL where the adapter has no pair */
};

/** One forward and backward pass. labels[batch][time]: label of the NEXT token stands at its own
 * position, as Hugging Face has it (shifted inside); -100 is ignored. Adds to *loss_sum the summed
 * negative log-likelihood and to *label_count the labels counted, and ADDS dLoss_sum/dA, /dB to
 * grads (not divided by anything). grads NULL: loss only. seed feeds dropout (0 < dropout < 1). */
int lorica_train_model_step(struct lorica_train_model *model, struct lorica_adapter *adapter,
                            const int32_t *ids, const int32_t *labels, uint32_t batch,
                            uint32_t time, float dropout, uint64_t seed, double *loss_sum,
                            uint64_t *label_count, struct lorica_adapter_grads *grads,
                            struct lorica_error *err) LORICA_MUSTCHECK;

#endif
