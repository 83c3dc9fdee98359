/* SPDX-License-Identifier: MIT
 * The model as training sees it: a whole-sequence forward pass on the base's exact values, and its
 * backward pass to the adapter. In float32 it is the oracle of `eval --compute exact`. */
#ifndef LORICA_RUNTIME_TRAIN_MODEL_H
#define LORICA_RUNTIME_TRAIN_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/err.h"
#include "runtime/adapter.h"
#include "runtime/base.h"
#include "runtime/pool.h"
#include "runtime/train/full.h"

/** Forward only: logits[batch][time][vocab] of ids[batch][time], each row a sequence from position
 * 0, causal. `adapter` in exact form or NULL. Memory is bounded: no activation outlives its layer.
 */
int lorica_exact_logits(const struct lorica_base *base, const struct lorica_adapter *adapter,
                        struct lorica_pool *pool, const int32_t *ids, uint32_t batch, uint32_t time,
                        float *logits, struct lorica_error *err) LORICA_MUSTCHECK;

/** Workspace for training. */
struct lorica_train_model;

/** How a step computes. */
enum lorica_train_compute {
    LORICA_TRAIN_EXACT, /**< float32 throughout */
    LORICA_TRAIN_FAST   /**< frozen matrices in tiles multiplied as they are served, in int8; other
                             products and gradients of bfloat16, sums of float32, where the machine
                             multiplies those faster, else gradients of those matrices of int8;
                             activations kept as bfloat16 everywhere */
};

/** What a workspace is made for. */
struct lorica_train_model_options {
    enum lorica_train_compute compute;
    uint32_t max_tokens; /**< real tokens of one step (padding behind the last label is not) */
    uint32_t max_rank;   /**< largest rank of an adapter */
    bool dropout;        /**< dropout may be on */
    const struct lorica_full *full; /**< the model, whose base is given, is trained whole: steps add
                                         to its gradients, and take no adapter. Borrowed, or NULL */
    size_t keep_bytes; /**< memory for activations kept between forward and backward; layers for
                            which it does not suffice are computed again from what their norms
                            read, which is always kept */
};

/** Activation memory that keeps everything of small models and short batches: 768 MiB. */
#define LORICA_TRAIN_KEEP_BYTES ((size_t)768 << 20)

/** Bytes that create will allocate, to check before; but for the 8-bit copy of an output head that
 * is not of 8 bits already (runtime/model.h). */
size_t lorica_train_model_nbytes(const struct lorica_arch *arch, unsigned threads,
                                 const struct lorica_train_model_options *options);

/** `base` and `pool` are borrowed and must outlive the model. The caller owns *ret. */
int lorica_train_model_create(const struct lorica_base *base, struct lorica_pool *pool,
                              const struct lorica_train_model_options *options,
                              struct lorica_train_model **ret,
                              struct lorica_error *err) LORICA_MUSTCHECK;
/** NULL is accepted. */
void lorica_train_model_destroy(struct lorica_train_model *model);

/** Gradients of an adapter: the same arrangement as its pairs, dA and dB in place of a and b. */
struct lorica_adapter_grads {
    float **da, **db; /**< [layers * LORICA_MODULE_COUNT]; NULL where the adapter has no pair */
    float *values;    /**< private: one block that holds them all */
    size_t count;     /**< of values */
};

/** Zeroed gradients for an adapter. finish them. */
int lorica_adapter_grads_init(struct lorica_adapter_grads *grads, const struct lorica_base *base,
                              const struct lorica_adapter *adapter) LORICA_MUSTCHECK;
/** Frees. A zeroed struct is accepted. */
void lorica_adapter_grads_finish(struct lorica_adapter_grads *grads);

/** Tokens that a step over these rows computes: up to the last label of each row. */
uint64_t lorica_train_tokens(const int32_t *labels, uint32_t batch, uint32_t time);

/** From now on adds up in *clock (borrowed; NULL: no longer) where the time of steps goes. */
struct lorica_clock;
void lorica_train_model_set_clock(struct lorica_train_model *model, struct lorica_clock *clock);

/** One sequence of a step: the label of the NEXT token stands at its own position, as Hugging Face
 * has it (shifted inside); -100 is ignored. Borrowed. */
struct lorica_train_row {
    const int32_t *ids, *labels;
    uint32_t length;
};

/** One forward and backward pass over rows of any lengths, each a sequence of its own from position
 * 0 that sees no other. Nothing behind a row's last label is computed. Adds to *loss_sum the summed
 * negative log-likelihood and to *label_count the labels counted, and ADDS dLoss_sum/dA, /dB to
 * grads (not divided by anything). grads NULL: loss only, dropout off. seed feeds dropout
 * (0 <= dropout < 1). LORICA_EINVAL for an id or label outside the vocabulary, for more tokens or a
 * higher rank than the model was made for, and for rows without any label. */
int lorica_train_model_step_rows(struct lorica_train_model *model,
                                 const struct lorica_adapter *adapter,
                                 const struct lorica_train_row *rows, size_t count, float dropout,
                                 uint64_t seed, double *loss_sum, uint64_t *label_count,
                                 struct lorica_adapter_grads *grads,
                                 struct lorica_error *err) LORICA_MUSTCHECK;

/** The same for ids and labels [batch][time], padded on the right with any ids and -100. */
int lorica_train_model_step(struct lorica_train_model *model, const struct lorica_adapter *adapter,
                            const int32_t *ids, const int32_t *labels, uint32_t batch,
                            uint32_t time, float dropout, uint64_t seed, double *loss_sum,
                            uint64_t *label_count, struct lorica_adapter_grads *grads,
                            struct lorica_error *err) LORICA_MUSTCHECK;

#endif
