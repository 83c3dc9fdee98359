/* SPDX-License-Identifier: MIT
 * The two thin products of LoRA, y += B (s * (A x)), on int8 A and B with float32 activations and
 * accumulation, for the rows of a batch that share an adapter: A and B are read once for all of
 * them. As in linear.h, each result depends on its own row only, to the bit. There is one scale for
 * each rank: that of its row of A times that of its column of B times alpha/r. */
#ifndef LORICA_KERNELS_LORA_H
#define LORICA_KERNELS_LORA_H

#include <stddef.h>
#include <stdint.h>

/** Rows of a batch with one adapter, and their shrunk activations: row index[i] has t at
 * t + index[i] * ldt. All borrowed. */
struct lorica_lora_rows {
    const uint32_t *index;
    uint32_t count;
    float *t;
    size_t ldt; /**< in floats, >= the rank */
};

/** Shrink: t[i] = scales[i] * sum_j A[i][j] x[j] for i in [i0, i1). Row r of x is at x + r * ldx.
 * a: [rank][k]. */
typedef void (*lorica_lora_shrink_fn)(const struct lorica_lora_rows *rows, const float *x,
                                      size_t ldx, uint32_t k, const int8_t *a, const float *scales,
                                      uint32_t i0, uint32_t i1);

/** Expand: y[i] += sum_j B[i][j] t[j] for the 16 outputs i of each tile in [tile0, tile1). Row r of
 * y is at y + r * ldy and has room for whole tiles.
 * b: B by tiles, [tile][rank][16 outputs], 0 past the last output. */
typedef void (*lorica_lora_expand_fn)(const struct lorica_lora_rows *rows, float *y, size_t ldy,
                                      uint32_t rank, const int8_t *b, uint32_t tile0,
                                      uint32_t tile1);

struct lorica_lora_kernels {
    lorica_lora_shrink_fn shrink;
    lorica_lora_expand_fn expand;
};

/** Fills the table for lorica_cpu_level(). */
void lorica_lora_kernels_init(struct lorica_lora_kernels *kernels);

#endif
