/* SPDX-License-Identifier: MIT
 * Adapters that training begins with and ends with, in PEFT's two files. */
#ifndef LORICA_RUNTIME_TRAIN_SAVE_H
#define LORICA_RUNTIME_TRAIN_SAVE_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/buf.h"
#include "runtime/adapter.h"
#include "runtime/base.h"

/** A new adapter. */
struct lorica_train_spec {
    uint32_t rank;
    double alpha, dropout;
    bool rslora;
    bool targets[LORICA_MODULE_COUNT]; /**< which modules of every layer get a pair */
    uint64_t seed;
};

/** Reads "all-linear" or a list such as "q,k,v,o" or "q_proj,down_proj". LORICA_EINVAL names what
 * it does not know. */
int lorica_train_targets_parse(const char *text, bool targets[LORICA_MODULE_COUNT],
                               struct lorica_error *err) LORICA_MUSTCHECK;

/** LORICA_EINVAL when the rank is above what a targeted matrix can hold: the smaller of its sides.
 */
int lorica_train_spec_check(const struct lorica_train_spec *spec, const struct lorica_arch *arch,
                            struct lorica_error *err) LORICA_MUSTCHECK;

/** Parameters of such an adapter. */
uint64_t lorica_spec_parameters(const struct lorica_train_spec *spec,
                                const struct lorica_arch *arch);

/** Appends adapter_config.json. */
int lorica_train_config_encode(const struct lorica_train_spec *spec, const struct lorica_base *base,
                               struct lorica_buf *out) LORICA_MUSTCHECK;

/** Builds a new adapter in exact form: A uniform in +-1/sqrt(inputs) from the seed, B zero, as PEFT
 * begins. LORICA_EINVAL as lorica_train_spec_check says. */
int lorica_train_adapter_new(const struct lorica_train_spec *spec, const struct lorica_base *base,
                             struct lorica_adapter **ret,
                             struct lorica_error *err) LORICA_MUSTCHECK;

/** Bytes of adapter_model.safetensors, nearly. */
uint64_t lorica_train_weights_nbytes(const struct lorica_arch *arch,
                                     const struct lorica_adapter *adapter);
/** Appends adapter_model.safetensors of an adapter in exact form: float32, PEFT's names, metadata
 * {"format": "pt"}. */
int lorica_train_weights_encode(const struct lorica_arch *arch,
                                const struct lorica_adapter *adapter,
                                struct lorica_buf *out) LORICA_MUSTCHECK;

#endif
