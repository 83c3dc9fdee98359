/* SPDX-License-Identifier: MIT
 * float32 matrix products with packed right-hand panels: training, and the exact forward.
 * The frozen weights are never whole in float32: a panel of them is decoded, used for all rows,
 * and forgotten. */
#ifndef LORICA_KERNELS_GEMM_H
#define LORICA_KERNELS_GEMM_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/matrix.h"

/** Columns of one packed panel: panel[p][GEMM_NR], p running over the reduction dimension. */
#define LORICA_GEMM_NR 32

/** C[i * ldc + j] (+)= sum_p A[i * lda + p] * panel[p * NR + j] for i < m, p < depth, j < cols
 * (cols <= NR). `accumulate` 0 overwrites C. The order of the sum is p ascending in one chain per
 * (i, j), whatever m is. */
typedef void (*lorica_gemm_panel_fn)(float *c, size_t ldc, const float *a, size_t lda,
                                     const float *panel, uint32_t m, uint32_t depth, uint32_t cols,
                                     int accumulate);

/** Decodes into a packed panel the columns [row, row + cols) of W^T, i.e. rows of W, over inputs
 * [k0, k1): panel[(p - k0) * NR + j] = W[row + j][p]; columns past cols or n are 0. Exact values
 * (lorica_matrix_rows_f32). Tiled NF4 is the fast case: row % 16 == 0, k0 % 64 == 0. */
typedef void (*lorica_gemm_pack_w_fn)(float *panel, const struct lorica_matrix *w, uint32_t row,
                                      uint32_t cols, uint32_t k0, uint32_t k1);

/** Decodes for the backward product dX = dY W: panel[(i - row0) * NR + j] = W[i][col + j] for rows
 * [row0, row1), columns [col, col + cols); the rest 0. col % 32 == 0. */
typedef void (*lorica_gemm_pack_wt_fn)(float *panel, const struct lorica_matrix *w, uint32_t row0,
                                       uint32_t row1, uint32_t col, uint32_t cols);

/** y[i] = exp(scale * x[i] + offset), within 2 ulp of exp of that float32 argument where the result
 * is a normal number (below, 0 may come); NaN stays NaN. y may be x. */
typedef void (*lorica_gemm_exp_fn)(float *y, const float *x, uint32_t n, float scale, float offset);

struct lorica_gemm_kernels {
    lorica_gemm_exp_fn exp;
    lorica_gemm_panel_fn panel;
    lorica_gemm_pack_w_fn pack_w;
    lorica_gemm_pack_wt_fn pack_wt;
};

/** Fills the table for lorica_cpu_level(). */
void lorica_gemm_kernels_init(struct lorica_gemm_kernels *kernels);

#endif
