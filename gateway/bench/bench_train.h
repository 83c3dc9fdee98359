/* SPDX-License-Identifier: MIT
 * `lorica bench train`. */
#ifndef LORICA_GATEWAY_BENCH_BENCH_TRAIN_H
#define LORICA_GATEWAY_BENCH_BENCH_TRAIN_H

#include <stdbool.h>
#include <stdint.h>

#include "gateway/client/client_cmd.h"
#include "runtime/train/model.h"

/** What to measure. */
struct lorica_bench_train {
    const struct lorica_client_options *where; /**< the data directory */
    const char *base;                          /**< NULL: the only one there is */
    unsigned threads;                          /**< 0: one per core */
    uint32_t sequences, tokens, repeat, rank;
    uint32_t answers; /**< percent of the tokens that have a label, the last ones */
    enum lorica_train_compute compute;
    bool recompute, json;
};

/** Trains an adapter of this rank on all linear layers for one update to warm up and `repeat`
 * measured ones, on made-up tokens; measures what the machine multiplies at best, in float32 and in
 * the operands of `compute`; prints tokens per second, their share of that, memory and where the
 * time went. Returns an enum lorica_exit. */
int lorica_bench_train(const struct lorica_bench_train *what);

#endif
