/* SPDX-License-Identifier: MIT
 * One step of the fast forward over a batch of rows: each row is one token of some sequence, with
 * an adapter of its own or none. A row's result depends on its own token, position, adapter and
 * cached past alone, to the bit: not on the other rows, nor on the number of threads. */
#ifndef LORICA_RUNTIME_FORWARD_H
#define LORICA_RUNTIME_FORWARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/err.h"
#include "runtime/adapter.h"
#include "runtime/kv.h"
#include "runtime/model.h"
#include "runtime/pool.h"

/** One token of one sequence. Earlier positions are in the cache already, or in this batch. */
struct lorica_row {
    int32_t token; /**< 0 <= token < vocab */
    uint32_t position;
    const uint32_t *pages;                /**< borrowed: the sequence's pages, this one included */
    const struct lorica_adapter *adapter; /**< borrowed, fast form; NULL: none */
    bool wants_logits;
};

struct lorica_forward;

/** Buffers for batches of up to `max_rows` rows of which up to `max_logits` want logits. Model,
 * cache and team are borrowed. */
int lorica_forward_create(const struct lorica_model *model, struct lorica_kv *kv,
                          struct lorica_pool *pool, uint32_t max_rows, uint32_t max_logits,
                          struct lorica_forward **ret, struct lorica_error *err) LORICA_MUSTCHECK;

/** Frees. NULL is accepted. */
void lorica_forward_destroy(struct lorica_forward *forward);

/** Makes room for adapters of `rank`; call it before a batch that has one with a larger rank than
 * any before. Not while a step runs. */
int lorica_forward_reserve_rank(struct lorica_forward *forward, uint32_t rank,
                                struct lorica_error *err) LORICA_MUSTCHECK;

/** Runs a step: writes the rows' keys and values into the cache and computes the logits that are
 * wanted. Rows of one sequence stand in ascending position. Always from the same thread. */
void lorica_forward_run(struct lorica_forward *forward, const struct lorica_row *rows,
                        uint32_t count);

/** Logits [vocab] of the index-th row that wanted them, valid until the next run; the caller may
 * change them. */
float *lorica_forward_logits(struct lorica_forward *forward, uint32_t index);

#endif
