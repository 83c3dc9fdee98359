/* SPDX-License-Identifier: MIT
 * How far apart two adapters are, module by module, from their files alone: no base is needed. */
#ifndef LORICA_RUNTIME_ADAPTER_DIFF_H
#define LORICA_RUNTIME_ADAPTER_DIFF_H

#include <stdbool.h>
#include <stddef.h>

#include "proto/err.h"

#define LORICA_DIFF_MODULE_MAX 160

/** An adapter's two files, borrowed. */
struct lorica_adapter_bytes {
    const char *config;
    size_t config_len;
    const void *weights; /**< safetensors */
    size_t weights_len;
};

/** One module: Frobenius norms of what each adapter adds to the base there, scale * B * A, and of
 * the difference of the two. A module that an adapter does not have adds nothing. */
struct lorica_module_diff {
    char module[LORICA_DIFF_MODULE_MAX];
    bool in_left, in_right;
    double left, right, change;
};

struct lorica_adapter_diff {
    struct lorica_module_diff *modules; /**< owned; by name, numbers in their order */
    size_t count;
    double left, right, change; /**< of all modules together */
};

/** Compares. With r the larger rank of a module of n inputs and m outputs it takes r * r * (n + m)
 * steps: the products are never made, since the squared norm of P*X + Q*Y, with P the difference of
 * the (scaled) Bs, X the A of the right, Q the B of the left and Y the difference of the As, is the
 * sum of elementwise products of r x r matrices. Differences come first, so that nothing large
 * cancels between adapters that are nearly alike, and equal ones differ by 0. LORICA_EFORMAT or
 * LORICA_EUNSUPPORTED for files that are no adapter, LORICA_EINVAL when a module has other inputs
 * or outputs in the one than in the other. On success the caller finishes *ret. */
int lorica_adapter_diff(const struct lorica_adapter_bytes *left,
                        const struct lorica_adapter_bytes *right, struct lorica_adapter_diff *ret,
                        struct lorica_error *err) LORICA_MUSTCHECK;
/** A zeroed struct is accepted. */
void lorica_adapter_diff_finish(struct lorica_adapter_diff *diff);

#endif
