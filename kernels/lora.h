/* SPDX-License-Identifier: MIT
 * The two thin products of LoRA, y += B (A x), on bfloat16 A and B with float32 accumulation.
 * As in linear.h, each result depends on its own row only, to the bit. The scale alpha/r is folded
 * into B when an adapter is loaded. */
#ifndef LORICA_KERNELS_LORA_H
#define LORICA_KERNELS_LORA_H

#include <stddef.h>
#include <stdint.h>

/** Shrink: t[i] = sum_j A[i][j] x[j] for i in [i0, i1), one activation row.
 * a: bf16 bits [r][lda], lda >= k. */
typedef void (*lorica_lora_shrink_fn)(float *t, const float *x, uint32_t k, const uint16_t *a,
                                      size_t lda, uint32_t i0, uint32_t i1);

/** Expand: y[i] += sum_j B[j][i] t[j] for outputs i in [n0, n1) (n0 a multiple of 16), one row.
 * bt: bf16 bits of B transposed, [r][ldb], ldb >= n rounded up to 16 with zeros past n; y likewise
 * has room up to n1 rounded up to 16. */
typedef void (*lorica_lora_expand_fn)(float *y, const float *t, uint32_t r, const uint16_t *bt,
                                      size_t ldb, uint32_t n0, uint32_t n1);

struct lorica_lora_kernels {
    lorica_lora_shrink_fn shrink;
    lorica_lora_expand_fn expand;
};

/** Fills the table for lorica_cpu_level(). */
void lorica_lora_kernels_init(struct lorica_lora_kernels *kernels);

#endif
