/* SPDX-License-Identifier: MIT
 * `lorica bench prefix`, `speculation` and `arrivals`: what the whole engine does, with its
 * scheduler, without a server. */
#ifndef LORICA_GATEWAY_BENCH_BENCH_ENGINE_H
#define LORICA_GATEWAY_BENCH_BENCH_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "gateway/client/client.h"
#include "kernels/attn.h"

struct lorica_bench_engine {
    const char *what; /**< one of the three */
    const struct lorica_client_options *where;
    const char *base;    /**< NULL: the only one */
    const char *adapter; /**< of all requests; NULL: none */
    enum lorica_kv_format kv_format;
    unsigned threads;
    uint32_t sequences; /**< 0: 8; requests of one beginning, or running answers */
    uint32_t tokens;    /**< 0: 512 of a common beginning, 128 of an answer, 2,048 of a prompt */
    uint32_t repeat;    /**< prompts that arrive, answers of each kind */
    bool json;
};

/** True for a word that `what` may be. */
bool lorica_bench_engine_knows(const char *word);

/** Measures and prints a table or JSON. Returns an enum lorica_exit. */
int lorica_bench_engine(const struct lorica_bench_engine *bench);

#endif
