/* SPDX-License-Identifier: MIT
 * PEFT's `adapter_config.json`: what of it lorica serves, and refusal of everything else. */
#ifndef LORICA_PROTO_PEFT_H
#define LORICA_PROTO_PEFT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/buf.h"
#include "proto/err.h"

/** One entry of rank_pattern or alpha_pattern, in file order. */
struct lorica_peft_pattern {
    char *key; /**< owned; a regular expression that PEFT matches as ^(.*\.)?(KEY)$ */
    double value;
};

/** What a LoRA config says. */
struct lorica_peft_config {
    uint32_t r;
    double alpha;
    double dropout; /**< informs only */
    bool use_rslora;
    char **target_modules; /**< owned; suffixes or exact names; empty when `target_regex` is set */
    size_t target_count;
    char *target_regex; /**< owned; target_modules given as a string ("all-linear" included) */
    struct lorica_peft_pattern *rank_pattern, *alpha_pattern; /**< owned */
    size_t rank_pattern_count, alpha_pattern_count;
    uint32_t *layers_to_transform; /**< owned; NULL: all layers */
    size_t layers_count;
    char *base_model;  /**< base_model_name_or_path, owned, may be NULL; not trusted for anything */
    char *base_digest; /**< "lorica_base_digest" if lorica wrote this config, owned, else NULL */
};

/** Parses and judges. Accepted: peft_type LORA, bias none, task_type CAUSAL_LM or null, the inits
 * that leave the base as it is (true, false, "gaussian", "orthogonal", "eva"). Refused with
 * LORICA_EUNSUPPORTED naming the key: use_dora, modules_to_save, lora_bias, fan_in_fan_out, other
 * inits, every variant key with a value other than null/false/empty, and any key that is not known
 * with such a value (exclude_modules and layers_pattern among them). LORICA_EFORMAT for wrong types
 * and ranges (1 <= r <= 4096). */
int lorica_peft_parse(const char *json, size_t len, struct lorica_peft_config *ret,
                      struct lorica_error *err) LORICA_MUSTCHECK;

/** Frees. A zeroed struct is accepted. */
void lorica_peft_finish(struct lorica_peft_config *config);

/** A module's scale and rank as the config states them: alpha_pattern and rank_pattern by the first
 * key that matches `module` ("model.layers.3.self_attn.q_proj") as ^(.*\.)?(KEY)$, else r and
 * alpha; then alpha/r, or alpha/sqrt(r) with use_rslora. LORICA_EUNSUPPORTED for a key that
 * pattern.h does not read. */
int lorica_peft_module(const struct lorica_peft_config *config, const char *module,
                       uint32_t *ret_rank, double *ret_scale,
                       struct lorica_error *err) LORICA_MUSTCHECK;

/** True in *ret when the config's target_modules and layers_to_transform name `module` (a linear
 * layer of the base that is not the output head). */
int lorica_peft_targets(const struct lorica_peft_config *config, const char *module, bool *ret,
                        struct lorica_error *err) LORICA_MUSTCHECK;

/** Splits a tensor name "base_model.model.<module>.lora_A.weight" (or lora_B). Returns false for
 * any other name. `module` gets the path, e.g. "model.layers.3.self_attn.q_proj". */
bool lorica_peft_tensor_name(const char *name, char *module, size_t module_size, bool *ret_is_b);

/** Writes a config that PEFT reads, with the keys in PEFT's order, from these fields. Adds
 * "lorica_base_digest" when base_digest is set (PEFT ignores unknown keys with a warning). */
int lorica_peft_write(struct lorica_buf *out,
                      const struct lorica_peft_config *config) LORICA_MUSTCHECK;

/** The canonical form for hashing: the facts that decide an answer (r, alpha, rslora, patterns,
 * targets sorted, layers), in a fixed order and spelling. Two configs that serve alike are alike.
 */
int lorica_peft_canonical(struct lorica_buf *out,
                          const struct lorica_peft_config *config) LORICA_MUSTCHECK;

#endif
