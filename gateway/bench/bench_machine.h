/* SPDX-License-Identifier: MIT
 * What this machine can do at most, measured: the denominators of every other figure. */
#ifndef LORICA_GATEWAY_BENCH_BENCH_MACHINE_H
#define LORICA_GATEWAY_BENCH_BENCH_MACHINE_H

#include <stdbool.h>

#include "runtime/pool.h"

struct lorica_bench_machine {
    const char *form;      /**< the instructions of serving's products */
    double products;       /**< 1e9 operations a second with them, all threads */
    double f32, bf16;      /**< 1e9 operations a second; bf16 is 0 where there is none */
    double memory, level3; /**< 1e9 bytes read a second: of 256 MiB, of 16 MiB */
};

/** Measures with the threads of a team, for about a second. False without memory. */
bool lorica_bench_machine_measure(struct lorica_pool *pool, struct lorica_bench_machine *ret);

/** lorica bench machine: measures and prints; 0 threads: one per core. An exit code. */
int lorica_bench_machine(unsigned threads, bool json);

#endif
