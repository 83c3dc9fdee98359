/* SPDX-License-Identifier: MIT
 * `lorica bench kernels`. */
#ifndef LORICA_GATEWAY_BENCH_BENCH_KERNELS_H
#define LORICA_GATEWAY_BENCH_BENCH_KERNELS_H

#include <stdbool.h>

/** Times the serving kernels at the present CPU level on one thread and made-up data, and prints a
 * table, or JSON. Returns an enum lorica_exit. */
int lorica_bench_kernels(bool json);

#endif
