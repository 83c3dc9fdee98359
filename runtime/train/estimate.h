/* SPDX-License-Identifier: MIT
 * What training a model would need, reckoned from its shape alone. */
#ifndef LORICA_RUNTIME_TRAIN_ESTIMATE_H
#define LORICA_RUNTIME_TRAIN_ESTIMATE_H

#include <stdint.h>

#include "runtime/base.h"
#include "runtime/train/model.h"
#include "runtime/train/save.h"

/** Ways to fine-tune. Gradients have the type of what is trained, AdamW's two moments are float32.
 */
enum lorica_train_way {
    LORICA_WAY_FULL_F32,  /**< every weight, in float32: lorica train --full */
    LORICA_WAY_FULL_BF16, /**< every weight, in bfloat16: the usual way on GPUs */
    LORICA_WAY_LORA_BF16, /**< an adapter in float32 on a frozen base of bfloat16 */
    LORICA_WAY_QLORA,     /**< on one whose linear layers are NF4, double-quantised */
    LORICA_WAY_COUNT
};

/** "full, float32" and so on. Static storage. */
const char *lorica_train_way_name(enum lorica_train_way way);

/** What it is reckoned for. */
struct lorica_train_estimate_options {
    uint32_t batch, length; /**< rows of a pass, and tokens of a row */
    struct lorica_train_spec spec;
    struct lorica_train_model_options model; /**< compute, dropout and keep_bytes matter */
    unsigned threads;
    double embed_bytes; /**< of a value of embeddings and head in a 4-bit base (2: bfloat16) */
};

/** Bytes each, but for the first two. */
struct lorica_train_estimate {
    uint64_t parameters, trained;
    uint64_t weights;     /**< of the base, and of the adapter where there is one */
    uint64_t gradients;   /**< of what is trained */
    uint64_t optimizer;   /**< AdamW's moments */
    uint64_t activations; /**< the trainer's workspace for a pass, as it allocates it */
    uint64_t total;       /**< of these */
    uint64_t file;        /**< that is left in the end: the model, or the adapter */
};

/** Parameters of a model. */
uint64_t lorica_arch_parameters(const struct lorica_arch *arch);

void lorica_train_estimate(const struct lorica_arch *arch, enum lorica_train_way way,
                           const struct lorica_train_estimate_options *options,
                           struct lorica_train_estimate *ret);

#endif
