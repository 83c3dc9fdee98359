/* SPDX-License-Identifier: MIT
 * A LoRA adapter: checked against a base, held in memory as the kernels read it, shared by
 * reference count. Identified by content digest, never by name. */
#ifndef LORICA_RUNTIME_ADAPTER_H
#define LORICA_RUNTIME_ADAPTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/digest.h"
#include "proto/err.h"
#include "runtime/base.h"

/** One module's pair, as PEFT has it; exact float32, for the exact path and the trainer. */
struct lorica_adapter_pair {
    uint32_t rank; /**< 0: this module has no pair */
    float scale;   /**< alpha/r or alpha/sqrt(r), pattern resolved */
    float *a;      /**< [rank][k] */
    float *b;      /**< [n][rank] */
    /* Fast form: */
    int8_t *a8;    /**< [rank][k]; kernels/lora.h has what these are */
    int8_t *b8;    /**< by tiles, [n / 16 rounded up][rank][16 outputs] */
    float *scales; /**< [rank]; `scale` is in them */
};

/** Which of the two forms to build. */
enum lorica_adapter_form { LORICA_ADAPTER_EXACT, LORICA_ADAPTER_FAST };

struct lorica_adapter {
    struct lorica_digest digest;        /**< zero for an adapter that is only a directory */
    struct lorica_adapter_pair *layers; /**< [arch.layers][LORICA_MODULE_COUNT] */
    uint32_t layer_count;
    uint32_t max_rank;
    size_t nbytes; /**< memory held */
    void *arena;   /**< private: all pairs' values, a mapping of its own */
    size_t arena_nbytes;
    int refs; /**< private, atomic */
};

/** Builds from the two PEFT files' bytes. Refused, naming the tensor or key: whatever
 * proto/peft.h refuses; a tensor that belongs to no linear layer of the base, has the wrong shape
 * or a value that is not finite; an A without B; a module that the config names and the file
 * lacks, or the reverse; a target or layer of the config that the base does not have; F32, F16 and
 * BF16 tensors only. A digest may be set on the result before it is shared. Reference count 1 on
 * success. */
int lorica_adapter_create(const struct lorica_arch *arch, enum lorica_adapter_form form,
                          const char *config, size_t config_len, const void *weights,
                          size_t weights_len, struct lorica_adapter **ret,
                          struct lorica_error *err) LORICA_MUSTCHECK;

/** Likewise; `between` is called with `arg` between modules, to give way to others. */
int lorica_adapter_create_sparing(const struct lorica_arch *arch, enum lorica_adapter_form form,
                                  const char *config, size_t config_len, const void *weights,
                                  size_t weights_len, void (*between)(void *arg), void *arg,
                                  struct lorica_adapter **ret,
                                  struct lorica_error *err) LORICA_MUSTCHECK;

/** Reads DIR/adapter_config.json and DIR/adapter_model.safetensors. */
int lorica_adapter_load_dir(const struct lorica_arch *arch, enum lorica_adapter_form form,
                            const char *dir, struct lorica_adapter **ret,
                            struct lorica_error *err) LORICA_MUSTCHECK;

/** Another reference; returns its argument. */
struct lorica_adapter *lorica_adapter_ref(struct lorica_adapter *adapter);
/** Gives one back; the last frees. NULL is accepted. Returns NULL. */
struct lorica_adapter *lorica_adapter_unref(struct lorica_adapter *adapter);

/** Pair of a layer's module (rank 0 when absent). Borrowed. */
static inline const struct lorica_adapter_pair *
lorica_adapter_pair(const struct lorica_adapter *adapter, uint32_t layer, enum lorica_module m) {
    return &adapter->layers[(size_t)layer * LORICA_MODULE_COUNT + m];
}

/** True when an adapter in fast form changes what the base computes: some row of an A and the
 * column of its scaled B that it meets both hold a value other than 0. */
bool lorica_adapter_has_effect(const struct lorica_adapter *adapter);

/** A cache of adapters in fast form, keyed by digest, capped in bytes, least recently used out
 * first (adapters in use elsewhere live on through their references). Thread-safe. */
struct lorica_adapter_cache;

int lorica_adapter_cache_create(size_t max_bytes,
                                struct lorica_adapter_cache **ret) LORICA_MUSTCHECK;
void lorica_adapter_cache_destroy(struct lorica_adapter_cache *cache);
/** A new reference, or NULL when the digest is not held. */
struct lorica_adapter *lorica_adapter_cache_get(struct lorica_adapter_cache *cache,
                                                const struct lorica_digest *digest);
/** Likewise; but where the digest is not held, the caller is the one to load it: whoever claims it
 * meanwhile waits until the caller settles. */
struct lorica_adapter *lorica_adapter_cache_claim(struct lorica_adapter_cache *cache,
                                                  const struct lorica_digest *digest);
/** Ends a claim that gave NULL: puts what was loaded in, or, with NULL, lets the next one try. */
void lorica_adapter_cache_settle(struct lorica_adapter_cache *cache,
                                 const struct lorica_digest *digest,
                                 struct lorica_adapter *adapter);
/** Puts one in (the cache takes its own reference) unless its digest is already there, or it is
 * larger than the whole cache. */
void lorica_adapter_cache_put(struct lorica_adapter_cache *cache, struct lorica_adapter *adapter);
/** Likewise for one that nobody has asked for yet: it comes in only where it pushes none out, and
 * is the first to go. */
void lorica_adapter_cache_offer(struct lorica_adapter_cache *cache, struct lorica_adapter *adapter);
/** Present size, for metrics. */
void lorica_adapter_cache_stats(struct lorica_adapter_cache *cache, size_t *ret_count,
                                size_t *ret_bytes);

#endif
