/* SPDX-License-Identifier: MIT
 * What the kernel checks share. A family is one file with two functions, and one line in the table
 * of checkkern.c. */
#ifndef LORICA_TESTS_KERNELS_CHECK_H
#define LORICA_TESTS_KERNELS_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/cpu.h"

struct check_family {
    const char *name;
    void (*check)(void); /**< fills its table for the level in force, and compares */
    void (*bench)(void); /**< likewise, and times with check_bench */
};

extern const struct check_family check_attn, check_gemm, check_linear, check_lora, check_vec;

/** Random numbers; every level of a family sees the same ones. */
uint64_t check_random(void);
uint32_t check_below(uint32_t limit);
float check_uniform(void); /**< in [-1, 1) */
float check_normal(void);

/** Fills x with one of several kinds of data by turns: normal, with outliers, near zero, large,
 * with exact zeros. */
void check_fill(float *x, size_t count);

/** Memory of exactly `nbytes`, `offset` bytes past a multiple of 64, freed when the family ends.
 * Canaries stand on both sides, and the bytes in between start as 0xa5. */
void *check_buffer(size_t nbytes, size_t offset);

/** Fails when a canary of any buffer is damaged; `where` says after what. */
void check_canaries(const char *where);

/** Reports a failure of the function and level in force. */
void check_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/** |got - want| <= bound, else a failure that names the place. False on failure. */
bool check_near(double got, double want, double bound, const char *what, size_t at);

/** Same bytes, else a failure. */
bool check_same(const void *a, const void *b, size_t nbytes, const char *what);

/** One timed call; `context` is the caller's. */
typedef void (*check_bench_fn)(void *context);

/** Times `fn` and prints a line: ns per call, GB/s of `nbytes`, GOP/s of `ops` (each where not 0),
 * and the ratio to plain C. */
void check_bench(const char *name, check_bench_fn fn, void *context, double nbytes, double ops);

#endif
