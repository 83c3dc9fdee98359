/* SPDX-License-Identifier: MIT
 * Attention of a whole step: rows of one sequence that stand beside each other share every page
 * they read, and the work is spread over the team by its cost, a single long past too. */
#ifndef LORICA_RUNTIME_ATTEND_H
#define LORICA_RUNTIME_ATTEND_H

#include <stddef.h>
#include <stdint.h>

#include "proto/err.h"
#include "runtime/forward.h"
#include "runtime/kv.h"
#include "runtime/model.h"
#include "runtime/pool.h"

struct lorica_attend;

/** Where a step's queries are and its results go: those of row r from r * stride on, [head][dim].
 */
struct lorica_attend_rows {
    const float *q;
    float *out;
    size_t stride; /**< in floats */
};

/** Buffers for steps of up to `max_rows` rows. What is given is borrowed. */
int lorica_attend_create(const struct lorica_model *model, const struct lorica_kv *kv,
                         struct lorica_pool *pool, uint32_t max_rows, struct lorica_attend **ret,
                         struct lorica_error *err) LORICA_MUSTCHECK;

/** Frees. NULL is accepted. */
void lorica_attend_destroy(struct lorica_attend *attend);

/** Divides the coming step. `rows` is borrowed until the next plan. Not while a step runs. */
void lorica_attend_plan(struct lorica_attend *attend, const struct lorica_row *rows,
                        uint32_t count);

/** One layer's attention, called by every thread of the team once the keys and values of all rows
 * are in the cache. Barriers inside; results may be read after one more. */
void lorica_attend_run(struct lorica_attend *attend, const struct lorica_attend_rows *io,
                       uint32_t layer, unsigned thread, unsigned threads);

#endif
