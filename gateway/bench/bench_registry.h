/* SPDX-License-Identifier: MIT
 * `lorica bench registry`. */
#ifndef LORICA_GATEWAY_BENCH_BENCH_REGISTRY_H
#define LORICA_GATEWAY_BENCH_BENCH_REGISTRY_H

#include <stdbool.h>
#include <stdint.h>

struct lorica_bench_registry {
    uint32_t names, versions; /**< adapters, and versions of each */
    uint32_t nbytes;          /**< of each version's weights, all different */
};

/** Fills a registry of its own in a temporary directory ($TMPDIR, else /var/tmp, so that it is on
 * a disk), promotes, lists, resolves, opens it again and walks it; prints what each took, as a
 * table or JSON; removes it. Every change is on disk before the next. Returns an enum lorica_exit.
 */
int lorica_bench_registry(const struct lorica_bench_registry *size, bool json);

#endif
